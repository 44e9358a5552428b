"""Which policies get a mark, by which way, and what is said where there is none."""

from __future__ import annotations

from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.rules import Mark
from kvctl.node.routing_plan import Found
from kvctl.policy.resolve import resolve
from kvctl.reconcile.leading import Led, lead
from tests.builders import Thing, objects, pod, service, settings

ETH1 = {"kube-vip.io/serviceInterface": "eth1"}
MARK = Mark(0x4, 0x3C)
HOST = Host(
    addresses=(
        HostAddress(parse_address("172.16.0.2"), 24, "eth0"),
        HostAddress(parse_address("192.168.0.240"), 24, "eth1"),
        HostAddress(parse_address("192.168.0.245"), 32, "eth1"),
    ),
    routes=(
        Route(parse_network("0.0.0.0/0"), "eth0", parse_address("172.16.0.1")),
        Route(parse_network("172.16.0.0/24"), "eth0"),
        Route(parse_network("192.168.0.0/24"), "eth1"),
    ),
    interfaces=("lo", "eth0", "eth1"),
)


def led(*things: Thing, host: Host = HOST, interface: str | None = None) -> Led:
    """What the worker's policies become, with nothing of kvctl's in its routing yet."""
    resolution = resolve(objects(*things), settings(node="worker", interface=interface), host=host)
    return lead(resolution, host=host, found=Found())


def test_a_service_that_names_no_interface_is_as_it_was() -> None:
    found = led(service(), pod())
    assert found.ways == ()
    assert [each.policy.mark for each in found.resolution.wanted] == [None]


def test_one_whose_interface_the_default_route_does_not_use_gets_a_mark_and_a_way() -> None:
    gateway = {"kvctl.io/gateway": "192.168.0.1, fd00::1"}
    found = led(service(annotations={**ETH1, **gateway}), pod())
    (wanted,) = found.resolution.wanted
    assert (wanted.policy.mark, wanted.warnings) == (MARK, ())
    (way,) = found.ways
    assert (way.interface, way.family, way.gateway) == ("eth1", Family.IPV4, parse_address("192.168.0.1"))
    assert parse_network("10.0.0.0/16") in found.exclusions[Family.IPV4]


def test_where_the_routing_table_uses_it_anyway_nothing_is_marked() -> None:
    there = {"kube-vip.io/serviceInterface": "eth0"}
    assert led(service(annotations=there), pod()).ways == ()
    assert led(service(annotations=ETH1, allowed="192.168.0.0/24"), pod()).ways == ()


def test_two_services_of_one_interface_share_its_way_and_the_other_gateway_is_told() -> None:
    one = service(annotations={**ETH1, "kvctl.io/gateway": "192.168.0.1"}, created=1)
    two = service(
        "sip/b", vip="192.168.0.246", annotations={**ETH1, "kvctl.io/gateway": "192.168.0.2"}, created=2
    )
    host = HOST._replace(addresses=(*HOST.addresses, HostAddress(parse_address("192.168.0.246"), 32, "eth1")))
    found = led(one, two, pod(), pod("sip/b-0", "10.0.0.2"), host=host)
    assert len(found.ways) == 1
    by_name = {each.policy.ref.name: each for each in found.resolution.wanted}
    assert {each.policy.mark for each in by_name.values()} == {MARK}
    told = {name for name, each in by_name.items() if each.warnings}
    assert len(told) == 1
    assert "another Service's gateway 192.168.0." in by_name[told.pop()].warnings[0]


def test_without_a_gateway_the_services_own_word_counts_and_that_of_the_setting_does_not() -> None:
    named = led(service(annotations=ETH1), pod())
    assert named.resolution.wanted[0].policy.mark == MARK
    assert "only its own networks are reached" in named.resolution.wanted[0].warnings[0]
    by_setting = led(service(), pod(), interface="eth1")
    assert by_setting.resolution.wanted[0].policy.mark is None
    assert by_setting.ways == ()
    assert "leaves as the routing table says" in by_setting.resolution.wanted[0].warnings[0]


def test_what_cannot_be_led_is_told_with_the_next_step() -> None:
    host = HOST._replace(interfaces=("lo", "eth0"))
    found = led(service(annotations=ETH1), pod(), host=host)
    assert found.ways == ()
    assert any("this host has no interface eth1" in text for text in found.resolution.wanted[0].warnings)
