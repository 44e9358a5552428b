"""One request of an elector: sent, if there still is time, and what became of it told to the elector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from kvctl.cluster.failures import RefusedError
from kvctl.cluster.leases import MINE, Lease, is_absence
from kvctl.election.asks import Ask, Purpose
from kvctl.election.complaints import Complaints
from kvctl.election.elector import Elector
from kvctl.errors import ClusterError
from kvctl.model.lease import LeaseKey

_SHORTEST = 0.01
"""Seconds: a time-out of 0 is no time-out."""


class LeaseStore(Protocol):
    """Where Leases are: `kvctl.cluster.leases.Leases`."""

    def get(self, key: LeaseKey, *, timeout: float) -> Lease | None:
        """Read it; None: absent. Raises ClusterError."""

    def create(self, lease: Lease, *, timeout: float) -> Lease:
        """Make it. Raises ClusterError."""

    def update(self, lease: Lease, *, timeout: float) -> Lease:
        """Write it, if it is at its version still. Raises ClusterError."""


class Exchange:
    """Sends without the lock, tells with it."""

    def __init__(
        self,
        leases: LeaseStore,
        *,
        lock: threading.Lock,
        clock: Callable[[], float],
        complaints: Complaints,
    ) -> None:
        self._leases = leases
        self._lock = lock
        self._clock = clock
        self._complaints = complaints

    def run(self, elector: Elector, ask: Ask) -> bool:
        """Send it; True: a claim was granted."""
        # The last look at the clock: the process may have been stopped since the request was made up.
        sent = self._clock()
        try:
            if sent >= ask.not_after:
                raise ClusterError("a Lease could not be renewed in time")
            answer = self._send(ask)
        except RefusedError as error:
            if error.status != 409 and not is_absence(error):
                self._complaints.failed(error)
            with self._lock:
                _refused(elector, ask, error, now=self._clock())
            return False
        except ClusterError as error:
            self._complaints.failed(error)
            with self._lock:
                elector.failed(error.message, now=self._clock())
            return False
        if answer is not None and answer.anothers:
            self._complaints.failed(
                ClusterError(
                    f"{answer.key} is another program's, and is not taken",
                    hint=f"name another one in kube-vip.io/leaseName, or label it {MINE}",
                )
            )
        with self._lock:
            if answer is None or ask.purpose is Purpose.LOOK:
                elector.read(answer, now=self._clock())
                return False
            elector.granted(answer, sent=sent, now=self._clock())
        return ask.purpose is Purpose.CLAIM

    def _send(self, ask: Ask) -> Lease | None:
        timeout = max(_SHORTEST, ask.patience)
        if ask.purpose is Purpose.LOOK:
            return self._leases.get(ask.lease.key, timeout=timeout)
        if not ask.lease.version:
            return self._leases.create(ask.lease, timeout=timeout)
        return self._leases.update(ask.lease, timeout=timeout)


def _refused(elector: Elector, ask: Ask, error: RefusedError, *, now: float) -> None:
    if error.status == 409:
        elector.conflicted(now=now)
    elif is_absence(error) and ask.lease.version:
        elector.read(None, now=now)
    else:
        elector.failed(error.message, now=now, retry_after=error.retry_after)
