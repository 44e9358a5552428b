"""The last Events about a Service, as others and tenants write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.events import ServiceEvent, create_event
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.recent_events import RecentEvent, recent_events
from kvctl.errors import ClusterError
from kvctl.model.ref import ServiceRef
from tests.apiserver import ApiServer, Hang, anything

REF = ServiceRef("sip", "sip-client")
OURS = ServiceEvent(REF, "", "Warning", "VIPElsewhere", "the VIP is on worker-2", node="worker")


@pytest.fixture
def connection(server: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    found = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
    yield found
    found.close()


def put(server: ApiServer, name: str, **fields: Any) -> None:
    """An Event about the Service, as anybody may write it."""
    server.put(
        "events",
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "sip"},
            "involvedObject": {"kind": "Service", "name": "sip-client", "namespace": "sip"},
            **fields,
        },
    )


def test_what_kvctl_tells_is_read_again(connection: Connection) -> None:
    assert create_event(connection, OURS, teller="worker", count=3, at=1_700_000_000.0)
    assert recent_events(connection, REF, most=5, timeout=5) == [
        RecentEvent(
            1_700_000_000.0,
            "Warning",
            "VIPElsewhere",
            "the VIP is on worker-2",
            times=3,
            by="kvctl.io/egress",
        )
    ]


def test_the_newest_come_first_and_others_objects_are_left_out(
    server: ApiServer, connection: Connection
) -> None:
    for at in range(7):
        put(server, f"e{at}", reason=f"R{at}", lastTimestamp=f"2026-01-01T00:00:0{at}Z")
    put(server, "new", reason="New", eventTime="2026-01-02T00:00:00.000001Z", series={"count": 9})
    put(server, "other", reason="Other", involvedObject={"kind": "Service", "name": "other"})
    put(server, "pod", reason="Pod", involvedObject={"kind": "Pod", "name": "sip-client"})
    found = recent_events(connection, REF, most=3, timeout=5)
    assert [(each.reason, each.times) for each in found] == [("New", 9), ("R6", 1), ("R5", 1)]


def test_nonsense_is_an_event_that_says_nothing(server: ApiServer, connection: Connection) -> None:
    put(server, "odd", reason=7, message=["x"], lastTimestamp="soon", count=-1, series="x", source=None)
    (found,) = recent_events(connection, REF, most=5, timeout=5)
    assert (found.type, found.reason, found.message, found.times, found.by) == ("", "", "", 1, "")


def test_what_is_forbidden_or_silent_is_an_error_in_time(server: ApiServer, connection: Connection) -> None:
    server.forbid("events")
    with pytest.raises(RefusedError):
        recent_events(connection, REF, most=5, timeout=5)
    server.mend()
    server.fail(Hang(), on=anything("events"), times=None)
    with pytest.raises(ClusterError):
        recent_events(connection, REF, most=5, timeout=0.3)
