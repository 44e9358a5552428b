"""What a watch has still to tell, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from kvctl.lab.api.kinds import Kind, Object


class Change(NamedTuple):
    """One write."""

    at: float
    """Monotonic seconds."""
    version: int
    kind: Kind
    before: Object | None
    after: Object | None
    """None: it was deleted."""
    shown: Object
    """What watches show: the object, or its last state with the version of the deletion."""


class WatchOverError(Exception):
    """The watch ends in order, as when its time is over."""


class Watcher:
    """The inbox of one watch: anybody who has the lock of the objects tells, the thread of the watch takes.

    An exception in the inbox is for that thread to raise in its turn.
    """

    def __init__(self, kind: Kind, matches: Callable[[Object], bool]) -> None:
        self.kind = kind
        self.matches = matches
        self._items: deque[Change | Exception] = deque()
        self._signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def tell(self, item: Change | Exception) -> None:
        """After all that has been told before."""
        self._items.append(item)
        os.eventfd_write(self._signal, 1)

    def take(self) -> Change | Exception | None:
        """The next item; None: there is none."""
        # The signal first: what is told after this is signalled anew.
        if not self._items:
            with suppress(BlockingIOError):
                os.eventfd_read(self._signal)
        return self._items.popleft() if self._items else None

    @property
    def is_empty(self) -> bool:
        """Whether all that was told has been taken."""
        return not self._items

    def fileno(self) -> int:
        """What can be read when something was told since `take` found nothing."""
        return self._signal

    def close(self) -> None:
        """Nothing may be told from now on."""
        os.close(self._signal)


def event(change: Change, matches: Callable[[Object], bool]) -> Object | None:
    """As a watcher with this selector sees it: what no longer matches is deleted, for it."""
    before = change.before is not None and matches(change.before)
    after = change.after is not None and matches(change.after)
    if not before and not after:
        return None
    kind = "DELETED" if not after else "MODIFIED" if before else "ADDED"
    shown = {"kind": change.kind.name, "apiVersion": change.kind.api_version, **change.shown}
    return {"type": kind, "object": shown}


def bookmark(kind: Kind, version: int) -> Object:
    """The event that says how far a watch has come."""
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    shown = {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta}
    return {"type": "BOOKMARK", "object": shown}
