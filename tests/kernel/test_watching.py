"""Damage to kvctl's rules by whatever happens on a node: noticed within 5 s, told apart from kvctl's own writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.objects import Objects
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.watching import RuleChanges
from tests.builders import objects, pod, service
from tests.conftest import MakeNamespace
from tests.marks import Marks
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node

ONE = objects(
    service("sip/gateway", vip=("192.168.0.245", "2001:db8::245")), pod("sip/gateway-0", "10.0.0.1")
)
TWO = objects(
    service("sip/gateway", vip=("192.168.0.245", "2001:db8::245")),
    pod("sip/gateway-0", "10.0.0.1"),
    pod("sip/gateway-1", "10.0.0.2", "fd00:10::2"),
)
DAMAGE = {
    "flush": [["-F"]],
    "flush of a chain": [["-F", "KVCTL-EGRESS"]],
    "deleted jump": [["-D", "POSTROUTING", "1"]],
    "deleted rule": [["-D", "KVCTL-EGRESS", "1"]],
    "insert above the jump": [["-I", "POSTROUTING", "-s", "10.0.0.0/16", "-j", "MASQUERADE"]],
    "docker restart": [
        ["-N", "DOCKER"],
        ["-I", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE"],
        ["-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"],
    ],
}


class Watching:
    """Nodes with kvctl's rules, each watched."""

    def __init__(self, make_namespace: MakeNamespace, backend: str, stack: ExitStack) -> None:
        self._make = make_namespace
        self._backend = backend
        self._stack = stack

    def node(self) -> Node:
        """A node right after an apply."""
        node = Node(self._make(), backend=self._backend)
        node.apply(ONE)
        return node

    def watch(self, node: Node) -> tuple[RuleChanges, Marks]:
        """A running thread, and what it told."""
        marks = Marks()
        with node.namespace.entered():
            changes = RuleChanges(Backend(self._backend), marks)
            changes.start()
        self._stack.callback(changes.stop)
        return changes, marks


@pytest.fixture
def watching(make_namespace: MakeNamespace, backend: str) -> Iterator[Watching]:
    with ExitStack() as stack:
        yield Watching(make_namespace, backend, stack)


def test_damage_of_every_kind_is_noticed_within_five_seconds(watching: Watching, backend: str) -> None:
    nodes = {name: watching.node() for name in [*DAMAGE, *(["flush ruleset"] if backend == "nft" else [])]}
    marks = {name: watching.watch(node)[1] for name, node in nodes.items()}
    begun = {}
    for name, node in nodes.items():
        begun[name] = time.monotonic()
        for arguments in DAMAGE.get(name, []):
            node.iptables(*arguments)
        if name not in DAMAGE:
            node.run("nft", "flush", "ruleset")
    for name, told in marks.items():
        assert told.wait(), name
        assert told.times[0] - begun[name] < (1 if backend == "nft" else 5), name


def test_what_others_have_written_and_read_is_not_told_again(watching: Watching, backend: str) -> None:
    """Ten agents' runs, each with its own write; then one foreign change, which is the only thing told."""
    node = watching.node()
    changes, marks = watching.watch(node)
    for source in (TWO, ONE) * 5:
        with changes.own_writes():
            assert node.apply(source, prune=True).restores
        assert node.statuses() == {"applied"}
    with changes.own_writes():
        assert node.apply(ONE, prune=True).restores == 0
    assert len(marks) == 0
    node.iptables("-F", "KVCTL-EGRESS")
    assert marks.wait()
    assert len(marks) == 1
    with changes.own_writes():
        assert node.apply(ONE, prune=True).restores == 1
    assert not marks.wait(more_than=1, seconds=0.3 if backend == "nft" else 4.5)


@pytest.mark.parametrize("backend", ["nft"])
def test_no_foreign_change_during_a_run_is_swallowed(watching: Watching) -> None:
    """Somebody flushes at some moment of a run; when nothing is left to do, the rules are right."""
    node = watching.node()
    changes, marks = watching.watch(node)
    for number in range(16):
        wanted = TWO if number % 2 == 0 else ONE
        breaker = threading.Timer(number * 0.008, node.iptables, args=("-F", "KVCTL-EGRESS"))
        seen = len(marks)
        breaker.start()
        with changes.own_writes():
            failed = not _applied(node, wanted)
        breaker.join()
        # As the agent: again after a failure, and whenever something was told since the run began.
        while failed or marks.wait(more_than=seen, seconds=0.1):
            seen = len(marks)
            with changes.own_writes():
                failed = not _applied(node, wanted)
        assert not node.diff(wanted, prune=True).differs, number


def _applied(node: Node, source: Objects) -> bool:
    """Whether it went through: against somebody quick enough it does not."""
    try:
        node.apply(source, prune=True)
    except KvctlError:
        return False
    return True


@pytest.mark.parametrize("backend", ["nft"])
def test_a_thousand_commits_in_a_burst_cost_few_calls(watching: Watching) -> None:
    node = watching.node()
    _, marks = watching.watch(node)
    block = "*nat\n-A POSTROUTING -s 10.9.9.9 -j RETURN\nCOMMIT\n*nat\n-D POSTROUTING -s 10.9.9.9 -j RETURN\nCOMMIT\n"
    begun = time.monotonic()
    node.restore(block * 500)
    seconds = time.monotonic() - begun
    ended = time.monotonic()
    node.iptables("-A", "POSTROUTING", "-j", "RETURN")
    while not any(told > ended for told in marks.times):
        assert marks.wait(more_than=len(marks))
    assert len(marks) <= 3 + seconds / 0.1


def test_a_program_that_writes_all_day_is_not_told(watching: Watching, backend: str) -> None:
    """As kube-proxy does: chains of its own anew, again and again, and nothing in POSTROUTING."""
    node = watching.node()
    for family in Family:
        node.restore(rules_of("kube-proxy", family), family=family)
    _, marks = watching.watch(node)
    for number in range(20):
        chain = f"KUBE-SVC-{number}"
        node.restore(f"*nat\n:{chain} - [0:0]\n-A {chain} -s 10.0.0.0/16 -j MASQUERADE\nCOMMIT\n")
        node.restore(f"*nat\n-F {chain}\n-X {chain}\nCOMMIT\n")
    broken = time.monotonic()
    node.iptables("-F", "KVCTL-EGRESS")
    assert marks.wait()
    assert len(marks) == 1
    assert marks.times[0] >= broken
