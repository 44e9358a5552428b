"""What the holder of a VIP writes into its Service, as an API server takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.vip_status import clear_holder, write_holder, write_status
from kvctl.model.net import parse_address
from kvctl.model.ref import ServiceRef
from tests.apiserver import ApiServer, Status, anything

REF = ServiceRef("sip", "sip-client")
VIPS = (parse_address("192.168.0.245"), parse_address("2001:db8:1::245"))


@pytest.fixture
def connection(server: ApiServer, tmp_path: Path) -> Iterator[Connection]:
    """To the server of the test, which has the Service."""
    server.put(
        "services",
        {
            "metadata": {"name": REF.name, "namespace": REF.namespace, "annotations": {"a": "b"}},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
        },
    )
    made = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
    yield made
    made.close()


def stored(server: ApiServer) -> dict[str, Any]:
    (service,) = server.objects("services")
    return service


def test_the_addresses_are_the_status_and_nothing_else_changes(
    connection: Connection, server: ApiServer
) -> None:
    write_status(connection, REF, VIPS)
    service = stored(server)
    assert service["status"]["loadBalancer"] == {
        "ingress": [{"ip": "192.168.0.245"}, {"ip": "2001:db8:1::245"}]
    }
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert service["spec"]["type"] == "LoadBalancer"


def test_who_writes_names_itself_so_that_all_nodes_know_whose_the_address_is(
    connection: Connection, server: ApiServer
) -> None:
    write_status(connection, REF, VIPS)
    write_holder(connection, REF, "worker")
    patches = [request for request in server.asked(anything("services")) if request.method == "PATCH"]
    assert [request.query["fieldManager"] for request in patches] == ["kvctl", "kvctl"]


def test_the_holder_is_named_beside_other_annotations(connection: Connection, server: ApiServer) -> None:
    write_holder(connection, REF, "worker")
    assert stored(server)["metadata"]["annotations"] == {"a": "b", "kube-vip.io/vipHost": "worker"}


def test_the_holder_takes_its_own_name_away_and_no_others(connection: Connection, server: ApiServer) -> None:
    write_holder(connection, REF, "worker")
    clear_holder(connection, REF, "worker-2")
    assert stored(server)["metadata"]["annotations"]["kube-vip.io/vipHost"] == "worker"
    clear_holder(connection, REF, "worker")
    assert stored(server)["metadata"]["annotations"] == {"a": "b"}
    # Nor is it an error where there is none.
    clear_holder(connection, REF, "worker")
    server.put("services", {"metadata": {"name": REF.name, "namespace": REF.namespace}, "spec": {}})
    clear_holder(connection, REF, "worker")


def test_one_request_takes_a_name_away(connection: Connection, server: ApiServer) -> None:
    write_holder(connection, REF, "worker")
    server.requests.clear()
    clear_holder(connection, REF, "worker")
    assert [request.method for request in server.asked(anything("services"))] == ["PATCH"]


@pytest.mark.parametrize(("status", "raised"), [(409, False), (422, False), (404, False), (403, True)])
def test_a_refusal_that_says_that_it_is_anothers_by_now_is_an_answer(
    connection: Connection, server: ApiServer, status: int, raised: bool
) -> None:
    write_holder(connection, REF, "worker")
    server.fail(Status(status), on=anything("services"))
    if raised:
        with pytest.raises(RefusedError):
            clear_holder(connection, REF, "worker")
    else:
        clear_holder(connection, REF, "worker")
    assert stored(server)["metadata"]["annotations"]["kube-vip.io/vipHost"] == "worker"


def test_a_service_that_has_gone_names_nobody(connection: Connection, server: ApiServer) -> None:
    server.delete("services", REF.name, namespace=REF.namespace)
    clear_holder(connection, REF, "worker")
    with pytest.raises(RefusedError):
        write_holder(connection, REF, "worker")
