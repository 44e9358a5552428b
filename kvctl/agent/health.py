"""How the loop is doing: told by the loop, asked by the endpoint's thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Verdict(NamedTuple):
    """An answer that a probe, a script and a person can read."""

    good: bool
    reason: str
    """One line."""


class Health:
    """What `/healthz` and `/readyz` say.

    The loop promises when it will be heard of again, before each round and before each wait. So an API server
    that is away does not look like a loop that hangs: waiting for it is a promise that is kept.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._promise: tuple[float, str] | None = None
        self._missing: str | None = "the agent has just started"
        self._question: Callable[[], str | None] = lambda: None

    def promise(self, *, seconds: float, doing: str) -> None:
        """The loop will promise again within `seconds`; until then it is `doing`."""
        self._promise = (self._clock() + seconds, doing)

    def lacks(self, missing: str) -> None:
        """The agent is not ready: what it waits for."""
        self._missing = missing

    def asks(self, question: Callable[[], str | None]) -> None:
        """Ready only if `question`, asked each time, has nothing that is missing either. From any thread."""
        self._question = question

    def complete(self) -> None:
        """The first full picture is in, and the rules that follow from it are in the kernel."""
        self._missing = None

    def alive(self) -> Verdict:
        """Whether the last promise still holds; before the first one there is none to break."""
        promise = self._promise
        if promise is None:
            return Verdict(good=True, reason="starting")
        deadline, doing = promise
        late = self._clock() - deadline
        if late > 0:
            return Verdict(good=False, reason=f"the loop should have been heard of {late:.0f} s ago: {doing}")
        return Verdict(good=True, reason=doing)

    def ready(self) -> Verdict:
        """Whether `complete` was said since `lacks`, and nothing else is missing."""
        missing = self._missing or self._question()
        return Verdict(good=missing is None, reason=missing or "the rules are in the kernel")
