"""An agent that is killed at any moment: the next one makes everything right, and no right connection is lost."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvctl.cluster.api import read_cluster
from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from tests.agent.changes import change
from tests.agent.process import Watching, eventually, pod_object, service_object, watching
from tests.agent.world import World, foreign_lines
from tests.apiserver import ApiServer
from tests.kernel.node import LAB_SETTINGS, Packets
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node

LONG = bool(os.environ.get("KVCTL_LONG"))
KILLS = 200 if LONG else 4
LONGEST_LIFE = 1.2
"""Seconds after its start at which an agent is killed at the latest: before its first write, in it, after it."""
_MARK = "77"


def steady_objects(server: ApiServer) -> None:
    """A Service and a Pod that stay; a second Pod of it, `mover`, comes and goes."""
    server.put("services", service_object("steady"))
    server.put("pods", pod_object("steady-0", app="steady"))
    put_mover(server)


def put_mover(server: ApiServer) -> None:
    """The Pod at the address of the lab's `peer`."""
    addresses = tuple(each.peer for each in STANDARD.values())
    server.put("pods", pod_object("mover", app="steady", addresses=addresses))


@dataclass
class Scene:
    """A worker with others' rules, connections through it, and a cluster that does not stand still."""

    lab: Lab
    world: World
    directory: Path
    chance: random.Random
    flows: dict[tuple[str, Family, str], Connection]

    @property
    def server(self) -> ApiServer:
        """The cluster's."""
        return self.world.server

    @contextmanager
    def agent(self) -> Iterator[Watching]:
        """A process; at the end of the block it is killed."""
        with watching(self.lab, self.server, self.directory) as it:
            yield it

    def happen(self) -> None:
        """One change."""
        if self.chance.random() < 0.3:
            if self.server.get("pods", "mover", namespace="sip") is None:
                put_mover(self.server)
            else:
                self.server.delete("pods", "mover", namespace="sip")
        else:
            change(self.chance.choice).do(self.world)

    @contextmanager
    def restless(self) -> Iterator[None]:
        """Things happen all the time in the block, and connections are used."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                while not stop.wait(self.chance.uniform(0, 0.05)):
                    self.happen()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="restless")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert failures == []

    def check(self, agent: Watching) -> None:
        """Once it is quiet: rules, connections, others' rules."""
        agent.wait_ready()
        with self.lab.worker.entered():
            config = self.server.kubeconfig(self.directory / "by-hand")
            wanted = read_cluster(kubeconfig=config, context=None)
        node = self.world.node
        eventually(lambda: not node.diff(wanted, prune=True).differs, why=agent.text)
        assert agent.process.poll() is None, agent.text()
        by_hand = node.apply(wanted, prune=True)
        assert (by_hand.restores, [outcome.dropped for outcome in by_hand.outcomes]) == (0, [[], []])
        assert self.sources() == self.expected()
        self.check_steady()

    def check_steady(self) -> None:
        """What no kill may touch: others' rules, and connections that are right."""
        assert self.world.foreign() == self.world.theirs
        for family in Family:
            who = STANDARD[family]
            answer = self.flows["pod", family, "tcp"].ask()
            assert answer is not None
            assert answer.source == who.vip
            words = ("-f", str(family), "-p", "tcp", "--mark", _MARK)
            listed = self.world.node.run("conntrack", "-L", *words)
            assert listed.count(f"dst={who.vip} ") == 1, "the connection was dropped, and picked up again"

    def sources(self) -> dict[tuple[str, Family, str], str | None]:
        """What the outside sees of each connection."""
        answers = {key: flow.ask() for key, flow in self.flows.items()}
        return {key: answer.source if answer else None for key, answer in answers.items()}

    def expected(self) -> dict[tuple[str, Family, str], str]:
        """What it should see."""
        there = self.server.get("pods", "mover", namespace="sip") is not None
        return {
            (pod, family, protocol): STANDARD[family].vip
            if pod == "pod" or there
            else STANDARD[family].worker_eth1
            for pod, family, protocol in self.flows
        }


@pytest.fixture
def scene(lab: Lab, backend: str, server: ApiServer, packets: Packets, tmp_path: Path) -> Iterator[Scene]:
    """Everything in place, and an agent has been there."""
    node = Node(lab.worker, backend=backend, settings=LAB_SETTINGS)
    for family in Family:
        for program in ("kube-proxy", "ufw"):
            node.restore(rules_of(program, family), family=family)
    world = World(server, node)
    world.noted()
    steady_objects(server)
    with ExitStack() as stack:
        it = Scene(lab, world, tmp_path, random.Random(f"{backend} {os.environ.get('KVCTL_SEED', '')}"), {})
        with it.agent() as agent:
            agent.wait_ready()
            for family in Family:
                for pod, port, protocol in (
                    ("pod", 8080, "tcp"),
                    ("pod", 5060, "udp"),
                    ("peer", 5060, "udp"),
                ):
                    to = STANDARD[family].outside_eth1
                    flow = Connection(lab[pod], destination=to, port=port, protocol=protocol)
                    it.flows[pod, family, protocol] = stack.enter_context(flow)
            for family in Family:
                node.run(
                    "conntrack", "-U", "-f", str(family), "-p", "tcp", "--dport", "8080", "--mark", _MARK
                )
            it.check(agent)
        yield it
    assert server.complaints == []


def test_killed_at_any_moment_the_next_agent_makes_all_right(scene: Scene) -> None:
    kills = 0
    while kills < KILLS:
        with scene.restless():
            with scene.agent():
                time.sleep(scene.chance.uniform(0, LONGEST_LIFE))
            kills += 1
            scene.check_steady()
        with scene.agent() as agent:
            scene.check(agent)
            with scene.restless():
                time.sleep(scene.chance.uniform(0, 0.3))
                # The block's end kills it while the next thing happens.
                agent.process.kill()
        kills += 1
        scene.check_steady()
    with scene.agent() as agent:
        scene.check(agent)


def test_what_a_restore_at_boot_brings_back_is_corrected(scene: Scene, packets: Packets) -> None:
    node, server = scene.world.node, scene.server
    server.put("services", service_object("other", vips=("192.168.0.246",)))
    server.put("pods", pod_object("other-0", app="other", addresses=("10.0.1.1",)))
    scene.world.move("192.168.0.246", here=True)
    with scene.agent() as agent:
        scene.check(agent)
        saved = {family: node.save(family=family) for family in Family}
    assert all("KVCTL-SVC" in text for text in saved.values())
    for family in Family:
        _restore(node, "*nat\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n", family)
        assert "KVCTL" not in node.save(family=family)

    # While the node was down: one Service has gone, and an address is another tenant's by now.
    server.delete("services", "steady", namespace="sip")
    server.delete("pods", "other-0", namespace="sip")
    server.put("pods", pod_object("stranger", app="other", namespace="bank", addresses=("10.0.1.1",)))
    for family, text in saved.items():
        _restore(node, f"{text}\n", family)
    node.run("conntrack", "-F")
    stale = scene.sources()  # as long as nobody corrects it
    assert stale == {key: STANDARD[key[1]].vip for key in stale}
    with scene.agent() as agent:
        agent.wait_ready()
        # A TCP connection does not survive that its source changes.
        assert scene.sources() == {
            (pod, family, protocol): None if protocol == "tcp" else STANDARD[family].worker_eth1
            for pod, family, protocol in scene.flows
        }
        assert packets.seen() == packets.who.worker_eth1
    for family in Family:
        assert "KVCTL-SVC" not in node.save(family=family)
        assert "10.0.1.1" not in node.save(family=family)
        assert foreign_lines(node.save(family=family)) == scene.world.theirs[family]


def _restore(node: Node, text: str, family: Family) -> None:
    """As at boot: the tables that are named become what the text says."""
    program = "iptables" if family is Family.IPV4 else "ip6tables"
    node.run(f"{program}-{node.backend}-restore", stdin=text)
