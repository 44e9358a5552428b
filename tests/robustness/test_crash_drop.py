"""A run that is killed anywhere while the VIP comes or goes lets nothing out, and the next one puts all right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from kvctl.model.objects import Objects, Service
from tests.builders import objects, pod, service
from tests.conftest import MakeLab
from tests.robustness.node import IN_LAB, Node
from tests.robustness.test_crash import LONG, Axe, Killed

PORTS = (5060, 5061)
SOON = 0.05
"""Seconds without an answer after which there is none."""
DROP = {"kvctl.io/without-vip": "drop"}


@dataclass
class Scene:
    """A worker whose VIP comes and goes, two flows of its pod, and who hears them."""

    node: Node
    family: Family
    pod: Namespace
    echo: Echo
    flows: dict[int, Connection]

    def move(self, *, here: bool) -> None:
        """Put the VIP on eth1, or take it off."""
        vip = STANDARD[self.family].vip
        self.node.run("ip", "addr", "flush", "dev", "eth1", "to", vip)
        if here:
            length, more = (128, ["nodad"]) if ":" in vip else (32, [])
            self.node.run("ip", "addr", "add", f"{vip}/{length}", "dev", "eth1", *more)

    def apply(self, *services: Service) -> None:
        self.node.apply(self._objects(services))

    def _objects(self, services: Sequence[Service]) -> Objects:
        return objects(*services, pod("sip/sip-client-0", STANDARD[self.family].pod))

    def wanted(self, **arguments: object) -> Service:
        """The Service, dropping unless told otherwise."""
        given = {"vip": STANDARD[self.family].vip, "annotations": DROP, "ports": "udp:5060-5061", **arguments}
        return service(**given)  # type: ignore[arg-type]

    def other(self) -> Service:
        """A Service of the same pod whose VIP (the worker's own second address stands for it) stays here."""
        return service(
            "sip/other",
            vip=STANDARD[self.family].worker_eth0,
            ports="udp:5061",
            created=1_600_000_000,
            selector={"app": "sip-client"},
        )

    def heard(self) -> dict[int, set[str]]:
        """The sources that the outside heard of each port since it was asked last."""
        found = {port: self.echo.sources(port=port) for port in PORTS}
        self.echo.heard.clear()
        return found

    def seen(self) -> dict[int, set[str]]:
        """What it hears now of the flows that are there, and of new ones."""
        self.heard()
        destination = STANDARD[self.family].outside_eth1
        for port, flow in self.flows.items():
            flow.ask(timeout=SOON)
            probe(self.pod, destination=destination, port=port, timeout=SOON)
        return self.heard()

    def reset(self) -> None:
        self.node.flush()
        self.move(here=True)
        self.node.run("conntrack", "-F")


@dataclass(frozen=True)
class Case:
    """A change, what the outside hears of each port after it, and whether nothing else may be heard on the way."""

    before: Callable[[Scene], None]
    change: Callable[[Scene], None]
    after: Callable[[Scene], dict[int, set[str]]]
    tight: bool = True


def _with_vip(scene: Scene) -> None:
    scene.move(here=True)
    scene.apply(scene.wanted())


def _without_vip(scene: Scene) -> None:
    scene.move(here=False)
    scene.apply(scene.wanted())


def _leaks(scene: Scene) -> None:
    scene.move(here=False)
    scene.apply(scene.wanted(annotations={}))


def _beside_another(scene: Scene) -> None:
    scene.move(here=False)
    scene.apply(scene.wanted(), scene.other())


def _above_another(scene: Scene) -> None:
    scene.move(here=False)
    scene.apply(scene.wanted(created=1), scene.other())


def _in_the_other_back_end(scene: Scene) -> None:
    scene.move(here=False)
    other = "legacy" if scene.node.backend == "nft" else "nft"
    replace(scene.node, backend=other).apply(scene._objects([scene.wanted()]))


def _silence(scene: Scene) -> dict[int, set[str]]:
    return {5060: set(), 5061: set()}


def _vip(scene: Scene) -> dict[int, set[str]]:
    return {port: {STANDARD[scene.family].vip} for port in PORTS}


def _node(scene: Scene) -> dict[int, set[str]]:
    return {port: {STANDARD[scene.family].worker_eth1} for port in PORTS}


CASES = {
    "vip-leaves": Case(_with_vip, _without_vip, _silence),
    "vip-comes": Case(_without_vip, _with_vip, _vip),
    "asked-first": Case(_leaks, _without_vip, _silence, tight=False),
    "asks-no-more": Case(_without_vip, _leaks, _node, tight=False),
    "fewer-ports": Case(
        _without_vip,
        lambda s: s.apply(s.wanted(ports="udp:5060")),
        lambda s: {5060: set(), 5061: {STANDARD[s.family].worker_eth1}},
        tight=False,
    ),
    "another-takes-over": Case(
        _without_vip, _beside_another, lambda s: {5060: set(), 5061: {STANDARD[s.family].worker_eth0}}
    ),
    "another-falls-behind": Case(_beside_another, _above_another, _silence),
    "flush": Case(_without_vip, lambda s: _ignore(s.node.flush()), _node, tight=False),
    "other-back-end": Case(_in_the_other_back_end, _without_vip, _silence),
}


def _ignore(_: object) -> None:
    """A step has no answer."""


@pytest.fixture
def family(backend: str) -> Family:
    """One family a back end: the order of writing is decided in one place for all four."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def scene(make_lab: MakeLab, backend: str, family: Family) -> Iterator[Scene]:
    lab = make_lab(backend=backend)
    node = Node(lab.worker, backend=backend, settings=IN_LAB)
    with Echo(lab.outside, ports=PORTS) as echo, ExitStack() as stack:
        destination = STANDARD[family].outside_eth1
        flows = {
            port: stack.enter_context(Connection(lab.pod, destination=destination, port=port))
            for port in PORTS
        }
        yield Scene(node, family, lab.pod, echo, flows)


@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere_nothing_gets_out_and_the_second_try_is_right(
    scene: Scene, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    case.before(scene)
    case.change(scene)
    right = scene.node.save(family=scene.family)
    assert scene.seen() == case.after(scene)
    scene.reset()
    allowed = {STANDARD[scene.family].vip, STANDARD[scene.family].worker_eth0}
    for at in range(0, 20, 1 if LONG or name.startswith("vip") else 2):
        case.before(scene)
        scene.seen()
        with monkeypatch.context() as patch:
            Axe(at=at).over(patch)
            try:
                case.change(scene)
                survived = True
            except Killed:
                survived = False
        halfway = scene.seen()
        if case.tight:
            assert (at, set().union(*halfway.values()) - allowed) == (at, set())
        case.change(scene)
        assert (at, scene.seen()) == (at, case.after(scene))
        assert (at, scene.node.save(family=scene.family)) == (at, right)
        assert not {"drifted", "retiring"} & scene.node.statuses()
        scene.reset()
        for text in scene.node.saved().values():
            assert "KVCTL" not in text
        if survived:
            break
    assert survived
    assert at >= 2
