"""Requests: answers, refusals with their reasons, streams line by line, credentials that change."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kvctl
from kvctl.cluster import client as clients
from kvctl.cluster import kubeconfig as locations
from kvctl.cluster.connection import CREDENTIALS_SECONDS, Connection, open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.errors import ClusterError
from tests.apiserver import TOKEN, ApiServer, Body, Drip, Drop, Hang, Status, anything, watches
from tests.cluster.watching import connect, pod, service

EVENTS = "/api/v1/namespaces/sip/events"


@pytest.fixture
def connection(server: ApiServer, tmp_path: Path) -> Connection:
    return connect(server, tmp_path)


def event(**more: Any) -> dict[str, Any]:
    regarding = {"kind": "Service", "namespace": "sip", "name": "a"}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "a.", "namespace": "sip"},
        "involvedObject": regarding,
        "reason": "Programmed",
        "message": "m",
        "type": "Normal",
        **more,
    }


def watch_path(server: ApiServer) -> str:
    version = server.put("services", service("a"))["metadata"]["resourceVersion"]
    return f"/api/v1/services?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=30"


def test_an_event_is_created(server: ApiServer, connection: Connection) -> None:
    created = connection.send("POST", EVENTS, event(), timeout=5)
    assert created["metadata"]["name"].startswith("a.")
    assert [kept["reason"] for kept in server.objects("events")] == ["Programmed"]


def test_a_condition_is_merged_by_its_type(server: ApiServer, connection: Connection) -> None:
    value = pod("p")
    value["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    server.put("pods", value)
    for status in ("False", "True"):
        condition = {"type": "kube-vip.io/egress-enabled", "status": status}
        connection.send(
            "PATCH",
            "/api/v1/namespaces/sip/pods/p/status",
            {"status": {"conditions": [condition]}},
            content_type="application/strategic-merge-patch+json",
            timeout=5,
        )
    stored = server.get("pods", "p", namespace="sip")
    assert stored is not None
    assert [(c["type"], c["status"]) for c in stored["status"]["conditions"]] == [
        ("Ready", "True"),
        ("kube-vip.io/egress-enabled", "True"),
    ]


def test_a_put_of_yesterdays_version_is_a_conflict_with_its_reason(
    server: ApiServer, connection: Connection
) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": "sip"},
        "spec": {"holderIdentity": "n1"},
    }
    path = "/apis/coordination.k8s.io/v1/namespaces/sip/leases"
    created = connection.send("POST", path, lease, timeout=5)
    connection.send("PUT", f"{path}/l", {**created, "spec": {"holderIdentity": "n2"}}, timeout=5)
    with pytest.raises(RefusedError) as conflict:
        connection.send("PUT", f"{path}/l", dict(created), timeout=5)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    with pytest.raises(RefusedError) as exists:
        connection.send("POST", path, lease, timeout=5)
    assert (exists.value.status, exists.value.reason) == (409, "AlreadyExists")


def test_a_refusal_carries_status_words_and_patience(server: ApiServer, connection: Connection) -> None:
    server.fail(Status(429, "TooManyRequests", retry_after=7, message="\x1b[31mslow"), on=anything("pods"))
    with pytest.raises(RefusedError) as e:
        connection.get("/api/v1/pods?limit=1", timeout=5)
    assert (e.value.status, e.value.retry_after) == (429, 7.0)
    assert e.value.message == rf'{server.url} answered 429 Too Many Requests: "\x1b[31mslow"'
    assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"


@pytest.mark.parametrize("fault", [Drop(), Hang(), Drip(), Body(b"<html>"), Body(b"[]")], ids=str)
def test_whatever_fails_is_a_cluster_error(server: ApiServer, connection: Connection, fault: Any) -> None:
    server.fail(fault, on=anything("pods"))
    with pytest.raises(ClusterError):
        connection.get("/api/v1/pods?limit=1", timeout=0.2)
    server.fail(fault, on=anything("events"))
    with pytest.raises(ClusterError):
        connection.send("POST", EVENTS, event(), timeout=0.2)


def test_a_stream_comes_line_by_line_as_it_is_sent(server: ApiServer, connection: Connection) -> None:
    with connection.stream(watch_path(server), timeout=5) as lines:
        each = iter(lines)
        for name in ("b", "c"):
            server.put("services", service(name))
            assert f'"name": "{name}"'.encode() in next(each)


@pytest.mark.parametrize("fault", [Hang(), Drip(0.05)], ids=str)
def test_a_stream_without_a_whole_line_is_given_up(
    server: ApiServer, connection: Connection, fault: Any
) -> None:
    server.bookmark_seconds = 1000
    server.fail(fault, on=watches("services"))
    with (
        pytest.raises(ClusterError, match=r"within 0\.3 s"),
        connection.stream(watch_path(server), timeout=0.3) as lines,
    ):
        list(lines)


def test_a_stream_can_be_interrupted_from_another_thread(server: ApiServer, connection: Connection) -> None:
    server.bookmark_seconds = 1000
    with connection.stream(watch_path(server), timeout=30) as lines:
        timer = threading.Timer(0.05, lines.interrupt)
        timer.start()
        assert list(lines) == []
        timer.join()


def test_several_threads_use_one_connection(server: ApiServer, connection: Connection) -> None:
    for i in range(20):
        server.put("pods", pod(f"p{i}"))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: connection.get("/api/v1/pods?limit=500", timeout=10), range(40)))
    assert {len(answer["items"]) for answer in answers} == {20}


def test_the_server_is_told_who_asks(server: ApiServer, connection: Connection) -> None:
    connection.get("/api/v1/pods?limit=1", timeout=5)
    assert server.requests[0].agent == f"kvctl/{kvctl.__version__}"


def test_a_silent_peer_is_asked_whether_it_lives() -> None:
    options = {(level, name): value for level, name, value in clients.SOCKET_OPTIONS}
    idle = options[socket.IPPROTO_TCP, socket.TCP_KEEPIDLE]
    probes = (
        options[socket.IPPROTO_TCP, socket.TCP_KEEPINTVL] * options[socket.IPPROTO_TCP, socket.TCP_KEEPCNT]
    )
    assert options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    assert idle + probes <= 60


class Account:
    """The account of a pod: a token in a file that others rewrite."""

    def __init__(self, directory: Path) -> None:
        self.token = directory / "token"
        self.directory = directory


@pytest.fixture
def account(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """In-cluster configuration that leads to the server, by plain HTTP."""
    import kubernetes.config.incluster_config as incluster

    directory = tmp_path / "account"
    directory.mkdir()
    (directory / "ca.crt").write_text("none is needed\n")
    account = Account(directory)
    account.token.write_text(TOKEN)
    monkeypatch.setattr(locations, "ACCOUNT", str(directory))
    monkeypatch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(account.token))
    monkeypatch.setattr(incluster, "SERVICE_CERT_FILENAME", str(directory / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
    make = clients.make_client

    def plain(source: locations.Source) -> Any:
        client = make(source)
        hook = client.configuration.refresh_api_key_hook

        def by_http(configuration: Any) -> None:
            hook(configuration)
            configuration.host = server.url
            configuration.ssl_ca_cert = None
            configuration.refresh_api_key_hook = by_http

        client.configuration.refresh_api_key_hook = by_http
        return client

    monkeypatch.setattr("kvctl.cluster.connection.make_client", plain)
    return account


def test_the_token_of_an_account_may_end_with_a_newline(server: ApiServer, account: Account) -> None:
    account.token.write_text(f"{TOKEN}\n")
    connection = open_connection(kubeconfig=None, context=None)
    assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"


def test_a_token_that_is_no_longer_accepted_is_read_again(server: ApiServer, account: Account) -> None:
    connection = open_connection(kubeconfig=None, context=None)
    assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"
    server.token = "second"
    with pytest.raises(RefusedError, match="401 Unauthorized"):
        connection.get("/api/v1/pods?limit=1", timeout=5)
    # In the middle of the rotation the file is empty: a failure like any other, which ends.
    account.token.write_text("")
    with pytest.raises(ClusterError, match="credentials or certificates cannot be read"):
        connection.get("/api/v1/pods?limit=1", timeout=5)
    account.token.write_text("second")
    assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"


def test_the_library_is_asked_for_credentials_once_a_second_and_not_for_each_request(
    server: ApiServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter([TOKEN, "second"])
    assert connection._client is not None
    configuration = connection._client.configuration

    def renew(it: Any) -> None:
        it.api_key["BearerToken"] = f"Bearer {next(tokens)}"

    configuration.refresh_api_key_hook = renew
    now = [1000.0]
    monkeypatch.setattr("kvctl.cluster.connection.time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(3):
        connection.get("/api/v1/pods?limit=1", timeout=5)
    server.token = "second"
    now[0] += CREDENTIALS_SECONDS
    connection.get("/api/v1/pods?limit=1", timeout=5)
    assert [request.token for request in server.requests] == [TOKEN] * 3 + ["second"]


def test_it_goes_on_after_it_was_closed(server: ApiServer, connection: Connection) -> None:
    for _ in range(2):
        assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"
        connection.close()


def kubeconfig(directory: Path, url: str) -> str:
    """A kubeconfig for a server at `url`."""
    path = directory / "other"
    server = {"name": "it", "cluster": {"server": url}}
    user = {"name": "me", "user": {"token": TOKEN}}
    context = {"name": "here", "context": {"cluster": "it", "user": "me"}}
    whole = {"clusters": [server], "users": [user], "contexts": [context], "current-context": "here"}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **whole}))
    return str(path)


def test_a_server_behind_a_proxy_is_asked_through_it(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of requests to others, too, the double looks at the path alone.
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    connection = open_connection(kubeconfig=kubeconfig(tmp_path, "http://api.invalid"), context=None)
    assert connection.get("/api/v1/pods?limit=1", timeout=5)["kind"] == "PodList"
    connection.close()


def test_a_server_may_be_at_a_path_of_its_host(server: ApiServer, tmp_path: Path) -> None:
    server.fail(Body(b'{"kind": "PodList"}'), on=lambda request: request.path == "/clusters/c-1/api/v1/pods")
    config = kubeconfig(tmp_path, f"{server.url}/clusters/c-1")
    connection = open_connection(kubeconfig=config, context=None)
    assert connection.get("/api/v1/pods?limit=1", timeout=5) == {"kind": "PodList"}
    connection.close()
