"""Connections as conntrack knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kvctl.model.net import Address, Family


class Tuple(NamedTuple):
    """One direction of a connection. Ports are 0 where the protocol has none."""

    source: Address
    destination: Address
    source_port: int = 0
    destination_port: int = 0


class Volume(NamedTuple):
    """What has gone one way in a connection since the kernel counts it (sysctl net.netfilter.nf_conntrack_acct)."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Flow:
    """A conntrack entry: what the pod sent (original), and what comes back (reply).

    Source NAT shows as a reply destination that is not the original source, destination NAT as a
    reply source that is not the original destination.
    """

    family: Family
    protocol: str
    """`tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, else the protocol number in decimal."""
    original: Tuple
    reply: Tuple
    zone: int = 0
    id: int = 0
    """The kernel's id of the entry: a successor with equal tuples has another."""
    state: str | None = None
    """TCP state in conntrack's words (`ESTABLISHED`), None for other protocols."""
    raw_tuple: bytes = b""
    """CTA_TUPLE_ORIG as the kernel sent it, for deleting exactly this entry."""
    mark: int = field(default=0, compare=False)
    """The connection's mark, which rules may change while it lives."""
    replied: bool = field(default=False, compare=False)
    """Whether an answer has been seen."""
    sent: Volume | None = field(default=None, compare=False)
    """In the original direction; None: not counted."""
    received: Volume | None = field(default=None, compare=False)
    """In the reply's."""
