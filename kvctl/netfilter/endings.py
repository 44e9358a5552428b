"""Connections that end, with all that they have carried: multicast by conntrack when it forgets them.

Group NFNLGRP_CONNTRACK_DESTROY of linux/netfilter/nfnetlink_compat.h. With the sysctl nf_conntrack_events at 2, as
Linux has it since 5.19, only the ends of connections are told that began while somebody listened; at 0 none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Self

from kvctl.errors import NetlinkError
from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family
from kvctl.netfilter.conntrack_messages import flow_reader
from kvctl.netlink import NETLINK_NETFILTER, open_netlink

_GROUP_DESTROY = 3
# NFNL_SUBSYS_CTNETLINK (1) in the high byte, IPCTNL_MSG_CT_DELETE
_DELETED = 0x0102
_FAMILIES = {2: Family.IPV4, 10: Family.IPV6}
_WHAT = "cannot hear of connections that end"
_MOST = 100_000


class Ended(NamedTuple):
    """What has ended since the last time."""

    flows: tuple[Flow, ...] = ()
    lost: bool = False
    """There was more than the socket could keep."""


class Endings:
    """Hears in the network namespace of the calling thread; a context manager. Raises NetlinkError."""

    def __init__(self) -> None:
        self._netlink = open_netlink(
            protocol=NETLINK_NETFILTER, what=_WHAT, timeout=0, groups=(_GROUP_DESTROY,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._netlink.close()

    def take(self, vips: Collection[Address]) -> Ended:
        """The connections that have ended with one of these addresses, since the last call."""
        readers = {
            family: flow_reader(family=family, sources=(), reply_destinations=vips) for family in Family
        }
        flows: list[Flow] = []

        def tell(kind: int, buffer: bytearray, start: int, end: int) -> None:
            family = _FAMILIES.get(buffer[start]) if end > start else None
            if kind == _DELETED and family is not None:
                flow = readers[family](buffer, start, end)
                if flow is not None:
                    flows.append(flow)

        try:
            self._netlink.hear(tell, most=_MOST, what=_WHAT)
        except NetlinkError:
            # ENOBUFS, or what cannot be read: it is known no more, and the next ones are heard.
            return Ended(tuple(flows), lost=True)
        return Ended(tuple(flows))
