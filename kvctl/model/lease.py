"""Which Lease: the name that election, agent and commands share."""

from __future__ import annotations

from typing import NamedTuple

IDENTITY_PREFIX = "kvctl/"
"""Of the holder that an agent writes: the name of its node follows."""


KUBE_VIPS = "kubevip-"
"""What kube-vip's own names of Services' Leases begin with (its pkg/lease), and kvctl's with them: who has the Lease
has the VIP, whichever program it runs."""


class LeaseKey(NamedTuple):
    """Which Lease: prints as `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
