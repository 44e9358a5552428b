"""What owners of Services are told, how often, and what the API server sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl.agent.account import failed_round
from kvctl.agent.events import BURST, COUNT_SECONDS, REFILL_SECONDS, Events
from kvctl.agent.notes import MEANINGS, Reason
from kvctl.agent.outbox import Limits
from kvctl.agent.round import Round, Turn
from kvctl.cluster.connection import open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.objects import Service
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Status as ItemStatus
from tests.agent.rounds import FakeApi, added, methods, round_with, with_items, with_turns
from tests.apiserver import Drop, Status, anything, serving
from tests.builders import pod, ref, service
from tests.waiting import until

NOWHERE = Host(addresses=(), routes=())


class Teller:
    """An agent's Events against an API server of the test's; its time is moved by hand."""

    def __init__(self, api: FakeApi, *, node: str = "worker") -> None:
        self.api = api
        self.time = 0.0
        self.complaints: list[str] = []
        self.results: list[str] = []
        self.events = Events(
            api,
            node=node,
            complain=self.complaints.append,
            count=lambda what, result: self.results.append(result),
            limits=Limits(per_second=1e6, at_once=1000),
            clock=lambda: self.time,
            now=lambda: 1_700_000_000.0 + self.time,
        )
        self.events.start()

    def round(self, *rounds: Round) -> list[tuple[str, str]]:
        """Reasons and messages of all that was told so far, once these rounds are through."""
        for done in rounds:
            self.events.round(done)
        self.settle()
        return self.api.told()

    def settle(self) -> None:
        """Wait until nothing is under way."""
        outbox = self.events._outbox
        until(lambda: not outbox._waiting and not outbox._busy)


@pytest.fixture
def api() -> FakeApi:
    """Remembers what is told, for all tellers of a test."""
    return FakeApi()


@pytest.fixture
def teller(api: FakeApi) -> Iterator[Teller]:
    """On node `worker`."""
    made = Teller(api)
    yield made
    made.events.stop()


def known(name: str = "sip/sip-client", **changes: object) -> Service:
    """A Service with a uid."""
    return service(name, **changes)._replace(uid=f"uid-{name}")  # type: ignore[arg-type]


def test_programmed_is_told_as_the_api_wants_it(api: FakeApi, teller: Teller) -> None:
    teller.round(added(round_with(known(ports="udp:5060"), pod())))
    ((method, path, body, kind),) = api.sent
    assert (method, path, kind) == ("POST", "/api/v1/namespaces/sip/events", "application/json")
    name = body["metadata"]["name"]
    assert name.startswith("sip-client.")
    assert body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "sip", "name": name},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "sip",
            "name": "sip-client",
            "uid": "uid-sip/sip-client",
        },
        "type": "Normal",
        "reason": "Programmed",
        "message": "ipv4: udp:5060 leaves as 192.168.0.245 (node worker)",
        "action": "Programmed",
        "count": 1,
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "source": {"component": "kvctl.io/egress", "host": "worker"},
        "reportingComponent": "kvctl.io/egress",
        "reportingInstance": "worker",
    }


@pytest.mark.parametrize(
    ("done", "reason", "words"),
    [
        (round_with(known(vip=None), pod()), Reason.NOT_PROGRAMMED, "no VIP"),
        (round_with(known(policy="Cluster"), pod()), Reason.NOT_PROGRAMMED, "externalTrafficPolicy"),
        (round_with(known(ports="5060"), pod()), Reason.INVALID, "tcp:5060"),
        (
            round_with(known(created=9), known("a/b", created=5), pod()),
            Reason.CONFLICT,
            "claimed by Service a/b",
        ),
        (round_with(known(), pod(), host=NOWHERE), Reason.ELSEWHERE, "no interface of this node"),
        (
            round_with(known(annotations={"kvctl.io/without-vip": "drop"}), pod(), host=NOWHERE),
            Reason.DROPPED,
            "is dropped",
        ),
        (
            with_items(round_with(known(), pod()), status=ItemStatus.OVERRIDDEN, reason="nft chain x does"),
            Reason.OVERRIDDEN,
            "nft chain x",
        ),
        (
            replace(round_with(known(), pod()), disagreements={ref("sip/sip-client"): "two say so"}),
            Reason.DISAGREEMENT,
            "two say so",
        ),
        (
            replace(round_with(known(), pod()), unplaced={ref("sip/sip-client"): "eth1 has no carrier"}),
            Reason.UNPLACED,
            "eth1 has no carrier",
        ),
    ],
)
def test_how_a_service_stands_is_told(teller: Teller, done: Round, reason: Reason, words: str) -> None:
    told = [text for said, text in teller.round(done) if said == reason]
    assert len(told) == 1
    assert words in told[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"action": Action.FAILED}, Reason.FAILED),
        ({"action": Action.UPDATED, "repaired": True, "found": "the jump is missing"}, Reason.REPAIRED),
        ({"action": Action.UPDATED, "dropped": 3}, Reason.CONNECTIONS),
    ],
)
def test_what_happened_to_a_service_is_told(
    teller: Teller, changes: dict[str, object], reason: Reason
) -> None:
    done = round_with(known(), pod())
    turn = Turn(done.items[0], done.items[0])._replace(**changes)  # type: ignore[arg-type]
    assert reason in [said for said, _ in teller.round(with_turns(done, turn))]


def test_a_fight_is_told_of_the_services_that_suffer(teller: Teller) -> None:
    done = replace(round_with(known(), pod()), contested="it comes back in 9 s")
    pushed = with_items(done, status=ItemStatus.DRIFTED)
    assert [said for said, _ in teller.round(with_turns(pushed, Turn(pushed.items[0], done.items[0])))] == [
        Reason.CONTESTED
    ]


def test_a_service_that_does_not_ask_any_more_is_told_that_its_rules_are_gone(teller: Teller) -> None:
    before = round_with(known(), pod())
    after = round_with(known(egress=False), pod())
    gone = before.items[0]._replace(
        status=ItemStatus.SKIPPED, reason="the Service does not ask for egress any more"
    )
    teller.round(before, with_turns(after, Turn(gone, before.items[0], Action.REMOVED)))
    assert [said for said, _ in teller.round(before)] == [Reason.PROGRAMMED, Reason.REMOVED]
    assert [event["count"] for event in teller.api.events.values()] == [1, 1]
    teller.time += COUNT_SECONDS
    teller.round(before)
    assert [event["count"] for event in teller.api.events.values()] == [2, 1]


def test_services_without_a_pod_here_and_those_to_be_ignored_are_others_concern(teller: Teller) -> None:
    ignored = known(annotations={"kube-vip.io/ignore": "true"})
    assert (
        teller.round(
            round_with(known("far/away", vip=None), known("far/b", policy="Cluster"), ignored, pod())
        )
        == []
    )


def test_a_pod_that_comes_to_a_faulty_service_makes_this_node_speak(teller: Teller) -> None:
    assert teller.round(round_with(known(vip=None))) == []
    assert len(teller.round(round_with(known(vip=None), pod()))) == 1


def test_nothing_is_sent_while_nothing_changes(api: FakeApi, teller: Teller) -> None:
    done = round_with(known(), known("sip/b", vip=None, selector={"app": "sip-client"}), pod())
    for _ in range(50):
        teller.time += 60
        teller.round(done)
    assert len(api.sent) == 2


def test_pods_that_restart_are_no_news(api: FakeApi, teller: Teller) -> None:
    for _ in range(5):
        teller.time += COUNT_SECONDS
        teller.round(round_with(known(), pod()), round_with(known()))
    assert len(api.sent) == 1


def test_what_comes_again_is_counted_every_few_minutes(api: FakeApi, teller: Teller) -> None:
    here, away = round_with(known(), pod()), round_with(known(), pod(), host=NOWHERE)
    for _ in range(20):
        teller.round(here, away)
    assert methods(api.sent) == ["POST", "POST"]
    teller.time += COUNT_SECONDS
    teller.round(away)
    assert methods(api.sent) == ["POST", "POST", "PATCH", "PATCH"]
    assert [event["count"] for event in api.events.values()] == [20, 20]
    assert {kind for method, _, _, kind in api.sent if method == "PATCH"} == {"application/merge-patch+json"}


def test_a_restarted_agent_does_not_tell_again_how_things_stand(api: FakeApi, teller: Teller) -> None:
    done = round_with(known(), pod())
    teller.round(done)
    successor = Teller(api)
    successor.round(done)
    assert methods(api.sent) == ["POST", "POST"]
    assert [event["count"] for event in api.events.values()] == [1]
    successor.events.stop()


def test_a_restarted_agent_counts_on_what_happens_again(api: FakeApi, teller: Teller) -> None:
    done = round_with(known(), pod())
    repaired = with_turns(done, Turn(done.items[0], done.items[0], Action.UPDATED, repaired=True))
    teller.round(repaired)
    successor = Teller(api)
    successor.round(repaired)
    assert [event["count"] for event in api.events.values() if event["reason"] == Reason.REPAIRED] == [2]
    successor.events.stop()


def test_what_the_server_has_forgotten_is_told_anew(api: FakeApi, teller: Teller) -> None:
    done = round_with(known(), pod())
    repaired = with_turns(done, Turn(done.items[0], done.items[0], Action.UPDATED, repaired=True))
    teller.round(repaired)
    api.events.clear()
    teller.time += COUNT_SECONDS
    teller.round(repaired)
    assert [(event["reason"], event["count"]) for event in api.events.values()] == [(Reason.REPAIRED, 1)]


def test_nodes_share_what_is_true_everywhere_and_not_what_is_true_of_one(
    api: FakeApi, teller: Teller
) -> None:
    other = Teller(api, node="other")
    for done in (round_with(known(vip=None), pod()), round_with(known(), pod(), host=NOWHERE)):
        teller.round(done)
        other.round(done)
    reasons = [reason for reason, _ in api.told()]
    assert reasons == [Reason.NOT_PROGRAMMED, Reason.ELSEWHERE, Reason.ELSEWHERE]
    other.events.stop()


def test_a_service_made_anew_is_another(api: FakeApi, teller: Teller) -> None:
    teller.round(round_with(known(), pod()), round_with(pod()))
    teller.round(round_with(known()._replace(uid="another"), pod()))
    assert [event["involvedObject"]["uid"] for event in api.events.values()] == [
        "uid-sip/sip-client",
        "another",
    ]


def test_a_tenant_who_flaps_does_not_flood_the_server(api: FakeApi, teller: Teller) -> None:
    other = known("sip/b", vip="192.168.0.7")
    for number in range(100):
        flapping = known(ports=f"udp:{number + 1}")
        teller.round(round_with(flapping, other, pod(), pod("sip/b-0", "10.0.0.2")))
    assert len(api.sent) == BURST + 1
    assert teller.results.count("dropped") == 100 - BURST
    teller.time += REFILL_SECONDS
    teller.round(round_with(known(ports="udp:999"), other, pod()))
    assert len(api.sent) == BURST + 2


def test_without_permission_the_log_says_so_once(api: FakeApi, teller: Teller) -> None:
    api.refuse = [RefusedError(403)] * 5
    for number in range(5):
        teller.round(round_with(known(ports=f"udp:{number + 1}"), pod()))
    assert len(api.sent) == 1
    assert len(teller.complaints) == 1


def test_a_round_that_could_not_look_tells_nothing(api: FakeApi, teller: Teller) -> None:
    good = round_with(known(), pod())
    teller.round(failed_round(KvctlError("no"), previous=good, causes=(), duration=0, ended=0))
    assert api.sent == []


def test_a_server_that_fails_now_and_then_has_every_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        connection = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
        events = Events(
            connection, node="worker", complain=pytest.fail, limits=Limits(at_once=100, first_pause=0.01)
        )
        for fault in (Drop(), Status(500), Status(503), Drop()):
            server.fail(fault, on=anything("events"))
        events.start()
        names = [f"sip/service-{number}" for number in range(5)]
        things = [known(name, vip=f"192.168.0.{at}") for at, name in enumerate(names, start=7)]
        events.round(
            round_with(*things, *(pod(f"{n}-0", f"10.0.0.{i}") for i, n in enumerate(names, start=1)))
        )
        until(lambda: len(server.objects("events")) == 5)
        events.stop(patience=5)
        assert {event["count"] for event in server.objects("events")} == {1}
        connection.close()


def test_messages_fit_and_hold_nothing_that_moves_a_terminal(teller: Teller) -> None:
    evil = with_items(round_with(known(), pod(), host=NOWHERE), reason="x\x1b[31m\n" * 500)
    ((_, message),) = teller.round(evil)
    assert len(message) <= 1024
    assert message.isprintable()


def test_every_reason_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Reason)
    assert {meaning.type for meaning in MEANINGS.values()} == {"Normal", "Warning"}


def test_names_are_names_of_objects_whatever_the_service_is_called(api: FakeApi, teller: Teller) -> None:
    name = "a" * 63
    teller.round(round_with(known(f"sip/{name}"), pod(f"sip/{name}-0")))
    assert all(len(event) <= 253 and event.startswith(f"{name}.") for event in api.events)


def test_a_service_that_is_made_anew_again_and_again_is_told_no_more_for_it(
    api: FakeApi, teller: Teller
) -> None:
    for number in range(100):
        teller.round(round_with(known(ports=f"udp:{number + 1}"), pod()))
        teller.round(round_with())
    assert len(api.sent) == BURST


def test_services_that_have_gone_are_not_remembered(teller: Teller) -> None:
    for number in range(20):
        name = f"sip/service-{number}"
        teller.round(round_with(known(name), pod(f"{name}-0")))
    teller.time += REFILL_SECONDS
    teller.round(round_with(known(name), pod(f"{name}-0")))
    assert len(teller.events._states) == len(teller.events._allowances) == 1
