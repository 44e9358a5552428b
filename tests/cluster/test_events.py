"""Events as an API server takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.events import ServiceEvent, count_event, create_event
from kvctl.cluster.failures import RefusedError
from kvctl.model.ref import ServiceRef
from tests.apiserver import ApiServer, Status, anything

EVENT = ServiceEvent(
    ref=ServiceRef("sip", "sip-client"),
    uid="1234",
    type="Normal",
    reason="Programmed",
    message="udp:5060 leaves as 192.168.0.245",
    node="worker",
)
AT = 1_700_000_000.9


@pytest.fixture
def connection(server: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    """To the server of the test."""
    made = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
    yield made
    made.close()


def create(connection: Connection, event: ServiceEvent = EVENT, *, teller: str = "worker") -> bool:
    return create_event(connection, event, teller=teller, count=1, at=AT)


def test_an_event_is_created_once(connection: Connection, server: ApiServer) -> None:
    assert create(connection)
    assert not create(connection, teller="another")
    (event,) = server.objects("events")
    assert event["involvedObject"]["uid"] == "1234"
    assert (event["count"], event["reportingInstance"]) == (1, "worker")
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    "other",
    [
        EVENT._replace(message="all traffic leaves as 192.168.0.245"),
        EVENT._replace(reason="Removed"),
        EVENT._replace(node="another"),
        EVENT._replace(uid="5678"),
        EVENT._replace(ref=ServiceRef("sip", "b")),
    ],
)
def test_what_differs_is_another_event(
    connection: Connection, server: ApiServer, other: ServiceEvent
) -> None:
    assert create(connection)
    assert create(connection, other)
    assert len(server.objects("events")) == 2


def test_it_is_counted_on_with_the_verb_patch_alone(connection: Connection, server: ApiServer) -> None:
    create(connection)
    assert count_event(connection, EVENT, count=None, at=AT + 60) == 1
    assert count_event(connection, EVENT, count=5, at=AT + 120) == 5
    (event,) = server.objects("events")
    assert (event["count"], event["lastTimestamp"]) == (5, "2023-11-14T22:15:20Z")
    assert event["firstTimestamp"] == "2023-11-14T22:13:20Z"
    assert {request.method for request in server.asked(anything("events"))} == {"POST", "PATCH"}


def test_what_the_server_has_forgotten_is_not_counted(connection: Connection) -> None:
    assert count_event(connection, EVENT, count=2, at=AT) is None


def test_a_message_is_cut_to_what_the_server_takes(connection: Connection, server: ApiServer) -> None:
    create(connection, EVENT._replace(message="x" * 5000))
    assert len(server.objects("events")[0]["message"]) == 1024


def test_a_service_without_a_known_uid_can_be_told_about(connection: Connection, server: ApiServer) -> None:
    create(connection, EVENT._replace(uid=""))
    assert "uid" not in server.objects("events")[0]["involvedObject"]


@pytest.mark.parametrize("status", [403, 429, 500])
def test_refusals_are_raised(connection: Connection, server: ApiServer, status: int) -> None:
    server.fail(Status(status, "Whatever"), on=anything("events"), times=2)
    with pytest.raises(RefusedError) as caught:
        create(connection)
    assert caught.value.status == status
    with pytest.raises(RefusedError):
        count_event(connection, EVENT, count=2, at=AT)
