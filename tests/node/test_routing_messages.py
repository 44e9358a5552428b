"""Rules and routes over the wire: what is written is what is read, and what is malformed is an error."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.errors import NetlinkError
from kvctl.model.net import Family, Network, parse_address, parse_network
from kvctl.netlink.messages import attribute
from kvctl.node.routing_messages import (
    GOTO,
    LOOKUP,
    NOP,
    UNICAST,
    UNREACHABLE,
    PolicyRule,
    TableRoute,
    read_routes,
    read_rule,
    route_payload,
    rule_payload,
)

NETWORKS = {
    Family.IPV4: st.sampled_from([None, "10.0.0.0/8", "10.0.0.1/32", "128.0.0.0/1"]),
    Family.IPV6: st.sampled_from([None, "fd00::/8", "fd00::1/128", "8000::/1"]),
}


@st.composite
def rules(draw: st.DrawFn) -> PolicyRule:
    family = draw(st.sampled_from(Family))
    action = draw(st.sampled_from([LOOKUP, GOTO, NOP]))
    network = draw(NETWORKS[family])
    mask = draw(st.sampled_from([0, 0x3C, 0xFFFFFFFF]))
    return PolicyRule(
        family=family,
        priority=draw(st.integers(1, 32765)),
        action=action,
        to=draw(st.integers(1, 1 << 31)) if action != NOP else 0,
        destination=parse_network(network) if network else None,
        mark=draw(st.integers(0, 15)) << 2 if mask else 0,
        mask=mask,
    )


@given(rules())
def test_a_rule_read_back_is_the_rule_that_was_written(rule: PolicyRule) -> None:
    message = bytearray(rule_payload(rule))
    seen = read_rule(message, 0, len(message))
    assert seen is not None
    assert (seen.rule, seen.protocol, seen.payload) == (rule, 75, bytes(message))


@st.composite
def routes(draw: st.DrawFn) -> TableRoute:
    family = draw(st.sampled_from(Family))
    everything = "0.0.0.0/0" if family is Family.IPV4 else "::/0"
    gateways = ["10.0.0.9", "fe80::9"] if family is Family.IPV4 else ["fe80::9"]
    network: Network = parse_network(draw(NETWORKS[family]) or everything)
    kind = draw(st.sampled_from([UNICAST, UNREACHABLE]))
    gateway = draw(st.sampled_from([None, *gateways])) if kind == UNICAST else None
    return TableRoute(
        table=draw(st.integers(1, (1 << 32) - 1)),
        network=network,
        kind=kind,
        metric=draw(st.integers(0, (1 << 32) - 1)),
        interface=draw(st.integers(1, 1 << 20)) if kind == UNICAST else None,
        gateway=parse_address(gateway) if gateway else None,
    )


@given(routes(), st.booleans(), st.booleans())
def test_a_route_read_back_is_the_route_that_was_written(
    route: TableRoute, onlink: bool, deletes: bool
) -> None:
    index = route.interface if isinstance(route.interface, int) else None
    message = bytearray(route_payload(route, index=index, onlink=onlink, deletes=deletes))
    ((found, protocol),) = read_routes(message, 0, len(message)) or ()
    assert (found, protocol) == (route, 75)


ROUTE = struct.pack("=BBBBBBBBI", 2, 8, 0, 0, 0, 75, 0, UNICAST, 0)
TEN = attribute(1, bytes((10, 0, 0, 0)))
RULE = struct.pack("=BBBBBxxBI", 2, 8, 0, 0, 0, LOOKUP, 0)


def test_a_route_of_several_next_hops_is_one_a_hop() -> None:
    hops = b"".join(
        struct.pack("=HBBi", 16, 0, 0, index) + attribute(5, bytes((172, 16, 0, index))) for index in (3, 4)
    )
    message = bytearray(ROUTE + TEN + attribute(9, hops))
    found = read_routes(message, 0, len(message)) or ()
    assert [(seen.route.interface, str(seen.route.gateway)) for seen in found] == [
        (3, "172.16.0.3"),
        (4, "172.16.0.4"),
    ]


def test_entries_of_the_route_cache_and_other_families_do_not_count() -> None:
    cached = bytearray(ROUTE[:-4] + struct.pack("=I", 0x200) + TEN)
    assert read_routes(cached, 0, len(cached)) is None
    multicast = bytearray(struct.pack("=BBBBBxxBI", 128, 0, 0, 0, 0, LOOKUP, 0))
    assert read_rule(multicast, 0, len(multicast)) is None


def test_a_rule_of_a_kernel_before_4_17_has_no_protocol() -> None:
    message = bytearray(RULE + TEN)
    seen = read_rule(message, 0, len(message))
    assert seen is not None
    assert seen.protocol is None


def test_whatever_else_a_rule_selects_by_is_told_and_makes_it_another_rule() -> None:
    header = struct.pack("=BBBBBxxBI", 2, 8, 16, 4, 0, LOOKUP, 2)
    parts = [TEN, attribute(2, bytes((10, 1, 0, 0))), attribute(3, b"eth0\0"), attribute(22, b"\6")]
    parts += [attribute(14, struct.pack("=i", 0)), attribute(15, struct.pack("=I", 7500))]
    message = bytearray(header + b"".join(parts))
    seen = read_rule(message, 0, len(message))
    assert seen is not None
    assert str(seen.rule) == (
        "0: not from 10.1.0.0/16 iif eth0 ipproto suppress_prefixlength tos 0x4 to 10.0.0.0/8 lookup 7500"
    )
    assert seen.rule != seen.rule._replace(further=())


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (read_rule, RULE[:-1]),
        (read_rule, RULE + attribute(1, b"abc")),
        (read_rule, RULE + attribute(1, bytes((10, 0, 0, 1)))),
        (read_routes, ROUTE[:-1]),
        (read_routes, ROUTE + attribute(1, b"abc")),
        (read_routes, ROUTE + TEN + attribute(5, b"abc")),
        (read_routes, ROUTE + TEN + attribute(9, struct.pack("=HBBi", 99, 0, 0, 1))),
    ],
)
def test_a_malformed_answer_is_an_error(reader: Callable[..., object], message: bytes) -> None:
    with pytest.raises(NetlinkError, match="malformed"):
        reader(bytearray(message), 0, len(message))
