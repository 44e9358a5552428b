"""`kvctl egress apply --with-vip`: the whole of it by hand, on a node that has neither the VIP nor an agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, Addresses, standard
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from kvctl.node.addresses import bound
from tests.conftest import MakeLab
from tests.kernel.test_commands import FLAGS, pod, service

Json = dict[str, Any]
NAMED = {
    "kube-vip.io/loadbalancerIPs": ",".join(each.vip for each in STANDARD.values()),
    "kube-vip.io/serviceInterface": "eth1",
}


class Node:
    """The worker, with a manifest whose VIPs nobody has."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.source = directory / "source.json"
        self.write(service(annotations=NAMED, vips=()), pod())

    def write(self, *things: Json) -> None:
        """What the manifest says from now on."""
        self.source.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(things)}))

    def apply(self, *words: str) -> proc.Completed:
        return self.lab.kvctl(
            "egress", "apply", *words, "-f", str(self.source), "--node", "worker", *FLAGS, env={}
        )

    def flush(self, *words: str) -> proc.Completed:
        return self.lab.kvctl("egress", "flush", *words, env={})

    def addresses(self, interface: str = "eth1") -> str:
        """What `ip` says of its interface."""
        return self.lab.worker.run(["ip", "-d", "addr", "show", "dev", interface]).stdout

    def ours(self) -> dict[str, int | None]:
        """The addresses with kvctl's mark, each with its lifetime."""
        with self.lab.worker.entered():
            return {str(each.address): each.lifetime for each in bound()}

    def seen(self, who: Addresses) -> str | None:
        """The source that the outside sees of a new connection."""
        answer = probe(self.lab.pod, destination=who.outside_eth1, port=5060)
        return answer.source if answer is not None else None


@pytest.fixture
def node(make_lab: MakeLab, backend: str, tmp_path: Path) -> Iterator[Node]:
    lab = make_lab(standard(backend=backend, vip_here=False))
    with Echo(lab.outside, ports=(5060,)):
        yield Node(lab, tmp_path)


def test_the_vip_comes_with_the_rules_and_goes_with_them(node: Node) -> None:
    done = node.apply("--with-vip")
    assert done.status == 0, done.stderr
    for who in STANDARD.values():
        assert f"Note: {who.vip} is on eth1 now" in done.stderr
        assert node.seen(who) == who.vip
    # For ever, and not to be chosen as a source by the node itself.
    assert node.ours() == {who.vip: None for who in STANDARD.values()}
    assert node.addresses().count("valid_lft forever preferred_lft 0sec") == 1  # IPv6 alone
    again = node.apply("--with-vip")
    assert (again.status, again.stderr.count("is on eth1 now")) == (0, 0)
    assert "nothing to change" in again.stderr
    flushed = node.flush("sip/sip-client")
    assert flushed.status == 0
    for who in STANDARD.values():
        assert f"Note: {who.vip} is not on eth1 any more" in flushed.stderr
        assert node.seen(who) == who.worker_eth1
    assert node.ours() == {}


def test_a_vip_of_the_nodes_own_network_is_placed_on_the_nodes_own_interface_and_led_by_no_mark(
    node: Node,
) -> None:
    who, vips = STANDARD[Family.IPV4], ("172.16.0.245", "2001:db8::245")
    node.write(service(annotations={"kube-vip.io/loadbalancerIPs": ",".join(vips)}, vips=()), pod())
    done = node.apply("--with-vip")
    assert done.status == 0, done.stderr
    for (family, its), vip in zip(STANDARD.items(), vips, strict=True):
        assert f"Note: {vip} is on eth0 now" in done.stderr
        answer = probe(node.lab.pod, destination=its.outside_eth0, port=5060)
        assert answer is not None
        assert answer.source == vip, family
    shown = node.lab.kvctl("egress", "show", "sip/sip-client", env={}).stdout
    assert f"VIP:                {vips[0]} on eth0, placed by kvctl for good" in shown
    assert "led to by the mark" not in shown
    assert node.flush("--all").status == 0
    answer = probe(node.lab.pod, destination=who.outside_eth0, port=5060)
    assert answer is not None
    assert answer.source == who.worker_eth0


@pytest.mark.parametrize("backend", ["nft"])
def test_the_outside_learns_of_it_though_it_knew_another(node: Node) -> None:
    who = STANDARD[Family.IPV4]
    node.lab.outside.batch([f"neigh replace {who.vip} lladdr 02:00:00:00:00:77 dev eth1 nud reachable"])
    assert node.apply("--with-vip").status == 0
    assert node.seen(who) == who.vip


@pytest.mark.parametrize("backend", ["nft"])
def test_an_address_that_another_host_has_is_left_to_it(node: Node) -> None:
    who = STANDARD[Family.IPV4]
    node.lab.outside.batch([f"addr add {who.vip}/32 dev eth1"])
    done = node.apply("--with-vip")
    assert done.status == 1
    assert f"Error: the VIP {who.vip} is not placed: " in done.stderr
    assert " answers for it on the network already" in done.stderr
    assert who.vip not in node.addresses()
    assert node.seen(who) == who.worker_eth1
    v6 = STANDARD[Family.IPV6]
    assert node.seen(v6) == v6.vip


@pytest.mark.parametrize("backend", ["nft"])
def test_an_admins_address_is_never_taken(node: Node) -> None:
    node.lab.worker.batch(
        [
            f"addr add {STANDARD[Family.IPV4].vip}/32 dev eth1",
            f"addr add {STANDARD[Family.IPV6].vip}/128 dev eth1 nodad preferred_lft 0",
        ]
    )
    before = node.addresses()
    for _ in range(2):
        assert node.apply("--with-vip").status == 0
        assert node.addresses() == before
        assert node.ours() == {}
        for who in STANDARD.values():
            assert node.seen(who) == who.vip
        assert node.flush("--all").status == 0
        assert node.addresses() == before
        for who in STANDARD.values():
            assert node.seen(who) == who.worker_eth1


@pytest.mark.parametrize("backend", ["nft"])
def test_without_it_the_vip_is_elsewhere_as_ever_and_a_dry_run_places_nothing(node: Node) -> None:
    assert "is on no interface of this node" in node.apply().stderr
    assert node.apply("--with-vip", "--dry-run").status == 0
    assert node.ours() == {}


@pytest.mark.parametrize("backend", ["nft"])
def test_a_vip_without_an_interface_is_told(node: Node) -> None:
    named = {"kube-vip.io/loadbalancerIPs": "203.0.113.9", "kube-vip.io/serviceInterface": "eth7"}
    node.write(service(annotations=named, vips=()), pod())
    done = node.apply("--with-vip")
    assert done.status == 1
    assert "eth7" in done.stderr
