"""Where the VIP is not and the Service says `drop`: the outside sees the VIP or nothing, never a node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, Sender, probe
from kvctl.model.net import Family
from kvctl.model.objects import Service
from kvctl.model.policy import DROPPED, WithoutVip
from kvctl.model.rules import Table
from kvctl.reconcile.changed import Action, action_on, changed_items
from kvctl.reconcile.report import Item, Status
from tests.builders import pod, service
from tests.kernel.conftest import PORTS
from tests.kernel.node import SECOND_VIPS, VIPS, Worker, lab_pod, show_server_the_way

DROP = {"kvctl.io/without-vip": "drop"}
SOON = 0.15
"""Seconds without an answer after which there is none: the lab's wires take microseconds."""


@pytest.fixture
def outside(lab: Lab) -> Iterator[Echo]:
    """What the outside hears; the server and the other pod answer too."""
    show_server_the_way(lab)
    with ExitStack() as stack:
        for name in ("server", "peer", "pod"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        yield stack.enter_context(Echo(lab.outside, ports=PORTS))


def dropping(name: str = "sip/sip-client", **arguments: object) -> Service:
    """A Service that asks for silence without its VIP."""
    return service(name, **{"vip": VIPS, "annotations": DROP, **arguments})  # type: ignore[arg-type]


def unbind(worker: Worker, *addresses: str) -> None:
    """Take VIPs off eth1."""
    lines = (f"{a}/{128 if ':' in a else 32} dev eth1" for a in addresses)
    worker.lab[worker.name].batch([f"addr del {line}" for line in lines])


def ask(
    lab: Lab, family: Family, port: int = 5060, *, to: str | None = None, protocol: str = "udp"
) -> str | None:
    """The source that the other end saw of a new connection of the pod; None: nothing came back soon."""
    destination = to if to is not None else STANDARD[family].outside_eth1
    answer = probe(lab.pod, destination=destination, port=port, protocol=protocol, timeout=SOON)
    return answer.source if answer is not None else None


def item_of(items: list[Item], family: Family, name: str = "sip/sip-client") -> Item:
    """The item of a Service in one family."""
    return next(item for item in items if str(item.ref) == name and item.family is family)


def test_listed_ports_go_nowhere_and_everything_else_goes_its_way(
    lab: Lab, worker: Worker, outside: Echo
) -> None:
    unbind(worker, *VIPS)
    applied = worker.apply(dropping(ports="udp:5060,tcp:8000-8100"), lab_pod())
    for family, who in STANDARD.items():
        assert [ask(lab, family), ask(lab, family, 8050, protocol="tcp")] == [None, None]
        assert outside.sources(port=5060, protocol="udp") == set()
        assert ask(lab, family, 5061) == ask(lab, family, 5060, protocol="tcp") == who.worker_eth1
        # Cluster traffic, by either address.
        assert ask(lab, family, to=who.peer) == ask(lab, family, to=who.peer_cluster_ip) == who.pod
        assert ask(lab, family, to=who.server_cluster_ip) == who.worker_eth0
        item = item_of(applied.after.items, family)
        assert (item.status, item.changes, item.connections) == (Status.ELSEWHERE, (), None)
        assert item.reason is not None
        assert item.reason.endswith(DROPPED)
    assert {action_on(item, applied) for item in changed_items(applied)} == {Action.DROPPING}
    changes = [change for item in changed_items(applied) for change in item.changes or ()]
    assert {change.table for change in changes} == {Table.MANGLE}


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_who_asks_the_pod_from_outside_has_its_answer(
    lab: Lab, worker: Worker, outside: Echo, protocol: str
) -> None:
    unbind(worker, *VIPS)
    worker.apply(dropping(), lab_pod())
    for family, who in STANDARD.items():
        lab.outside.batch([f"route add {who.pod_network} via {who.worker_eth1}"])
        assert ask(lab, family, protocol=protocol) is None
        answer = probe(lab.outside, destination=who.pod, port=5060, protocol=protocol)
        assert answer is not None
        assert answer.destination == who.pod


def test_a_second_apply_writes_nothing_and_flush_leaves_nothing(
    lab: Lab, worker: Worker, outside: Echo
) -> None:
    unbind(worker, *VIPS)
    before = worker.saved_tables()
    worker.apply(dropping(denied="203.0.113.0/24,2001:db8:99::/48"), lab_pod())
    assert worker.apply(dropping(denied="203.0.113.0/24,2001:db8:99::/48"), lab_pod()).restores == 0
    listed = [item for item in worker.listed() if item.ref is not None]
    assert {(item.status, item.vip is not None, len(item.pods)) for item in listed} == {
        (Status.ELSEWHERE, True, 1)
    }
    assert all((item.reason or "").endswith(DROPPED) for item in listed)
    assert {str(n) for item in listed for n in item.denied} == {"203.0.113.0/24", "2001:db8:99::/48"}
    worker.flush("sip/sip-client")
    assert worker.saved_tables() == before
    for family, who in STANDARD.items():
        assert ask(lab, family) == who.worker_eth1


def test_without_the_annotation_the_setting_counts(lab: Lab, worker: Worker, outside: Echo) -> None:
    unbind(worker, *VIPS)
    strict = worker.told_to(without_vip=WithoutVip.DROP)
    strict.apply(service(vip=VIPS), lab_pod())
    assert [ask(lab, family) for family in Family] == [None, None]
    lenient = service(vip=VIPS, annotations={"kvctl.io/without-vip": "node-address"})
    applied = strict.apply(lenient, lab_pod())
    for family, who in STANDARD.items():
        assert ask(lab, family) == who.worker_eth1
        reason = item_of(applied.after.items, family).reason
        assert reason is not None
        assert reason.endswith(": its pods' traffic leaves with the node's address")


def test_where_nobody_asks_for_it_mangle_is_not_even_made(lab: Lab, worker: Worker, outside: Echo) -> None:
    worker.apply(dropping(), lab_pod())
    assert "mangle" not in {table for family in Family for table in worker.tables(family)}


def test_a_sender_that_never_pauses_sees_the_vip_or_nothing(lab: Lab, worker: Worker, outside: Echo) -> None:
    """While the VIP comes and goes; a new connection each time, and one that stays."""
    family = worker.family_of_backend()
    who = STANDARD[family]
    worker.apply(dropping(ports="udp:5060"), lab_pod())
    senders = [
        Sender(lab.pod, destination=who.outside_eth1, port=5060, fresh=fresh, timeout=0.02)
        for fresh in (True, False)
    ]
    with ExitStack() as stack:
        for sender in senders:
            stack.enter_context(sender)
            sender.wait_for(5)
        for _ in range(4):
            unbind(worker, *VIPS)
            worker.apply(dropping(ports="udp:5060"), lab_pod())
            silent = outside.heard.total()
            assert ask(lab, family) is None
            assert outside.heard.total() == silent
            worker.bind(*VIPS)
            applied = worker.apply(dropping(ports="udp:5060"), lab_pod())
            assert item_of(applied.after.items, family).status is Status.APPLIED
            for sender in senders:
                sender.wait_for(5)
    assert outside.sources(port=5060, protocol="udp") == {who.vip}


def test_an_established_connection_goes_silent_with_the_vip(lab: Lab, worker: Worker, outside: Echo) -> None:
    for who in STANDARD.values():
        worker.apply(dropping(), lab_pod())
        with Connection(lab.pod, destination=who.outside_eth1, port=443, protocol="tcp", timeout=SOON) as old:
            assert old.ask() is not None
            unbind(worker, who.vip)
            worker.apply(dropping(), lab_pod())
            assert old.ask() is None
        worker.bind(who.vip)
    assert outside.sources(port=443) == set(VIPS)


RANKS = {"here-first": (1, 2), "away-first": (2, 1)}


@pytest.mark.parametrize("created", RANKS.values(), ids=RANKS)
def test_a_pod_of_a_service_that_is_here_and_one_that_is_not(
    lab: Lab, worker: Worker, outside: Echo, created: tuple[int, int]
) -> None:
    """Both take 7000; each has ports and networks of its own."""
    near = "192.168.0.0/24,2001:db8:1::/48"
    here = service(
        "sip/here",
        vip=VIPS,
        ports="udp:5060,udp:7000",
        allowed=near,
        created=created[0],
        selector={"app": "sip-client"},
    )
    away = dropping(
        "sip/away",
        vip=SECOND_VIPS,
        ports="udp:5061,udp:7000,udp:8000",
        denied="172.16.0.0/24,2001:db8::/64",
        created=created[1],
        selector={"app": "sip-client"},
    )
    applied = worker.apply(here, away, lab_pod())
    for family, who in STANDARD.items():
        assert ask(lab, family, 5060) == who.vip
        assert ask(lab, family, 5061) is None
        assert ask(lab, family, 7000) == (who.vip if created == (1, 2) else None)
        assert ask(lab, family, 8000) is None
        assert ask(lab, family, 443) == who.worker_eth1
        # Outside the networks of the one, and denied to the other.
        assert [ask(lab, family, port, to=who.outside_eth0) for port in (5060, 5061, 7000)] == [
            who.worker_eth0
        ] * 3
    assert {str(item.status) for item in applied.after.items} == {"applied", "elsewhere"}
    assert worker.apply(here, away, lab_pod()).restores == 0
    # The one alone changes its ports, and the other still comes behind it.
    here = here._replace(annotations={**here.annotations, "kube-vip.io/egress-destination-ports": "udp:5061"})
    worker.apply(here, away, lab_pod(), named=["sip/here"])
    for family, who in STANDARD.items():
        assert ask(lab, family, 5060) == who.worker_eth1
        assert ask(lab, family, 5061) == (who.vip if created == (1, 2) else None)
        assert ask(lab, family, 7000) is None
    worker.flush("sip/here")
    for family in Family:
        assert [ask(lab, family, port) for port in (5061, 7000, 8000)] == [None] * 3
    worker.flush("sip/away")
    for family, who in STANDARD.items():
        assert ask(lab, family, 7000) == who.worker_eth1
        assert "mangle" not in worker.tables(family) or "KVCTL" not in str(worker.tables(family)["mangle"])


def test_a_faulty_annotation_keeps_what_was_asked_for_last(lab: Lab, worker: Worker, outside: Echo) -> None:
    family = worker.family_of_backend()
    who = STANDARD[family]
    good, bad = dropping(ports="udp:5060"), dropping(ports="udp:0")
    worker.apply(good, lab_pod())
    # The VIP goes while the Service is faulty: its last good rules say what is dropped now.
    unbind(worker, *VIPS)
    applied = worker.apply(bad, lab_pod())
    item = item_of(applied.after.items, family)
    assert item.status is Status.ELSEWHERE
    assert item.warnings[0].startswith("the last good rules are kept: ")
    assert (ask(lab, family), ask(lab, family, 5061)) == (None, who.worker_eth1)
    # Unreadable, or gone from one pod to the other: still dropped, for its pods of today.
    worse = service(vip=VIPS, ports="udp:5060", annotations={"kvctl.io/without-vip": "Drop"})
    worker.apply(worse, lab_pod(), lab_pod("sip/sip-client-1", namespace="peer"))
    assert ask(lab, family) is None
    assert probe(lab["peer"], destination=who.outside_eth1, port=5060, timeout=SOON) is None
    # It comes back: the last good rules rewrite.
    worker.bind(*VIPS)
    worker.apply(bad, lab_pod())
    assert (ask(lab, family), ask(lab, family, 5061)) == (who.vip, who.worker_eth1)
    worker.apply(service(vip=VIPS, egress=False), lab_pod())
    assert ask(lab, family) == who.worker_eth1


def test_a_service_that_asks_no_more_drops_no_more(lab: Lab, worker: Worker, outside: Echo) -> None:
    family = worker.family_of_backend()
    unbind(worker, *VIPS)
    worker.apply(dropping(), lab_pod())
    assert ask(lab, family) is None
    applied = worker.apply(dropping(egress=False), lab_pod())
    assert ask(lab, family) == STANDARD[family].worker_eth1
    assert {action_on(item, applied) for item in changed_items(applied) if item.changes} == {Action.REMOVED}
    worker.apply(dropping(), lab_pod())
    assert ask(lab, family) is None
    worker.apply(lab_pod())
    assert ask(lab, family) is None
    assert {item.status for item in worker.compare(lab_pod()).items} == {Status.ORPHANED}
    worker.apply(lab_pod(), prune=True)
    assert ask(lab, family) == STANDARD[family].worker_eth1


def test_a_rule_of_others_that_lets_pods_pass_before_ours_is_drift(
    lab: Lab, worker: Worker, outside: Echo
) -> None:
    family = worker.family_of_backend()
    unbind(worker, *VIPS)
    worker.apply(dropping(), lab_pod())
    worker.iptables(
        family, "-t", "mangle", "-I", "POSTROUTING", "1", "-p", "udp", "-j", "CHECKSUM", "--checksum-fill"
    )
    assert not worker.compare(dropping(), lab_pod()).differs
    worker.iptables(family, "-t", "mangle", "-I", "POSTROUTING", "1", "-p", "udp", "-j", "ACCEPT")
    assert ask(lab, family) == STANDARD[family].worker_eth1
    compared = worker.compare(dropping(), lab_pod())
    assert item_of(compared.items, family).status is Status.DRIFTED
    assert worker.apply(dropping(), lab_pod()).restores == 1
    assert ask(lab, family) is None
    assert not worker.compare(dropping(), lab_pod()).differs


def test_it_moves_with_the_back_end(lab: Lab, worker: Worker, outside: Echo) -> None:
    unbind(worker, *VIPS)
    worker.apply(dropping(), lab_pod())
    other = replace(worker, told=worker.lab.topology.backend == "legacy")
    applied = other.apply(dropping(), lab_pod())
    assert [ask(lab, family) for family in Family] == [None, None]
    assert all(site.snapshot.is_empty for site in applied.found.others.values())
    other.flush()
    for family, who in STANDARD.items():
        assert ask(lab, family) == who.worker_eth1


def test_however_many_services_come_first_the_kernel_takes_the_rules(worker: Worker) -> None:
    """nf_tables refuses a walk of more than 16 chains, and with it everybody's rules."""
    many = [
        service(
            f"sip/first-{n}",
            vip=VIPS,
            ports=f"udp:{6000 + n}",
            allowed="203.0.113.0/24,2001:db8::/32",
            selector={"app": "sip-client"},
            created=n + 1,
        )
        for n in range(20)
    ]
    last = dropping("sip/zz-last", vip=SECOND_VIPS, selector={"app": "sip-client"}, created=1_800_000_000)
    pods = [pod(f"sip/p-{n}", f"10.0.{n // 4 * 16}.{n % 4 * 64 + 1}", app="sip-client") for n in range(40)]
    applied = worker.apply(*many, last, lab_pod(), *pods)
    assert [error for outcome in applied.outcomes for error in outcome.errors] == []
    item = item_of(applied.after.items, Family.IPV4, "sip/zz-last")
    assert item.status is Status.ELSEWHERE
    assert any("too many Services come first" in text for text in item.warnings)
    assert worker.apply(*many, last, lab_pod(), *pods).restores == 0
