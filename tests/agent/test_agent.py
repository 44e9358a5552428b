"""The agent on a real kernel: it follows the cluster, the host and whoever changes rules; packets decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from kvctl.agent.round import Cause, Round
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from kvctl.reconcile.report import Status
from tests.agent.rig import DEADLINE, Rig, running
from tests.builders import node, pod, service
from tests.conftest import MakeLab
from tests.kernel.node import LAB_SETTINGS, VIPS, Packets, Worker, lab_pod, show_server_the_way

SERVICE = service(vip=VIPS, ports="udp:5060,tcp:8080")
POD = lab_pod()
WITHIN = 5.0
"""Seconds in which what others undo has to be mended."""


@pytest.fixture
def packets(lab: Lab) -> Iterator[Packets]:
    """What the outside sees in IPv4: families have tests of their own elsewhere."""
    show_server_the_way(lab)
    with Echo(lab["outside"], ports=(5060, 8080, 9999)):
        yield Packets(lab, Family.IPV4)


@pytest.fixture
def rig(lab: Lab) -> Iterator[Rig]:
    """An agent on the lab's worker."""
    with running(lab.worker, settings=LAB_SETTINGS) as it:
        yield it


def eventually(what: Callable[[], bool], *, within: float = DEADLINE) -> float:
    """Wait until this is true; the seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        if what():
            return time.monotonic() - begun
        time.sleep(0.01)
    raise AssertionError(f"not within {within} s")


def statuses(done: Round) -> dict[tuple[str, str], str]:
    return {(str(item.ref), str(item.family)): str(item.status) for item in done.items}


def applied(done: Round) -> bool:
    return bool(done.items) and all(item.status is Status.APPLIED for item in done.items)


VIP, NODE = STANDARD[Family.IPV4].vip, STANDARD[Family.IPV4].worker_eth1


def test_rules_follow_the_pods_and_the_service(rig: Rig, packets: Packets) -> None:
    assert packets.seen() == NODE
    done = rig.say(SERVICE, POD)
    assert applied(done)
    assert done.cause is Cause.START
    assert packets.seen() == VIP
    assert packets.seen(9999) == NODE

    moved = pod("sip/sip-client-0", "10.0.0.77", "fd00:10::77", app="sip-client")
    assert applied(rig.say(SERVICE, moved))
    assert packets.seen() == NODE
    assert applied(rig.say(SERVICE, moved, lab_pod("sip/sip-client-1", app="sip-client")))
    assert packets.seen() == VIP

    assert rig.say(POD).items == ()
    assert packets.seen() == NODE
    assert rig.say(SERVICE, POD).restores
    assert packets.seen() == VIP


def test_nothing_is_removed_before_the_first_full_picture(lab: Lab, packets: Packets) -> None:
    Worker(lab).apply(SERVICE, POD)
    with running(lab.worker, settings=LAB_SETTINGS) as rig:
        for cause in Cause:
            rig.inbox.mark(cause)
        eventually(lambda: not rig.inbox._marks)
        assert rig.rounds == []
        assert packets.seen() == VIP
        assert rig.health.ready().good is False
        # What a dead agent left goes, also when its Service has gone meanwhile.
        done = rig.say(POD)
        assert [turn.item.ref for turn in done.turns]
        assert packets.seen() == NODE
        eventually(lambda: rig.health.ready().good)


def test_a_picture_that_says_nothing_new_writes_nothing(rig: Rig) -> None:
    assert rig.say(SERVICE, POD).restores
    again = rig.say(SERVICE, POD)
    assert (again.restores, again.turns) == (0, ())


@pytest.mark.parametrize("harm", ["flush", "delete", "foreign", "everything"])
def test_what_others_undo_is_mended_within_seconds(rig: Rig, lab: Lab, packets: Packets, harm: str) -> None:
    worker = Worker(lab)
    rig.say(SERVICE, POD)
    eventually(lambda: len(rig.rounds) > 1)  # the look that follows the beginning of watching
    before: list[str] | None = worker.saved(Family.IPV4)
    assert before is not None
    rounds = len(rig.rounds)
    if harm == "flush":
        worker.iptables(Family.IPV4, "-t", "nat", "-F")
        before = None
    elif harm == "delete":
        chain = next(line.split()[1] for line in before if line.startswith("-A KVCTL-SVC-"))
        worker.iptables(Family.IPV4, "-t", "nat", "-D", chain, "1")
    elif harm == "foreign":
        worker.iptables(Family.IPV4, "-t", "nat", "-I", "POSTROUTING", "-j", "MASQUERADE")
        before = None
    elif lab.topology.backend == "nft":
        lab.worker.run(["nft", "flush", "ruleset"])
        before = None
    else:
        worker.iptables(Family.IPV4, "-t", "nat", "-F")
        worker.iptables(Family.IPV4, "-t", "nat", "-X")
        before = None
    begun = time.monotonic()
    done = rig.wait_for(lambda it: bool(it.restores), after=rounds)
    assert time.monotonic() - begun < WITHIN
    assert done.cause is Cause.KERNEL
    assert applied(done)
    assert any(turn.repaired for turn in done.turns)
    if before is not None:
        assert worker.saved(Family.IPV4) == before
    assert packets.seen() == VIP


def test_a_program_that_keeps_pushing_is_answered_with_patience(make_lab: MakeLab) -> None:
    lab = make_lab(backend="nft")  # legacy is looked at each four seconds: the same, but slowly
    worker = Worker(lab)
    with running(lab.worker, settings=LAB_SETTINGS) as rig:
        rig.say(SERVICE, POD)
        for _ in range(8):
            rounds = len(rig.rounds)
            worker.iptables(Family.IPV4, "-t", "nat", "-I", "POSTROUTING", "-j", "MASQUERADE")
            done = rig.wait_for(lambda it: bool(it.restores or it.contested), after=rounds)
            if done.contested and not done.restores:
                break
        assert "keeps changing POSTROUTING" in str(done.contested)
        assert done.restores == 0
        assert statuses(done)["sip/sip-client", "ipv4"] == "drifted"
        # Who asks for something new gets it at once all the same.
        assert applied(rig.say(service(vip=VIPS, ports="udp:5060,tcp:8081"), POD))


def test_rules_go_with_the_vip_and_come_back_with_it(rig: Rig, lab: Lab, packets: Packets) -> None:
    assert applied(rig.say(SERVICE, POD))
    rounds = len(rig.rounds)
    lab.worker.batch([f"addr del {VIP}/32 dev eth1"])
    gone = rig.wait_for(
        lambda done: statuses(done).get(("sip/sip-client", "ipv4")) == "elsewhere", after=rounds
    )
    assert Cause.ADDRESSES in gone.causes
    assert statuses(gone)["sip/sip-client", "ipv6"] == "applied"
    assert packets.seen() == NODE
    lab.worker.batch([f"addr add {VIP}/32 dev eth1"])
    rig.wait_for(applied, after=rig.rounds.index(gone) + 1)
    assert packets.seen() == VIP


def test_a_burst_of_changes_is_one_write_or_a_few(rig: Rig) -> None:
    rig.say(SERVICE, POD)
    pods = [pod(f"sip/many-{n}", f"10.0.1.{n % 250 + 1}", app="sip-client") for n in range(500)]
    first = len(rig.rounds)
    for count in range(1, 501):
        rig.cluster.say(SERVICE, POD, *pods[:count])
    said = rig.cluster.objects()
    rig.wait_for(lambda done: done.objects is said, after=first)
    assert sum(done.restores for done in rig.rounds[first:]) <= 25


def test_a_write_that_fails_is_tried_again_from_a_fresh_look(
    rig: Rig, packets: Packets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvctl.errors import KvctlError
    from kvctl.netfilter.kernel import Kernel, Write

    real = Kernel.write
    refused: list[str] = []

    def write(self: Kernel, family: Family, text: str, *, meanwhile: Callable[[], object]) -> Write:
        if len(refused) < 3:
            refused.append(text)
            raise KvctlError("somebody pulled the plug")
        return real(self, family, text, meanwhile=meanwhile)

    monkeypatch.setattr(Kernel, "write", write)
    done = rig.say(SERVICE, POD)
    assert done.failed
    healed = rig.wait_for(applied)
    assert not healed.failed
    assert packets.seen() == VIP
    assert len(refused) == 3


def test_a_name_that_no_node_has_changes_nothing_and_is_said(lab: Lab, packets: Packets) -> None:
    Worker(lab).apply(SERVICE, POD)
    with running(lab.worker, settings=LAB_SETTINGS._replace(node="wroker")) as rig:
        rig.cluster.say(SERVICE, POD, node("worker", "172.16.0.2"))
        done = rig.wait_for(lambda it: it.failed)
        assert "the cluster has no Node wroker (it has worker)" in str(done.errors[0])
        assert packets.seen() == VIP
        assert not rig.health.ready().good


def test_a_cluster_that_has_lost_everything_loses_no_rule_here(lab: Lab, packets: Packets) -> None:
    """As an API server that was set up anew or restored from an old backup, until its objects are back."""
    with running(lab.worker, settings=LAB_SETTINGS) as rig:
        worker = node("worker", "172.16.0.2")
        assert applied(rig.say(SERVICE, POD, worker, nodes_known=True))
        after = len(rig.rounds)
        rig.cluster.say(nodes_known=True)
        done = rig.wait_for(lambda it: it.failed, after=after)
        assert "it has none at all" in str(done.errors[0])
        assert packets.seen() == VIP
        assert rig.say(worker, nodes_known=True).items == ()
        assert packets.seen() == NODE
