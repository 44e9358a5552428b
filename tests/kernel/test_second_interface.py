"""Egress by a second interface, from a Service's annotations to packets: what it is led by comes and goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, ClusterIp, standard
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from tests.conftest import MakeLab
from tests.kernel.test_commands import FLAGS, pod, service
from tests.kernel.test_with_vip import NAMED, Node

BEHIND = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8:77::7"}
"""Behind the gateway on eth1; by eth0, which the main table says, it is not to be had."""
BALANCED = {Family.IPV4: "192.168.0.246", Family.IPV6: "2001:db8:1::246"}
"""A load balancer's address on the VIP's own network that nobody has: kube-proxy sends it on to the other pod."""
GATEWAYS = ",".join(who.outside_eth1 for who in STANDARD.values())
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
        return [line for line in listed.splitlines() if " mark=4 " in f"{line} "]

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


@pytest.mark.parametrize("backend", ["nft"])
def test_a_gateway_that_is_none_is_told(node: SecondWay) -> None:
    node.write(service(annotations={**NAMED, "kvctl.io/gateway": "10.77.0.1"}, vips=()), pod())
    done = node.apply("--with-vip")
    assert "the gateway 10.77.0.1 (kvctl.io/gateway) is on no network of eth1" in done.stderr


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
