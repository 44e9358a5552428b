"""Other programs' rules keep their bytes, their order and their counters, whatever kvctl does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import BACKENDS, STANDARD, standard
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.builders import objects, pod, service
from tests.conftest import MakeLab, MakeNamespace
from tests.robustness.foreign_rules import PROGRAMS, rules_of
from tests.robustness.node import HERE, Node

V4, V6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
PODS = (pod("sip/sip-client-0", V4.pod, V6.pod), pod("web/shop-0", V4.peer, V6.peer))
FIRST = objects(service(vip=(V4.vip, V6.vip), ports="udp:5060"), *PODS)
SECOND = objects(
    service(vip=(V4.vip, V6.vip), ports="udp:5060-5061,tcp:5060"),
    service("web/shop", vip=(V4.vip, V6.vip), denied=f"{V4.server}/32,{V6.server}/128"),
    *PODS,
)


@pytest.fixture(params=[("nft",), ("legacy",), ("legacy", "nft")], ids="+".join)
def theirs(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The back ends that other programs use."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def busy(make_lab: MakeLab, backend: str, theirs: tuple[str, ...]) -> Iterator[tuple[Lab, Node]]:
    """A worker on which every other program has written its rules, and packets have met them."""
    lab = make_lab(backend=theirs[0])
    node = Node(lab.worker, backend=backend)
    for each in theirs:
        for family in Family:
            for program in PROGRAMS:
                node.restore(rules_of(program, family), backend=each, family=family)
    with Echo(lab.outside, ports=[5060, 5061]):
        _traffic(lab)
        yield lab, node


def _quiet(lab: Lab) -> None:
    """Cut the worker off: no neighbour discovery, no end of a TCP connection counts behind the test's back."""
    lab.worker.batch([f"link set {name} down" for name in ("eth0", "eth1", "veth0", "veth1")])


def _traffic(lab: Lab) -> None:
    for each in (V4, V6):
        for protocol in ("udp", "tcp"):
            assert probe(lab.pod, destination=each.outside_eth1, port=5060, protocol=protocol) is not None
            assert probe(lab["peer"], destination=each.outside_eth1, port=5061, protocol=protocol) is not None


def test_nothing_changes_for_others(busy: tuple[Lab, Node]) -> None:
    lab, node = busy
    _quiet(lab)
    before = node.foreign()
    assert any(
        "[0:0]" not in line and line.startswith("[") for line in "\n".join(before.values()).splitlines()
    )
    steps: tuple[Callable[[], object], ...] = (
        lambda: node.apply(FIRST),
        lambda: node.apply(FIRST),
        lambda: node.apply(SECOND),
        lambda: node.apply(FIRST, "sip/sip-client"),
        lambda: node.apply(FIRST, prune=True),
        lambda: node.flush("sip/sip-client"),
        lambda: node.apply(SECOND),
        lambda: node.diff(FIRST),
        node.items,
        node.flush,
    )
    for step in steps:
        step()
        assert _settled(node.foreign()) == _settled(before)


def _settled(saved: dict[tuple[str, Family], str]) -> dict[tuple[str, Family], list[list[str]]]:
    """Every rule, chain and policy, but for two things that no user of iptables has in hand.

    kvctl's first rule makes the nat table of its back end, and every change by iptables-legacy 1.8.9 sets
    the counters of built-in chains' policies to zero.
    """
    return {
        key: [
            [line.split(" [")[0] if line.startswith(":") else line for line in table.splitlines()]
            for table in text.split("*")[1:]
            if "-A " in table
        ]
        for key, text in saved.items()
    }


def test_the_counters_of_others_count_on(busy: tuple[Lab, Node]) -> None:
    lab, node = busy
    node.apply(FIRST)
    before = node.save(backend=node.backend, counters=True)
    _traffic(lab)
    after = node.save(backend=node.backend, counters=True)
    assert before != after
    node.apply(SECOND)
    rules = [line for line in after.splitlines() if "KVCTL" not in line and line.startswith("[")]
    now = node.save(counters=True).splitlines()
    assert [line for line in rules if line not in now] == []


def test_the_second_apply_starts_no_restore(busy: tuple[Lab, Node]) -> None:
    lab, node = busy
    _quiet(lab)
    assert node.apply(SECOND).restores > 0
    before = node.saved(counters=True)
    assert node.apply(SECOND).restores == 0
    assert node.saved(counters=True) == before


def test_rules_of_others_that_come_first_are_put_behind_once(busy: tuple[Lab, Node]) -> None:
    """What Calico and a restarted kube-proxy do: insert their jumps at the head again."""
    lab, node = busy
    _quiet(lab)
    node.apply(FIRST)
    node.iptables("-I", "POSTROUTING", "1", "-j", "MARK", "--set-xmark", "0x1/0x1")
    assert not node.diff(FIRST).differs
    if "cali-POSTROUTING" not in node.save():
        node.iptables("-N", "cali-POSTROUTING")
        node.iptables("-A", "cali-POSTROUTING", "-s", V4.pod_network, "-j", "MASQUERADE")
    node.iptables("-I", "POSTROUTING", "1", "-j", "cali-POSTROUTING")
    assert node.diff(FIRST).differs
    before = node.foreign()
    assert node.apply(FIRST).restores == 1
    assert node.foreign() == before
    assert not node.diff(FIRST).differs


def test_a_kube_postrouting_at_the_head_is_tolerated_while_it_returns_unmarked_packets(
    make_namespace: MakeNamespace, backend: str, family: Family
) -> None:
    node = Node(make_namespace(), backend=backend)
    node.apply(FIRST)
    node.restore(rules_of("kube-proxy", family), family=family)
    node.iptables("-I", "POSTROUTING", "1", "-j", "KUBE-POSTROUTING", family=family)
    assert not node.diff(FIRST).differs
    node.iptables("-D", "KUBE-POSTROUTING", "1", family=family)
    assert node.diff(FIRST).differs


class TestLookingMakesNothing:
    """No table, no chain, in either back end."""

    @pytest.fixture
    def node(self, make_namespace: MakeNamespace, backend: str) -> Node:
        return Node(make_namespace(), backend=backend, settings=HERE)

    def _tables(self, node: Node) -> tuple[str, ...]:
        with node.namespace.entered():
            legacy = [
                Path(f"/proc/thread-self/net/{name}_tables_names").read_text(encoding="ascii")
                for name in ("ip", "ip6")
                if Path(f"/proc/thread-self/net/{name}_tables_names").exists()
            ]
        return (*legacy, node.run("nft", "list", "ruleset"))

    def test_in_process(self, node: Node) -> None:
        before = self._tables(node)
        assert set(before) == {""}
        assert node.diff(FIRST).differs
        assert node.items() == []
        node.flush()
        assert self._tables(node) == before

    def test_by_the_commands(self, make_lab: MakeLab, backend: str) -> None:
        lab = make_lab(topology=replace(standard(masquerade=False), cluster_ips=()))
        node = Node(lab.worker, backend=backend)
        told = {"egress_withnftables": str(backend == "nft").lower()}
        before = self._tables(node)
        assert set(before) == {""}
        for command, status in COMMANDS:
            done = lab.kvctl("egress", *command.split(), stdin=MANIFEST, env=told)
            assert done.status == status, (command, done.stdout, done.stderr)
            assert self._tables(node) == before


COMMANDS = (
    ("list", 0),
    ("show", 0),
    ("list -f -", 0),
    ("show -f -", 0),
    ("diff -f -", 3),
    ("diff -f - -o iptables", 3),
    ("apply -f - --dry-run", 0),
    ("compute -f -", 0),
    ("flush --all", 0),
)

MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {name: sip-client, namespace: sip, annotations: {kube-vip.io/egress: "true"}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: sip-client}}
status: {loadBalancer: {ingress: [{ip: 192.168.0.245}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: sip-client-0, namespace: sip, labels: {app: sip-client}}
status: {podIP: 10.0.0.1}
"""


@pytest.mark.parametrize("other", BACKENDS)
def test_kube_vips_own_rules_are_shown_and_left_alone(make_namespace: MakeNamespace, other: str) -> None:
    node = Node(make_namespace(), backend=other)
    node.restore(
        "*mangle\n:KUBE-VIP-EGRESS - [0:0]\n"
        "-A PREROUTING -j KUBE-VIP-EGRESS\n"
        "-A KUBE-VIP-EGRESS -s 10.0.0.7/32 -j MARK --set-xmark 0x40/0x40\n"
        "-A KUBE-VIP-EGRESS -s 10.0.0.8/32 -j MARK --set-xmark 0x40/0x40\n"
        "COMMIT\n*nat\n"
        "-A POSTROUTING -s 10.0.0.7/32 -p udp -m mark --mark 0x40/0x40 -m udp --dport 5060 "
        '-m comment --comment "a3ViZS12aXAK=kube-vip-sip" -j SNAT --to-source 192.168.0.9\nCOMMIT\n'
    )
    before = node.foreign()
    node.apply(FIRST)
    foreign = [item for item in node.items() if item.status == "foreign"]
    assert [(item.namespace, str(item.vip or ""), item.ports) for item in foreign] == [
        (None, "", ()),
        ("sip", "192.168.0.9", ("udp:5060",)),
    ]
    assert [str(item.pods[0].address) for item in foreign] == ["10.0.0.8", "10.0.0.7"]
    node.flush()
    assert _settled(node.foreign()) == _settled(before)


def test_a_service_that_kube_vip_programs_too_is_told_how_to_part_them(make_namespace: MakeNamespace) -> None:
    node = Node(make_namespace(), backend="nft")
    node.apply(FIRST)
    ours = [item for item in node.items() if item.status == "applied"]
    assert [item.warnings for item in ours] == [()] * len(ours)
    pod = ours[0].pods[0].address
    node.restore(
        f"*nat\n-A POSTROUTING -s {pod}/32 -m mark --mark 0x40/0x40 "
        '-m comment --comment "a3ViZS12aXAK=kube-vip-sip" -j SNAT --to-source 192.168.0.9\nCOMMIT\n'
    )
    told = [item for item in node.items() if item.status == "applied" and item.warnings]
    assert [item.service for item in told] == [ours[0].service]
    assert "use kvctl.io/egress instead of kube-vip.io/egress" in told[0].warnings[0]
