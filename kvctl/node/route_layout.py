"""How a route is laid out in a message of rtnetlink: the header, the attributes, and the next hops in them.

Layouts and numbers are those of rtnetlink(7) and linux/rtnetlink.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from struct import Struct
from typing import NamedTuple

from kvctl.model.net import Address, Network
from kvctl.netlink.messages import malformed, read_attributes
from kvctl.node.rtnetlink import AF_INET, read_integer, read_ip

ROUTE = Struct("=BBBBBBBBI")
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 9, 15, 18
RTN_UNICAST = 1
RT_TABLE_MAIN = 254
RTM_F_CLONED = 0x200
"""An entry of the route cache."""

_NEXT_HOP = Struct("=HBBi")
_RTNH_F_DEAD = 0x1


class Hop(NamedTuple):
    """A next hop."""

    interface: int | None
    """Its index; None: the route names none."""
    gateway: Address | None
    dead: bool
    """Its interface is down: no packet takes it."""


def read_hops(parts: Mapping[int, bytes], *, flags: int) -> list[Hop]:
    """The next hops of a route: its own, with its flags, or those of struct rtnexthop; raises NetlinkError."""
    if RTA_MULTIPATH not in parts:
        index = read_integer(parts[RTA_OIF]) if RTA_OIF in parts else None
        return [Hop(index, _gateway(parts), dead=bool(flags & _RTNH_F_DEAD))]
    data, start = parts[RTA_MULTIPATH], 0
    hops: list[Hop] = []
    while start + _NEXT_HOP.size <= len(data):
        length, its_flags, _, index = _NEXT_HOP.unpack_from(data, start)
        if length < _NEXT_HOP.size or start + length > len(data):
            raise malformed("route")
        gateway = _gateway(read_attributes(data, start + _NEXT_HOP.size, start + length))
        hops.append(Hop(index, gateway, dead=bool(its_flags & _RTNH_F_DEAD)))
        start += (length + 3) & ~3
    return hops


def _gateway(parts: Mapping[int, bytes]) -> Address | None:
    """The next hop's address, which may be of the other family (struct rtvia: family, address)."""
    if RTA_GATEWAY in parts:
        return read_ip(parts[RTA_GATEWAY])
    return read_ip(parts[RTA_VIA][2:]) if RTA_VIA in parts else None


def read_network(number: int, packed: bytes | None, length: int) -> Network:
    """A destination of the family of this number (AF_...), of which a default route says nothing."""
    try:
        if number == AF_INET:
            return IPv4Network((packed or bytes(4), length))
        return IPv6Network((packed or bytes(16), length))
    except ValueError as error:
        raise malformed("route") from error
