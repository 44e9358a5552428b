"""One Lease that its holder frees is often the first of many: then its others are looked at soon, not at their time."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kvctl.election.elector import Elector

PAUSE = 0.4
"""Seconds from the first one that was freed to a look at the others, and from one such look to the next."""
_MOST_REMEMBERED = 1000


class Drains:
    """For one electorate; whoever uses it has to lock."""

    def __init__(self) -> None:
        self._waves: dict[str, float] = {}
        """When those of a holder are, or were, to be looked at last."""

    def freed(self, holder: str, electors: Iterable[Elector], *, now: float) -> list[Elector]:
        """`holder` was seen to have freed a Lease: the electors of its others, woken for a look after the pause."""
        if self._waves.get(holder, -math.inf) > now:
            return []
        if len(self._waves) >= _MOST_REMEMBERED:
            self._waves.clear()
        self._waves[holder] = now + PAUSE
        woken = [elector for elector in electors if elector.holder == holder and elector.due > now + PAUSE]
        for elector in woken:
            elector.wake(now=now + PAUSE)
        return woken
