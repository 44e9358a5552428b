"""Readiness gates: what is patched, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kvctl.agent.account import failed_round
from kvctl.agent.gates import Gates
from kvctl.agent.round import Round
from kvctl.cluster.failures import RefusedError
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.objects import Gate, Pod
from tests.agent.rounds import FakeApi, gated, round_with
from tests.builders import pod, service
from tests.waiting import until


class Keeper:
    """Gates against an API server of the test's; time is moved by hand."""

    def __init__(self, *refuse: Exception) -> None:
        self.api = FakeApi(*refuse)
        self.time = 0.0
        self.complaints: list[str] = []
        self.gates = Gates(
            self.api,
            complain=self.complaints.append,
            clock=lambda: self.time,
            now=lambda: 1_700_000_000.0,
        )
        self.gates.start()

    def round(self, done: Round) -> list[dict[str, str]]:
        """The conditions that were patched so far, once the round is through."""
        self.gates.round(done)
        outbox = self.gates._outbox
        until(lambda: not outbox._waiting and not outbox._busy)
        return [body["status"]["conditions"][0] for _, _, body, _ in self.api.sent]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """One that may patch."""
    made = Keeper()
    yield made
    made.gates.stop()


def test_the_condition_is_patched_as_the_api_wants_it(keeper: Keeper) -> None:
    keeper.round(round_with(service(), gated()))
    assert keeper.api.sent == [
        (
            "PATCH",
            "/api/v1/namespaces/sip/pods/sip-client-0/status",
            {
                "metadata": {"uid": "uid-sip-client-0"},
                "status": {
                    "conditions": [
                        {
                            "type": "kube-vip.io/egress-enabled",
                            "status": "True",
                            "reason": "RulesInKernel",
                            "message": "Service sip/sip-client (ipv4): the rules are in the kernel, "
                            "10.0.0.1 leaves as 192.168.0.245",
                            "lastTransitionTime": "2023-11-14T22:13:20Z",
                        }
                    ]
                },
            },
            "application/strategic-merge-patch+json",
        )
    ]


def test_what_the_pod_says_already_is_not_patched(keeper: Keeper) -> None:
    (said,) = keeper.round(round_with(service(), gated()))
    told = gated(gate=Gate(said["status"], said["reason"], said["message"]))
    for _ in range(3):
        keeper.time += 100
        keeper.round(round_with(service(), told))
    assert len(keeper.api.sent) == 1


def test_a_patch_that_the_watch_has_not_shown_yet_is_not_sent_twice_but_one_that_was_lost_is(
    keeper: Keeper,
) -> None:
    done = round_with(service(), gated())
    for _ in range(5):
        keeper.round(done)
    assert len(keeper.api.sent) == 1
    keeper.time += 60
    keeper.round(done)
    assert len(keeper.api.sent) == 2


def test_without_the_vip_the_pod_is_not_ready_and_the_time_of_transition_is_that_of_the_change(
    keeper: Keeper,
) -> None:
    ready = gated(gate=Gate("True", "RulesInKernel", "..."))
    away = round_with(service(), ready, host=Host(addresses=(), routes=()))
    (said,) = keeper.round(away)
    assert (said["status"], said["reason"]) == ("False", "VIPElsewhere")
    assert "lastTransitionTime" in said


def test_another_sentence_is_no_transition(keeper: Keeper) -> None:
    (said,) = keeper.round(
        round_with(service(), gated(gate=Gate("True", "RulesInKernel", "another sentence")))
    )
    assert "lastTransitionTime" not in said


def test_pods_without_the_gate_are_left_alone(keeper: Keeper) -> None:
    assert keeper.round(round_with(service(), pod())) == []


@pytest.mark.parametrize("changes", [{"deleting": True}, {"finished": True}, {"addresses": ()}])
def test_pods_that_end_or_have_not_begun_are_left_alone(keeper: Keeper, changes: dict[str, Any]) -> None:
    assert keeper.round(round_with(service(), gated(**changes))) == []


def test_a_pod_that_nobody_asks_for_is_let_go(keeper: Keeper) -> None:
    (said,) = keeper.round(round_with(gated()))
    assert (said["status"], said["reason"]) == ("True", "NoEgressService")


def test_a_successor_of_the_same_name_is_another_pod(keeper: Keeper) -> None:
    first = gated()
    keeper.round(round_with(service(), first))
    keeper.round(round_with(service(), first._replace(uid="another")))
    assert [body["metadata"]["uid"] for _, _, body, _ in keeper.api.sent] == ["uid-sip-client-0", "another"]


def test_a_round_that_could_not_look_changes_no_condition(keeper: Keeper) -> None:
    good = round_with(service(), gated())
    failed = failed_round(KvctlError("no"), previous=good, causes=(), duration=0, ended=0)
    assert keeper.round(failed) == []
    assert keeper.round(Round(causes=frozenset(), ended=0, duration=0)) == []


@pytest.mark.parametrize("status", [404, 409])
def test_a_pod_that_has_gone_is_left_to_the_next_round(status: int) -> None:
    keeper = Keeper(RefusedError(status))
    keeper.round(round_with(service(), gated()))
    assert keeper.complaints == []
    keeper.round(round_with(service()))
    keeper.round(round_with(service(), gated()))
    assert len(keeper.api.sent) == 2
    keeper.gates.stop()


def test_without_permission_it_is_said_once() -> None:
    keeper = Keeper(*[RefusedError(403)] * 9)
    many: list[Pod] = [gated(pod(f"sip/sip-client-{n}", f"10.0.0.{n + 1}")) for n in range(9)]
    for _ in range(3):
        keeper.round(round_with(service(), *many))
    assert len(keeper.complaints) == 1
    assert len(keeper.api.sent) == 1
    keeper.gates.stop()


def test_pods_that_have_gone_are_not_remembered(keeper: Keeper) -> None:
    for number in range(10):
        keeper.round(round_with(service(), gated(pod(f"sip/sip-client-{number}"))))
    assert len(keeper.gates._sent) == 1
