"""Remembering what pure functions of immutable values said last, by the identity of their arguments.

To compare thousands of rules by value takes longer than to make them; whoever keeps what has not changed gets what
was made of it. Each remembers as much as one state of the node takes, so that an agent does not grow with time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_K = TypeVar("_K", bound=Hashable)
_R = TypeVar("_R")


def is_same(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two sequences hold the very same objects."""
    return len(one) == len(other) and all(map(is_, one, other))


class Last(Generic[_P, _R]):
    """A function that remembers its last few results: of arguments that are the very same objects there is one."""

    def __init__(self, function: Callable[_P, _R], *, size: int = 4) -> None:
        self._function = function
        self._size = size
        self._known: list[tuple[tuple[object, ...], _R]] = []

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """As the function."""
        asked = (*args, *kwargs, *kwargs.values()) if kwargs else args
        for arguments, result in self._known:
            if is_same(arguments, asked):
                return result
        made = self._function(*args, **kwargs)
        self._known = [(asked, made), *self._known[: self._size - 1]]
        return made


class ByKey(Generic[_K, _R]):
    """Of each key the last result, as long as what it was made of is the very same objects."""

    def __init__(self, *, most: int = 32768) -> None:
        self._most = most
        self._known: dict[_K, tuple[tuple[object, ...], _R]] = {}

    def get(self, key: _K, grounds: tuple[object, ...], make: Callable[[], _R]) -> _R:
        """What was made of `grounds` last time, or is by `make` now."""
        known = self._known.get(key)
        if known is not None and is_same(known[0], grounds):
            return known[1]
        made = make()
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[key] = (grounds, made)
        return made
