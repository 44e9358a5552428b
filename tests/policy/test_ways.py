"""Which way out a Service's traffic gets by the interface it names, from tables of routes: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from kvctl.errors import KvctlError
from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.way import MarkSpace, Way
from kvctl.policy.ways import GatewayError, needs_way, shut_way, way_of
from tests.builders import networks

ETH0 = ("0.0.0.0/0 via 192.168.0.250 dev eth0", "192.168.0.0/24 dev eth0")
ETH1 = ("172.16.0.0/24 dev eth1",)
ADDRESSES = ("192.168.0.240/24 eth0", "172.16.0.2/24 eth1")


def route(text: str, *, metric: int = 0) -> Route:
    """`NETWORK [via ADDRESS] [dev NAME] [metric N]`, as ip(8) prints it."""
    words = text.split()
    rest = dict(zip(words[1::2], words[2::2], strict=True))
    return Route(
        network=parse_network(words[0]),
        interface=rest.get("dev"),
        gateway=parse_address(rest["via"]) if "via" in rest else None,
        metric=int(rest.get("metric", "0")),
    )


def host(
    *routes: str,
    addresses: tuple[str, ...] = ADDRESSES,
    down: tuple[str, ...] = (),
    interfaces: tuple[str, ...] = ("lo", "eth0", "eth1"),
) -> Host:
    """A host with two interfaces and `routes` in its main table."""
    held = [
        HostAddress(
            address=parse_address(a.split("/")[0]),
            prefix_length=int(a.split("/")[1].split()[0]),
            interface=a.split()[1],
        )
        for a in addresses
    ]
    return Host(tuple(held), tuple(map(route, routes)), interfaces, down=frozenset(down))


def way(
    *routes: str,
    gateway: str | None = None,
    family: Family = Family.IPV4,
    used: Mapping[str, int] | None = None,
) -> Way:
    """The way out by eth1 of a host with these routes."""
    found = way_of(
        "eth1",
        family,
        host=host(*ETH0, *routes),
        gateway=parse_address(gateway) if gateway else None,
        used=used or {},
    )
    assert isinstance(found, Way), found
    return found


def problem(at: Host, *, gateway: str | None = None, family: Family = Family.IPV4) -> KvctlError:
    """What keeps eth1 of that host from being a way out."""
    found = way_of("eth1", family, host=at, gateway=parse_address(gateway) if gateway else None, used={})
    assert isinstance(found, KvctlError), found
    assert found.hint
    return found


def test_the_default_route_of_the_interface_tells_the_gateway() -> None:
    found = way(*ETH1, "0.0.0.0/0 via 172.16.0.250 dev eth1 metric 200")
    assert found.gateway == parse_address("172.16.0.250")
    assert found.networks == networks("172.16.0.0/24")
    assert (found.mark, found.table) == (0x4, 7500)


def test_the_default_route_outranks_what_a_tenant_wrote() -> None:
    found = way(*ETH1, "0.0.0.0/0 via 172.16.0.250 dev eth1 metric 200", gateway="172.16.0.9")
    assert found.gateway == parse_address("172.16.0.250")


def test_of_two_default_routes_the_one_with_the_lower_metric_counts() -> None:
    defaults = (
        "0.0.0.0/0 via 172.16.0.9 dev eth1 metric 300",
        "0.0.0.0/0 via 172.16.0.8 dev eth1 metric 200",
    )
    assert way(*ETH1, *defaults).gateway == parse_address("172.16.0.8")
    assert way(*ETH1, *reversed(defaults)).gateway == parse_address("172.16.0.8")


def test_without_a_default_route_the_annotation_tells_the_gateway() -> None:
    assert way(*ETH1, gateway="172.16.0.250").gateway == parse_address("172.16.0.250")


def test_without_both_the_only_next_hop_of_other_routes_is_the_gateway() -> None:
    one = way(*ETH1, "10.50.0.0/16 via 172.16.0.9 dev eth1", "10.51.0.0/16 via 172.16.0.9 dev eth1")
    assert one.gateway == parse_address("172.16.0.9")
    two = way(*ETH1, "10.50.0.0/16 via 172.16.0.9 dev eth1", "10.51.0.0/16 via 172.16.0.8 dev eth1")
    assert two.gateway is None


def test_with_nothing_that_tells_a_gateway_only_the_link_is_reached() -> None:
    found = way(*ETH1)
    assert (found.gateway, found.networks, found.via) == (None, networks("172.16.0.0/24"), ())


def test_other_routes_of_the_interface_keep_their_next_hops() -> None:
    found = way(*ETH1, "0.0.0.0/0 via 172.16.0.250 dev eth1", "10.50.0.0/16 via 172.16.0.9 dev eth1")
    assert found.via == ((parse_network("10.50.0.0/16"), parse_address("172.16.0.9")),)


def test_more_routes_than_a_table_should_hold_are_left_to_the_default_gateway() -> None:
    many = [f"10.{n >> 8}.{n & 255}.0/24 via 172.16.0.9 dev eth1" for n in range(1001)]
    found = way(*ETH1, *many, "0.0.0.0/0 via 172.16.0.250 dev eth1")
    assert (found.via, found.networks) == ((), networks("172.16.0.0/24"))
    assert len(way(*ETH1, *many[1:], "0.0.0.0/0 via 172.16.0.250 dev eth1").via) == 1000
    assert "more than 1000 routes" in problem(host(*ETH0, *ETH1, *many)).message


def test_a_default_route_without_a_next_hop_reaches_everything_on_the_link() -> None:
    found = way("0.0.0.0/0 dev eth1 metric 50", gateway="172.16.0.250")
    assert (found.gateway, found.networks) == (None, networks("0.0.0.0/0"))


def test_link_local_networks_and_addresses_of_this_host_are_no_networks_of_a_way() -> None:
    at = host(
        "fe80::/64 dev eth1 metric 256",
        "2001:db8:1::/64 dev eth1 metric 256",
        "2001:db8:1::5/128 dev eth1 metric 256",
        "2001:db8:1::6/128 dev eth1 metric 256",
        "::/0 via fe80::1 dev eth1 metric 1024",
        addresses=("2001:db8:1::5/128 eth1",),
    )
    found = way_of("eth1", Family.IPV6, host=at, gateway=None, used={})
    assert isinstance(found, Way)
    assert found.networks == networks("2001:db8:1::/64", "2001:db8:1::6/128")
    assert found.gateway == parse_address("fe80::1")


def test_a_gateway_has_to_be_a_neighbour() -> None:
    found = problem(host(*ETH0, *ETH1), gateway="10.9.9.9")
    assert found.message == (
        "the gateway 10.9.9.9 (kvctl.io/gateway) is on no network of eth1, which has 172.16.0.0/24"
    )


def test_an_ipv6_gateway_may_be_link_local() -> None:
    found = way_of(
        "eth1",
        Family.IPV6,
        host=host("2001:db8:1::/64 dev eth1"),
        gateway=parse_address("fe80::1"),
        used={},
    )
    assert isinstance(found, Way)
    assert found.gateway == parse_address("fe80::1")


def test_a_gateway_is_another_host_of_the_same_family_on_the_link() -> None:
    at = host(*ETH0, *ETH1)
    far = problem(at, gateway="10.9.9.9")
    assert isinstance(far, GatewayError)
    assert far.why == "is on no network of eth1, which has 172.16.0.0/24"
    assert "is an address of this host" in problem(at, gateway="172.16.0.2").message
    assert "is no ipv4 address" in problem(at, gateway="2001:db8::1").message


def test_an_interface_that_is_missing_down_or_without_a_route_is_no_way() -> None:
    missing = problem(host(*ETH0, interfaces=("lo", "eth0")))
    assert missing.message == "this host has no interface eth1 (kube-vip.io/serviceInterface)"
    assert missing.hint == "name one of eth0"
    down = problem(host(*ETH0, *ETH1, down=("eth1",)))
    assert (down.message, down.hint) == ("the interface eth1 is down", "ip link set eth1 up")
    bare = problem(host(*ETH0))
    assert bare.message == "the interface eth1 has no IPv4 route, so nothing says what is reached by it"
    other = problem(host(*ETH0, *ETH1), family=Family.IPV6)
    assert "no IPv6 route" in other.message


def test_each_interface_has_its_own_mark_and_table_and_keeps_it() -> None:
    used: dict[str, int] = {"eth7": 0x8}
    assert way(*ETH1, used=used)[2:4] == (0x4, 7500)
    assert way(*ETH1, used={"eth1": 0xC, **used})[2:4] == (0xC, 7502)
    assert way(*ETH1, used={"eth8": 0x4, **used})[2:4] == (0xC, 7502)


def test_fourteen_ways_fit_and_the_fifteenth_is_an_error() -> None:
    names = [f"eth{number}" for number in range(1, 16)]
    at = host(*(f"10.{n}.0.0/24 dev eth{n}" for n in range(1, 16)), addresses=(), interfaces=("lo", *names))
    used: dict[str, int] = {}
    for name in names[:14]:
        found = way_of(name, Family.IPV4, host=at, gateway=None, used=used)
        assert isinstance(found, Way)
        used[name] = found.mark
    assert sorted(used.values()) == [number << 2 for number in range(1, 15)]
    assert isinstance(way_of("eth3", Family.IPV4, host=at, gateway=None, used=used), Way)
    last = way_of("eth15", Family.IPV4, host=at, gateway=None, used=used)
    assert isinstance(last, KvctlError)
    assert last.message == (
        "no mark is left for the interface eth15: 14 ways out have all 14 values of the mask 0x3c that can be given"
    )
    more = way_of("eth15", Family.IPV4, host=at, gateway=None, used=used, space=MarkSpace(mask=0x7C))
    assert isinstance(more, Way)


def test_a_way_that_cannot_be_is_shut_by_the_mark_that_there_is_or_a_new_one() -> None:
    shut = shut_way("eth1", Family.IPV4, used={"eth1": 0x8})
    assert shut == Way("eth1", Family.IPV4, 0x8, 7501, None, ())
    assert shut.is_shut
    assert not way(*ETH1).is_shut
    fresh = shut_way("eth2", Family.IPV6, used={"eth1": 0x4})
    assert fresh == Way("eth2", Family.IPV6, 0x8, 7501, None, ())


def test_those_for_which_no_mark_is_left_share_a_dead_end() -> None:
    full = {f"eth{number}": number << 2 for number in range(1, 15)}
    for name in ("eth15", "eth16"):
        shut = shut_way(name, Family.IPV4, used=full)
        assert (shut.name, shut.mark, shut.is_shut) == ("no way out", 0x3C, True)


def test_with_a_next_hop_of_its_own_it_is_another_way() -> None:
    used = {"eth1": 0x4, "eth1 via 172.16.0.1": 0x8}
    assert (way(*ETH1, used=used).name, way(*ETH1, used=used).mark) == ("eth1", 0x4)
    found = way(*ETH1, gateway="172.16.0.1", used=used)
    assert (found.name, found.mark, found.gateway) == (
        "eth1 via 172.16.0.1",
        0x8,
        parse_address("172.16.0.1"),
    )


class Need(NamedTuple):
    """A case of `needs_way`."""

    routes: tuple[str, ...]
    destinations: tuple[str, ...]
    needed: bool


DEFAULT_BY_ETH1 = (
    "0.0.0.0/0 via 172.16.0.250 dev eth1",
    "192.168.0.0/24 dev eth0",
    "172.17.0.0/16 dev docker0",
)


@pytest.mark.parametrize(
    "case",
    [
        Need((*ETH0, *ETH1), (), True),
        Need(DEFAULT_BY_ETH1, (), False),
        Need(ETH1, (), True),
        Need(("0.0.0.0/1 via 10.8.0.1 dev tun0", *DEFAULT_BY_ETH1), (), True),
        Need((*ETH0, *ETH1), ("172.16.0.0/24",), False),
        Need((*ETH0, *ETH1), ("172.16.0.128/25",), False),
        Need((*ETH0, *ETH1), ("172.16.0.0/24", "198.51.100.0/24"), True),
        Need(DEFAULT_BY_ETH1, ("198.51.100.0/24",), False),
        Need(DEFAULT_BY_ETH1, ("192.168.0.0/16",), True),
        Need((*DEFAULT_BY_ETH1, "10.0.5.0/24 dev cni0"), ("10.0.0.0/8",), False),
        Need((*DEFAULT_BY_ETH1, "10.7.5.0/24 dev eth0"), ("10.0.0.0/8",), True),
        Need(
            (*DEFAULT_BY_ETH1, "10.7.5.0/24 dev eth0 metric 9", "10.7.5.0/24 dev eth1"),
            ("10.0.0.0/8",),
            False,
        ),
        # A route that refuses was put there on purpose.
        Need((*DEFAULT_BY_ETH1, "10.7.5.0/24"), ("10.0.0.0/8",), False),
        Need((*DEFAULT_BY_ETH1, "10.0.0.0/7 dev eth0", "10.128.0.0/9 dev eth1"), ("10.128.0.0/9",), False),
        Need((*DEFAULT_BY_ETH1, "10.255.255.255/32 dev eth0"), ("10.0.0.0/8",), True),
        Need((*DEFAULT_BY_ETH1, "11.0.0.0/32 dev eth0"), ("10.0.0.0/8",), False),
        # Only of the family in question.
        Need(DEFAULT_BY_ETH1, ("2001:db8::/32",), False),
    ],
)
def test_a_way_is_needed_where_the_main_table_leads_elsewhere(case: Need) -> None:
    at = host(*case.routes)
    found = needs_way(
        "eth1",
        Family.IPV4,
        networks(*case.destinations),
        host=at,
        exclusions=networks("10.0.0.0/16"),
    )
    assert found is case.needed
