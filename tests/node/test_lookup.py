"""What the kernel answers about one packet's way, and what it masquerades as."""

from __future__ import annotations

from typing import Any

import pytest

from kvctl.lab.netns import Namespace
from kvctl.model.net import parse_address
from kvctl.node.lookup import Answer, Sought, look_up, masquerade_addresses

POD = parse_address("10.0.0.1")


def prepared(namespace: Namespace, *lines: str) -> Namespace:
    namespace.batch(
        [
            "link add pod type veth peer name its-end",
            "link add out type veth peer name wire",
            *(f"link set {name} up" for name in ("pod", "its-end", "out", "wire")),
            "addr add 192.0.2.2/24 dev out",
            "route add 10.0.0.1 dev pod",
            *lines,
        ]
    )
    namespace.write_sysctls({"ipv4/ip_forward": "1"})
    return namespace


def ask(namespace: Namespace, destination: str, *, mark: int = 0, iif: str | None = "pod") -> Answer:
    with namespace.entered():
        source = POD if iif is not None else None
        return look_up(Sought(parse_address(destination), source=source, iif=iif, mark=mark))


def test_the_way_of_a_forwarded_packet(namespace: Namespace) -> None:
    prepared(namespace, "route add default via 192.0.2.1")
    assert ask(namespace, "192.0.2.9") == Answer(kind="unicast", interface="out")
    assert ask(namespace, "203.0.113.1") == Answer("unicast", "out", parse_address("192.0.2.1"))
    assert ask(namespace, "192.0.2.2").kind == "local"
    assert ask(namespace, "10.0.0.1", iif=None).interface == "pod"


def test_a_mark_may_lead_elsewhere(namespace: Namespace) -> None:
    prepared(namespace, "rule add fwmark 0x5 lookup 77", "route add 203.0.113.0/24 dev pod table 77")
    assert ask(namespace, "203.0.113.1").kind == "refused"
    assert ask(namespace, "203.0.113.1", mark=5).interface == "pod"


def test_what_is_not_sent_on_has_its_reason(namespace: Namespace) -> None:
    prepared(namespace, "route add prohibit 198.51.100.0/24")
    assert ask(namespace, "203.0.113.1") == Answer(kind="refused", reason="Network is unreachable")
    assert ask(namespace, "198.51.100.1").kind == "refused"
    namespace.write_sysctls({"ipv4/conf/pod/rp_filter": "1"})
    namespace.batch(["route del 10.0.0.1 dev pod", "route add 10.0.0.1 dev out"])
    assert "rp_filter" in (ask(namespace, "192.0.2.9").reason or "")
    namespace.write_sysctls({"ipv4/conf/pod/rp_filter": "0", "ipv4/ip_forward": "0"})
    assert ask(namespace, "192.0.2.9").kind == "refused"


def test_a_node_that_does_not_forward_refuses_in_ipv6_too(namespace: Namespace) -> None:
    prepared(namespace, "addr add 2001:db8::2/64 dev out nodad", "route add fd00:10::1 dev pod")
    sought = Sought(parse_address("2001:db8::9"), source=parse_address("fd00:10::1"), iif="pod")
    with namespace.entered():
        assert look_up(sought) == Answer(kind="refused", reason="net.ipv6.conf.all.forwarding is 0")
        namespace.write_sysctls({"ipv6/conf/all/forwarding": "1"})
        assert look_up(sought) == Answer(kind="unicast", interface="out")


def test_a_route_of_several_next_hops_is_told_from_one(namespace: Namespace) -> None:
    prepared(namespace, "route add 203.0.113.0/24 nexthop via 192.0.2.1 nexthop via 192.0.2.3")
    assert ask(namespace, "203.0.113.1").several
    assert not ask(namespace, "192.0.2.9").several


@pytest.mark.parametrize(
    ("compatible", "number", "several"), [("1", 10, True), ("0", 10, True), ("0", 1, False)]
)
def test_a_group_of_next_hops_is_told_from_one(
    namespace: Namespace, compatible: str, number: int, *, several: bool
) -> None:
    prepared(
        namespace,
        "nexthop add id 1 via 192.0.2.1 dev out",
        "nexthop add id 2 via 192.0.2.3 dev out",
        "nexthop add id 10 group 1/2",
        f"route add 203.0.113.0/24 nhid {number}",
    )
    namespace.write_sysctls({"ipv4/nexthop_compat_mode": compatible})
    assert ask(namespace, "203.0.113.1").several is several


@pytest.mark.parametrize(
    ("rule", "asked", "is_open"),
    [
        ("sport 4000", {}, True),
        ("sport 4000", {"source_port": 4000}, False),
        ("sport 4000-5000", {"source_port": 9, "protocol": "sctp"}, False),
        ("sport 4000", {"source_port": 4000, "protocol": "sctp"}, True),
        ("sport 4000 iif out", {}, False),
        ("sport 4000 from 10.9.9.9", {}, False),
        ("sport 4000 from 10.0.0.0/24", {}, True),
        ("sport 4000 fwmark 1", {}, False),
        ("sport 4000 ipproto tcp", {}, False),
        ("sport 4000", {"protocol": "icmp"}, False),
        ("not sport 4000 from 10.9.9.9", {}, True),
        ("dport 5060", {}, True),
        ("dport 5060", {"destination_port": 53}, False),
        ("dport 5060 to 198.51.100.0/24", {}, False),
        ("ipproto sctp", {"protocol": "sctp"}, True),
        ("ipproto sctp", {}, False),
        ("tos 0x10", {"source_port": 1, "destination_port": 2}, True),
        ("fwmark 1", {}, False),
    ],
)
def test_a_rule_that_asks_for_what_is_not_given_is_told(
    namespace: Namespace, rule: str, asked: dict[str, Any], *, is_open: bool
) -> None:
    prepared(namespace, "route add default via 192.0.2.1", f"rule add {rule} prio 100 lookup 77")
    sought = Sought(parse_address("203.0.113.1"), source=POD, iif="pod", protocol="udp")._replace(**asked)
    with namespace.entered():
        answer = look_up(sought)
        here = look_up(sought._replace(destination=parse_address("192.0.2.2")))
    assert answer.interface == "out"
    assert (answer.open_rule or "").startswith("100:" if is_open else "")
    assert (answer.open_rule is not None) is is_open
    assert (here.kind, here.open_rule) == ("local", None)


def test_ipv4_masquerades_as_the_first_address_of_the_next_hops_network(namespace: Namespace) -> None:
    prepared(
        namespace,
        "addr add 192.0.2.245/32 dev out",
        "addr add 198.51.100.2/24 dev out",
        "addr add 198.51.100.3/24 dev out",
    )
    with namespace.entered():
        near = masquerade_addresses(interface="out", next_hop=parse_address("198.51.100.9"))
        far = masquerade_addresses(interface="out", next_hop=parse_address("203.0.113.1"))
        none = masquerade_addresses(interface="pod", next_hop=parse_address("203.0.113.1"))
    assert [near, far, none] == [(parse_address("198.51.100.2"),), (parse_address("192.0.2.2"),), ()]


def test_ipv6_masquerades_as_any_address_that_is_not_deprecated(namespace: Namespace) -> None:
    prepared(
        namespace,
        "addr add 2001:db8::2/64 dev out nodad",
        "addr add 2001:db8::245/128 dev out nodad preferred_lft 0",
    )
    with namespace.entered():
        found = masquerade_addresses(interface="out", next_hop=parse_address("2001:db8::9"))
    assert found == (parse_address("2001:db8::2"),)
