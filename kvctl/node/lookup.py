"""Asking the kernel about one packet: which way it takes, and as which address it is masqueraded there.

Messages are those of rtnetlink(7) and linux/rtnetlink.h, in the network namespace of the calling thread.
Needs no privilege.
"""

from __future__ import annotations

import errno
import os
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from kvctl.errors import NetlinkError
from kvctl.model.net import Address, contains
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.netlink.messages import attribute, read_attributes
from kvctl.node.open_rules import find_open_rule
from kvctl.node.route_layout import ROUTE, RTA_DST, RTA_MULTIPATH, RTA_OIF, RTN_UNICAST, read_hops
from kvctl.node.rtnetlink import (
    AF_INET,
    AF_INET6,
    IFA_ADDRESS,
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
    IFA_FLAGS,
    IFA_LOCAL,
    IFADDRMSG,
    ORDER,
    read_integer,
    read_ip,
    read_one_link,
    unpack,
)

_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEXTHOP = 22, 26, 106
_RTA_SRC, _RTA_IIF, _RTA_MARK, _RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 2, 3, 16, 27, 28, 29
_RTA_NH_ID = 30
# linux/nexthop.h: struct nhmsg, and attributes of next hops that are objects of their own.
_NEXT_HOP_HEADER_BYTES, _NHA_ID, _NHA_GROUP = 8, 1, 2
# Kernel 4.13: tell of the route itself, not of what this packet would take of it.
_RTM_F_FIB_MATCH = 0x2000
_KINDS = (
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
)
_REFUSING = ("blackhole", "unreachable", "prohibit")
_NO_WAY = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EACCES,
    errno.EINVAL,
    errno.EXDEV,
    errno.EADDRNOTAVAIL,
)
_NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_RT_SCOPE_UNIVERSE = 0
_IPV4_SETTINGS = Path("/proc/sys/net/ipv4/conf")
_IPV6_SETTINGS = Path("/proc/sys/net/ipv6/conf")


class Sought(NamedTuple):
    """A packet whose way is asked for; without `iif` it is one that this host sends itself."""

    destination: Address
    source: Address | None = None
    iif: str | None = None
    mark: int = 0
    protocol: str | None = None
    source_port: int | None = None
    destination_port: int | None = None


class Answer(NamedTuple):
    """What the kernel says of it."""

    kind: str
    """`unicast`, `local`, `broadcast`, `multicast`, ...; `refused`: it is not sent on, for `reason`."""
    interface: str | None = None
    gateway: Address | None = None
    reason: str | None = None
    several: bool = False
    """The route has several next hops, and another packet may take another."""
    open_rule: str | None = None
    """A rule of policy routing that may lead it elsewhere, by what is not known of the packet."""


def look_up(sought: Sought) -> Answer:
    """The way that the kernel would send it now, forwarded from `iif`; raises NetlinkError."""
    what = f"cannot ask for the route to {sought.destination}"
    with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        try:
            iif = read_one_link(netlink, name=sought.iif, what=what).number if sought.iif else None
            query = _query(sought, iif=iif)

            def read(buffer: bytearray, start: int, end: int) -> tuple[int, dict[int, bytes], int]:
                header = unpack(ROUTE, buffer, start, end)
                return header[7], read_attributes(buffer, start + ROUTE.size, end), header[8]

            number, parts, flags = netlink.ask(kind=_RTM_GETROUTE, payload=query, read=read, what=what)
        except NetlinkError as error:
            if error.errno not in _NO_WAY:
                raise
            reason, rule = _reason(error.errno, sought), _open_rule(netlink, sought, local=False)
            return Answer(kind="refused", reason=reason, open_rule=rule)
        kind = _KINDS[number] if number < len(_KINDS) else str(number)
        rule = _open_rule(netlink, sought, local=kind == "local")
        if kind in _REFUSING:
            return Answer(kind="refused", reason=f"a route of type {kind}", open_rule=rule)
        hop = next(iter(read_hops(parts, flags=flags)), None)
        if hop is None or hop.interface is None:
            return Answer(kind=kind, open_rule=rule)
        name = read_one_link(netlink, number=hop.interface, what=what).name
        if sought.iif is not None and number == RTN_UNICAST and not _forwards(sought):
            return Answer(kind="refused", reason="net.ipv6.conf.all.forwarding is 0")
        several = number == RTN_UNICAST and _has_several(netlink, sought, iif=iif)
        return Answer(kind=kind, interface=name, gateway=hop.gateway, several=several, open_rule=rule)


def _open_rule(netlink: Netlink, sought: Sought, *, local: bool) -> str | None:
    if sought.protocol is None:  # it is not about one packet
        return None
    return find_open_rule(netlink, sought, local=local, what="cannot read the routing rules")


def _reason(number: int, sought: Sought) -> str:
    # ip_route_input_slow in Linux
    if number == errno.EHOSTUNREACH and sought.destination.version == 4 and not _forwards_ipv4(sought.iif):
        return (
            f"net.ipv4.conf.{sought.iif}.forwarding is 0, which net.ipv4.ip_forward sets for all interfaces"
        )
    # Newer kernels answer EINVAL for whatever makes fib_validate_source refuse, older ones EXDEV for rp_filter.
    if number in (errno.EXDEV, errno.EINVAL):
        return "such a source may not come in by that interface (rp_filter, or a martian)"
    return os.strerror(number)


def _query(sought: Sought, *, iif: int | None, flags: int = 0) -> bytes:
    destination, source = sought.destination, sought.source
    family = AF_INET if destination.version == 4 else AF_INET6
    bits = destination.max_prefixlen
    parts = [attribute(RTA_DST, destination.packed)]
    if source is not None:
        parts.append(attribute(_RTA_SRC, source.packed))
    if iif is not None:
        parts.append(attribute(_RTA_IIF, iif.to_bytes(4, ORDER)))
    if sought.mark:
        parts.append(attribute(_RTA_MARK, sought.mark.to_bytes(4, ORDER)))
    if sought.protocol in _NUMBERS:
        parts.append(attribute(_RTA_IP_PROTO, bytes([_NUMBERS[sought.protocol]])))
        for kind, port in ((_RTA_SPORT, sought.source_port), (_RTA_DPORT, sought.destination_port)):
            if port:
                parts.append(attribute(kind, port.to_bytes(2, "big")))
    header = ROUTE.pack(family, bits, bits if source is not None else 0, 0, 0, 0, 0, 0, flags)
    return header + b"".join(parts)


def _forwards(sought: Sought) -> bool:
    """IPv6 finds routes for others though it does not forward; IPv4 has no route then."""
    if sought.destination.version == 4:
        return True
    try:
        forced = (_IPV6_SETTINGS / str(sought.iif) / "force_forwarding").read_text(encoding="ascii")
    except OSError:  # before kernel 6.17
        forced = "0"
    return "0" not in (_IPV6_SETTINGS / "all/forwarding").read_text(encoding="ascii") or forced.strip() == "1"


def _forwards_ipv4(interface: str | None) -> bool:
    if interface is None:
        return True
    try:
        return (_IPV4_SETTINGS / interface / "forwarding").read_text(encoding="ascii").strip() != "0"
    except OSError:
        return True


def _has_several(netlink: Netlink, sought: Sought, *, iif: int | None) -> bool:
    query = _query(sought, iif=iif, flags=_RTM_F_FIB_MATCH)

    def read(buffer: bytearray, start: int, end: int) -> dict[int, bytes]:
        return read_attributes(buffer, start + ROUTE.size, end)

    try:
        parts = netlink.ask(kind=_RTM_GETROUTE, payload=query, read=read, what="cannot ask for a route")
    except NetlinkError:
        return False
    if RTA_MULTIPATH in parts or _RTA_NH_ID not in parts or RTA_OIF in parts:
        return RTA_MULTIPATH in parts
    # net.ipv4.nexthop_compat_mode is 0: the route tells no more than the number of its next hop.
    return _is_group(netlink, parts[_RTA_NH_ID])


def _is_group(netlink: Netlink, number: bytes) -> bool:
    def read(buffer: bytearray, start: int, end: int) -> bool:
        return _NHA_GROUP in read_attributes(buffer, start + _NEXT_HOP_HEADER_BYTES, end)

    payload = bytes(_NEXT_HOP_HEADER_BYTES) + attribute(_NHA_ID, number)
    try:
        return netlink.ask(kind=_RTM_GETNEXTHOP, payload=payload, read=read, what="cannot ask for a next hop")
    except NetlinkError:
        return True


class _Candidate(NamedTuple):
    address: Address
    prefix_length: int
    flags: int
    scope: int


def masquerade_addresses(*, interface: str, next_hop: Address) -> tuple[Address, ...]:
    """What MASQUERADE may choose as the source of what leaves by `interface`: in IPv4 just one, or none.

    IPv4: inet_select_addr in Linux with the address of the next hop. IPv6: one of the interface's addresses that
    are of global scope, ready and not deprecated; of several, rules of RFC 6724 choose, which are not read here.
    Raises NetlinkError.
    """
    what = f"cannot read the addresses of {interface}"
    with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        number = read_one_link(netlink, name=interface, what=what).number
        version = next_hop.version

        def read(buffer: bytearray, start: int, end: int) -> _Candidate | None:
            _, length, flags, scope, index = unpack(IFADDRMSG, buffer, start, end)
            if index != number:
                return None
            parts = read_attributes(buffer, start + IFADDRMSG.size, end)
            packed = parts.get(IFA_LOCAL) or parts[IFA_ADDRESS]
            flags = read_integer(parts[IFA_FLAGS]) if IFA_FLAGS in parts else flags
            return _Candidate(read_ip(packed), length, flags, scope)

        query = IFADDRMSG.pack(AF_INET if version == 4 else AF_INET6, 0, 0, 0, number)
        found = netlink.dump(kind=_RTM_GETADDR, payload=query, read=read, what=what)
    usable = [each for each in found if each.address.version == version and each.scope == _RT_SCOPE_UNIVERSE]
    if version == 6:
        bad = IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED
        return tuple(each.address for each in usable if not each.flags & bad)
    first = [each for each in usable if not each.flags & IFA_F_SECONDARY]
    near = [
        each
        for each in first
        if contains(ip_network((int(each.address), each.prefix_length), strict=False), next_hop)
    ]
    return tuple(each.address for each in (near or first)[:1])
