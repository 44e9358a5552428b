"""Routing rules and routes of kvctl's tables as values, and how they go over rtnetlink.

Layouts and numbers are those of rtnetlink(7), linux/rtnetlink.h and linux/fib_rules.h.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network, family_of
from kvctl.netlink.messages import attribute, read_attributes
from kvctl.node.route_layout import (
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTA_VIA,
    RTM_F_CLONED,
    RTN_UNICAST,
    Hop,
    read_hops,
    read_network,
)
from kvctl.node.rtnetlink import AF_INET, AF_INET6, MARK, ORDER, read_integer, read_ip, read_text, unpack

LOOKUP, GOTO, NOP = 1, 2, 3
"""What a rule does: FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_NOP."""
UNICAST, UNREACHABLE = RTN_UNICAST, 7
"""What a route does: RTN_UNICAST, RTN_UNREACHABLE."""

_NUMBERS = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
_FAMILIES = {number: family for family, number in _NUMBERS.items()}

_RULE = Struct("=BBBBBxxBI")
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY = 1, 2, 3, 4, 6
_FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 10, 14, 15, 16, 17
_FRA_PROTOCOL = 21
_FIB_RULE_INVERT = 0x2
# FRA_FLOW, FRA_TUN_ID, FRA_SUPPRESS_IFGROUP, FRA_L3MDEV, FRA_UID_RANGE, FRA_IP_PROTO, FRA_SPORT_RANGE,
# FRA_DPORT_RANGE, FRA_DSCP: the kernel tells them of a rule only where they are set.
_FURTHER = {
    11: "realms",
    12: "tun_id",
    13: "suppress_ifgroup",
    19: "l3mdev",
    20: "uidrange",
    22: "ipproto",
    23: "sport",
    24: "dport",
    25: "dscp",
}

_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255
_RTNH_F_ONLINK = 0x4


class PolicyRule(NamedTuple):
    """A rule of policy routing, ip-rule(8): which packets look into which table."""

    family: Family
    priority: int
    action: int
    """LOOKUP, GOTO, NOP, or another of the kernel's FR_ACT numbers in a foreign rule."""
    to: int = 0
    """The table of LOOKUP, the priority that GOTO goes on at."""
    destination: Network | None = None
    mark: int = 0
    mask: int = 0
    further: tuple[str, ...] = ()
    """Whatever else a rule of somebody else selects packets by, in words."""

    def __str__(self) -> str:
        """As `ip rule` prints it."""
        words = [f"{self.priority}:", *self.further]
        words += [f"to {self.destination}"] if self.destination is not None else []
        words += [f"fwmark {self.mark:#x}/{self.mask:#x}"] if self.mask else []
        actions = {LOOKUP: f"lookup {self.to}", GOTO: f"goto {self.to}", NOP: "nop"}
        return " ".join([*words, actions.get(self.action, f"action {self.action}")])


class SeenRule(NamedTuple):
    """A rule in the kernel; `payload` is its message, which also deletes exactly it."""

    rule: PolicyRule
    protocol: int | None
    """None: the kernel does not tell (before 4.17)."""
    payload: bytes


class TableRoute(NamedTuple):
    """A route with one next hop, or one that refuses."""

    table: int
    network: Network
    kind: int
    metric: int
    interface: int | str | None = None
    """Its name; the index of an interface that has gone."""
    gateway: Address | None = None

    def __str__(self) -> str:
        """As `ip route` prints it."""
        words = (
            []
            if self.kind == UNICAST
            else ["unreachable" if self.kind == UNREACHABLE else f"type {self.kind}"]
        )
        words += [str(self.network) if self.network.prefixlen else "default"]
        if self.gateway is not None:
            other = "inet6 " if self.gateway.version != self.network.version else ""
            words += [f"via {other}{self.gateway}"]
        words += [f"dev {self.interface}"] if self.interface is not None else []
        words += [f"metric {self.metric}"] if self.metric else []
        return " ".join([*words, f"table {self.table}"])


class SeenRoute(NamedTuple):
    """A route in the kernel; one message with several next hops is several of these."""

    route: TableRoute
    protocol: int


def rule_query(family: Family) -> bytes:
    """The payload that asks for all rules of a family."""
    return _RULE.pack(_NUMBERS[family], 0, 0, 0, 0, 0, 0)


def rule_payload(rule: PolicyRule) -> bytes:
    """The message that adds a rule of ours."""
    network = rule.destination
    length = network.prefixlen if network is not None else 0
    table = rule.to if rule.action == LOOKUP else 0
    parts = [
        attribute(_FRA_PRIORITY, _number(rule.priority)),
        attribute(_FRA_PROTOCOL, bytes((MARK,))),
        attribute(_FRA_TABLE, _number(table)),
    ]
    if network is not None:
        parts.append(attribute(_FRA_DST, network.network_address.packed))
    if rule.mask:
        parts.append(attribute(_FRA_FWMARK, _number(rule.mark)))
        parts.append(attribute(_FRA_FWMASK, _number(rule.mask)))
    if rule.action == GOTO:
        parts.append(attribute(_FRA_GOTO, _number(rule.to)))
    # A table beyond 255 is in the attribute alone.
    header = _RULE.pack(_NUMBERS[rule.family], length, 0, 0, table if table < 256 else 0, rule.action, 0)
    return header + b"".join(parts)


def read_rule(buffer: bytearray, start: int, end: int) -> SeenRule | None:
    """A rule of either family."""
    number, length, source_length, tos, table, action, flags = unpack(_RULE, buffer, start, end)
    family = _FAMILIES.get(number)
    if family is None:
        return None
    parts = read_attributes(buffer, start + _RULE.size, end)
    to = parts.get(_FRA_GOTO if action == GOTO else _FRA_TABLE)
    further = _further(parts, source_length=source_length)
    rule = PolicyRule(
        family=family,
        priority=read_integer(parts.get(_FRA_PRIORITY, b"")),
        action=action,
        to=(read_integer(to) if to is not None else table) if action in (LOOKUP, GOTO) else 0,
        destination=read_network(number, parts.get(_FRA_DST), length) if length else None,
        mark=read_integer(parts.get(_FRA_FWMARK, b"")),
        mask=read_integer(parts.get(_FRA_FWMASK, b"")),
        further=(
            *(("not",) if flags & _FIB_RULE_INVERT else ()),
            *further,
            *((f"tos {tos:#x}",) if tos else ()),
        ),
    )
    protocol = parts[_FRA_PROTOCOL][0] if _FRA_PROTOCOL in parts else None
    return SeenRule(rule=rule, protocol=protocol, payload=bytes(buffer[start:end]))


def _further(parts: dict[int, bytes], *, source_length: int) -> list[str]:
    words = []
    if source_length and _FRA_SRC in parts:
        words.append(f"from {read_ip(parts[_FRA_SRC])}/{source_length}")
    for kind, name in ((_FRA_IIFNAME, "iif"), (_FRA_OIFNAME, "oif")):
        if kind in parts:
            words.append(f"{name} {read_text(parts[kind])}")
    words += [name for kind, name in _FURTHER.items() if kind in parts]
    # The kernel tells this one of every rule, with all bits set for none.
    if parts.get(_FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4) != b"\xff" * 4:
        words.append("suppress_prefixlength")
    return words


def route_query(family: Family, *, table: int = 0, protocol: int = 0) -> bytes:
    """The payload that asks for routes; a kernel before 4.20 ignores table and protocol and sends all."""
    header = ROUTE.pack(_NUMBERS[family], 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
    return header + (attribute(RTA_TABLE, _number(table)) if table else b"")


def route_payload(route: TableRoute, *, index: int | None, onlink: bool, deletes: bool) -> bytes:
    """The message that adds or deletes a route of ours; `index` is that of its interface.

    `onlink` has the kernel believe that the gateway is a neighbour.
    """
    scope = _RT_SCOPE_LINK if route.kind == UNICAST and route.gateway is None else _RT_SCOPE_UNIVERSE
    header = ROUTE.pack(
        _NUMBERS[family_of(route.network)],
        route.network.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        MARK,
        # To be deleted whatever its scope.
        _RT_SCOPE_NOWHERE if deletes else scope,
        route.kind,
        _RTNH_F_ONLINK if onlink else 0,
    )
    parts = [
        attribute(RTA_TABLE, _number(route.table)),
        attribute(RTA_PRIORITY, _number(route.metric)),
    ]
    if route.network.prefixlen:
        parts.append(attribute(RTA_DST, route.network.network_address.packed))
    if index is not None:
        parts.append(attribute(RTA_OIF, _number(index)))
    if route.gateway is not None:
        parts.append(_next_hop(route.gateway, network=route.network))
    return header + b"".join(parts)


def _next_hop(gateway: Address, *, network: Network) -> bytes:
    if gateway.version == network.version:
        return attribute(RTA_GATEWAY, gateway.packed)
    # struct rtvia: an IPv4 route by an IPv6 neighbour
    number = _NUMBERS[family_of(gateway)]
    return attribute(RTA_VIA, number.to_bytes(2, ORDER) + gateway.packed)


def read_routes(buffer: bytearray, start: int, end: int) -> tuple[SeenRoute, ...] | None:
    """The route of a message, one value a next hop; None: an entry of the route cache."""
    number, length, _, _, table, protocol, _, kind, flags = unpack(ROUTE, buffer, start, end)
    if flags & RTM_F_CLONED or number not in _FAMILIES:
        return None
    parts = read_attributes(buffer, start + ROUTE.size, end)
    table = read_integer(parts[RTA_TABLE]) if RTA_TABLE in parts else table
    network = read_network(number, parts.get(RTA_DST), length)
    metric = read_integer(parts.get(RTA_PRIORITY, b""))
    # IPv6 says of a route that refuses that it is on `lo`.
    hops = read_hops(parts, flags=flags) if kind == UNICAST else [Hop(None, None, dead=False)]
    return tuple(
        SeenRoute(TableRoute(table, network, kind, metric, hop.interface, hop.gateway), protocol)
        for hop in hops
    )


def _number(value: int) -> bytes:
    return value.to_bytes(4, ORDER)
