"""Damage to kvctl's rules by whatever happens on a node: noticed within 5 s, told apart from kvctl's own writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvctl import proc
from kvctl.agent.keeper import Keeper
from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.objects import Objects
from kvctl.netfilter import legacy_changes
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.watching import RuleChanges
from kvctl.reconcile.look import Look
from tests.agent.rig import running
from tests.builders import Thing, objects, pod, service
from tests.conftest import MakeNamespace
from tests.marks import Marks
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import HERE, Node, as_text

SERVICE = service("sip/gateway", vip=("192.168.0.245", "2001:db8::245"))
FIRST, BOTH = pod("sip/gateway-0", "10.0.0.1"), pod("sip/gateway-1", "10.0.0.2", "fd00:10::2")
ONE, TWO = objects(SERVICE, FIRST), objects(SERVICE, FIRST, BOTH)
OTHER, WIDER = (
    service("sip/other", vip="192.168.0.246", ports="udp:5060"),
    service("sip/other", vip="192.168.0.246"),
)
OTHERS = pod("sip/other-0", "10.0.0.9")
HISTORY: list[tuple[Sequence[Thing], list[str]]] = [
    ((SERVICE, FIRST, BOTH, pod("sip/gateway-2", "10.0.0.3")), ["iptables"]),
    ((SERVICE, FIRST, BOTH, pod("sip/gateway-2", "10.0.9.3")), ["iptables"]),
    ((SERVICE, FIRST, BOTH), ["iptables"]),
    ((SERVICE, FIRST, pod("sip/gateway-1", "10.0.0.2", "fd00:10::3")), ["ip6tables"]),
    ((SERVICE, OTHER, FIRST, BOTH, OTHERS), ["ip6tables", "iptables"]),
    ((SERVICE, WIDER, FIRST, BOTH, OTHERS), ["iptables"]),
    # What is left of it is removed after its connections have been dropped.
    ((SERVICE, FIRST, BOTH), ["iptables", "iptables"]),
    ((), ["ip6tables", "ip6tables", "iptables", "iptables"]),
]
"""What there is, and by whose binary it comes into the kernel."""
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


def test_no_foreign_change_is_swallowed_by_an_agent_that_does_not_look(
    watching: Watching, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody flushes or adds at some moment of a round that ends without a look; soon all is right again."""
    monkeypatch.setattr(legacy_changes, "_SECONDS", 0.1)
    node = watching.node()
    with running(node.namespace, settings=HERE, told=backend == "nft") as rig:
        rig.say(SERVICE, FIRST)
        for number in range(12):
            pods = (FIRST, BOTH) if number % 2 == 0 else (FIRST,)
            what = DAMAGE["flush of a chain" if number % 3 else "insert above the jump"][0]
            breaker = threading.Timer(number * 0.008, node.iptables, args=what)
            breaker.start()
            rig.say(SERVICE, *pods)
            breaker.join()
            wanted = objects(SERVICE, *pods)
            end = time.monotonic() + 20
            while node.diff(wanted, prune=True).differs:
                assert time.monotonic() < end, number


def test_a_change_that_nobody_disturbs_takes_one_program(
    watching: Watching, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: then the agent knows what a look would show."""
    node = watching.node()
    changes, marks = watching.watch(node)
    keeper = Keeper(settings=HERE, told=backend == "nft", keep_connections=False, clock=time.monotonic)
    programs: list[str] = []
    start = proc.Running.__init__

    def started(self: proc.Running, argv: Sequence[str], **more: Any) -> None:
        programs.append(Path(argv[0]).name)
        start(self, argv, **more)

    def keep(source: Objects, *, read_kernel: bool = False) -> Look:
        with node.namespace.entered(), changes.own_writes():
            return keeper.keep(source, read_kernel=read_kernel, asked=True).applied.found

    keep(objects(), read_kernel=True)
    keep(TWO)  # a first write is looked at: do the binaries write what they read?
    monkeypatch.setattr(proc.Running, "__init__", started)
    for things, changed in HISTORY:
        programs.clear()
        found = keep(objects(*things))
        assert sorted(programs) == [f"{name}-{backend}-restore" for name in changed]
        known = {family: as_text(site.snapshot) for family, site in found.sites.items()}
        seen = keep(objects(*things), read_kernel=True)
        assert {family: as_text(site.snapshot) for family, site in seen.sites.items()} == known
    assert len(marks) == 0


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
