"""The fence, by packets: the VIP while heartbeats come, and then what the Service asks for without it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, Sender, probe
from kvctl.model.net import Family, parse_address
from kvctl.model.objects import Service
from kvctl.model.policy import Fence
from kvctl.model.ref import ServiceRef
from kvctl.netfilter import fence
from kvctl.netfilter.kernel import witnessed
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.layout import fence_name
from kvctl.policy.resolve import resolve
from kvctl.policy.verdict import Wanted
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.detail import detail
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Status
from kvctl.reconcile.run import Applied, apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, ref, service
from tests.kernel.conftest import PORTS
from tests.kernel.node import SECOND_VIPS, VIPS, Thing, Worker, lab_pod, show_server_the_way
from tests.waiting import until

SOON = 0.15
"""Seconds without an answer after which there is none: the lab's wires take microseconds."""
SECONDS = 60
"""How long a heartbeat counts where none is to run out in the test."""


@dataclass(frozen=True)
class Elected:
    """A worker whose agent holds the Leases of some Services."""

    worker: Worker
    seconds: int = SECONDS
    fenced: Collection[ServiceRef] = (ref("sip/sip-client"),)
    drops: bool = False

    @property
    def fences(self) -> list[tuple[Family, str]]:
        return [(f, fence_name(parse_address(vip))) for f, vip in zip(Family, VIPS, strict=True)]

    def beat(self) -> None:
        with self.worker.lab[self.worker.name].entered():
            assert fence.beat(self.fences) == []

    def still(self) -> None:
        """As if the last heartbeat were long ago."""
        with self.worker.lab[self.worker.name].entered():
            assert fence.still([name for _, name in self.fences]) == []

    def apply(self, *things: Thing, beating: bool = True, named: Collection[str] | None = None) -> Applied:
        with self.worker.lab[self.worker.name].entered(), namespace_lock(timeout=10):
            wish = self._wish(*things, named=named)
            if not beating:
                return apply(look(told=None), wish, drop_connections=True)
            with witnessed(lambda *_: self._beat_what_is_there()):
                return apply(look(told=None), wish, drop_connections=True)

    def compare(self, *things: Thing) -> Compared:
        with self.worker.lab[self.worker.name].entered():
            wish = self._wish(*things)
            return compare(look(told=None), wish, scope=wish.scope)

    def problems(self, family: Family) -> list[str]:
        """What `kvctl egress show` names first."""
        with self.worker.lab[self.worker.name].entered():
            found = look(told=None)
            compared = compare(found, None, scope=Scope())
            details = detail(found, compared, host=read_host(), assume_vip=False)
        return [text for it in details if it.item.family is family for text in it.item.problems or ()]

    def _beat_what_is_there(self) -> None:
        fence.beat(self.fences)  # one family is written before the other

    def _wish(self, *things: Thing, named: Collection[str] | None = None) -> Wish:
        host, settings = read_host(), self.worker.settings
        resolution = resolve(objects(*things), settings, host=host)
        wanted = tuple(map(self._with_fence, resolution.wanted))
        scope = Scope(named=frozenset(map(ref, named)) if named is not None else None)
        return Wish(resolution=replace(resolution, wanted=wanted), scope=scope, settings=settings, host=host)

    def _with_fence(self, it: Wanted) -> Wanted:
        policy = it.policy
        if policy.ref not in self.fenced:
            return it
        its = Fence(fence_name(policy.vip), self.seconds)
        return it._replace(policy=policy._replace(fence=its, drops_without_vip=self.drops))


@pytest.fixture
def outside(lab: Lab) -> Iterator[Echo]:
    """What the outside hears."""
    show_server_the_way(lab)
    with ExitStack() as stack:
        for name in ("server", "peer"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        yield stack.enter_context(Echo(lab.outside, ports=PORTS))


def client(**arguments: object) -> Service:
    return service(**{"vip": VIPS, **arguments})  # type: ignore[arg-type]


def ask(lab: Lab, family: Family, port: int = 5060, *, to: str | None = None) -> str | None:
    """The source that the other end saw of a new connection of the pod; None: nothing came back soon."""
    destination = to if to is not None else STANDARD[family].outside_eth1
    answer = probe(lab.pod, destination=destination, port=port, timeout=SOON)
    return answer.source if answer is not None else None


@pytest.mark.parametrize("drops", [False, True], ids=["node-address", "drop"])
def test_the_vip_is_used_while_heartbeats_come(
    lab: Lab, worker: Worker, outside: Echo, *, drops: bool
) -> None:
    elected = Elected(worker, drops=drops)
    before = worker.saved_tables()
    elected.apply(client(ports="udp:5060"), lab_pod())
    for family, who in STANDARD.items():
        without = None if drops else who.worker_eth1
        elected.beat()
        with Connection(lab.pod, destination=who.outside_eth1, port=5060, timeout=SOON) as old:
            assert old.ask() is not None
            elected.still()
            assert old.ask() is None
            assert ask(lab, family) == without
            # What the Service does not take, and what stays in the cluster.
            assert ask(lab, family, 5061) == who.worker_eth1
            assert ask(lab, family, to=who.peer) == who.pod
            assert elected.problems(family)[0].startswith("no heartbeat has come")
            elected.beat()
            assert not any("heartbeat" in text for text in elected.problems(family))
            assert old.ask() is not None
        assert ask(lab, family) == who.vip
        assert outside.sources(port=5060, protocol="udp") >= {who.vip}
    assert drops == outside.sources(port=5060, protocol="udp").isdisjoint(
        who.worker_eth1 for who in STANDARD.values()
    )
    assert elected.apply(client(ports="udp:5060"), lab_pod()).restores == 0
    assert not elected.compare(client(ports="udp:5060"), lab_pod()).differs
    listed = [item for item in worker.listed() if item.ref is not None]
    assert {item.status for item in listed} == {Status.APPLIED}
    worker.flush("sip/sip-client")
    assert worker.saved_tables() == before


@pytest.mark.parametrize("backend", ["nft"])
def test_a_fenced_vip_that_is_away_is_its_leases_to_decide(lab: Lab, worker: Worker) -> None:
    elected, who = Elected(worker), STANDARD[Family.IPV4]
    elected.apply(client(), lab_pod())
    lab.worker.batch([f"addr flush to {who.vip}/32"])
    said = f"the VIP {who.vip} is on no interface of this node (its Lease decides which node has it)"
    assert any(text.startswith(said) for text in elected.problems(Family.IPV4))
    listed = lab.kvctl("egress", "list", env={}).stderr
    assert said in listed
    assert "--with-vip" not in listed


def test_a_heartbeat_counts_as_long_as_it_says(lab: Lab, worker: Worker, outside: Echo) -> None:
    elected = Elected(worker, seconds=1)
    elected.apply(client(), lab_pod())
    family = worker.family_of_backend()
    who = STANDARD[family]
    with Connection(lab.pod, destination=who.outside_eth1, port=5060, timeout=SOON) as old:
        elected.beat()
        sent = time.monotonic()
        assert old.ask() is not None
        until(lambda: ask(lab, family, 5061) == who.worker_eth1, seconds=10)
        assert time.monotonic() - sent > 0.9
        assert old.ask() is None
        last = sorted(outside.sources(port=5060))
        assert last == [who.vip]


def test_other_services_and_other_programs_notice_nothing(lab: Lab, worker: Worker, outside: Echo) -> None:
    for family in Family:
        for table in ("nat", "mangle"):
            worker.iptables(
                family, "-t", table, "-A", "POSTROUTING", "-p", "udp", "--dport", "9", "-j", "RETURN"
            )
    before = worker.saved_tables()
    worker.bind(*SECOND_VIPS)
    other = service("sip/other", vip=SECOND_VIPS, ports="udp:7000", selector={"app": "sip-client"}, created=1)
    elected = Elected(worker, drops=True)
    elected.apply(client(), other, lab_pod())
    elected.still()
    for family, second in zip(Family, SECOND_VIPS, strict=True):
        assert ask(lab, family, 7000) == second
        assert ask(lab, family, 5060) is None
    # One alone by name, from what the kernel says of the other: its fence and its silence stay.
    changed = other._replace(
        annotations={**other.annotations, "kube-vip.io/egress-destination-ports": "udp:8000"}
    )
    elected.apply(client(), changed, lab_pod(), named=["sip/other"])
    elected.still()
    for family, second in zip(Family, SECOND_VIPS, strict=True):
        assert ask(lab, family, 8000) == second
        assert ask(lab, family, 7000) is None
    elected.beat()
    for family, who in STANDARD.items():
        assert ask(lab, family, 7000) == who.vip
    worker.flush("sip/other")
    elected.still()
    for family in Family:
        assert ask(lab, family, 8000) is None
    worker.flush()
    after = worker.saved_tables()
    assert after == before


def test_a_sender_never_sees_its_fence_change(lab: Lab, worker: Worker, outside: Echo) -> None:
    """The list of a name lives on while its rules are replaced: nothing leaves as the node."""
    family = worker.family_of_backend()
    who = STANDARD[family]
    short = Elected(worker, drops=False)
    short.apply(client(), lab_pod())
    with ExitStack() as stack:
        senders = [
            stack.enter_context(
                Sender(lab.pod, destination=who.outside_eth1, port=5060, fresh=fresh, timeout=0.5)
            )
            for fresh in (True, False)
        ]
        for sender in senders:
            sender.wait_for(5)
        for seconds in (30, 90, 40):
            # Nobody beats meanwhile: the heartbeat before has to survive the change.
            replace(short, seconds=seconds).apply(client(), lab_pod(), beating=False)
            for sender in senders:
                sender.wait_for(5)
    assert outside.sources(port=5060, protocol="udp") == {who.vip}


def test_rules_that_somebody_loosened_are_drift(lab: Lab, worker: Worker, outside: Echo) -> None:
    family = worker.family_of_backend()
    elected = Elected(worker, drops=True)
    elected.apply(client(), lab_pod())
    guards = [
        line.split()[0].lstrip(":")
        for line in worker.tables(family)["mangle"]
        if line.startswith(":KVCTL-GRD-")
    ]
    assert len(guards) == 2
    for chain in guards:
        worker.iptables(family, "-t", "mangle", "-F", chain)
        for compared in (elected.compare(client(), lab_pod()).items, worker.listed()):
            found = [item for item in compared if item.family is family and item.ref is not None]
            assert [item.status for item in found] == [Status.DRIFTED]
        assert elected.apply(client(), lab_pod()).restores == 1
    worker.iptables(family, "-t", "mangle", "-I", "POSTROUTING", "1", "-j", "ACCEPT")
    assert {item.status for item in worker.listed() if item.family is family} == {Status.DRIFTED}
    elected.apply(client(), lab_pod())
    elected.still()
    assert ask(lab, family) is None
    # Without a fence, by hand: what the fence needed goes.
    assert worker.apply(client(), lab_pod()).restores
    assert ask(lab, family) == STANDARD[family].vip
    assert not any("KVCTL-GRD" in line for lines in worker.tables(family).values() for line in lines)
