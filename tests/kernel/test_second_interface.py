"""Egress by a second interface, from a Service's annotations to packets: what it is led by comes and goes with it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, ClusterIp, standard
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family, parse_address
from tests.conftest import MakeLab
from tests.kernel.test_commands import FLAGS, pod, service
from tests.kernel.test_with_vip import NAMED, Node

SOON = 0.2
"""Seconds without an answer after which there is none: the lab's wires take microseconds."""
BEHIND = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8:77::7"}
"""Behind the gateway on eth1; by eth0, which the main table says, it is not to be had."""
BALANCED = {Family.IPV4: "192.168.0.246", Family.IPV6: "2001:db8:1::246"}
"""A load balancer's address on the VIP's own network that nobody has: kube-proxy sends it on to the other pod."""
GATEWAYS = ",".join(who.outside_eth1 for who in STANDARD.values())
# linux/if_ether.h; enough for the headers of a frame
_ETH_P_ALL, _LONGEST = 0x0003, 96
LED = {**NAMED, "kvctl.io/gateway": GATEWAYS}


class SecondWay(Node):
    """A node whose default route is by eth0."""

    def seen_behind(self, family: Family) -> str | None:
        """The source that a host behind the gateway of eth1 sees."""
        answer = probe(self.lab.pod, destination=BEHIND[family], port=5060, timeout=0.3)
        return answer.source if answer is not None else None

    def marked(self, family: Family) -> list[str]:
        """The connections to the load balancer's address that carry a mark of kvctl's."""
        listed = self.lab.worker.run(["conntrack", "-L", "-f", str(family), "-d", BALANCED[family]]).stdout
        # Each next hop has a mark of its own.
        mark = 4 if family is Family.IPV4 else 8
        return [line for line in listed.splitlines() if f" mark={mark} " in f"{line} "]

    def everything(self) -> str:
        """All routing rules and routes."""
        flags = ("-4", "-6")
        words = (["rule"], ["route", "show", "table", "all"])
        return "".join(self.lab.worker.run(["ip", flag, *each]).stdout for flag in flags for each in words)


@pytest.fixture
def node(make_lab: MakeLab, backend: str, tmp_path: Path) -> Iterator[SecondWay]:
    topology = standard(backend=backend, vip_here=False)
    balanced = tuple(ClusterIp(BALANCED[family], who.peer) for family, who in STANDARD.items())
    lab = make_lab(replace(topology, cluster_ips=(*topology.cluster_ips, *balanced)))
    for family, who in STANDARD.items():
        length, nodad = (32, "") if family is Family.IPV4 else (128, " nodad")
        lab.outside.batch([f"addr add {BEHIND[family]}/{length} dev lo{nodad}"])
        nobody = "172.16.0.77" if family is Family.IPV4 else "2001:db8::77"
        lab.worker.batch([f"route add {BEHIND[family]}/{length} via {nobody} dev eth0"])
        assert who.outside_eth1 in GATEWAYS
    with Echo(lab.outside, ports=(5060, 5061)):
        yield SecondWay(lab, tmp_path)


def test_a_service_that_names_an_interface_leaves_by_it(node: SecondWay) -> None:
    before = node.everything()
    node.write(service(annotations=LED, vips=()), pod())
    done = node.apply("--with-vip")
    assert done.status == 0, done.stderr
    for family, who in STANDARD.items():
        assert node.seen_behind(family) == who.vip
        assert node.seen(who) == who.vip
    shown = node.lab.kvctl("egress", "show", "sip/sip-client", env={}).stdout
    who = STANDARD[Family.IPV4]
    assert f"VIP:                {who.vip} on eth1, placed by kvctl for good" in shown
    assert "interface:          eth1, led to by the mark 0x4/0x3c and the routing table 7500" in shown
    again = node.apply("--with-vip")
    assert (again.status, "nothing to change" in again.stderr) == (0, True)
    flushed = node.flush("--all")
    assert flushed.status == 0, flushed.stderr
    assert [node.seen_behind(family) for family in Family] == [None, None]
    assert node.everything() == before


def test_an_address_that_leads_back_into_the_cluster_is_reached_though_the_mark_says_otherwise(
    node: SecondWay,
) -> None:
    node.write(service(annotations=LED, vips=()), pod())
    assert node.apply("--with-vip").status == 0
    with Echo(node.lab["peer"], ports=(5060,)):
        for family, who in STANDARD.items():
            # The first packet is marked before kube-proxy has turned it round, and those after it by their connection.
            for protocol in ("udp", "tcp"):
                with Connection(
                    node.lab.pod, destination=BALANCED[family], port=5060, protocol=protocol, timeout=0.5
                ) as connection:
                    for _ in range(3):
                        seen = connection.ask()
                        assert seen is not None
                        assert (seen.source, seen.destination) == (who.pod, who.peer)
            assert node.marked(family)
            assert node.seen_behind(family) == who.vip


@pytest.mark.parametrize("backend", ["nft"])
def test_a_setting_that_keeps_answers_from_coming_back_is_told_once_with_what_mends_it(
    node: SecondWay,
) -> None:
    mends = [f"(sysctl -w net/ipv4/conf/eth1/{name}=2)" for name in ("rp_filter", "arp_announce")]
    node.lab.worker.write_sysctls({"ipv4/conf/eth1/rp_filter": "1"})
    node.write(service(annotations=LED, vips=()), pod())
    done = node.apply("--with-vip")
    assert done.status == 0
    assert [done.stderr.count(mend) for mend in mends] == [1, 1]
    node.lab.worker.write_sysctls({"ipv4/conf/eth1/rp_filter": "2", "ipv4/conf/eth1/arp_announce": "2"})
    done = node.apply()
    assert (done.status, "sysctl" in done.stderr) == (0, False)


def test_diff_tells_the_routing_and_apply_puts_back_what_was_taken_away(node: SecondWay) -> None:
    node.write(service(annotations=LED, vips=()), pod())
    assert node.apply("--with-vip").status == 0
    diff = ("egress", "diff", "-f", str(node.source), "--node", "worker", *FLAGS)
    same = node.lab.kvctl(*diff, env={})
    assert same.status == 0, same.stdout
    node.lab.worker.batch(["rule del priority 7501"])
    other = node.lab.kvctl(*diff, env={})
    assert other.status == 3
    assert "+ ip rule 7501: fwmark 0x4/0x3c lookup 7500" in other.stdout
    assert node.seen_behind(Family.IPV4) is None
    assert node.apply().status == 0
    assert node.seen_behind(Family.IPV4) == STANDARD[Family.IPV4].vip


@pytest.mark.parametrize("backend", ["nft"])
def test_without_a_gateway_only_the_networks_of_the_interface_are_reached_and_that_is_said(
    node: SecondWay,
) -> None:
    node.write(service(annotations=NAMED, vips=()), pod())
    done = node.apply("--with-vip")
    assert done.status == 0
    assert (
        "eth1 has no gateway, so only its own networks are reached by it: set kvctl.io/gateway" in done.stderr
    )
    for family, who in STANDARD.items():
        assert node.seen(who) == who.vip
        # Not by eth0 with the VIP as source: nowhere.
        assert node.seen_behind(family) is None


class Leaks:
    """Counts what comes to the outside's eth0 with a VIP as source, until the end of the block; a context manager."""

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setblocking(False)
        self._socket.bind(("eth0", _ETH_P_ALL))
        self._vips = [parse_address(who.vip).packed for who in STANDARD.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def count(self) -> int:
        """How many packets have come since it was asked last."""
        found = 0
        while True:
            try:
                frame = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return found
            source = frame[26:30] if frame[12:14] == b"\x08\x00" else frame[22:38]
            found += source in self._vips


class Bad(NamedTuple):
    """A state in which there is no way out by the interface that a Service names."""

    annotations: dict[str, str]
    down: bool
    status: int
    """Of `apply`."""
    said: str
    """Of the VIP, in a warning."""


FAR = {**NAMED, "kvctl.io/gateway": "10.9.9.9,fd99::9"}
STATES = {
    "gateway": Bad(
        FAR, False, 1, "the gateway {far} (kvctl.io/gateway) is on no network of eth1, which has "
    ),
    "down": Bad(LED, True, 0, "the interface eth1 is down: ip link set eth1 up"),
    "missing": Bad(
        {**LED, "kube-vip.io/serviceInterface": "eth7"},
        False,
        0,
        "this host has no interface eth7 (kube-vip.io/serviceInterface): name one of eth0, eth1",
    ),
}


def bind_by_hand(node: SecondWay) -> None:
    """The addresses of eth1, of which IPv6 forgets its own when the interface goes down."""
    v4, v6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
    node.lab.worker.batch(
        [
            f"addr replace {v4.vip}/32 dev eth1",
            f"addr replace {v6.worker_eth1}/64 dev eth1 nodad",
            f"addr replace {v6.vip}/128 dev eth1 nodad preferred_lft 0",
        ]
    )


def is_refused(node: SecondWay, to: str) -> bool:
    """Whether nothing comes back from there, and the pod is told so at once instead of waiting.

    Linux tells a UDP socket of it only where that asks for it (IP_RECVERR, ip(7)).
    """
    begun = time.monotonic()
    tcp = probe(node.lab.pod, destination=to, port=5060, protocol="tcp", timeout=5.0)
    soon = time.monotonic() - begun < 2.5
    return tcp is None and soon and probe(node.lab.pod, destination=to, port=5060, timeout=SOON) is None


@pytest.mark.parametrize("backend", ["nft"])
@pytest.mark.parametrize("was_good", [False, True], ids=["fresh", "after"])
@pytest.mark.parametrize("state", STATES)
def test_without_a_way_nothing_leaves_with_the_vip_whatever_was_before(
    node: SecondWay, state: str, was_good: bool
) -> None:
    bad = STATES[state]
    bind_by_hand(node)
    if was_good:
        node.write(service(annotations=LED, vips=()), pod())
        assert node.apply("--assume-vip").status == 0
        assert [node.seen_behind(family) for family in Family] == [who.vip for who in STANDARD.values()]
    node.write(service(annotations=bad.annotations, vips=()), pod())
    with Leaks(node.lab) as leaks:
        if bad.down:
            node.lab.worker.batch(["link set eth1 down"])
        if was_good and bad.down:
            # Before anybody has looked.
            assert all(is_refused(node, who.outside_eth0) for who in STANDARD.values())
        done = node.apply("--assume-vip")
        assert done.status == bad.status, done.stderr
        for who, far in zip(STANDARD.values(), ("10.9.9.9", "fd99::9"), strict=True):
            assert f"nothing leaves with {who.vip}: {bad.said.format(far=far)}" in done.stderr
            assert is_refused(node, who.outside_eth0)
        for flag in ("-4", "-6"):
            routes = node.lab.worker.run(["ip", flag, "route", "show", "table", "all", "proto", "75"]).stdout
            (only,) = routes.splitlines()
            assert only.startswith("unreachable default ")
        assert leaks.count() == 0
        # The same again writes nothing.
        before = node.everything()
        again = node.apply("--assume-vip")
        assert (again.status, "nothing to change" in again.stderr) == (bad.status, True)
        assert node.everything() == before
    node.lab.worker.batch(["link set eth1 up"])
    bind_by_hand(node)
    node.write(service(annotations=LED, vips=()), pod())
    good = node.apply("--assume-vip")
    assert good.status == 0, good.stderr
    assert [node.seen_behind(family) for family in Family] == [who.vip for who in STANDARD.values()]
    assert node.flush("--all").status == 0
    assert "proto 75" not in node.everything()
    # What is counted is there to be counted.
    node.write(
        service(annotations={"kube-vip.io/loadbalancerIPs": NAMED["kube-vip.io/loadbalancerIPs"]}, vips=()),
        pod(),
    )
    assert node.apply("--assume-vip").status == 0
    with Leaks(node.lab) as leaks:
        probe(node.lab.pod, destination=STANDARD[Family.IPV4].outside_eth0, port=5060, timeout=0.5)
        assert leaks.count() > 0


@pytest.mark.parametrize("backend", ["nft"])
def test_show_and_list_tell_that_there_is_no_way(node: SecondWay) -> None:
    bind_by_hand(node)
    node.write(service(annotations=FAR, vips=()), pod())
    assert node.apply("--assume-vip").status == 1
    for command in ("list", "show", "diff"):
        words = ("egress", command, "-f", str(node.source), "--node", "worker", *FLAGS, "--assume-vip")
        done = node.lab.kvctl(*words, env={})
        assert done.status == 1, done
        assert f"nothing leaves with {STANDARD[Family.IPV4].vip}: " in done.stdout + done.stderr, command


@pytest.mark.parametrize("backend", ["nft"])
def test_when_the_interface_is_not_named_any_more_the_way_goes(node: SecondWay) -> None:
    before = node.everything()
    node.write(service(annotations=LED, vips=()), pod())
    assert node.apply("--with-vip").status == 0
    plain = {"kube-vip.io/loadbalancerIPs": NAMED["kube-vip.io/loadbalancerIPs"]}
    node.write(service(annotations=plain, vips=()), pod())
    assert node.apply().status == 0
    assert _without_vips(node.everything()) == _without_vips(before)


def _without_vips(text: str) -> list[str]:
    """What is left of `ip` without the routes that each address on an interface brings."""
    return [line for line in text.splitlines() if not any(who.vip in line for who in STANDARD.values())]


@pytest.mark.parametrize("backend", ["nft"])
def test_what_is_connected_follows_the_service_to_another_interface(node: SecondWay) -> None:
    bind_by_hand(node)
    node.write(service(annotations=LED, vips=()), pod())
    assert node.apply("--assume-vip").status == 0
    for family, who in STANDARD.items():
        with (
            Leaks(node.lab) as leaks,
            Connection(node.lab.pod, destination=who.outside_eth0, port=5060, timeout=SOON) as connection,
        ):
            assert connection.ask() is not None
            node.write(service(annotations=STATES["missing"].annotations, vips=()), pod())
            assert node.apply("--assume-vip").status == 0
            assert (connection.ask(), leaks.count()) == (None, 0), family
            node.write(service(annotations=LED, vips=()), pod())
            assert node.apply("--assume-vip").status == 0
            assert connection.ask() is not None
