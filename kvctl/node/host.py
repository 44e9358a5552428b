"""Reading this host's addresses, routes and interfaces.

Over rtnetlink, rtnetlink(7), linux/if_link.h, linux/if_addr.h and linux/rtnetlink.h, in the
network namespace of the calling thread. Needs no privilege.
"""

from __future__ import annotations

import errno
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import Struct
from typing import NamedTuple

from kvctl.errors import NetlinkError
from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Address, Network
from kvctl.netlink import NETLINK_ROUTE, Netlink, attribute, malformed, open_netlink, read_attributes

_RTM_GETLINK = 18
_RTM_GETADDR = 22
_RTM_GETROUTE = 26

_IFINFOMSG = Struct("=BxHiII")
_IFF_UP = 0x1
_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_EXT_MASK = 29
_RTEXT_FILTER_SKIP_STATS = 0x8

_IFADDRMSG = Struct("=BBBBI")
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_FLAGS = 8
_IFA_F_SECONDARY = 0x01
_IFA_F_DADFAILED = 0x08
_IFA_F_DEPRECATED = 0x20
_IFA_F_TENTATIVE = 0x40

_RTMSG = Struct("=BBBBBBBBI")
_RTNEXTHOP = Struct("=HBBi")
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1
_RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT = 6, 7, 8
_RTM_F_CLONED = 0x200
_RTNH_F_DEAD = 0x1
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18

_AF_INET, _AF_INET6 = 2, 10
_ORDER = sys.byteorder


class _Link(NamedTuple):
    name: str
    kind: str | None
    up: bool


class _RawAddress(NamedTuple):
    link: int
    address: Address
    prefix_length: int
    flags: int


class _RawRoute(NamedTuple):
    network: Network
    metric: int
    hops: tuple[tuple[int, Address | None], ...]
    """Interface index and gateway of each next hop; none for a route that refuses."""


def read_host() -> Host:
    """What the kernel says now; raises NetlinkError."""
    what = "cannot read the addresses and routes of this host"
    with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        query = _IFADDRMSG.pack(0, 0, 0, 0, 0)
        addresses = netlink.dump(kind=_RTM_GETADDR, payload=query, read=_address, what=what)
        routes = [
            *_read_routes(netlink, family=_AF_INET, what=what),
            *_read_routes(netlink, family=_AF_INET6, what=what),
        ]
        # Last: an address read before belongs to a link that is listed here, or has gone with it.
        no_statistics = attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS.to_bytes(4, _ORDER))
        query = _IFINFOMSG.pack(0, 0, 0, 0, 0) + no_statistics
        links = dict(netlink.dump(kind=_RTM_GETLINK, payload=query, read=_link, what=what))
    return _host(links=links, addresses=addresses, routes=routes)


def _read_routes(netlink: Netlink, *, family: int, what: str) -> list[_RawRoute]:
    """The main table of one family. The kernel filters by table since 4.20; older ones send all."""
    query = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, 0, 0)
    try:
        return netlink.dump(kind=_RTM_GETROUTE, payload=query, read=_route, what=what)
    except NetlinkError as error:
        # ENOENT: nothing has been put into that table yet. The others: a kernel without this family.
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return []
        raise


def _host(*, links: dict[int, _Link], addresses: list[_RawAddress], routes: list[_RawRoute]) -> Host:
    """Put names to interface indexes; what refers to a link that has gone is left out."""
    return Host(
        addresses=tuple(
            HostAddress(
                address=a.address,
                prefix_length=a.prefix_length,
                interface=links[a.link].name,
                kind=links[a.link].kind,
                up=links[a.link].up,
                tentative=bool(a.flags & _IFA_F_TENTATIVE),
                duplicate=bool(a.flags & _IFA_F_DADFAILED),
                # In IPv6 the same bit means a temporary address.
                secondary=bool(a.flags & _IFA_F_SECONDARY) and a.address.version == 4,
                deprecated=bool(a.flags & _IFA_F_DEPRECATED),
            )
            for a in addresses
            if a.link in links
        ),
        routes=tuple(value for route in routes for value in _named_routes(route, links=links)),
        interfaces=tuple(link.name for link in links.values()),
    )


def _named_routes(route: _RawRoute, *, links: dict[int, _Link]) -> list[Route]:
    if not route.hops:
        return [Route(network=route.network, interface=None, metric=route.metric)]
    return [
        Route(network=route.network, interface=links[index].name, gateway=gateway, metric=route.metric)
        for index, gateway in route.hops
        if index in links
    ]


def _link(buffer: bytearray, start: int, end: int) -> tuple[int, _Link]:
    _, _, index, flags, _ = _unpack(_IFINFOMSG, buffer, start, end)
    parts = read_attributes(buffer, start + _IFINFOMSG.size, end)
    info = read_attributes(parts.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND)
    if _IFLA_IFNAME not in parts:
        raise malformed("interface")
    return index, _Link(
        name=_text(parts[_IFLA_IFNAME]), kind=_text(kind) if kind else None, up=bool(flags & _IFF_UP)
    )


def _address(buffer: bytearray, start: int, end: int) -> _RawAddress | None:
    family, prefix_length, flags, _, index = _unpack(_IFADDRMSG, buffer, start, end)
    if family not in (_AF_INET, _AF_INET6):
        return None
    parts = read_attributes(buffer, start + _IFADDRMSG.size, end)
    # On a link with a peer IFA_ADDRESS is the peer's, and IFA_LOCAL ours.
    packed = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
    if packed is None:
        raise malformed("address")
    return _RawAddress(
        link=index,
        address=_ip(packed),
        prefix_length=prefix_length,
        flags=_integer(parts[_IFA_FLAGS]) if _IFA_FLAGS in parts else flags,
    )


def _route(buffer: bytearray, start: int, end: int) -> _RawRoute | None:
    """A route of the main table that packets may take or that refuses them, else None."""
    family, prefix_length, _, _, table, _, _, kind, flags = _unpack(_RTMSG, buffer, start, end)
    parts = read_attributes(buffer, start + _RTMSG.size, end)
    table = _integer(parts[_RTA_TABLE]) if _RTA_TABLE in parts else table
    if table != _RT_TABLE_MAIN or flags & _RTM_F_CLONED or family not in (_AF_INET, _AF_INET6):
        return None
    network = _network(family, parts.get(_RTA_DST), prefix_length)
    metric = _integer(parts.get(_RTA_PRIORITY, b""))
    if kind in (_RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT):
        return _RawRoute(network=network, metric=metric, hops=())
    if kind != _RTN_UNICAST:
        return None
    hops = _hops(parts, flags=flags)
    return _RawRoute(network=network, metric=metric, hops=hops) if hops else None


def _hops(parts: dict[int, bytes], *, flags: int) -> tuple[tuple[int, Address | None], ...]:
    """The live next hops of a route: its own, or those of struct rtnexthop."""
    if _RTA_MULTIPATH not in parts:
        alive = _RTA_OIF in parts and not flags & _RTNH_F_DEAD
        return ((_integer(parts[_RTA_OIF]), _gateway(parts)),) if alive else ()
    data, start = parts[_RTA_MULTIPATH], 0
    hops: list[tuple[int, Address | None]] = []
    while start + _RTNEXTHOP.size <= len(data):
        length, hop_flags, _, index = _RTNEXTHOP.unpack_from(data, start)
        if length < _RTNEXTHOP.size or start + length > len(data):
            raise malformed("route")
        if not hop_flags & _RTNH_F_DEAD:
            hops.append((index, _gateway(read_attributes(data, start + _RTNEXTHOP.size, start + length))))
        start += (length + 3) & ~3
    return tuple(hops)


def _gateway(parts: dict[int, bytes]) -> Address | None:
    """The next hop's address, which may be of the other family (struct rtvia: family, address)."""
    if _RTA_GATEWAY in parts:
        return _ip(parts[_RTA_GATEWAY])
    return _ip(parts[_RTA_VIA][2:]) if _RTA_VIA in parts else None


def _network(family: int, packed: bytes | None, prefix_length: int) -> Network:
    """The destination; a default route has none."""
    try:
        if family == _AF_INET:
            return IPv4Network((packed or bytes(4), prefix_length))
        return IPv6Network((packed or bytes(16), prefix_length))
    except ValueError as error:
        raise malformed("route") from error


def _ip(packed: bytes) -> Address:
    if len(packed) == 4:
        return IPv4Address(packed)
    if len(packed) == 16:
        return IPv6Address(packed)
    raise malformed("address")


def _unpack(layout: Struct, buffer: bytearray, start: int, end: int) -> tuple[int, ...]:
    if start + layout.size > end:
        raise malformed("message")
    return layout.unpack_from(buffer, start)


def _integer(data: bytes) -> int:
    """A number in the host's byte order, as rtnetlink has them; 0 for an empty one."""
    return int.from_bytes(data, _ORDER)


def _text(data: bytes) -> str:
    """A name, NUL-terminated; the kernel lets any byte but a slash and white space into an interface name."""
    return data.rstrip(bytes(1)).decode("utf-8", "backslashreplace")
