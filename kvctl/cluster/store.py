"""What is known of one kind of object: written by the thread that watches it, read by any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from kvctl.cluster import views
from kvctl.cluster.collect import Key, Part, part_of
from kvctl.cluster.fields import describe
from kvctl.cluster.kinds import Kept, Kind, examine
from kvctl.errors import InputError

_View = TypeVar("_View", bound=views.View)


class Store(Generic[_View]):
    """The views of one kind by name. Raw objects are cut on arrival by `read`; `slim` may cut further."""

    def __init__(
        self, kind: Kind, type_: type[_View], *, slim: Callable[[_View], _View] | None = None
    ) -> None:
        self.kind = kind
        self._type = type_
        self._slim = slim
        self._lock = threading.Lock()
        self._kept: dict[Key, Kept] = {}
        self._part: Part[_View] | None = Part()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, raw: object) -> tuple[views.Name | None, Kept]:
        """The name of a raw object (None: it has none) and what is kept of it."""
        if not isinstance(raw, dict):
            problem = InputError(f"an entry of {self.kind.called}: it is {describe(raw)}, not an object")
            return None, Kept(None, (problem,))
        name, kept = examine(raw, self.kind)
        if self._slim is not None and isinstance(kept.view, self._type):
            kept = Kept(self._slim(kept.view))
        return name, kept

    def replace(self, fresh: Mapping[Key, Kept], *, within: Callable[[Key], bool] | None = None) -> bool:
        """Put a complete list in the place of what was; True if that is a change.

        `within`: the objects that the list would have held; others stay as they are.
        """
        with self._lock:
            stay = {} if within is None else {k: v for k, v in self._kept.items() if not within(k)}
            kept = {**stay, **fresh}
            if kept == self._kept:
                return False
            self._kept, self._part = kept, None
            return True

    def put(self, name: views.Name, kept: Kept) -> bool:
        """Take one object; True if it says something else than before."""
        with self._lock:
            if self._kept.get(name) == kept:
                return False
            self._kept[name] = kept
            self._part = None
            return True

    def drop(self, name: views.Name) -> bool:
        """Forget one object; True if it was known."""
        with self._lock:
            if self._kept.pop(name, None) is None:
                return False
            self._part = None
            return True

    def part(self) -> Part[_View]:
        """Everything; the same value while nothing changes."""
        with self._lock:
            if self._part is None:
                self._part = part_of(self._kept, self._type)
            return self._part
