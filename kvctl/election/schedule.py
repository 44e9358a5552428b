"""Which Lease's turn it is: those bound to this node before those it would like to have, each at its time."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import NamedTuple

from kvctl.model.lease import LeaseKey


class _Turn(NamedTuple):
    due: float
    key: LeaseKey
    urgent: bool


class Schedule:
    """Turns of many Leases; one that was taken has no further turn until it is `done`.

    Only some of the workers look for what they might have, so that a server which lets them wait does not keep all of
    them from renewing. Whoever uses it has to lock.
    """

    def __init__(self, *, workers: int) -> None:
        self._most_others = max(1, workers // 2)
        self._turns: dict[LeaseKey, _Turn] = {}
        """The one turn of each that counts; the heaps hold outdated ones too."""
        self._urgent: list[_Turn] = []
        self._others: list[_Turn] = []
        self._taken: dict[LeaseKey, bool] = {}

    def put(self, key: LeaseKey, *, due: float, urgent: bool) -> None:
        """Its turn is at `due` (inf: not at all) and no other time; nothing happens to one that is taken."""
        turn = _Turn(due, key, urgent)
        if key in self._taken or self._turns.get(key) == turn:
            return
        if due == math.inf:
            self._turns.pop(key, None)
            return
        self._turns[key] = turn
        heappush(self._urgent if urgent else self._others, turn)

    def take(self, *, now: float) -> LeaseKey | None:
        """One whose turn has come."""
        for heap in self._heaps():
            if heap and heap[0].due <= now:
                turn = heappop(heap)
                del self._turns[turn.key]
                self._taken[turn.key] = turn.urgent
                return turn.key
        return None

    def done(self, key: LeaseKey) -> None:
        """It may have another turn."""
        self._taken.pop(key, None)

    def is_taken(self, key: LeaseKey) -> bool:
        """Whether it is somebody's turn right now."""
        return key in self._taken

    def next_due(self) -> float:
        """When the next turn comes; inf: none."""
        return min((heap[0].due for heap in self._heaps() if heap), default=math.inf)

    def _heaps(self) -> list[list[_Turn]]:
        """Those that may be taken from, with a turn that counts on top."""
        others = sum(not urgent for urgent in self._taken.values())
        heaps = [self._urgent] if others >= self._most_others else [self._urgent, self._others]
        for heap in heaps:
            while heap and self._turns.get(heap[0].key) != heap[0]:
                heappop(heap)
        return heaps
