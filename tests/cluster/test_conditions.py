"""The condition of a readiness gate as an API server takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.conditions import CONDITION, PodCondition, patch_condition
from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.failures import RefusedError
from tests.apiserver import ApiServer, anything

AT = 1_700_000_000.9


@pytest.fixture
def connection(server: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    """To the server of the test."""
    made = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
    yield made
    made.close()


@pytest.fixture
def uid(server: ApiServer) -> str:
    """Of a pod that has a condition of kubelet's."""
    made = server.put(
        "pods",
        {
            "metadata": {"name": "sip-client-0", "namespace": "sip"},
            "spec": {"nodeName": "worker", "readinessGates": [{"conditionType": CONDITION}]},
            "status": {"phase": "Running", "conditions": [{"type": "ContainersReady", "status": "True"}]},
        },
    )
    return str(made["metadata"]["uid"])


def condition(uid: str, *, status: bool = True, changed: bool = True) -> PodCondition:
    return PodCondition("sip", "sip-client-0", uid, status, "RulesInKernel", "they are in", changed)


def conditions(server: ApiServer) -> dict[str, dict[str, Any]]:
    (pod,) = server.objects("pods")
    return {one["type"]: one for one in pod["status"]["conditions"]}


def test_the_condition_is_set_and_no_other_is_touched(
    connection: Connection, server: ApiServer, uid: str
) -> None:
    patch_condition(connection, condition(uid), at=AT)
    assert conditions(server) == {
        "ContainersReady": {"type": "ContainersReady", "status": "True"},
        CONDITION: {
            "type": CONDITION,
            "status": "True",
            "reason": "RulesInKernel",
            "message": "they are in",
            "lastTransitionTime": "2023-11-14T22:13:20Z",
        },
    }
    (request,) = server.asked(anything("pods"))
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/sip/pods/sip-client-0/status")


def test_the_time_of_transition_stays_where_the_status_does(
    connection: Connection, server: ApiServer, uid: str
) -> None:
    patch_condition(connection, condition(uid), at=AT)
    patch_condition(connection, condition(uid, changed=False), at=AT + 60)
    assert conditions(server)[CONDITION]["lastTransitionTime"] == "2023-11-14T22:13:20Z"
    patch_condition(connection, condition(uid, status=False), at=AT + 60)
    assert conditions(server)[CONDITION]["lastTransitionTime"] == "2023-11-14T22:14:20Z"


def test_another_pod_of_that_name_is_refused(connection: Connection, server: ApiServer, uid: str) -> None:
    with pytest.raises(RefusedError) as caught:
        patch_condition(connection, condition("of-the-one-before"), at=AT)
    assert caught.value.status == 409
    assert CONDITION not in conditions(server)


def test_a_pod_that_has_gone_is_refused(connection: Connection, server: ApiServer, uid: str) -> None:
    server.delete("pods", "sip-client-0", namespace="sip")
    with pytest.raises(RefusedError) as caught:
        patch_condition(connection, condition(uid), at=AT)
    assert caught.value.status == 404
