"""What the loop has to look at again, said by the threads that watch: marks, not messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kvctl.agent.round import Cause

# A change of a cluster comes as several events: a little patience makes one write of them.
_SETTLE_SECONDS = 0.005
_MOST_SETTLE_SECONDS = 0.025


class Inbox:
    """Marks that wait for the loop: marking is thread-safe and never blocks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._marks: dict[Cause, float] = {}
        self._stopped = False

    def mark(self, cause: Cause) -> None:
        """Something is to be looked at again."""
        with self._changed:
            self._marks.setdefault(cause, self._clock())
            self._changed.notify_all()

    def marker(self, cause: Cause) -> Callable[[], None]:
        """`mark` for one cause, to hand to a thread that watches."""
        return lambda: self.mark(cause)

    def stop(self) -> None:
        """Wake the loop for the last time."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether the loop is to end."""
        return self._stopped

    def wait(self, *, timeout: float) -> dict[Cause, float]:
        """All marks, each with the (monotonic) time it was first made; empty after `timeout` seconds or a stop.

        Waits until marks have stopped coming for a moment, within bounds.
        """
        deadline = self._clock() + timeout
        with self._changed:
            while not self._marks and not self._stopped:
                left = deadline - self._clock()
                if left <= 0:
                    return {}
                self._changed.wait(left)
            end = self._clock() + _MOST_SETTLE_SECONDS
            while not self._stopped and self._changed.wait(_SETTLE_SECONDS) and self._clock() < end:
                pass
            marks, self._marks = self._marks, {}
            return marks
