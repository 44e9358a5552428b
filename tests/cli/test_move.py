"""`kvctl egress move` against an API server: what it asks for, and what stays when nobody does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.leases import MOVE_TO
from tests.apiserver import ApiServer, Status, anything, serving
from tests.waiting import until

Move = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as found:
        meta = {"namespace": "sip", "name": "client"}
        found.put("services", {"metadata": meta, "spec": {"selector": {"app": "client"}}})
        for number in (1, 2):
            found.put("nodes", {"metadata": {"name": f"worker-{number}"}})
            run(found, number, node=f"worker-{number}")
        yield found


def run(server: ApiServer, number: int, *, node: str, **labels: str) -> None:
    """A pod of the Service on a node."""
    meta = {"namespace": "sip", "name": f"client-{number}", "labels": {"app": "client", **labels}}
    status = {"phase": "Running", "podIPs": [{"ip": f"10.0.0.{number}"}]}
    server.put("pods", {"metadata": meta, "spec": {"nodeName": node}, "status": status})


@pytest.fixture
def move(server: ApiServer, tmp_path: Path) -> Iterator[Move]:
    """`move(*arguments)`: the command, begun; ended with the test."""
    begun: list[subprocess.Popen[str]] = []
    config = server.kubeconfig(tmp_path / "config")

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kvctl", "egress", "move", *arguments, "--kubeconfig", config],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "KUBECONFIG"},
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit status and the lines of messages."""
    out, err = process.communicate(timeout=60)
    assert out == ""
    return process.returncode, err.splitlines()


def hold(server: ApiServer, holder: str, *, move_to: str | None = None) -> None:
    annotations = {} if move_to is None else {MOVE_TO: move_to}
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 1}
    meta = {"namespace": "sip", "name": "kubevip-client", "annotations": annotations}
    server.put("leases", {"metadata": meta, "spec": spec})


def wish(server: ApiServer) -> str | None:
    lease: Any = server.get("leases", "kubevip-client", namespace="sip")
    found: str | None = (lease["metadata"].get("annotations") or {}).get(MOVE_TO)
    return found


def test_it_ends_when_the_node_has_taken_the_lease(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-1")
    moving = move("sip/client", "--to", "worker-2")
    until(lambda: wish(server) == "worker-2", seconds=60)
    hold(server, "kvctl/worker-2")
    status, (said,) = ended(moving)
    assert status == 0
    assert said.startswith("Note: sip/client moved from worker-1 to worker-2 in ")
    assert said.endswith(" s (Lease sip/kubevip-client)")


def test_a_node_that_has_it_already_is_asked_nothing(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-2")
    assert ended(move("sip/client", "--to", "worker-2")) == (
        0,
        ["Note: sip/client is on worker-2 already (Lease sip/kubevip-client)"],
    )
    assert {request.method for request in server.asked(anything("leases"))} == {"GET"}


def test_a_renewal_in_the_same_moment_is_no_failure(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-1")
    conflict = Status(409, "Conflict")
    server.fail(conflict, on=lambda request: request.method == "PATCH")
    moving = move("sip/client", "--to", "worker-2")
    until(lambda: wish(server) == "worker-2", seconds=60)
    hold(server, "kvctl/worker-2")
    assert ended(moving)[0] == 0


def test_a_wish_that_nobody_fulfils_is_taken_back(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-1")
    status, (said, hint) = ended(move("sip/client", "--to", "worker-2", "--timeout", "1"))
    assert status == 1
    assert said == "Error: worker-2 has not taken Lease sip/kubevip-client in time: worker-1 holds it"
    assert "svc_election=true" in hint
    assert wish(server) is None


def test_it_is_taken_back_also_past_a_renewal_and_when_interrupted(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-1")
    moving = move("sip/client", "--to", "worker-2")
    until(lambda: wish(server) == "worker-2", seconds=60)
    server.fail(Status(409, "Conflict"), on=lambda request: request.method == "PATCH")
    moving.send_signal(signal.SIGINT)
    assert ended(moving)[0] == 130
    assert wish(server) is None


def test_a_wish_that_cannot_be_taken_back_is_told_with_the_command_that_does(
    server: ApiServer, move: Move
) -> None:
    hold(server, "kvctl/worker-1")
    moving = move("sip/client", "--to", "worker-2", "--timeout", "1")
    until(lambda: wish(server) == "worker-2", seconds=60)
    server.fail(Status(403, "Forbidden"), on=lambda request: request.method == "PATCH", times=None)
    status, (warning, error, _) = ended(moving)
    assert status == 1
    assert warning.startswith("Warning: Lease sip/kubevip-client may still ask to move to worker-2 (")
    assert warning.endswith("take it back: kubectl -n sip annotate lease kubevip-client kvctl.io/move-to-")
    assert "has not taken Lease" in error


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("sip/other", "--to", "worker-2"), 1, "Error: there is no Service sip/other"),
        (("sip/client", "--to", "Worker_2"), 2, 'Error: --to: "Worker_2" is not'),
        (("sip/client",), 2, "Error: Missing option '--to'"),
        (("sip/client", "--to", "worker-2"), 1, "Error: sip/client has no Lease sip/kubevip-client"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(
    server: ApiServer, move: Move, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, said = ended(move(*arguments))
    assert found == status
    assert any(line.startswith(message) for line in said), said
    assert server.objects("leases") == []


def test_a_lease_of_another_program_is_left_alone(server: ApiServer, move: Move) -> None:
    hold(server, "worker-1_3f0c")
    status, said = ended(move("sip/client", "--to", "worker-2"))
    assert status == 1
    assert said[0] == (
        'Error: Lease sip/kubevip-client is held by "worker-1_3f0c", which is no agent of kvctl\'s'
    )
    assert wish(server) is None


def test_a_node_that_is_none_is_told_with_those_that_have_pods_and_moves_nothing(
    server: ApiServer, move: Move
) -> None:
    hold(server, "kvctl/worker-1")
    assert ended(move("sip/client", "--to", "worker-9")) == (
        1,
        ["Error: there is no Node worker-9", "Hint: sip/client has pods on: worker-1, worker-2"],
    )
    assert {request.method for request in server.asked(anything("leases"))} == {"GET"}


@pytest.mark.parametrize("there", ["nothing", "other labels", "host network", "finished"])
def test_a_node_without_a_pod_of_the_service_is_sent_nothing(
    server: ApiServer, move: Move, there: str
) -> None:
    hold(server, "kvctl/worker-1")
    server.put("nodes", {"metadata": {"name": "worker-3"}})
    if there != "nothing":
        meta = {"namespace": "sip", "name": "c", "labels": {"app": "x" if "labels" in there else "client"}}
        spec = {"nodeName": "worker-3", "hostNetwork": there == "host network"}
        status = {
            "phase": "Succeeded" if there == "finished" else "Running",
            "podIPs": [{"ip": "10.0.0.9"}],
        }
        server.put("pods", {"metadata": meta, "spec": spec, "status": status})
    assert ended(move("sip/client", "--to", "worker-3")) == (
        1,
        [
            "Error: sip/client has no pod on worker-3, which therefore does not take its VIP",
            "Hint: it has pods on: worker-1, worker-2",
        ],
    )
    assert wish(server) is None
    assert {request.method for request in server.asked(anything("leases"))} == {"GET"}


def test_of_a_service_without_selector_the_endpoints_tell_where_its_pods_are(
    server: ApiServer, move: Move
) -> None:
    hold(server, "kvctl/worker-1")
    server.put("services", {"metadata": {"namespace": "sip", "name": "client"}, "spec": {}})
    labels = {"kubernetes.io/service-name": "client"}
    endpoints = [{"addresses": ["10.0.0.2"], "nodeName": "worker-2"}]
    server.put(
        "endpointslices",
        {
            "metadata": {"namespace": "sip", "name": "client-x", "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
        },
    )
    moving = move("sip/client", "--to", "worker-2")
    until(lambda: wish(server) == "worker-2", seconds=60)
    hold(server, "kvctl/worker-2")
    assert ended(moving)[0] == 0
    status, (_, hint) = ended(move("sip/client", "--to", "worker-1"))
    assert (status, hint) == (1, "Hint: it has pods on: worker-2")


def test_what_may_not_be_read_is_no_reason_to_refuse(server: ApiServer, move: Move) -> None:
    hold(server, "kvctl/worker-1")
    server.forbid("nodes")
    server.forbid("pods")
    moving = move("sip/client", "--to", "worker-2")
    until(lambda: wish(server) == "worker-2", seconds=60)
    hold(server, "kvctl/worker-2")
    status, (unknown, moved) = ended(moving)
    assert status == 0
    assert unknown.startswith("Note: whether sip/client has a pod on worker-2 is not known: ")
    assert moved.startswith("Note: sip/client moved from worker-1 to worker-2")
