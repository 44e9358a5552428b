"""What follows from a host's addresses and routes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Address, parse_address, parse_network

VIP = parse_address("192.168.0.245")


def address(text: str, interface: str, *, kind: str | None = None, duplicate: bool = False) -> HostAddress:
    network = text.partition("/")
    return HostAddress(
        address=parse_address(network[0]),
        prefix_length=int(network[2] or 32),
        interface=interface,
        kind=kind,
        duplicate=duplicate,
    )


def host(*addresses: HostAddress, routes: tuple[Route, ...] = ()) -> Host:
    return Host(addresses=addresses, routes=routes)


def route(network: str, interface: str | None, *, metric: int = 0) -> Route:
    return Route(network=parse_network(network), interface=interface, metric=metric)


@pytest.mark.parametrize(
    ("held", "here", "elsewhere"),
    [
        (address("192.168.0.245", "eth1"), "eth1", None),
        (address("192.168.0.245/24", "br0", kind="bridge"), "br0", None),
        (address("192.168.0.245", "lo"), None, "lo"),
        (address("192.168.0.245", "kube-ipvs0", kind="dummy"), None, "kube-ipvs0"),
        (address("192.168.0.245", "kube-ipvs0"), None, "kube-ipvs0"),
        (address("192.168.0.245", "vips", kind="dummy"), None, "vips"),
        (address("192.168.0.245", "eth1", duplicate=True), None, "eth1"),
        (address("192.168.0.24", "eth1"), None, None),
    ],
    ids=["a card", "a bridge", "lo", "kube-ipvs0", "kube-ipvs0 by name", "a dummy", "a duplicate", "nowhere"],
)
def test_the_vip_is_here_only_where_others_reach_this_host_by_it(
    held: HostAddress, here: str | None, elsewhere: str | None
) -> None:
    found = host(address("127.0.0.1/8", "lo"), held)
    assert (found.holds(VIP), found.present_elsewhere(VIP)) == (here, elsewhere)


def test_an_interface_that_serves_the_vip_counts_whatever_else_has_it() -> None:
    found = host(address("192.168.0.245", "kube-ipvs0", kind="dummy"), address("192.168.0.245", "eth1"))
    assert (found.holds(VIP), found.present_elsewhere(VIP)) == ("eth1", "kube-ipvs0")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("10.77.0.9", True),
        ("192.168.0.240", True),
        ("192.168.0.241", False),
        ("::1", True),
        ("2001:db8::5", True),
        ("2001:db8::6", False),
    ],
)
def test_local_are_the_hosts_addresses_and_the_ipv4_networks_of_lo(text: str, local: bool) -> None:
    found = host(
        address("10.77.0.1/24", "lo"),
        address("192.168.0.240/24", "eth1"),
        address("::1/128", "lo"),
        address("2001:db8::5/64", "lo"),
    )
    assert found.is_local(parse_address(text)) is local


def test_all_of_127_is_local_even_before_lo_is_up() -> None:
    assert host().is_local(parse_address("127.0.0.53"))
    assert host().local_addresses() == frozenset()


def test_local_addresses_are_those_of_every_interface() -> None:
    wanted: frozenset[Address] = frozenset({parse_address("127.0.0.1"), VIP, parse_address("10.0.0.1")})
    found = host(
        address("127.0.0.1/8", "lo"),
        address("192.168.0.245", "eth1"),
        address("192.168.0.245", "vips", kind="dummy"),
        address("10.0.0.1", "cni0", kind="bridge"),
    )
    assert found.local_addresses() == wanted


@pytest.mark.parametrize(
    ("text", "interface"),
    [
        ("192.168.0.7", "eth1"),
        ("192.168.0.130", "eth2"),
        ("192.168.0.200", None),
        ("8.8.8.8", "eth0"),
        ("2001:db8::1", None),
    ],
)
def test_the_longest_route_says_the_interface_and_the_lowest_metric_among_equals(
    text: str, interface: str | None
) -> None:
    found = host(
        routes=(
            route("0.0.0.0/0", "wlan0", metric=600),
            route("0.0.0.0/0", "eth0", metric=100),
            route("192.168.0.0/24", "eth1", metric=5000),
            route("192.168.0.128/26", "eth2"),
            route("192.168.0.192/26", None),
        )
    )
    assert found.interface_for(parse_address(text)) == interface


def test_of_several_next_hops_the_first_counts() -> None:
    found = host(routes=(route("0.0.0.0/0", "eth1"), route("0.0.0.0/0", "eth0")))
    assert found.interface_for(VIP) == "eth1"


@given(
    networks=st.lists(
        st.tuples(st.integers(0, 2**8 - 1), st.integers(22, 32), st.integers(0, 2)), max_size=30
    ),
    place=st.integers(0, 2**10 - 1),
)
def test_the_interface_is_what_a_look_at_every_route_finds(
    networks: list[tuple[int, int, int]], place: int
) -> None:
    base = int(IPv4Address("10.0.0.0"))
    routes = tuple(
        Route(IPv4Network((base + 4 * start, length), strict=False), f"eth{number}", metric=metric)
        for number, (start, length, metric) in enumerate(networks)
    )
    address = IPv4Address(base + place)
    fitting = [r for r in routes if address in IPv4Network(str(r.network))]
    best = min(fitting, key=lambda r: (-r.network.prefixlen, r.metric), default=None)
    assert host(routes=routes).interface_for(address) == (best.interface if best else None)
