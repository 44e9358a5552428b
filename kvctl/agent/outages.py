"""What the log says of a cluster that cannot be heard: each reason once, and when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kvctl.agent.journal import Journal, Level
from kvctl.cluster.source import SourceState

PATIENCE = 2
"""Failures in a row before a source that was heard once counts: a watch that breaks off is taken up again at once."""
_MOST_REASONS = 16


class Outages:
    """Hears from the threads that list and watch, see `Tell`."""

    def __init__(self, journal: Journal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._told: set[str] = set()
        self._since = 0.0

    def tell(self, state: SourceState) -> None:
        """How a source is doing by now."""
        with self._lock:
            if not state.failures:
                self._works(state)
            elif not state.synced or state.failures >= PATIENCE:
                self._fails(state)

    def _fails(self, state: SourceState) -> None:
        if not self._failing:
            self._since = self._clock()
        self._failing.add(state.name)
        reason = state.last_error or "no answer"
        # All watches of a server that is away fail alike.
        if reason in self._told or len(self._told) >= _MOST_REASONS:
            return
        self._told.add(reason)
        known = (
            "what was last heard holds until then"
            if state.synced
            else "the rules stay as they are until then"
        )
        self._journal.say(Level.WARNING, f"{reason}; trying again, {known}")

    def _works(self, state: SourceState) -> None:
        if state.name not in self._failing:
            return
        self._failing.remove(state.name)
        if not self._failing:
            self._told.clear()
            away = self._clock() - self._since
            self._journal.say(Level.INFO, f"the cluster is heard, after {away:.0f} s without")
