"""Reading this host's addresses, routes and interfaces.

Over rtnetlink, rtnetlink(7) and linux/rtnetlink.h, in the network namespace of the calling thread.
Needs no privilege.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from kvctl.errors import NetlinkError
from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Address, Network
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.netlink.messages import read_attributes
from kvctl.node.route_layout import (
    ROUTE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_F_CLONED,
    RTN_UNICAST,
    read_hops,
    read_network,
)
from kvctl.node.rtnetlink import (
    AF_INET,
    AF_INET6,
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
    AddressRow,
    Link,
    keeps_protocols,
    mark_of,
    read_addresses,
    read_integer,
    read_links,
    unpack,
)

_RTM_GETROUTE = 26

_RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT = 6, 7, 8


class _RawRoute(NamedTuple):
    network: Network
    metric: int
    hops: tuple[tuple[int, Address | None], ...]
    """Interface index and gateway of each live next hop; none for a route that refuses."""


def read_host() -> Host:
    """What the kernel says now; raises NetlinkError."""
    what = "cannot read the addresses and routes of this host"
    with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        addresses = read_addresses(netlink, what=what)
        routes = [
            *_read_routes(netlink, family=AF_INET, what=what),
            *_read_routes(netlink, family=AF_INET6, what=what),
        ]
        # Last: an address read before belongs to a link that is listed here, or has gone with it.
        links = {link.number: link for link in read_links(netlink, what=what)}
    return _host(links=links, addresses=addresses, routes=routes)


def _read_routes(netlink: Netlink, *, family: int, what: str) -> list[_RawRoute]:
    """The main table of one family. The kernel filters by table since 4.20; older ones send all."""
    query = ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    try:
        return netlink.dump(kind=_RTM_GETROUTE, payload=query, read=_route, what=what)
    except NetlinkError as error:
        # ENOENT: nothing has been put into that table yet. The others: a kernel without this family.
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return []
        raise


def _host(*, links: dict[int, Link], addresses: list[AddressRow], routes: list[_RawRoute]) -> Host:
    """Put names to interface indexes; what refers to a link that has gone is left out."""
    by_shape = not keeps_protocols(addresses)
    return Host(
        addresses=tuple(
            HostAddress(
                address=a.address,
                prefix_length=a.prefix_length,
                interface=links[a.link].name,
                kind=links[a.link].kind,
                up=links[a.link].up,
                tentative=bool(a.flags & IFA_F_TENTATIVE),
                duplicate=bool(a.flags & IFA_F_DADFAILED),
                # In IPv6 the same bit means a temporary address.
                secondary=bool(a.flags & IFA_F_SECONDARY) and a.address.version == 4,
                deprecated=bool(a.flags & IFA_F_DEPRECATED),
                ours=mark_of(a, by_shape=by_shape) is not None,
            )
            for a in addresses
            if a.link in links
        ),
        routes=tuple(value for route in routes for value in _named_routes(route, links=links)),
        interfaces=tuple(link.name for link in links.values()),
        down=frozenset(link.name for link in links.values() if not link.up),
        unplugged=frozenset(link.name for link in links.values() if link.up and not link.carrier),
    )


def _named_routes(route: _RawRoute, *, links: dict[int, Link]) -> list[Route]:
    if not route.hops:
        return [Route(network=route.network, interface=None, metric=route.metric)]
    return [
        Route(network=route.network, interface=links[index].name, gateway=gateway, metric=route.metric)
        for index, gateway in route.hops
        if index in links
    ]


def _route(buffer: bytearray, start: int, end: int) -> _RawRoute | None:
    """A route of the main table that packets may take or that refuses them, else None."""
    family, prefix_length, _, _, table, _, _, kind, flags = unpack(ROUTE, buffer, start, end)
    parts = read_attributes(buffer, start + ROUTE.size, end)
    table = read_integer(parts[RTA_TABLE]) if RTA_TABLE in parts else table
    if table != RT_TABLE_MAIN or flags & RTM_F_CLONED or family not in (AF_INET, AF_INET6):
        return None
    network = read_network(family, parts.get(RTA_DST), prefix_length)
    metric = read_integer(parts.get(RTA_PRIORITY, b""))
    if kind in (_RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT):
        return _RawRoute(network=network, metric=metric, hops=())
    if kind != RTN_UNICAST:
        return None
    hops = tuple(
        (hop.interface, hop.gateway)
        for hop in read_hops(parts, flags=flags)
        if hop.interface is not None and not hop.dead
    )
    return _RawRoute(network=network, metric=metric, hops=hops) if hops else None
