"""Which policies get a mark, by which way, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.rules import Mark
from kvctl.model.way import DEFAULT_SPACE, Way
from kvctl.node.routing_messages import SeenRule
from kvctl.node.routing_plan import Found, plan
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


def led(
    *things: Thing,
    host: Host = HOST,
    interface: str | None = None,
    used: Mapping[str, int] = MappingProxyType({}),
) -> Led:
    """What the worker's policies become, with shut ways of kvctl's alone in its routing for what is `used`."""
    resolution = resolve(objects(*things), settings(node="worker", interface=interface), host=host)
    shut = [
        Way(name, Family.IPV4, mark, DEFAULT_SPACE.table(mark), gateway=None, networks=(), key=name)
        for name, mark in used.items()
    ]
    before = plan(shut, Found(), exclusions={})
    found = Found(
        rules=tuple(SeenRule(rule, 75, b"") for rule in (*before.add_guards, *before.add_leads)),
        routes=tuple(added.route for added in before.add_routes),
    )
    return lead(resolution, host=host, found=found)


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


def beside(one: dict[str, str], other: dict[str, str], *, older: str = "sip/sip-client") -> Led:
    """Two Services of one interface, with these annotations besides."""
    host = HOST._replace(addresses=(*HOST.addresses, HostAddress(parse_address("192.168.0.246"), 32, "eth1")))
    return led(
        service(annotations=ETH1 | one, created=1 if older == "sip/sip-client" else 3),
        service("sip/b", vip="192.168.0.246", annotations=ETH1 | other, created=2),
        pod(),
        pod("sip/b-0", "10.0.0.2"),
        host=host,
    )


def marks(found: Led) -> dict[str, Mark | None]:
    return {each.policy.ref.name: each.policy.mark for each in found.resolution.wanted}


ROUTER, OTHER_ROUTER = {"kvctl.io/gateway": "192.168.0.1"}, {"kvctl.io/gateway": "192.168.0.2"}


@pytest.mark.parametrize("annotations", [{}, ROUTER])
def test_services_that_ask_for_the_same_way_share_it(annotations: dict[str, str]) -> None:
    found = beside(annotations, annotations)
    assert len(found.ways) == 1
    assert marks(found) == {"sip-client": MARK, "b": MARK}


@pytest.mark.parametrize("older", ["sip/sip-client", "sip/b"])
@pytest.mark.parametrize("other", [{}, OTHER_ROUTER])
def test_the_next_hop_that_one_names_is_nobody_elses(other: dict[str, str], older: str) -> None:
    found = beside(ROUTER, other, older=older)
    one, two = marks(found)["sip-client"], marks(found)["b"]
    assert one != two
    by_mark = {Mark(way.mark, 0x3C): way for way in found.ways}
    assert by_mark[one].gateway == parse_address("192.168.0.1")  # type: ignore[index]
    gateway = other.get("kvctl.io/gateway")
    assert by_mark[two].gateway == (parse_address(gateway) if gateway else None)  # type: ignore[index]
    # Who came first has the first mark.
    assert (one if older == "sip/sip-client" else two) == MARK


def test_a_way_keeps_its_mark_when_another_of_its_interface_goes() -> None:
    before = beside(ROUTER, OTHER_ROUTER)
    there = plan(before.ways, Found(), exclusions={})
    found = Found(
        rules=tuple(SeenRule(rule, 75, b"") for rule in (*there.add_guards, *there.add_leads)),
        routes=tuple(added.route for added in there.add_routes),
    )
    things = service("sip/b", annotations=ETH1 | OTHER_ROUTER), pod("sip/b-0", "10.0.0.2")
    resolution = resolve(objects(*things), settings(node="worker"), host=HOST)
    after = lead(resolution, host=HOST, found=found)
    assert marks(after) == {"b": marks(before)["b"]}


def test_what_is_in_the_way_of_what_is_led_is_told() -> None:
    resolution = resolve(
        objects(service(annotations=ETH1 | ROUTER), pod()), settings(node="worker"), host=HOST
    )
    found = lead(resolution, host=HOST, found=Found(in_the_way=("the rule 7501 is another's",)))
    assert found.resolution.wanted[0].warnings == ("the rule 7501 is another's",)


def test_without_a_gateway_the_services_own_word_counts_and_that_of_the_setting_does_not() -> None:
    named = led(service(annotations=ETH1), pod())
    assert named.resolution.wanted[0].policy.mark == MARK
    assert "only its own networks are reached" in named.resolution.wanted[0].warnings[0]
    by_setting = led(service(), pod(), interface="eth1")
    assert by_setting.resolution.wanted[0].policy.mark is None
    assert by_setting.ways == ()
    assert "leaves as the routing table says" in by_setting.resolution.wanted[0].warnings[0]


FAR = {**ETH1, "kvctl.io/gateway": "10.9.9.9"}
GONE = HOST._replace(interfaces=("lo", "eth0"))
DOWN = HOST._replace(routes=HOST.routes[:2], down=frozenset({"eth1"}))
MISSING = (
    "nothing leaves with 192.168.0.245: this host has no interface eth1 (kube-vip.io/serviceInterface): "
    "name one of eth0"
)
UNFIT = (
    "nothing leaves with 192.168.0.245: the gateway 10.9.9.9 (kvctl.io/gateway) is on no network of eth1, which has "
    "192.168.0.0/24: name the router on that network, or give the interface a default route"
)
SHUT = Way("eth1", Family.IPV4, 0x4, 7500, None, ())


@pytest.mark.parametrize(
    ("annotations", "host", "said"),
    [
        (FAR, HOST, UNFIT),
        (ETH1, GONE, MISSING),
        (
            ETH1,
            DOWN,
            "nothing leaves with 192.168.0.245: the interface eth1 is down: ip link set eth1 up",
        ),
    ],
)
@pytest.mark.parametrize("used", [{}, {"eth1": 0x8}])
def test_where_there_is_no_way_it_is_shut_whatever_was_before_and_that_is_told(
    annotations: dict[str, str], host: Host, said: str, used: dict[str, int]
) -> None:
    name = "eth1 via 10.9.9.9" if annotations is FAR else "eth1"
    used = {name if key == "eth1" else key: mark for key, mark in used.items()}
    found = led(service(annotations=annotations), pod(), host=host, used=used)
    (wanted,) = found.resolution.wanted
    mark = used.get(name, 0x4)
    shut = SHUT._replace(mark=mark, table=DEFAULT_SPACE.table(mark), key="" if name == "eth1" else name)
    assert found.ways == (shut,)
    assert wanted.policy.mark == Mark(mark, 0x3C)
    assert wanted.warnings == (said,)
    assert [problem.annotation for problem in wanted.problems] == (
        ["kvctl.io/gateway"] if annotations is FAR else []
    )


def test_the_mere_setting_shuts_nothing() -> None:
    for host in (GONE, DOWN):
        found = led(service(), pod(), host=host, interface="eth1")
        assert (found.ways, found.resolution.wanted[0].policy.mark) == ((), None)
        assert (
            "traffic leaves as the routing table says, not by eth1" in found.resolution.wanted[0].warnings[-1]
        )
    # But a gateway says that there is a way to be.
    gateway = service(annotations={"kvctl.io/gateway": "192.168.0.1"})
    (way,) = led(gateway, pod(), host=GONE, interface="eth1").ways
    assert way == SHUT._replace(key="eth1 via 192.168.0.1")


@pytest.mark.parametrize("older", ["sip/sip-client", "sip/b"])
def test_a_gateway_that_cannot_be_one_shuts_no_other_service(older: str) -> None:
    found = beside(ROUTER, FAR, older=older)
    by_name = {each.policy.ref.name: each for each in found.resolution.wanted}
    by_mark = {Mark(way.mark, 0x3C): way for way in found.ways}
    assert by_mark[by_name["sip-client"].policy.mark].gateway == parse_address("192.168.0.1")  # type: ignore[index]
    assert by_mark[by_name["b"].policy.mark].is_shut  # type: ignore[index]
    assert (by_name["sip-client"].warnings, by_name["sip-client"].problems) == ((), ())
    (said,) = by_name["b"].warnings
    assert said.startswith("nothing leaves with 192.168.0.246: the gateway 10.9.9.9 (kvctl.io/")
    assert len(by_name["b"].problems) == 1
