"""What to do about a program that undoes our rules again and again: wait longer each time, and say so."""

from __future__ import annotations

from collections import deque

PATIENCE = 3
"""Repairs within the window that are made at once."""
WINDOW = 120.0
"""Seconds after which a repair is forgotten."""
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 300.0
"""Seconds before the repair after those, and the most it becomes by doubling."""


class Pushback:
    """Counts the repairs of what others undid. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._repairs: deque[float] = deque(maxlen=PATIENCE)
        self._pause = 0.0
        self._last = 0.0

    def repaired(self, *, now: float) -> None:
        """A repair was made."""
        often = len(self._repairs) == PATIENCE and now - self._repairs[0] < WINDOW
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE) if often or self._pause else 0.0
        self._repairs.append(now)
        self._last = now

    def quiet(self, *, now: float) -> None:
        """The kernel was found as it should be: after a while of that, all is forgotten."""
        if now - self._last > max(WINDOW, 2 * self._pause):
            self._repairs.clear()
            self._pause = 0.0

    def seconds_left(self, *, now: float) -> float:
        """How long to wait before the next repair; 0: none."""
        return max(0.0, self._last + self._pause - now)

    @property
    def is_fight(self) -> bool:
        """Whether repairs are being put off."""
        return self._pause > 0
