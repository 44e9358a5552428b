"""The Leases of the Services that a command is about, where a cluster was named to it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kvctl.cluster.connection import open_connection
from kvctl.cluster.leases import Lease, Leases
from kvctl.errors import ClusterError
from kvctl.model.lease import LeaseKey
from kvctl.model.text import one_line, plural

_SECONDS = 5.0
"""What all requests may take."""


class SeenLease(NamedTuple):
    """A Lease as the API has it now; `why_not`: it could not be read."""

    key: LeaseKey
    lease: Lease | None = None
    why_not: str | None = None

    def __str__(self) -> str:
        if self.lease is None:
            return f"{self.key} cannot be read: {self.why_not}"
        its = self.lease
        if not its.holder:
            return f"{self.key}, which nobody holds"
        renewed = f", renewed {one_line(its.renewed, longest=40)}" if its.renewed else ""
        return (
            f"{self.key} is held by {one_line(its.holder, longest=260)} for {its.duration} s{renewed}, "
            f"after {plural(its.transitions, 'transition')}"
        )

    def json(self) -> Mapping[str, object]:
        """Null: not known."""
        its = self.lease
        holder = its.holder or None if its is not None else None
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "holder": holder,
            "durationSeconds": its.duration if its is not None else None,
            "renewed": its.renewed if its is not None else None,
            "transitions": its.transitions if its is not None else None,
            "error": self.why_not,
        }


def read_leases(
    keys: Iterable[LeaseKey], *, kubeconfig: str | None, context: str | None
) -> dict[LeaseKey, SeenLease]:
    """Those of these Leases that are there, or cannot be read; where all take too long, the first of them."""
    found: dict[LeaseKey, SeenLease] = {}
    connection = open_connection(kubeconfig=kubeconfig, context=context)
    end = time.monotonic() + _SECONDS
    try:
        leases = Leases(connection)
        for key in sorted(set(keys)):
            left = end - time.monotonic()
            if left <= 0:
                break
            try:
                lease = leases.get(key, timeout=left)
            except ClusterError as error:
                found[key] = SeenLease(key, why_not=one_line(str(error)))
                continue
            if lease is not None:
                found[key] = SeenLease(key, lease)
    finally:
        connection.close()
    return found
