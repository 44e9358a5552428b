"""Whatever happens to the cluster, its API and the kernel: once it is quiet, the rules are those of a fresh apply."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from kvctl.agent import agent as agent_module
from kvctl.agent.agent import Agent
from kvctl.agent.health import Health
from kvctl.agent.inbox import Inbox
from kvctl.agent.keeper import Keeper
from kvctl.agent.pushback import Pushback
from kvctl.agent.round import Cause, Round
from kvctl.cluster.api import read_cluster
from kvctl.cluster.connection import open_connection
from kvctl.cluster.pace import Pace
from kvctl.cluster.watched import WatchedCluster
from kvctl.model.net import Family
from kvctl.netfilter import legacy_changes
from kvctl.netfilter.kernel import Kernel
from kvctl.netfilter.watching import RuleChanges
from kvctl.node.changes import HostChanges
from tests.agent.changes import beginning, change, mend
from tests.agent.faults import api_fault, clumsy, harm
from tests.agent.world import VIPS, WORKER, Step, World, kept_statuses, our_chains
from tests.apiserver import serving
from tests.conftest import MakeNamespace
from tests.robustness.node import IN_LAB, Node

LONG = bool(os.environ.get("KVCTL_LONG"))
DEADLINE = 20.0
"""Seconds for what takes a tenth of one, or the silence of a watch that hangs."""


def _pause(woken: Event, seconds: float) -> None:
    """However long a server asks us to wait."""
    woken.wait(min(seconds, 0.05))


QUICK = Pace(
    first_delay=0.002,
    longest_delay=0.02,
    healthy_after=5.0,
    answer=0.3,
    silence=0.4,
    at_once=0.02,
    absent=0.05,
    pause=_pause,
)


class Patient(Pushback):
    """Repairs at once, however often: what it does instead has tests of its own."""

    def repaired(self, *, now: float) -> None:
        """As Pushback."""


@dataclass
class Running:
    """An agent in this process, put together as the command does it."""

    cluster: WatchedCluster
    agent: Agent
    inbox: Inbox
    rounds: list[Round] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def round(self, done: Round) -> None:
        """Take note, as outputs do."""
        self.rounds.append(done)

    def complaints(self) -> list[str]:
        """Everything that is a fault of kvctl, and none of the world's."""
        said = [str(error) for done in self.rounds for error in done.errors]
        said += [state.last_error or "" for state in self.cluster.states()]
        return [text for text in said if text.startswith("unexpected ")] + list(map(repr, self.failures))


@contextmanager
def running(world: World, config: str) -> Iterator[Running]:
    """An agent until the end of the block."""
    inbox = Inbox()
    connection = open_connection(kubeconfig=config, context=None)
    cluster = WatchedCluster(connection, node=WORKER, notify=inbox.marker(Cause.OBJECTS), pace=QUICK)
    keeper = Keeper(
        settings=world.node.settings,
        told=world.node.backend == "nft",
        keep_connections=False,
        clock=time.monotonic,
    )
    keeper.pushback = Patient()
    outputs: list[Running] = []
    agent = Agent(
        cluster=cluster,
        keeper=keeper,
        inbox=inbox,
        health=Health(),
        outputs=outputs,
        watch_rules=lambda backend: RuleChanges(backend, inbox.marker(Cause.KERNEL)),
    )
    it = Running(cluster, agent, inbox)
    outputs.append(it)

    def run() -> None:
        try:
            with world.node.namespace.entered():
                host = HostChanges(inbox.marker(Cause.ADDRESSES))
                host.start()
                try:
                    agent.run()
                finally:
                    host.stop()
        except BaseException as error:
            it.failures.append(error)

    thread = threading.Thread(target=run, name="agent")
    cluster.start()
    thread.start()
    try:
        yield it
    finally:
        inbox.stop()
        thread.join(DEADLINE)
        cluster.stop()
        connection.close()
        assert not thread.is_alive(), "the agent does not stop"


@dataclass(frozen=True)
class Restart:
    """The agent ends, and another begins."""


def history_of(chance: random.Random) -> list[list[Step | Restart]]:
    """A node that has rules already, and then bursts: a few things that happen one upon the other."""

    def step() -> Step | Restart:
        match chance.choice(("change",) * 8 + ("api",) * 2 + ("kernel",) * 3 + ("restart",)):
            case "change":
                return change(chance.choice)
            case "api":
                return api_fault(chance.choice)
            case "kernel":
                return harm(chance.choice)
        return Restart()

    bursts = [[step() for _ in range(chance.randint(1, 9))] for _ in range(chance.randint(2, 5))]
    return [[*beginning(chance.choice)], *bursts]


@pytest.fixture
def nodes(make_namespace: MakeNamespace, backend: str) -> tuple[Node, Node]:
    """Where things happen, and where nothing has happened before."""
    both = []
    for _ in range(2):
        namespace = make_namespace()
        namespace.batch(
            [
                "link add eth1 type veth peer name cable",
                "addr add 192.168.0.240/24 dev eth1",
                "addr add 2001:db8:1::240/64 dev eth1 nodad",
                "link set eth1 up",
                "link set cable up",
            ]
        )
        both.append(Node(namespace, backend=backend, settings=IN_LAB._replace(node=WORKER)))
    return both[0], both[1]


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Legacy's rules are looked at, and rounds that failed are made again, without much waiting."""
    monkeypatch.setattr(legacy_changes, "_SECONDS", 0.2)
    monkeypatch.setattr(legacy_changes, "_POSTPONED_SECONDS", 0.05)
    monkeypatch.setattr(agent_module, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(agent_module, "LONGEST_RETRY", 0.2)


@settings(
    max_examples=int(os.environ.get("KVCTL_EXAMPLES", "1500")) if LONG else 8,
    deadline=None,
    derandomize=not LONG,
    database=None,
    phases=[Phase.generate],  # threads take turns as they like: a shorter example is another one
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32 - 1))
def test_once_things_are_quiet_the_rules_are_right(nodes: tuple[Node, Node], haste: None, seed: int) -> None:
    # Drawn by a generator and not by hypothesis, which likes its histories small and alike.
    history = history_of(random.Random(seed))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        server = stack.enter_context(serving(bookmark_seconds=0.05))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = server.kubeconfig(directory / "config")
        node, fresh = nodes
        world, other = World(server, node), World(server, fresh)
        for each in (world, other):
            each.vips = _vips_of(each.node)
            each.begin()
        patch.setattr(Kernel, "write", clumsy(world, Kernel.write))
        _live(world, config, history)
        _check_from_nothing(world, other, config)


def _live(world: World, config: str, history: list[list[Step | Restart]]) -> None:
    """Let it all happen to one agent after the other, and wait for quiet after each burst."""
    agents = ExitStack()
    try:
        it = agents.enter_context(running(world, config))
        for burst in history:
            for step in burst:
                note(f"{step}")
                if isinstance(step, Restart):
                    agents.close()
                    assert it.complaints() == []
                    it = agents.enter_context(running(world, config))
                else:
                    step.do(world)
            note("--- quiet")
            _check(world, it, config)
        mend(world)
        _check(world, it, config)
    finally:
        agents.close()
    assert it.complaints() == []


def _idle_statuses(last: Round) -> dict[tuple[str, str], str]:
    """What the agent knows of Services without a pod here, and has no reason to speak of."""
    idle = last.resolution.idle if last.resolution is not None else {}
    return {(str(ref), str(skip.family)): str(skip.status) for ref, skips in idle.items() for skip in skips}


def _check(world: World, it: Running, config: str) -> None:
    """As soon as no more faults come, the kernel is as a fresh apply would make it, and the agent says so."""
    world.server.mend()
    world.clumsiness.clear()
    wanted = read_cluster(kubeconfig=config, context=None)
    end = time.monotonic() + DEADLINE
    while True:
        compared = world.node.diff(wanted, prune=True)
        last = it.agent.last
        told = {**_idle_statuses(last), **kept_statuses(last.items)} if last is not None else {}
        found = kept_statuses(compared.items)
        if not compared.differs and told == found and it.cluster.synced:
            break
        if time.monotonic() > end:
            for done in it.rounds[-8:]:
                note(f"{sorted(done.causes)} {done.restores} {[str(error) for error in done.errors]}")
            note(f"{it.cluster.states()}")
            raise AssertionError((compared.changes(), told, found))
        assert it.failures == []
        time.sleep(0.02)
    assert world.foreign() == world.theirs
    assert it.complaints() == []


def _check_from_nothing(world: World, other: World, config: str) -> None:
    """The same objects applied where nothing was before give the same chains; and here nothing is left to do."""
    for vip in world.vips:
        other.move(vip, here=True)
    wanted = read_cluster(kubeconfig=config, context=None)
    again = world.node.apply(wanted, prune=True)
    assert (again.restores, [outcome.dropped for outcome in again.outcomes]) == (0, [[], []])
    other.node.apply(wanted, prune=True)
    for family in Family:
        assert our_chains(world.node.save(family=family)) == our_chains(other.node.save(family=family))


def _vips_of(node: Node) -> set[str]:
    """The VIPs that an example before has left on eth1."""
    text = node.run("ip", "-o", "addr", "show", "dev", "eth1").split()
    return {vip for vip in VIPS if f"{vip}/{128 if ':' in vip else 32}" in text}
