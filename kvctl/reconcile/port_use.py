"""How many source ports of a VIP are in use, and how many there are. Pure.

A reply is told by its addresses and ports, so one source port serves any number of connections to different
destinations, and one alone to the same address and port. The kernel keeps a pod's source port where it is free, else it
chooses in the range that the port is of (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c): it tries some
hundreds by chance, so that the last few per cent are hard to come by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from kvctl.model.flows import Flow
from kvctl.model.net import Address

_WITH_PORTS = frozenset(("tcp", "udp", "sctp", "33", "136"))
_RANGES = ((1, 511), (600, 1023), (1024, 65535))
"""First and last port of the ranges that the kernel chooses from; what is between them is kept where it is free."""
_FULL = 0.8


class PortUse(NamedTuple):
    """The source ports of a VIP towards one destination."""

    vip: Address
    protocol: str
    destination: Address
    destination_port: int
    used: int
    ports: int
    """How many there are of that range."""
    first: int
    """The first port of the range."""

    @property
    def is_nearly_full(self) -> bool:
        """Whether new connections are about to fail."""
        return self.used >= self.ports * _FULL

    def __str__(self) -> str:
        of = "" if self.first == _RANGES[-1][0] else f" below {self.first + self.ports}"
        return f"{self.used:,} of {self.ports:,} ports{of} to {self.protocol} {self.target}"

    @property
    def target(self) -> str:
        """The destination, with its port."""
        return (
            f"[{self.destination}]:{self.destination_port}"
            if self.destination.version == 6
            else f"{self.destination}:{self.destination_port}"
        )


def busiest(flows: Iterable[Flow], vip: Address) -> PortUse | None:
    """The destination to which the fewest ports of a VIP are left; None: no connection with ports has it.

    `flows` are all with this VIP, of whatever Service. Only they count: a VIP may be shared.
    """
    used: dict[tuple[int, str, Address, int, tuple[int, int]], set[int]] = defaultdict(set)
    for flow in flows:
        back = flow.reply
        if back.destination == vip and flow.protocol in _WITH_PORTS and back.destination_port:
            span = _range_of(back.destination_port)
            if span is not None:
                key = (flow.zone, flow.protocol, back.source, back.source_port, span)
                used[key].add(back.destination_port)
    uses = [
        PortUse(vip, protocol, address, port, used=len(ports), ports=last - first + 1, first=first)
        for (_, protocol, address, port, (first, last)), ports in used.items()
    ]
    return max(uses, key=lambda use: (use.used / use.ports, use.used), default=None)


def _range_of(port: int) -> tuple[int, int] | None:
    """The range that the kernel chooses from and this port is of; None: it is kept or left, never chosen."""
    return next((span for span in _RANGES if span[0] <= port <= span[1]), None)
