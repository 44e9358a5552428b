"""Reading addresses and routes from the real kernel, against what ip(8) prints."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from kvctl.errors import NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.model.host import Host, Route
from kvctl.model.net import parse_address, parse_network
from kvctl.netlink.messages import attribute
from kvctl.node import host as host_module
from kvctl.node import rtnetlink
from kvctl.node.host import read_host
from tests.conftest import MakeNamespace
from tests.waiting import until

CABLES = [
    "link add eth0 type veth peer name far0",
    "link add eth1 type veth peer name far1",
    "link set eth0 up",
    "link set far0 up",
    "link set eth1 up",
    "link set far1 up",
]


def read(namespace: Namespace) -> Host:
    with namespace.entered():
        return read_host()


def printed(namespace: Namespace, *arguments: str) -> list[dict[str, object]]:
    done = namespace.run(["ip", "-j", *arguments])
    assert done.status == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return found


def test_addresses_and_interfaces_are_those_that_ip_prints(namespace: Namespace) -> None:
    namespace.batch(
        [
            *CABLES,
            "link add br0 type bridge",
            "addr add 192.168.0.240/24 dev eth0",
            "addr add 192.168.0.245/32 dev eth0",
            "addr add 2001:db8::5/64 dev eth1 nodad",
            "addr add 10.9.0.1 peer 10.9.0.2/32 dev eth1",
            "addr add 203.0.113.7/32 dev lo",
        ]
    )
    # The kernel gives each end its link-local address when it has seen the other: that is not to happen in between.
    until(lambda: len(printed(namespace, "-6", "addr", "show", "scope", "link")) == 4)
    found = read(namespace)
    links = printed(namespace, "-d", "addr", "show")
    expected = {
        (info["local"], info["prefixlen"], link["ifname"])
        for link in links
        for info in link["addr_info"]  # type: ignore[attr-defined]
    }
    assert {(str(a.address), a.prefix_length, a.interface) for a in found.addresses} == expected
    assert len(found.addresses) == len(expected)
    assert found.interfaces == tuple(link["ifname"] for link in links)
    kinds = {a.interface: (a.kind, a.up) for a in found.addresses}
    assert kinds["lo"] == (None, True)
    assert kinds["eth0"] == ("veth", True)
    assert found.holds(parse_address("192.168.0.245")) == "eth0"
    assert found.holds(parse_address("10.9.0.1")) == "eth1"
    assert found.holds(parse_address("10.9.0.2")) is None
    assert found.present_elsewhere(parse_address("203.0.113.7")) == "lo"


def test_an_interface_that_is_down_keeps_its_address_and_says_so(namespace: Namespace) -> None:
    namespace.batch([*CABLES, "addr add 192.168.0.245/32 dev eth0", "link set eth0 down"])
    (found,) = [a for a in read(namespace).addresses if a.interface == "eth0"]
    assert (str(found.address), found.up) == ("192.168.0.245", False)


def test_interfaces_that_are_down_or_have_no_carrier_are_told(namespace: Namespace) -> None:
    namespace.batch([*CABLES, "link add br0 type bridge", "link set br0 up", "link add parked type bridge"])

    def told() -> tuple[set[str], set[str]]:
        found = read(namespace)
        return set(found.down) - {"lo"}, set(found.unplugged)

    def wait(down: set[str], unplugged: set[str]) -> None:
        until(lambda: told() == (down, unplugged))

    namespace.batch(["link set eth0 master br0"])
    wait({"parked"}, set())
    # A bridge that has ports has a carrier when one of them has.
    namespace.batch(["link set far0 down"])
    wait({"parked", "far0"}, {"br0", "eth0"})
    assert read(namespace).fault_of("eth0") == "the interface eth0 has no carrier"
    assert read(namespace).fault_of("far0") == "the interface far0 is down"
    assert read(namespace).fault_of("eth1") is None
    assert read(namespace).fault_of("br0") == "the interface br0 has no carrier"
    namespace.batch(["link set far0 up"])
    wait({"parked"}, set())


def test_what_the_kernel_treats_as_local_is_local(namespace: Namespace) -> None:
    namespace.batch(["addr add 10.77.0.1/24 dev lo"])
    found = read(namespace)
    for text in ("10.77.0.1", "10.77.0.99", "127.1.2.3", "::1"):
        (answer,) = printed(namespace, "route", "get", text)
        assert answer.get("type") == "local" or answer.get("dev") == "lo", text
        assert found.is_local(parse_address(text)), text
    assert not found.is_local(parse_address("10.77.1.1"))


def test_the_main_table_is_read_and_no_other(namespace: Namespace) -> None:
    namespace.batch(
        [
            *CABLES,
            "addr add 192.168.0.240/24 dev eth0",
            "addr add 172.16.0.2/24 dev eth1",
            "addr add 2001:db8::5/64 dev eth1 nodad",
            "route add default via 172.16.0.250 metric 100",
            "route add default via 192.168.0.250 metric 50",
            "route add 10.1.0.0/16 via 172.16.0.9 table 77",
            "route add 10.2.0.0/16 via 172.16.0.9 table 1000",
            "route add blackhole 10.3.0.0/16",
            "route add unreachable 10.4.0.0/16",
            "route add throw 10.5.0.0/16",
            "route add 10.6.0.0/16 via inet6 2001:db8::9 dev eth1",
            "route add default via 2001:db8::1",
            "route add 10.7.0.0/16 nexthop via 172.16.0.9 weight 1 nexthop via 192.168.0.9 weight 2",
        ]
    )
    found = read(namespace)
    v4 = {r for r in found.routes if r.network.version == 4}
    gateway = parse_address
    assert v4 == {
        Route(network=parse_network("192.168.0.0/24"), interface="eth0"),
        Route(network=parse_network("172.16.0.0/24"), interface="eth1"),
        Route(parse_network("0.0.0.0/0"), "eth1", gateway=gateway("172.16.0.250"), metric=100),
        Route(parse_network("0.0.0.0/0"), "eth0", gateway=gateway("192.168.0.250"), metric=50),
        Route(network=parse_network("10.3.0.0/16"), interface=None),
        Route(network=parse_network("10.4.0.0/16"), interface=None),
        Route(network=parse_network("10.6.0.0/16"), interface="eth1", gateway=gateway("2001:db8::9")),
        Route(network=parse_network("10.7.0.0/16"), interface="eth1", gateway=gateway("172.16.0.9")),
        Route(network=parse_network("10.7.0.0/16"), interface="eth0", gateway=gateway("192.168.0.9")),
    }
    expected = {
        (ip_network("::/0" if r["dst"] == "default" else str(r["dst"])), r.get("dev"))
        for r in printed(namespace, "-6", "route", "show", "table", "main")
    }
    assert {(r.network, r.interface) for r in found.routes if r.network.version == 6} == expected
    assert (parse_network("::/0"), "eth1") in expected


@pytest.mark.parametrize(
    "text", ["192.168.0.7", "172.16.0.7", "8.8.8.8", "10.8.1.1", "2001:db8::77", "2001:db9::1"]
)
def test_the_interface_for_an_address_is_the_one_the_kernel_takes(namespace: Namespace, text: str) -> None:
    namespace.batch(
        [
            *CABLES,
            "addr add 192.168.0.240/24 dev eth0",
            "addr add 172.16.0.2/24 dev eth1",
            "addr add 2001:db8::5/64 dev eth1 nodad",
            "route add default via 172.16.0.250 metric 100",
            "route add default via 192.168.0.250 metric 50",
            "route add 10.8.0.0/16 via 192.168.0.9",
            "route add 10.8.1.0/24 via 172.16.0.9",
            "route add default via 2001:db8::1",
        ]
    )
    (answer,) = printed(namespace, "route", "get", text)
    assert read(namespace).interface_for(parse_address(text)) == answer["dev"]


def test_an_empty_namespace_has_no_routes(namespace: Namespace) -> None:
    found = read(namespace)
    assert [r for r in found.routes if r.network.version == 4] == []
    assert found.interface_for(parse_address("192.0.2.1")) is None
    assert found.interfaces[0] == "lo"


def test_a_duplicate_ipv6_address_does_not_make_this_host_the_holder(make_namespace: MakeNamespace) -> None:
    here, there = make_namespace(), make_namespace()
    vip = parse_address("2001:db8::245")
    here.batch([f"link add eth0 type veth peer name eth0 netns {there.name}"])
    there.batch(["link set eth0 up", f"addr add {vip}/64 dev eth0 nodad"])
    here.batch(["link set eth0 up", f"addr add {vip}/64 dev eth0"])

    def state() -> tuple[bool, bool]:
        (found,) = [a for a in read(here).addresses if a.address == vip]
        return found.tentative, found.duplicate

    until = time.monotonic() + 20
    while not state()[1] and time.monotonic() < until:
        time.sleep(0.05)
    assert state()[1]
    assert read(here).holds(vip) is None
    assert read(there).holds(vip) == "eth0"


def test_a_thousand_addresses_are_all_read_and_no_descriptor_stays_open(namespace: Namespace) -> None:
    namespace.batch([*CABLES, *(f"addr add 10.{n >> 8}.{n & 255}.1/32 dev eth0" for n in range(1000))])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert len([a for a in read(namespace).addresses if a.interface == "eth0"]) >= 1000
    assert len(os.listdir("/proc/self/fd")) == before


def test_reading_needs_no_privilege(namespace: Namespace) -> None:
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    root = os.path.dirname(os.path.dirname(os.path.dirname(host_module.__file__)))
    script = "from kvctl.node.host import read_host; print(read_host().interfaces[0])"
    done = namespace.run([*powerless, sys.executable, "-c", script], env={"PYTHONPATH": root})
    assert done.stdout == "lo\n", done.stderr


ROUTE = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 0, 0, 1, 0)
HOP_CUT_OFF = struct.pack("=HBBi", 99, 0, 0, 1)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (rtnetlink.read_link, b"\0" * 10),
        (rtnetlink.read_link, bytes(16)),
        (rtnetlink.read_address, struct.pack("=BBBBI", 2, 24, 0, 0, 1)),
        (rtnetlink.read_address, struct.pack("=BBBBI", 2, 24, 0, 0, 1) + attribute(2, b"abc")),
        (host_module._route, ROUTE[:-1]),
        (host_module._route, ROUTE + attribute(1, bytes(3))),
        (host_module._route, ROUTE + attribute(1, bytes((10, 0, 0, 1)))),
        (
            host_module._route,
            ROUTE + attribute(1, bytes(4)) + attribute(9, struct.pack("=HBBi", 99, 0, 0, 1)),
        ),
    ],
)
def test_a_malformed_answer_is_an_error(reader: Callable[..., object], message: bytes) -> None:
    with pytest.raises(NetlinkError, match="malformed"):
        reader(bytearray(message), 0, len(message))


def test_a_dead_next_hop_and_a_route_of_another_table_do_not_count() -> None:
    dead = bytearray(ROUTE[:-4] + struct.pack("=I", 1) + attribute(4, struct.pack("=i", 3)))
    assert host_module._route(dead, 0, len(dead)) is None
    other = bytearray(ROUTE + attribute(4, struct.pack("=i", 3)) + attribute(15, struct.pack("=I", 1000)))
    assert host_module._route(other, 0, len(other)) is None
