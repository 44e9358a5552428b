"""What one node has seen of a Lease, and from when on it may be taken, by this node's own clock.

A holder's times are of the holder's clock, so they count for nothing: its term begins anew, here, whenever its record
is seen to have changed (client-go, tools/leaderelection). Seen is later than renewed, so the term ends here later than
there.
"""

from __future__ import annotations

import math

from kvctl.cluster.leases import Lease
from kvctl.election.terms import Terms

RELEASED = 1
"""leaseDurationSeconds of a Lease that its holder has given up, as client-go writes it."""
_PATIENCE_WITH_THE_EMPTIED = 2
"""Retry periods. A Lease that was emptied by hand has a holder that does not know: at its next renewal it takes it
again or leaves."""


class Observed:
    """What was seen; times are monotonic seconds."""

    def __init__(self, *, terms: Terms) -> None:
        self.known = False
        """It was read, or found to be absent."""
        self.lease: Lease | None = None
        """As last read; None: absent, or not known."""
        self._terms = terms
        self._term: tuple[object, ...] | None = None
        self._free_at = math.inf

    def see(self, lease: Lease | None, *, now: float) -> None:
        """Take what the server has answered; None: there is no such Lease."""
        before, first = self.lease, not self.known
        self.known, self.lease = True, lease
        if lease is None:
            if first:
                self._free_at = now
            elif before is not None:
                # Deleted by hand, it may have a holder that will make it anew, and since when is not known.
                self._term, self._free_at = None, now + (before.duration or self._terms.written)
            return
        term = (lease.holder, lease.duration, lease.transitions, lease.acquired, lease.renewed)
        if term != self._term:
            self._term = term
            self._free_at = now + self._seconds_to_wait(lease)

    def free_at(self) -> float:
        """From when on nobody holds it, unless it is renewed; inf: not known."""
        return self._free_at

    def _seconds_to_wait(self, lease: Lease) -> float:
        if lease.holder:
            return float(lease.duration or self._terms.written)
        if lease.duration <= RELEASED:
            return 0.0
        return min(lease.duration, _PATIENCE_WITH_THE_EMPTIED * self._terms.retry_period)
