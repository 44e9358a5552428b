"""Standard error as the agent writes to it: never waited for, not even when nobody reads it."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

MOST_WAITING = 2000
"""Lines that are kept for a reader who is late."""
PATIENCE = 1.0
"""Seconds that the end of the process waits for what is left."""


class LogStream(Protocol):
    """What a log needs of a stream: less than TextIO, and StringIO and standard error have it."""

    def write(self, text: str, /) -> object:
        """Take a text; OSError or ValueError where that cannot be."""

    def flush(self) -> object:
        """See that it is on its way."""

    def isatty(self) -> bool:
        """Whether people read it."""


class PatientStream:
    """A text stream over a file descriptor whose `write` never blocks: one thread writes, a bounded queue waits.

    What finds no room is lost and counted, until half the queue is empty; then one line, made by `lost` of the
    count, stands in its place. A descriptor that is closed or fails loses what is written, and nothing else
    happens. As a context manager it is closed at the end.
    """

    def __init__(self, descriptor: int, *, lost: Callable[[int], str], most: int = MOST_WAITING) -> None:
        self._descriptor = descriptor
        self._line_of_lost = lost
        self._most = most
        self._lost = 0
        self._closed = False
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        # A daemon, and without sys.stderr: Python's end waits neither for this thread nor for a lock it holds.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, text: str, /) -> int:
        """Leave a line (with its end) to be written; its length, also where it is lost."""
        with self._changed:
            room = self._most // 2 if self._lost else self._most
            if self._closed or len(self._waiting) >= max(1, room):
                self._lost += 1
                return len(text)
            if self._lost:
                self._waiting.append(self._told_lost())
            self._waiting.append(text)
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing: what is left to be written is on its way."""

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def close(self, *, patience: float = PATIENCE) -> None:
        """Take nothing more; what is still waiting gets `patience` seconds, and is lost then."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=patience)

    def _run(self) -> None:
        while (text := self._next()) is not None:
            with suppress(OSError, ValueError):
                self._put(text.encode(errors="backslashreplace"))

    def _next(self) -> str | None:
        """The next text to write; None: closed, and nothing is left."""
        with self._changed:
            while not (self._waiting or self._lost or self._closed):
                self._changed.wait()
            if self._waiting:
                return self._waiting.popleft()
            return self._told_lost() if self._lost else None

    def _told_lost(self) -> str:
        count, self._lost = self._lost, 0
        return self._line_of_lost(count)

    def _put(self, left: bytes) -> None:
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever shares the descriptor has made it so
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()
