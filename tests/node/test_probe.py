"""Who is found to have an address before this host takes it; all on the real kernel."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import cast

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.host import Host, Route
from kvctl.model.net import Address, Family, parse_address, parse_network
from kvctl.node.announce import Announced
from kvctl.node.ethernet import Wire
from kvctl.node.frames import announcement, probe
from kvctl.node.probe import Probed, _Ear, and_where_it_belongs, answered
from tests.conftest import MakeNamespace
from tests.node.segment import VIPS, Segment
from tests.waiting import until

EVERY_VIP = [Announced(vip, "eth0") for vip in VIPS.values()]
UNKNOWN = [Announced(parse_address("192.168.0.9"), "eth0"), Announced(parse_address("2001:db8::9"), "eth0")]


@pytest.fixture
def segment(make_namespace: MakeNamespace) -> Segment:
    return Segment(make_namespace)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def ask(
    namespace: Namespace,
    wanted: list[Announced],
    *,
    seconds: float = 0.6,
    unasked: dict[Announced, str] | None = None,
) -> dict[Address, str]:
    """What `answered` in a namespace says of claims; all must have been asked for unless `unasked` is taken."""
    with namespace.entered():
        found = answered(wanted, seconds=seconds)
    if unasked is None:
        assert found.unasked == {}
    else:
        unasked |= found.unasked
    return dict(found.claims)


def test_whoever_has_an_address_is_found_at_once(segment: Segment) -> None:
    asking, having = segment.hosts
    having.add(*VIPS.values())
    begun = time.monotonic()
    found = ask(asking.namespace, EVERY_VIP, seconds=5.0)
    assert found == dict.fromkeys(VIPS.values(), having.mac)
    assert time.monotonic() - begun < 2


def test_where_nobody_is_nobody_is_found_and_the_time_is_kept(segment: Segment) -> None:
    begun = time.monotonic()
    assert ask(segment.hosts[0].namespace, EVERY_VIP, seconds=0.3) == {}
    assert 0.3 <= time.monotonic() - begun <= 0.5


def test_an_answer_to_one_is_no_answer_to_another(segment: Segment) -> None:
    asking, having = segment.hosts
    having.add(VIPS[Family.IPV6])
    assert ask(asking.namespace, EVERY_VIP + UNKNOWN) == {VIPS[Family.IPV6]: having.mac}


@pytest.mark.parametrize("strict", ["1", "2"])
def test_hosts_that_answer_for_few_addresses_answer_a_probe(segment: Segment, strict: str) -> None:
    asking, having = segment.hosts
    having.namespace.write_sysctls({"ipv4/conf/eth0/arp_ignore": strict})
    having.add(VIPS[Family.IPV4])
    assert ask(asking.namespace, EVERY_VIP)[VIPS[Family.IPV4]] == having.mac


def test_of_two_that_ask_at_the_same_moment_at_least_one_finds_the_other(
    segment: Segment, pool: ThreadPoolExecutor
) -> None:
    one, other = segment.hosts
    for _ in range(5):
        asked = {host: pool.submit(ask, host.namespace, EVERY_VIP, seconds=0.15) for host in (one, other)}
        found = {host: future.result() for host, future in asked.items()}
        assert found[one].keys() | found[other].keys() == set(VIPS.values())
        assert set(found[one].values()) <= {other.mac}
        assert set(found[other].values()) <= {one.mac}


def test_the_kernel_of_a_host_that_is_about_to_take_the_address_gives_way(segment: Segment) -> None:
    asking, taking = segment.hosts
    vip = VIPS[Family.IPV6]
    taking.namespace.batch([f"addr add {vip}/128 dev eth0"])
    assert ask(asking.namespace, EVERY_VIP, seconds=0.1) == {}
    shown = taking.namespace.run(["ip", "addr", "show", "to", str(vip)]).stdout
    assert "dadfailed" in shown


@pytest.mark.parametrize("how", ["announcement", "probe"])
def test_whoever_announces_or_asks_meanwhile_is_found(
    segment: Segment, pool: ThreadPoolExecutor, how: str, family: Family
) -> None:
    asking, other = segment.hosts
    vip, mac = VIPS[family], other.mac_bytes
    [*_, frame] = announcement(vip, mac=mac) if how == "announcement" else [probe(vip, mac=mac)]
    with closing(segment.tap()) as tap, closing(other.namespace.socket(17, socket.SOCK_RAW)) as frames:
        asked: Future[dict[Address, str]] = pool.submit(
            ask, asking.namespace, [Announced(vip, "eth0")], seconds=5.0
        )
        until(lambda: tap.of(vip))
        frames.sendto(frame, ("eth0", 0))
        assert asked.result() == {vip: other.mac}


def test_what_this_host_has_on_another_interface_does_not_count(segment: Segment) -> None:
    host = segment.hosts[0]
    segment.plug(host, "eth1", "02:00:00:00:00:44")
    host.namespace.batch([f"addr add {v}/{v.max_prefixlen} dev eth1 nodad" for v in VIPS.values()])
    # It does answer, as the outside sees.
    assert ask(segment.outside, [Announced(v, "br0") for v in VIPS.values()]).keys() == set(VIPS.values())
    assert ask(host.namespace, EVERY_VIP) == {}


def test_an_address_is_asked_for_on_its_own_link_alone(make_namespace: MakeNamespace) -> None:
    near, far = Segment(make_namespace, hosts=1), Segment(make_namespace, hosts=1, first=20)
    host = near.hosts[0]
    far.plug(host, "eth1", "02:00:00:00:00:33")
    vip = VIPS[Family.IPV4]
    far.hosts[0].add(vip)
    assert ask(host.namespace, [Announced(vip, "eth0")], seconds=0.2) == {}
    assert ask(host.namespace, [Announced(vip, "eth1"), *UNKNOWN]) == {vip: far.hosts[0].mac}


def test_asking_changes_nobodys_entries(segment: Segment, family: Family) -> None:
    vip, (asking, old) = VIPS[family], segment.hosts
    segment.remember(vip, old.mac)
    assert ask(asking.namespace, [Announced(vip, "eth0")], seconds=0.2) == {}
    assert segment.neighbour(vip)[0] == old.mac


def test_three_probes_go_out_for_each_that_nobody_answers_for(segment: Segment) -> None:
    asking, having = segment.hosts
    having.add(VIPS[Family.IPV4])
    with closing(segment.tap()) as tap:
        ask(asking.namespace, EVERY_VIP + UNKNOWN, seconds=0.3)
        for each in UNKNOWN:
            assert tap.of(each.address) == [probe(each.address, mac=asking.mac_bytes)] * 3
        mine = [f for f in tap.of(VIPS[Family.IPV4]) if f[6:12] == asking.mac_bytes]
        assert len(mine) == 1


@pytest.mark.parametrize(
    ("breaking", "name", "reason"),
    [
        ("link set eth1 down", "eth1", "it is down"),
        ("link set eth1 up", "eth9", "there is no such interface"),
        ("link set eth1 up", "lo", "it is no Ethernet interface"),
    ],
)
def test_where_it_cannot_ask_it_says_so_and_asks_the_others(
    segment: Segment, breaking: str, name: str, reason: str
) -> None:
    asking, having = segment.hosts
    segment.plug(asking, "eth1", "02:00:00:00:00:44")
    asking.namespace.batch([breaking])
    having.add(VIPS[Family.IPV4])
    unasked: dict[Announced, str] = {}
    beside = Announced(parse_address("192.168.0.8"), name)
    found = ask(asking.namespace, [beside, *EVERY_VIP], unasked=unasked)
    assert found == {VIPS[Family.IPV4]: having.mac}
    assert unasked == {beside: reason}
    assert Probed(found, unasked).obstacles([beside, *EVERY_VIP]) == {
        VIPS[Family.IPV4]: f"{having.mac} answers for it on the network already",
        beside.address: f"nobody can be asked on interface {name} who has it: {reason}",
    }


def test_an_address_is_asked_for_where_it_belongs_too_whatever_interface_it_is_wanted_on() -> None:
    near, far = Route(parse_network("192.168.0.0/24"), "eth0"), Route(parse_network("172.16.0.0/24"), "eth1")
    default = Route(parse_network("0.0.0.0/0"), "eth1", gateway=parse_address("172.16.0.1"))
    own = Route(parse_network("192.168.0.9/32"), "eth2")
    host = Host(addresses=(), routes=(near, far, default, own))
    address = parse_address("192.168.0.9")
    elsewhere = Announced(address, "veth0")
    assert and_where_it_belongs([elsewhere], host) == {elsewhere, Announced(address, "eth0")}
    assert and_where_it_belongs([Announced(address, "eth0")], host) == {Announced(address, "eth0")}
    foreign = Announced(parse_address("10.1.2.3"), "eth0")
    assert and_where_it_belongs([foreign], host) == {foreign}


def test_where_it_can_ask_nowhere_it_does_not_wait(segment: Segment) -> None:
    begun = time.monotonic()
    host = segment.hosts[0].namespace
    assert ask(host, [Announced(VIPS[Family.IPV4], "eth9")], seconds=5.0, unasked={}) == {}
    assert ask(host, [], seconds=5.0) == {}
    assert time.monotonic() - begun < 2


def test_an_interface_that_goes_down_meanwhile_is_told(segment: Segment, pool: ThreadPoolExecutor) -> None:
    host, unasked = segment.hosts[0].namespace, dict[Announced, str]()
    with closing(segment.tap()) as tap:
        asked = pool.submit(ask, host, EVERY_VIP, seconds=0.9, unasked=unasked)
        until(lambda: tap.of(VIPS[Family.IPV4]))
        host.batch(["link set eth0 down"])
        assert asked.result() == {}
    assert unasked == dict.fromkeys(EVERY_VIP, "network is down")


def test_an_interface_without_ipv6_is_asked_all_the_same(segment: Segment) -> None:
    asking, having = segment.hosts
    asking.namespace.write_sysctls({"ipv6/conf/eth0/disable_ipv6": "1"})
    having.add(*VIPS.values())
    assert ask(asking.namespace, EVERY_VIP) == dict.fromkeys(VIPS.values(), having.mac)


def test_two_hundred_addresses_are_asked_for_at_once(segment: Segment) -> None:
    asking, having = segment.hosts
    there = [parse_address(f"192.168.0.{n}") for n in range(20, 120)]
    there += [parse_address(f"2001:db8::1:{n:x}") for n in range(100)]
    having.add(*there[::2])
    begun = time.monotonic()
    found = ask(asking.namespace, [Announced(address, "eth0") for address in there])
    assert found == dict.fromkeys(there[::2], having.mac)
    assert time.monotonic() - begun <= 0.8


def test_a_flood_of_frames_does_not_delay_the_end(segment: Segment) -> None:
    asking, other = segment.hosts
    frame = probe(parse_address("192.168.0.77"), mac=other.mac_bytes)
    end = threading.Event()
    with closing(other.namespace.socket(17, socket.SOCK_RAW)) as frames:

        def flood() -> None:
            while not end.is_set():
                frames.sendto(frame, ("eth0", 0))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            begun = time.monotonic()
            assert ask(asking.namespace, EVERY_VIP, seconds=0.3) == {}
            assert time.monotonic() - begun <= 0.5
        finally:
            end.set()
            thread.join()


def test_frames_that_come_faster_than_they_are_read_do_not_hold_it_up() -> None:
    class Endless:
        read = 0

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int, int, int, bytes]]:
            self.read += 1
            assert self.read < 5000
            return probe(VIPS[Family.IPV4], mac=bytes(6)), ("eth0", 0x0806, 1, 1, bytes(6))

    ear = _Ear("eth0", Wire(1, bytes(6)), [VIPS[Family.IPV6]], frames=cast(socket.socket, Endless()))
    ear.hear(own=(), found={})


def test_frames_of_a_vlan_that_this_host_is_not_in_do_not_count(
    segment: Segment, pool: ThreadPoolExecutor
) -> None:
    asking, other = segment.hosts
    vip = VIPS[Family.IPV4]
    frame = announcement(vip, mac=other.mac_bytes)[0]
    tagged = frame[:12] + b"\x81\0\0\5" + frame[12:]
    with closing(segment.tap()) as tap, closing(other.namespace.socket(17, socket.SOCK_RAW)) as frames:
        asked = pool.submit(ask, asking.namespace, [Announced(vip, "eth0")])
        until(lambda: tap.of(vip))
        frames.sendto(tagged, ("eth0", 0))
        assert asked.result() == {}


def test_while_it_asks_it_is_in_the_groups_that_others_ask_in(
    segment: Segment, pool: ThreadPoolExecutor
) -> None:
    host, group = segment.hosts[0].namespace, "ff02::1:ff00:245"

    def groups() -> str:
        return host.run(["ip", "maddr", "show", "dev", "eth0"]).stdout

    assert group not in groups()
    asked = pool.submit(ask, host, EVERY_VIP)
    until(lambda: group in groups())
    assert asked.result() == {}
    assert group not in groups()


def test_without_the_right_to_send_frames_it_says_which(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    def refuse(family: int, *arguments: int) -> socket.socket:
        if family == socket.AF_PACKET:
            raise PermissionError(1, "Operation not permitted")
        return real(family, *arguments)

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(KvctlError, match=r"cannot ask the network .*: Operation not permitted"):
        ask(segment.hosts[0].namespace, EVERY_VIP)


def test_nothing_is_left_open(segment: Segment) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ask(segment.hosts[0].namespace, EVERY_VIP, seconds=0.05)
    assert len(os.listdir("/proc/self/fd")) == before
