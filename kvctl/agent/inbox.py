"""What the loop has to look at again, said by the threads that watch: marks, not messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from kvctl.agent.round import Cause

# A change of a cluster comes as several events: a little patience makes one write of them.
_SETTLE_SECONDS = 0.005
_MOST_SETTLE_SECONDS = 0.025


class Inbox:
    """Marks that wait for the loop: marking is thread-safe and never blocks for long."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._marks: dict[Cause, float] = {}
        self._stopped = False
        # Not a Condition: `stop` is called by a signal handler, which runs in the thread that waits, also between
        # its last look and its sleep, and would wake nobody. What is put into this queue stays there until it is
        # taken, and a handler may put (queue.SimpleQueue: "put() is reentrant").
        self._bell: SimpleQueue[None] = SimpleQueue()

    def mark(self, cause: Cause) -> None:
        """Something is to be looked at again."""
        with self._lock:
            self._marks.setdefault(cause, self._clock())
        # Who takes the ring that is there looks at the marks after it.
        if self._bell.empty():
            self._bell.put(None)

    def marker(self, cause: Cause) -> Callable[[], None]:
        """`mark` for one cause, to hand to a thread that watches."""
        return lambda: self.mark(cause)

    def stop(self) -> None:
        """Wake the loop for the last time; a signal handler may call this."""
        self._stopped = True
        self._bell.put(None)

    @property
    def stopped(self) -> bool:
        """Whether the loop is to end."""
        return self._stopped

    def wait(self, *, timeout: float) -> dict[Cause, float]:
        """All marks, each with the (monotonic) time it was first made; empty after `timeout` seconds or a stop.

        Waits until marks have stopped coming for a moment, within bounds.
        """
        if not self._stopped and self._rung(timeout):
            end = self._clock() + _MOST_SETTLE_SECONDS
            while not self._stopped and self._rung(_SETTLE_SECONDS) and self._clock() < end:
                pass
        with self._lock:
            marks, self._marks = self._marks, {}
        return marks

    def _rung(self, seconds: float) -> bool:
        """Whether somebody rang within that time."""
        try:
            self._bell.get(timeout=max(0.0, seconds))
        except Empty:
            return False
        return True
