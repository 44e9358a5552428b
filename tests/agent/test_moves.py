"""A VIP that moves between two nodes, with an agent on each and senders that never pause: what the outside sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kvctl.lab.traffic import Connection, Sender, probe
from kvctl.model.net import Family
from tests.agent.nodes import PODS, WORKERS, Nodes, two_nodes, two_workers
from tests.agent.process import Watching, eventually, service_object
from tests.apiserver import ApiServer
from tests.conftest import MakeLab

DROP = {"kvctl.io/without-vip": "drop"}
GATE = "kube-vip.io/egress-enabled"
PODS_OF = {"worker": "sip-client-0", "worker-2": "sip-client-1"}
MOVES = (("worker", "worker-2"), ("worker-2", "worker"), ("worker", "worker-2"))
KINDS = (("udp", True), ("udp", False), ("tcp", True))
"""Protocol, and whether each request is a connection of its own."""
PORTS = {"udp": 5060, "tcp": 8080}
SOON = 0.05
"""Seconds after which a sender does not wait for an answer any longer; the lab's wires take microseconds."""

Senders = dict[str, list[Sender]]


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Nodes]:
    """The first node has the VIP."""
    gates = {"egress_readinessgates": "true"}
    with two_nodes(make_lab(two_workers(backend=backend)), tmp_path, family=family, env=gates) as it:
        it.announce("worker")
        yield it


@contextmanager
def sending(nodes: Nodes) -> Iterator[Senders]:
    """Senders of every kind in the pod of each node."""
    with ExitStack() as stack:
        yield {
            worker: [
                stack.enter_context(
                    Sender(
                        nodes.lab[PODS[worker]],
                        destination=nodes.who.outside_eth1,
                        port=PORTS[protocol],
                        protocol=protocol,
                        fresh=fresh,
                        interval=0.003,
                        timeout=SOON,
                    )
                )
                for protocol, fresh in KINDS
            ]
            for worker in WORKERS
        }


def gate(nodes: Nodes, worker: str) -> str:
    """What the readiness gate of the node's pod says, in a word."""
    pod = nodes.server.get("pods", PODS_OF[worker], namespace="sip")
    assert pod is not None
    found = [one["reason"] for one in pod["status"].get("conditions", []) if one["type"] == GATE]
    return str(found[0]) if found else ""


def settled(nodes: Nodes, *, holder: str, without: str) -> None:
    """Wait until both agents have told that the VIP is with `holder`, and what the other's pod may do."""
    for worker in WORKERS:
        said = "RulesInKernel" if worker == holder else without
        eventually(lambda: gate(nodes, worker) == said, why=nodes.agents[worker].text)  # noqa: B023


def seen_now(senders: list[Sender]) -> set[str]:
    """What the outside sees of each sender from now on."""
    found = set()
    for sender in senders:
        sender.wait_for(2)  # what was on its way
        sender.sources.clear()
        sender.wait_for(3)
        found |= set(sender.sources)
    return found


def is_silent(senders: list[Sender]) -> bool:
    """Whether the next requests of each sender stay without an answer."""
    before = [(sender.unanswered, sender.sources.total()) for sender in senders]
    for sender, (unanswered, _) in zip(senders, before, strict=True):
        eventually(lambda: sender.unanswered > unanswered + 2)  # noqa: B023
    return all(s.sources.total() <= total + 1 for s, (_, total) in zip(senders, before, strict=True))


def test_under_drop_the_outside_sees_the_vip_or_nothing(nodes: Nodes) -> None:
    nodes.server.put("services", service_object(annotations=DROP))
    settled(nodes, holder="worker", without="TrafficDropped")
    outside, vip = nodes.who.outside_eth1, nodes.who.vip
    with (
        sending(nodes) as senders,
        Connection(nodes.lab.pod, destination=outside, port=8080, protocol="tcp", timeout=SOON) as old,
    ):
        assert old.ask() is not None
        for source, holder in MOVES:
            nodes.move(source=source, to=holder)
            settled(nodes, holder=holder, without="TrafficDropped")
            assert seen_now(senders[holder]) == {vip}
            assert is_silent(senders[source])
            assert nodes.flows_with_vip(source) == []
            # It goes on when the VIP is back: its packets get the address and port that they had.
            assert (old.ask(timeout=SOON if source == "worker" else 5.0) is None) is (source == "worker")
    assert nodes.outside.sources() == {vip}


@pytest.mark.parametrize("backend", ["legacy"])  # and with it IPv6
def test_under_node_address_the_outside_sees_the_vip_or_the_node(nodes: Nodes) -> None:
    nodes.server.put("services", service_object())
    settled(nodes, holder="worker", without="VIPElsewhere")
    vip = nodes.who.vip
    with sending(nodes) as senders:
        for source, holder in MOVES:
            nodes.move(source=source, to=holder)
            settled(nodes, holder=holder, without="VIPElsewhere")
            # Those of one UDP socket, too: what carries the wrong address by now begins anew.
            assert seen_now(senders[holder]) == {vip}
            assert seen_now(senders[source]) == {nodes.address_of(source)}
            assert nodes.flows_with_vip(source) == []
    assert nodes.outside.sources() == {vip, *map(nodes.address_of, WORKERS)}


def announced_by(server: ApiServer, worker: str) -> None:
    """MetalLB says that this node announces the Service's addresses."""
    server.put(
        "servicel2statuses",
        {
            "metadata": {"name": "l2-abcde", "namespace": "metallb-system"},
            "status": {"node": worker, "serviceName": "sip-client", "serviceNamespace": "sip"},
        },
    )


def events(server: ApiServer, reason: str) -> list[str]:
    """The messages of the Events of a kind."""
    return [event["message"] for event in server.objects("events") if event["reason"] == reason]


def logged(agent: Watching, text: str) -> bool:
    """Whether a line of the log has this in its message or its reason."""
    return any(text in line["message"] or text in line.get("reason", "") for line in agent.lines())


def seen_by(nodes: Nodes, worker: str) -> str | None:
    """The source that the outside sees of a new connection of the node's pod."""
    answer = probe(nodes.lab[PODS[worker]], destination=nodes.who.outside_eth1, port=5060)
    return answer.source if answer is not None else None


def statuses(nodes: Nodes, worker: str, *arguments: str) -> set[tuple[str, str | None, tuple[str, ...]]]:
    """Status, reason and warnings of the Service by `kvctl egress list`, in both families."""
    listed = json.loads(nodes.kvctl(worker, "egress", "list", "-o", "json", *arguments))
    return {(item["status"], item["reason"], tuple(item["warnings"])) for item in listed["items"]}


@pytest.mark.parametrize("backend", ["nft"])
def test_metallbs_word_is_followed_and_shown_in_every_output(
    make_lab: MakeLab, family: Family, tmp_path: Path
) -> None:
    with two_nodes(make_lab(two_workers(backend="nft", vip_here=False)), tmp_path, family=family) as nodes:
        server = nodes.server
        server.put("services", service_object())
        for source, holder in (("worker-2", "worker"), ("worker", "worker-2")):
            nodes.announce(holder)
            announced_by(server, holder)
            agent, other = nodes.agents[holder], nodes.agents[source]
            eventually(lambda: logged(other, f"is announced by {holder}"), why=other.text)  # noqa: B023
            eventually(lambda: 'kvctl_services{status="applied"} 2.0' in agent.ask("/metrics")[1])  # noqa: B023
            assert 'kvctl_services{status="elsewhere"} 2.0' in other.ask("/metrics")[1]
            assert seen_by(nodes, holder) == nodes.who.vip
            assert seen_by(nodes, source) == nodes.address_of(source)

            told = (
                f"is announced by {holder}: its pods' traffic leaves with the node's address (node {source})"
            )
            eventually(lambda: any(told in text for text in events(server, "VIPElsewhere")))  # noqa: B023
            eventually(lambda: any(f"(node {holder})" in text for text in events(server, "Programmed")))  # noqa: B023
        # An agent that has judged by MetalLB is not contradicted by what the kernel alone can tell, nor by diff.
        assert statuses(nodes, holder) == {("applied", None, ())}
        shown = json.loads(nodes.kvctl(holder, "egress", "show", "-o", "json"))
        assert [item["problems"] for item in shown["items"]] == [[], []]
        config = ("--kubeconfig", server.kubeconfig(tmp_path / "config"))
        assert "no difference" in nodes.said(holder, "egress", "diff", "--prune", *config)
        listed = statuses(nodes, source, *config)
        assert {(status, f"is announced by {holder}" in str(why)) for status, why, _ in listed} == {
            ("elsewhere", True)
        }
        assert events(server, "HolderDisputed") == []

        # kube-vip's word does not count against MetalLB's, but it is told.
        server.put("services", service_object(annotations={"kube-vip.io/vipHost": "worker"}))
        disputed = "MetalLB says that worker-2 announces it, but kube-vip.io/vipHost names worker"
        for agent in nodes.agents.values():
            eventually(lambda: logged(agent, disputed), why=agent.text)  # noqa: B023
        eventually(lambda: len(events(server, "HolderDisputed")) == 2, why=lambda: server.objects("events"))
        for agent in nodes.agents.values():
            agent.end()
    # Without the agent nobody vouches for a VIP that is on no interface.
    done = nodes.lab.kvctl("egress", "list", at="worker-2")
    assert "replies will not come back" in done.stderr


@pytest.mark.parametrize("backend", ["nft"])
def test_the_address_counts_more_than_what_kube_vip_wrote_and_the_dispute_is_told(nodes: Nodes) -> None:
    server = nodes.server
    server.put("services", service_object(annotations={"kube-vip.io/vipHost": "worker-2"}))
    settled(nodes, holder="worker", without="VIPElsewhere")
    said = {
        "worker": "is on eth1 of this node, but kube-vip.io/vipHost names worker-2",
        "worker-2": "kube-vip.io/vipHost names this node, but the VIP",
    }
    for worker, text in said.items():
        eventually(lambda: logged(nodes.agents[worker], text), why=nodes.agents[worker].text)  # noqa: B023
        eventually(lambda: any(text in m for m in events(server, "HolderDisputed")))  # noqa: B023
    # kube-vip was right before the address was there: when it arrives, there is nothing to dispute.
    nodes.move(source="worker", to="worker-2")
    settled(nodes, holder="worker-2", without="VIPElsewhere")
    eventually(lambda: logged(nodes.agents["worker"], "is held by worker-2"), why=nodes.agents["worker"].text)
    assert seen_by(nodes, "worker-2") == nodes.who.vip
