"""Leases as an API server has them, and as tenants and other programs write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.connection import open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.leases import MOVE_TO, Lease, Leases, micro_time, read_lease
from kvctl.errors import ClusterError
from kvctl.model.lease import LeaseKey
from tests.apiserver import ApiServer, Body, Drip, Drop, Hang, Status, anything

KEY = LeaseKey("sip", "kubevip-sip-client")
OURS = Lease(KEY, "kvctl/worker", 15, 0, micro_time(1_700_000_000.5), micro_time(1_700_000_001.25))


@pytest.fixture
def leases(server: ApiServer, tmp_path: Path) -> Iterator[Leases]:
    """Those of the server of the test."""
    connection = open_connection(kubeconfig=server.kubeconfig(tmp_path / "config"), context=None)
    yield Leases(connection)
    connection.close()


def put(server: ApiServer, spec: Any = None, **meta: Any) -> None:
    server.put(
        "leases",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": KEY.name, "namespace": KEY.namespace, **meta},
            "spec": spec,
        },
    )


def stored(server: ApiServer) -> dict[str, Any]:
    found = server.get("leases", KEY.name, namespace=KEY.namespace)
    assert found is not None
    return found


def test_a_key_prints_as_namespace_and_name() -> None:
    assert str(KEY) == "sip/kubevip-sip-client"


def test_what_is_not_there_is_no_error(leases: Leases) -> None:
    assert leases.get(KEY, timeout=5) is None


def test_what_is_created_is_read_again(server: ApiServer, leases: Leases) -> None:
    made = leases.create(OURS, timeout=5)
    assert made == leases.get(KEY, timeout=5) == OURS._replace(version=made.version, uid=made.uid)
    assert stored(server)["spec"] == {
        "holderIdentity": "kvctl/worker",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2023-11-14T22:13:20.500000Z",
        "renewTime": "2023-11-14T22:13:21.250000Z",
    }


def test_what_is_created_says_whose_it_is(server: ApiServer, leases: Leases) -> None:
    leases.create(OURS, timeout=5)
    assert stored(server)["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "kvctl"}


@pytest.mark.parametrize(
    ("name", "holder", "labels", "anothers"),
    [
        ("payments-leader", "payments-7f9c_1", {}, True),
        ("payments-leader", "", {}, True),
        ("payments-leader", "", {"app.kubernetes.io/managed-by": "Helm"}, True),
        ("sip-lease", "", {"app.kubernetes.io/managed-by": "kvctl"}, False),
        ("sip-lease", "kvctl/worker", {}, False),
        ("kubevip-sip-client", "node-1", {}, False),
    ],
)
def test_a_lease_that_is_neither_made_nor_held_by_kvctl_nor_called_as_kube_vips_is_anothers(
    name: str, holder: str, labels: dict[str, str], anothers: bool
) -> None:
    meta = {"name": name, "namespace": "sip", "resourceVersion": "1", "labels": labels}
    raw = {"metadata": meta, "spec": {"holderIdentity": holder}}
    assert read_lease(raw, LeaseKey("sip", name)).anothers is anothers


def test_a_lease_is_created_once(leases: Leases) -> None:
    leases.create(OURS, timeout=5)
    with pytest.raises(RefusedError) as caught:
        leases.create(OURS._replace(holder="kvctl/other"), timeout=5)
    assert caught.value.status == 409


def test_an_update_keeps_what_is_of_others(server: ApiServer, leases: Leases) -> None:
    put(
        server,
        {"holderIdentity": "worker-1", "leaseDurationSeconds": 15, "strategy": "Theirs"},
        labels={"a": "b"},
        annotations={"theirs": "1", MOVE_TO: "worker"},
        ownerReferences=[{"kind": "Service", "name": "sip-client"}],
    )
    there = leases.get(KEY, timeout=5)
    assert there is not None
    assert (there.holder, there.move_to) == ("worker-1", "worker")
    leases.update(there._replace(holder="kvctl/worker", transitions=1, move_to=None), timeout=5)
    now = stored(server)
    assert now["metadata"]["labels"] == {"a": "b"}
    assert now["metadata"]["annotations"] == {"theirs": "1"}
    assert now["metadata"]["ownerReferences"] == [{"kind": "Service", "name": "sip-client"}]
    assert (now["spec"]["strategy"], now["spec"]["holderIdentity"]) == ("Theirs", "kvctl/worker")


def test_a_renewal_is_one_request(server: ApiServer, leases: Leases) -> None:
    made = leases.create(OURS, timeout=5)
    again = leases.update(made._replace(renewed=micro_time(1_700_000_003)), timeout=5)
    assert int(again.version) > int(made.version)
    assert [request.method for request in server.asked(anything("leases"))] == ["POST", "PATCH"]


def test_what_was_written_meanwhile_is_a_conflict(server: ApiServer, leases: Leases) -> None:
    made = leases.create(OURS, timeout=5)
    put(server, {"holderIdentity": "worker-1"})
    with pytest.raises(RefusedError) as caught:
        leases.update(made, timeout=5)
    assert caught.value.status == 409
    assert stored(server)["spec"] == {"holderIdentity": "worker-1"}


def test_another_lease_of_the_same_name_is_a_conflict(server: ApiServer, leases: Leases) -> None:
    made = leases.create(OURS, timeout=5)
    server.delete("leases", KEY.name, namespace=KEY.namespace)
    put(server, {"holderIdentity": "worker-1"})
    with pytest.raises(RefusedError) as caught:
        leases.update(made._replace(version=stored(server)["metadata"]["resourceVersion"]), timeout=5)
    assert caught.value.status == 409


def test_an_update_never_brings_back_what_was_deleted(server: ApiServer, leases: Leases) -> None:
    made = leases.create(OURS, timeout=5)
    server.delete("leases", KEY.name, namespace=KEY.namespace)
    with pytest.raises(RefusedError) as caught:
        leases.update(made, timeout=5)
    assert caught.value.status == 404
    assert server.objects("leases") == []


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"holderIdentity": None, "leaseDurationSeconds": None, "leaseTransitions": None, "renewTime": None},
        {"holderIdentity": "", "leaseDurationSeconds": 0},
    ],
)
def test_what_is_missing_is_nobody(server: ApiServer, leases: Leases, spec: Any) -> None:
    put(server, spec, annotations=None)
    found = leases.get(KEY, timeout=5)
    assert found is not None
    assert (found.holder, found.duration, found.transitions, found.move_to) == ("", 0, 0, None)


def test_a_million_seconds_are_what_they_are(server: ApiServer, leases: Leases) -> None:
    put(server, {"holderIdentity": "x", "leaseDurationSeconds": 10**6, "leaseTransitions": 2**31 - 1})
    found = leases.get(KEY, timeout=5)
    assert found is not None
    assert (found.duration, found.transitions) == (10**6, 2**31 - 1)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"spec": []}, "spec"),
        ({"spec": {"holderIdentity": 7}}, "spec.holderIdentity"),
        ({"spec": {"leaseDurationSeconds": "15"}}, "spec.leaseDurationSeconds"),
        ({"spec": {"leaseDurationSeconds": 15.5}}, "spec.leaseDurationSeconds"),
        ({"spec": {"leaseDurationSeconds": True}}, "spec.leaseDurationSeconds"),
        ({"spec": {"leaseDurationSeconds": -1}}, "spec.leaseDurationSeconds"),
        ({"spec": {"leaseTransitions": 2**31}}, "spec.leaseTransitions"),
        ({"spec": {"leaseTransitions": 10**5000}}, "spec.leaseTransitions"),
        ({"spec": {"renewTime": 1}}, "spec.renewTime"),
        ({"metadata": None}, "metadata.resourceVersion"),
        ({"metadata": {"name": "other", "namespace": "sip", "resourceVersion": "1"}}, "metadata.name"),
        ({"metadata": {"name": KEY.name, "namespace": "other", "resourceVersion": "1"}}, "metadata.name"),
    ],
)
def test_what_no_lease_can_be_is_refused(change: dict[str, Any], path: str) -> None:
    meta = {"name": KEY.name, "namespace": KEY.namespace, "resourceVersion": "1"}
    with pytest.raises(ClusterError, match=path):
        read_lease({"metadata": meta, "spec": {}, **change}, KEY)


@pytest.mark.parametrize(
    "fault", [Drop(), Hang(), Drip(), Body(b"<html>"), Body(b"{}"), Status(500)], ids=str
)
def test_whatever_fails_is_a_cluster_error_in_time(server: ApiServer, leases: Leases, fault: Any) -> None:
    made = leases.create(OURS, timeout=5)
    server.fail(fault, on=anything("leases"), times=None)
    with pytest.raises(ClusterError):
        leases.get(KEY, timeout=0.2)
    with pytest.raises(ClusterError):
        leases.create(OURS, timeout=0.2)
    with pytest.raises(ClusterError):
        leases.update(made, timeout=0.2)


def test_a_404_of_something_in_between_is_no_absence(server: ApiServer, leases: Leases) -> None:
    server.fail(Status(404), on=anything("leases"))
    with pytest.raises(RefusedError):
        leases.get(KEY, timeout=5)


@pytest.mark.parametrize("name", ["../secrets/x", "a b", "A", "", "x" * 254, "a?watch=1"])
def test_a_name_that_no_lease_can_have_is_never_sent(server: ApiServer, leases: Leases, name: str) -> None:
    with pytest.raises(ClusterError, match="no Lease can be called"):
        leases.get(LeaseKey("sip", name), timeout=5)
    assert server.requests == []
