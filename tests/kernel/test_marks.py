"""Out by another interface: what the rules mark is routed by the mark, and nothing else is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from kvctl.model.objects import Service
from kvctl.model.rules import Mark
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Status
from kvctl.reconcile.run import Applied, apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, ref, service
from tests.kernel.conftest import PORTS
from tests.kernel.node import VIPS, Thing, Worker, lab_pod, show_server_the_way

SOON = 0.15
"""Seconds without an answer after which there is none: the lab's wires take microseconds."""
MARK = Mark(0x4, 0x3C)
BEHIND = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8:77::7"}
"""An address that is behind eth1, while the main table says eth0."""


@dataclass(frozen=True)
class Marking:
    """A worker that is told to lead Services out by a mark."""

    worker: Worker
    marked: Collection[str] = ("sip/sip-client",)

    def apply(self, *things: Thing, named: Collection[str] | None = None) -> Applied:
        with self.worker.lab[self.worker.name].entered(), namespace_lock(timeout=10):
            return apply(look(told=None), self._wish(*things, named=named), drop_connections=True)

    def compare(self, *things: Thing) -> Compared:
        with self.worker.lab[self.worker.name].entered():
            wish = self._wish(*things)
            return compare(look(told=None), wish, scope=wish.scope)

    def _wish(self, *things: Thing, named: Collection[str] | None = None) -> Wish:
        host, settings = read_host(), self.worker.settings
        resolution = resolve(objects(*things), settings, host=host)
        refs = set(map(ref, self.marked))
        wanted = tuple(
            it._replace(policy=it.policy._replace(mark=MARK)) if it.policy.ref in refs else it
            for it in resolution.wanted
        )
        scope = Scope(named=frozenset(map(ref, named)) if named is not None else None)
        return Wish(resolution=replace(resolution, wanted=wanted), scope=scope, settings=settings, host=host)


@pytest.fixture
def outside(lab: Lab, worker: Worker) -> Iterator[Echo]:
    """What the outside hears, also at the addresses behind it."""
    show_server_the_way(lab)
    for family, who in STANDARD.items():
        address, length = BEHIND[family], 32 if family is Family.IPV4 else 128
        flag = "-4" if family is Family.IPV4 else "-6"
        nodad = "" if family is Family.IPV4 else " nodad"
        lab.outside.batch([f"addr add {address}/{length} dev lo{nodad}"])
        # Nobody is there: what is not marked comes to nothing. The route is what a loose rp_filter asks for.
        nobody = "172.16.0.77" if family is Family.IPV4 else "2001:db8::77"
        lab[worker.name].batch(
            [
                f"route add {address}/{length} via {nobody} dev eth0",
                f"route add {address}/{length} via {who.outside_eth1} dev eth1 table 7500",
            ]
        )
        done = lab[worker.name].run(["ip", flag, "rule", "add", "fwmark", str(MARK), "lookup", "7500"])
        assert done.status == 0, done.stderr
    lab[worker.name].write_sysctls({"ipv4/conf/all/rp_filter": "2", "ipv4/conf/eth1/rp_filter": "2"})
    with ExitStack() as stack:
        for name in ("server", "peer"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        yield stack.enter_context(Echo(lab.outside, ports=PORTS))


def client(**arguments: object) -> Service:
    return service(**{"vip": VIPS, **arguments})  # type: ignore[arg-type]


def ask(
    lab: Lab, family: Family, port: int = 5060, *, to: str | None = None, protocol: str = "udp"
) -> str | None:
    """The source that the other end saw of a new connection of the pod; None: nothing came back soon."""
    destination = to if to is not None else BEHIND[family]
    answer = probe(lab.pod, destination=destination, port=port, protocol=protocol, timeout=SOON)
    return answer.source if answer is not None else None


def test_what_the_service_takes_leaves_by_the_other_interface_and_comes_back(
    lab: Lab, worker: Worker, outside: Echo
) -> None:
    before = worker.saved_tables()
    marking = Marking(worker)
    it = client(ports="udp:5060,tcp:8000-8100", denied="198.51.100.0/24,2001:db8:88::/64")
    marking.apply(it, lab_pod())
    for family, who in STANDARD.items():
        assert ask(lab, family) == ask(lab, family, 8050, protocol="tcp") == who.vip
        assert ask(lab, family, 5061) is None
        assert ask(lab, family, 5061, to=who.outside_eth1) == who.worker_eth1
        # Cluster traffic goes where it went.
        assert ask(lab, family, to=who.peer) == who.pod
        # More than one packet of a connection.
        with Connection(
            lab.pod, destination=BEHIND[family], port=8050, protocol="tcp", timeout=SOON
        ) as connection:
            assert [connection.ask() is not None for _ in range(3)] == [True] * 3
    assert marking.apply(it, lab_pod()).restores == 0
    assert not marking.compare(it, lab_pod()).differs
    assert {item.status for item in worker.listed() if item.ref is not None} == {Status.APPLIED}
    worker.flush("sip/sip-client")
    assert worker.saved_tables() == before


def test_who_asks_the_pod_has_the_answer_by_the_way_it_came(lab: Lab, worker: Worker, outside: Echo) -> None:
    Marking(worker).apply(client(), lab_pod())
    for family, who in STANDARD.items():
        # By eth0, from an address that marked packets would be led to by eth1.
        lab["server"].batch([f"addr add {BEHIND[family]}/{32 if '.' in who.vip else 128} dev lo"])
        lab["server"].batch([f"route replace {who.pod_network} via {who.worker_eth0}"])
        lab[worker.name].batch([f"route replace {BEHIND[family]} via {who.server} dev eth0"])
        with Echo(lab.pod, ports=(5060,)):
            answer = probe(lab["server"], destination=who.pod, port=5060, source=BEHIND[family], timeout=1.0)
        assert answer is not None


def test_another_service_of_the_pod_keeps_its_own_way(lab: Lab, worker: Worker, outside: Echo) -> None:
    first = service("sip/first", vip=VIPS, ports="udp:7000", selector={"app": "sip-client"})
    Marking(worker).apply(client(), first, lab_pod())
    for family, who in STANDARD.items():
        assert ask(lab, family) == who.vip
        assert ask(lab, family, 7000) is None
        assert ask(lab, family, 7000, to=who.outside_eth1) == who.vip
    # One alone by name, from what the kernel says of the other.
    changed = first._replace(
        annotations={**first.annotations, "kube-vip.io/egress-destination-ports": "udp:8000"}
    )
    Marking(worker, marked=()).apply(client(), changed, lab_pod(), named=["sip/first"])
    for family, who in STANDARD.items():
        assert ask(lab, family, 7000) == who.vip
        assert ask(lab, family, 8000) is None
    Marking(worker, marked=()).apply(client(), changed, lab_pod())
    for family in Family:
        assert ask(lab, family) is None
        assert not any("KVCTL-M" in line for lines in worker.tables(family).values() for line in lines)


def test_rules_of_others_before_ours_and_a_jump_that_is_gone_are_drift(
    lab: Lab, worker: Worker, outside: Echo
) -> None:
    family = worker.family_of_backend()
    marking = Marking(worker)
    marking.apply(client(), lab_pod())
    for words, reason in (
        (("-F", "PREROUTING"), "the jump in PREROUTING is missing"),
        (("-I", "PREROUTING", "1", "-p", "udp", "-j", "ACCEPT"), "the jump in PREROUTING is not where"),
        (("-F", "KVCTL-MARK"), "the rules differ"),
    ):
        worker.iptables(family, "-t", "mangle", *words)
        assert ask(lab, family) is None
        found = [it for it in marking.compare(client(), lab_pod()).items if it.family is family]
        assert [it.status for it in found] == [Status.DRIFTED]
        assert (found[0].reason or "").startswith(reason)
        assert marking.apply(client(), lab_pod()).restores == 1
        assert ask(lab, family) == STANDARD[family].vip
