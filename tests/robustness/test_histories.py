"""Whatever happened before, in any order: one apply, and the kernel is as if nothing had."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.model.objects import Objects, Service
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.diff import Plan
from kvctl.netfilter.effect import written
from kvctl.netfilter.kernel import Write
from kvctl.netfilter.syntax import parse
from kvctl.netfilter.watching import RuleChanges
from kvctl.policy.annotations import WITHOUT_VIP
from kvctl.policy.decode import Installed, decode
from kvctl.policy.dispatch import Hints
from kvctl.reconcile import site as site_module
from kvctl.reconcile.site import Site
from tests.builders import DUAL_STACK, networks, objects, pod, service
from tests.conftest import MakeNamespace
from tests.marks import Marks
from tests.robustness.node import Node, as_text, is_ours
from tests.robustness.test_crash import Axe, Killed

LONG = bool(os.environ.get("KVCTL_LONG"))
NAMES = tuple(f"shop/{name}" for name in ("alpha", "beta", "gamma"))
VIPS = ("192.168.0.245", "192.168.0.246", "2001:db8:1::245", "2001:db8:1::246")
PODS = tuple(
    pod(f"shop/all-{n}", f"10.0.{n // 7}.{n * 5 + 1}", f"fd00:10::{n * 5 + 1:x}", labels=labels)
    for n, labels in enumerate(
        [{"a": "1"}] * 5 + [{"b": "1"}] * 4 + [{"a": "1", "b": "1"}] * 3 + [{"c": "1"}] * 9, start=1
    )
)


@pytest.fixture(autouse=True)
def a_look_shows_what_is_known_without_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each write that was alone."""
    real = Site.wrote
    checked: list[Plan] = []

    def wrote(site: Site, plan: Plan, write: Write) -> None:
        expected = written(site.snapshot, plan) if write.alone else None
        real(site, plan, write)
        if expected is not None:
            site.reread()
            assert as_text(expected) == as_text(site.snapshot)
            checked.append(plan)

    monkeypatch.setattr(Site, "wrote", wrote)
    yield
    assert checked


@pytest.fixture(autouse=True)
def what_is_expected_is_read_as_if_it_were_not(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is known again by what is wanted must be just what is read from the rules' text."""
    hinted: list[int] = []

    def decode_twice(snapshot: Snapshot, *, hints: Hints) -> Installed:
        found = decode(snapshot, hints=hints)
        chains = {name: tuple(map(_read_anew, rules)) for name, rules in snapshot.chains.items()}
        assert _contents(found) == _contents(decode(snapshot._replace(chains=chains)))
        hinted.append(len(hints.policies))
        return found

    monkeypatch.setattr(site_module, "decode", decode_twice)
    yield
    assert any(hinted)


def _read_anew(found: FoundRule) -> FoundRule:
    return found._replace(rule=parse(found.text))


def _contents(installed: Installed) -> object:
    own, drops = (
        (dict(part.services.items()), sorted(part.entries)) for part in (installed, installed.drops)
    )
    return own, drops, installed.exclusions, installed.retiring, installed.guards, installed.marks


@st.composite
def services(draw: st.DrawFn, name: str) -> Service:
    """A Service in one of many shapes; a few are refused for what is written in them."""
    vips = draw(st.lists(st.sampled_from(VIPS), min_size=1, max_size=3, unique=True))
    return service(
        name,
        vip=vips,
        selector=draw(st.sampled_from([{"a": "1"}, {"b": "1"}, {"c": "1"}, {"app": "all"}, {"app": "none"}])),
        ports=draw(st.sampled_from([None, "udp:5060", "tcp:80,tcp:443,udp:1-9", "udp:0"])),
        allowed=draw(st.sampled_from([None, "203.0.113.0/24,2001:db8:99::/64", "198.51.100.0/24"])),
        denied=draw(st.sampled_from([None, "203.0.113.9/32", "2001:db8:98::/64"])),
        policy=draw(st.sampled_from(["Local", "Local", "Local", "Cluster"])),
        created=draw(st.integers(0, 3)),
        annotations=draw(
            st.sampled_from([{}, {WITHOUT_VIP: "drop"}, {WITHOUT_VIP: "drop"}, {WITHOUT_VIP: "Drop"}])
        ),
    )


@dataclass(frozen=True)
class Watched(Namespace):
    """Who enters it finds out which of his writes were alone, as an agent does."""

    changes: RuleChanges

    @contextmanager
    def entered(self) -> Iterator[None]:
        """As Namespace."""
        with super().entered(), self.changes.own_writes():
            yield


@dataclass
class World:
    """A namespace, what the source says by now, and what others have written."""

    node: Node
    source: dict[str, Service] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    """The VIPs that are not on the node."""

    @property
    def objects(self) -> Objects:
        return objects(*self.source.values(), *PODS)

    def ours(self, family: Family) -> list[tuple[str, str, str]]:
        """(table, chain, rule) of every rule of kvctl's."""
        found: list[tuple[str, str, str]] = []
        table = ""
        for line in self.node.save(family=family).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A ") and is_ours(line):
                _, chain, rule = line.split(" ", 2)
                found.append((table, chain, rule))
        return found


Step = Callable[[World], None]
_FAMILIES = st.sampled_from(list(Family))


def _changed(name: str, wanted: Service | None) -> Step:
    def step(world: World) -> None:
        world.source.pop(name, None)
        if wanted is not None:
            world.source[name] = wanted

    return step


def _applied(names: tuple[str, ...], *, prune: bool, excluded: bool) -> Step:
    def step(world: World) -> None:
        extra = (
            DUAL_STACK._replace(exclude_cidrs=networks("203.0.113.128/25", "2001:db8:97::/64"))
            if excluded
            else DUAL_STACK
        )
        # One Service alone must not change the excluded networks of the others.
        with suppress(KvctlError) if names else nullcontext():
            replace(world.node, settings=extra).apply(world.objects, *names, prune=prune)

    return step


def _flushed(names: tuple[str, ...]) -> Step:
    def step(world: World) -> None:
        world.node.flush(*names)

    return step


def _killed(at: int) -> Step:
    def step(world: World) -> None:
        with pytest.MonkeyPatch.context() as patch:
            Axe(at=at).over(patch)
            with suppress(Killed):
                world.node.apply(world.objects, prune=True)

    return step


def _moved(vip: str) -> Step:
    """The VIP leaves the node, or comes back."""

    def step(world: World) -> None:
        world.away ^= {vip}
        _bind(world.node, away=world.away)

    return step


def _bind(node: Node, *, away: set[str]) -> None:
    present = [vip for vip in VIPS if vip not in away]
    lines = [
        f"addr add {vip}/128 dev here nodad" if ":" in vip else f"addr add {vip}/32 dev here"
        for vip in present
    ]
    node.namespace.batch(["addr flush dev here", *lines])


def _inserted_above(family: Family, table: str, rule: str) -> Step:
    def step(world: World) -> None:
        network = "10.0.0.0/16" if family is Family.IPV4 else "fd00:10::/64"
        world.node.iptables(
            "-I", "POSTROUTING", "1", *rule.format(pods=network).split(), family=family, table=table
        )

    return step


def _damaged(family: Family, kind: str, which: int) -> Step:
    def step(world: World) -> None:
        rules = world.ours(family)
        if not rules:
            return
        table, chain, rule = rules[which % len(rules)]
        line = {
            "delete": f"-D {chain} {rule}",
            "repeat": f"-A {chain} {rule}",
            "to-the-head": f"-D {chain} {rule}\n-I {chain} 1 {rule}",
            "empty": f":{chain} - [0:0]" if chain != "POSTROUTING" else f"-D {chain} {rule}",
            "stranger": f"-I {chain} 1 -p tcp -j RETURN" if chain != "POSTROUTING" else f"-D {chain} {rule}",
            "retag": f"-A {chain} {rule.replace('kvctl:', 'kvctl:x', 1)}",
        }[kind]
        if kind == "retag" and chain == "POSTROUTING":
            return
        world.node.restore(f"*{table}\n{line}\nCOMMIT\n", family=family)

    return step


_STEPS = st.one_of(
    st.sampled_from(NAMES).flatmap(
        lambda name: st.builds(_changed, st.just(name), st.one_of(st.none(), services(name), services(name)))
    ),
    st.builds(
        _applied,
        st.lists(st.sampled_from(NAMES), max_size=1).map(tuple),
        prune=st.booleans(),
        excluded=st.sampled_from([False, False, False, True]),
    ),
    st.builds(_flushed, st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(tuple)),
    st.builds(_killed, st.integers(0, 6)),
    st.builds(_moved, st.sampled_from(VIPS)),
    st.builds(
        _inserted_above,
        _FAMILIES,
        st.just("nat"),
        st.sampled_from(
            ["-s {pods} -j MASQUERADE", "-j MARK --set-mark 0x1", "-p tcp -j ACCEPT", "-j THEIRS"]
        ),
    ),
    st.builds(
        _inserted_above,
        _FAMILIES,
        st.just("mangle"),
        st.sampled_from(["-s {pods} -j ACCEPT", "-j MARK --set-mark 0x1", "-p tcp -j TOS --set-tos 0x10"]),
    ),
    st.builds(
        _damaged,
        _FAMILIES,
        st.sampled_from(["delete", "repeat", "to-the-head", "empty", "stranger", "retag"]),
        st.integers(0, 60),
    ),
)


@pytest.fixture
def nodes(make_namespace: MakeNamespace, backend: str) -> Iterator[tuple[Node, Node]]:
    """Where things happen, watched as by an agent, and where nothing has happened before."""
    node, fresh = (Node(make_namespace(), backend=backend, settings=DUAL_STACK) for _ in range(2))
    for each in (node, fresh):
        each.namespace.batch(["link add here type veth peer name there", "link set here up"])
    with node.namespace.entered():
        changes = RuleChanges(Backend(backend), Marks())
    yield replace(node, namespace=Watched(node.namespace.name, changes)), fresh
    changes.stop()


@settings(
    max_examples=300 if LONG else 12,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    start=st.tuples(*(services(name) for name in NAMES)),
    steps=st.lists(_STEPS, min_size=3, max_size=25 if LONG else 12),
    end=st.lists(st.sampled_from(NAMES), unique=True),
)
def test_one_apply_ends_every_history(
    nodes: tuple[Node, Node], start: tuple[Service, ...], steps: list[Step], end: list[str]
) -> None:
    node, fresh = nodes
    for each in nodes:
        _clean(each)
    world = World(node, dict(zip(NAMES, start, strict=True)))
    node.apply(world.objects)
    for step in steps:
        note(f"{step.__qualname__} {[cell.cell_contents for cell in step.__closure__ or ()]}")
        theirs = _foreign(node) if step.__qualname__.startswith(("_applied", "_flushed", "_killed")) else None
        step(world)
        if theirs is not None:
            assert _foreign(node) == theirs
    # The last word of the source has nothing faulty in it: what is faulty keeps what was before.
    world.source = {name: _mended(world.source[name]) for name in end if name in world.source}
    _bind(fresh, away=world.away)
    theirs = _foreign(node)
    node.apply(world.objects, prune=True)
    fresh.apply(world.objects)

    assert node.apply(world.objects, prune=True).restores == 0
    assert not node.diff(world.objects, prune=True).differs
    assert node.statuses() <= {"applied", "elsewhere"}
    for family in Family:
        assert _chains(node, family) == _chains(fresh, family)
    assert _foreign(node) == theirs

    node.flush()
    assert "KVCTL" not in "".join(node.saved().values())
    assert _foreign(node) == theirs


def _mended(found: Service) -> Service:
    faultless = {key: value for key, value in found.annotations.items() if value not in ("udp:0", "Drop")}
    return found._replace(annotations=faultless)


def _foreign(node: Node) -> dict[Family, list[str]]:
    """Other programs' rules, without their counters: nothing sends here."""
    return {
        family: [
            line
            for line in node.save(family=family).splitlines()
            if line.startswith("-A") and not is_ours(line)
        ]
        for family in Family
    }


def _chains(node: Node, family: Family) -> dict[str, list[str]]:
    """Our chains with their rules; which chain was made first does not matter."""
    found: dict[str, list[str]] = {}
    for line in filter(is_ours, node.save(family=family).splitlines()):
        if line.startswith(":"):
            found[line[1:].split()[0]] = []
        else:
            found.setdefault(line.split()[1], []).append(line)
    return found


def _clean(node: Node) -> None:
    _bind(node, away=set())
    for family in Family:
        for table in ("nat", "mangle"):
            node.restore(f"*{table}\n:THEIRS - [0:0]\nCOMMIT\n", family=family)
            node.iptables("-F", family=family, table=table)
            node.iptables("-X", family=family, table=table)
        node.restore("*nat\n:THEIRS - [0:0]\n-A THEIRS -p udp -j RETURN\nCOMMIT\n", family=family)
