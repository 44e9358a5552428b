"""What a round tells of a run on a real kernel."""

from __future__ import annotations

import time

import pytest

from kvctl.agent.account import failed_round, round_of
from kvctl.agent.keeper import Keeper
from kvctl.agent.metrics import Metrics
from kvctl.agent.readiness import Reason, judge_pod
from kvctl.agent.round import Cause, Round
from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile.changed import Action
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Status
from kvctl.reconcile.run import apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import Thing, objects, pod, ref, service
from tests.robustness.node import HERE, Node


class Rounds:
    """Rounds of an agent without a loop, in a namespace of the test's."""

    def __init__(self, namespace: Namespace) -> None:
        self.node = Node(namespace)
        self.last: Round | None = None

    def run(self, *things: Thing, here: bool = True, fence_seconds: int | None = None) -> Round:
        """One round for these things."""
        source = objects(*things, from_api=True)
        with self.node.namespace.entered():
            self.last = self._run(source, HERE._replace(assume_vip=here, fence_seconds=fence_seconds))
        return self.last

    def _run(self, source: Objects, settings: Settings) -> Round:
        host = read_host()
        wish = Wish(
            resolution=resolve(source, settings, host=host),
            scope=Scope(prune=True),
            settings=settings,
            host=host,
        )
        with namespace_lock(timeout=30):
            applied = apply(look(told=True), wish, drop_connections=True)
        return round_of(
            applied,
            wish,
            objects=source,
            previous=self.last,
            causes=[Cause.KERNEL],
            duration=0.1,
            ended=1.0,
        )


@pytest.fixture
def rounds(namespace: Namespace) -> Rounds:
    """In an empty namespace."""
    return Rounds(namespace)


def actions(done: Round) -> list[tuple[Action | None, bool]]:
    return [(turn.action, turn.repaired) for turn in done.turns]


def test_what_is_added_updated_and_removed_are_turns_and_nothing_is_none(rounds: Rounds) -> None:
    assert actions(rounds.run(service(), pod())) == [(Action.ADDED, False)]
    done = rounds.run(service(), pod())
    assert (actions(done), done.restores) == ([], 0)
    assert actions(rounds.run(service(), pod(), pod("sip/sip-client-1", "10.0.0.2"))) == [
        (Action.UPDATED, False)
    ]
    assert actions(rounds.run(service(ports="udp:5060"), pod())) == [(Action.UPDATED, False)]
    (turn,) = rounds.run(pod()).turns
    assert (turn.action, turn.repaired, turn.item.ref) == (Action.REMOVED, False, ref("sip/sip-client"))


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (("-F", "KVCTL-EGRESS"), "the rules differ"),
        (("-I", "POSTROUTING", "-j", "MASQUERADE"), "another program's rule comes first"),
        (("-F", "POSTROUTING"), "the jump in POSTROUTING is missing"),
    ],
)
def test_what_another_program_undid_is_a_repair(rounds: Rounds, harm: tuple[str, ...], found: str) -> None:
    things = (service(), pod())
    rounds.run(*things)
    rounds.node.iptables(*harm)
    (turn,) = rounds.run(*things).turns
    assert (turn.repaired, turn.item.status) == (True, Status.APPLIED)
    assert turn.found is not None
    assert found in turn.found


def test_a_table_that_was_flushed_is_a_repair_too(rounds: Rounds) -> None:
    things = (service(), pod())
    rounds.run(*things)
    rounds.node.run("nft", "flush", "ruleset")
    assert actions(rounds.run(*things)) == [(Action.ADDED, True)]


def test_what_has_not_changed_is_the_very_item_of_the_round_before(namespace: Namespace) -> None:
    keeper = Keeper(
        settings=HERE._replace(assume_vip=True), told=True, keep_connections=False, clock=time.monotonic
    )
    # So many that those of the other are led there by other chains.
    many = (pod(f"sip/sip-client-{number}", f"10.0.0.{number}") for number in range(1, 21))
    things: tuple[Thing, ...] = (
        service(),
        *many,
        service("sip/b", vip="192.168.0.7"),
        pod("sip/b-0", "10.0.200.1", app="b"),
    )
    more = pod("sip/b-1", "10.0.200.2", app="b")
    rounds: list[Round] = []
    with namespace.entered():
        for source in (objects(*things, from_api=True), objects(*things, more, from_api=True)):
            kept = keeper.keep(source, read_kernel=not rounds, asked=True)
            before = rounds[-1] if rounds else None
            done = round_of(
                kept.applied,
                kept.wish,
                objects=source,
                previous=before,
                causes=[Cause.OBJECTS],
                duration=0.1,
                ended=1.0,
            )
            rounds.append(done)
    first, second = rounds
    assert [turn.item.ref for turn in second.turns] == [ref("sip/b")]
    same = {other.ref: one is other for one, other in zip(first.items, second.items, strict=True)}
    assert same == {ref("sip/b"): False, ref("sip/sip-client"): True}


def test_what_cannot_be_mended_is_told_of_each_round(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.run(service(), pod())

    def refuse(*_: object, **__: object) -> None:
        raise KvctlError("no")

    monkeypatch.setattr("kvctl.netfilter.kernel.Kernel.write", refuse)
    for _ in range(2):
        assert actions(rounds.run(service(ports="udp:5060"), pod())) == [(Action.FAILED, False)]


def test_what_a_new_agent_finds_and_mends_is_no_repair_of_its_own(rounds: Rounds) -> None:
    things = (service(), pod())
    rounds.run(*things)
    rounds.node.iptables("-F", "KVCTL-EGRESS")
    rounds.last = None
    assert actions(rounds.run(*things)) == [(Action.UPDATED, False)]


def test_a_vip_that_moves_away_and_back_is_no_repair(rounds: Rounds) -> None:
    things = (service(annotations={"kvctl.io/without-vip": "drop"}), pod())
    rounds.run(*things)
    away = rounds.run(*things, here=False)
    assert actions(away) == [(Action.DROPPING, False)]
    assert judge_pod(away, pod())[:2] == (True, Reason.TRAFFIC_DROPPED)
    assert [repaired for _, repaired in actions(rounds.run(*things))] == [False]
    assert [repaired for _, repaired in actions(rounds.run(*things))] == []


def test_what_is_to_be_written_otherwise_than_before_is_no_repair_though_the_service_is_the_same(
    rounds: Rounds,
) -> None:
    things = (service(), pod())
    rounds.run(*things)
    assert actions(rounds.run(*things, fence_seconds=2)) == [(Action.UPDATED, False)]
    rounds.node.iptables("-F", "KVCTL-EGRESS")
    assert actions(rounds.run(*things, fence_seconds=2)) == [(Action.UPDATED, True)]


def test_what_is_dropped_instead_can_be_repaired_as_well(rounds: Rounds) -> None:
    things = (service(annotations={"kvctl.io/without-vip": "drop"}), pod())
    rounds.run(*things, here=False)
    rounds.node.iptables("-F", "KVCTL-DROP", table="mangle")
    assert [repaired for _, repaired in actions(rounds.run(*things, here=False))] == [True]


def test_where_the_vip_is_not_a_pod_is_not_ready(rounds: Rounds) -> None:
    done = rounds.run(service(), pod(), here=False)
    assert judge_pod(done, pod())[:2] == (False, Reason.VIP_ELSEWHERE)


def test_a_pod_is_ready_when_the_kernel_has_its_rules(rounds: Rounds) -> None:
    assert judge_pod(rounds.run(service(), pod()), pod())[:2] == (True, Reason.RULES_IN_KERNEL)


def test_a_round_that_fails_to_look_keeps_what_was_known(rounds: Rounds) -> None:
    good = rounds.run(service(), pod())
    failed = failed_round(KvctlError("no"), previous=good, causes=[Cause.TIMER], duration=1.0, ended=2.0)
    assert (failed.items, failed.resolution, failed.turns) == (good.items, good.resolution, ())
    assert failed.failed
    assert not failed.complete
    assert judge_pod(failed, pod()) == judge_pod(good, pod())


def test_the_back_end_and_the_evidence_for_it_are_told(rounds: Rounds) -> None:
    done = rounds.run()
    assert done.backend == "nft"
    assert done.why_backend


def test_connections_of_the_kernel_are_shown_by_vip(rounds: Rounds) -> None:
    rounds.run(service(), pod())
    with rounds.node.namespace.entered():
        metrics = Metrics(version="1")
        assert rounds.last is not None
        metrics.round(rounds.last)
        text = metrics.render().decode()
    assert 'kvctl_live_flows{vip="192.168.0.245"} 0.0' in text
    assert 'kvctl_connections_begun_total{family="ipv4",namespace="sip",service="sip-client"} 0.0' in text
