"""The API server, by HTTP as an agent speaks it."""

from __future__ import annotations

import gc
import json
import socket
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from kvctl.lab.api.objects import ApiObjects
from kvctl.lab.api.patches import JSON, MERGE
from kvctl.lab.api.requests import Request
from kvctl.lab.api.server import PORT, Handler, listening, serving
from kvctl.lab.netns import Namespace
from tests.conftest import MakeNamespace
from tests.waiting import until

SERVICES = "/api/v1/namespaces/sip/services"
KIND = {"apiVersion": "v1", "kind": "Service"}
FIRST = 1000
"""The version before anything is there."""
LEASES = "/apis/coordination.k8s.io/v1/namespaces/sip/leases"


class Client:
    """One connection from inside a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._connection = HTTPConnection("127.0.0.1", PORT, timeout=10)
        with namespace.entered():
            self._connection.connect()

    def ask(self, method: str, path: str, body: object = None, *, kind: str = "") -> tuple[int, Any]:
        """Status and JSON of an answer."""
        answer = self.open(method, path, body, kind=kind)
        return answer.status, json.loads(answer.read())

    def open(self, method: str, path: str, body: object = None, *, kind: str = "") -> HTTPResponse:
        """The answer, unread."""
        headers = {"Content-Type": kind or (MERGE if method == "PATCH" else "application/json")}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        self._connection.request(method, path, body=content, headers=headers)
        return self._connection.getresponse()

    def close(self) -> None:
        """Close it."""
        self._connection.close()


@pytest.fixture
def objects(namespace: Namespace) -> Iterator[ApiObjects]:
    """The server's objects: one Service, two Pods."""
    with serving([namespace]) as it:
        it.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {"type": "LoadBalancer"}})
        for name, node in (("p", "worker"), ("q", "worker-2")):
            labels = {"app": name}
            meta = {"name": name, "namespace": "sip", "labels": labels}
            it.put("pods", {"metadata": meta, "spec": {"nodeName": node}})
        yield it


@pytest.fixture
def client(objects: ApiObjects, namespace: Namespace) -> Iterator[Client]:
    """A connection to it."""
    with closing(Client(namespace)) as it:
        yield it


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


def events(answer: HTTPResponse, count: int) -> list[tuple[str, str]]:
    """The next events of a watch: what happened, and to whom."""
    read = (json.loads(answer.readline()) for _ in range(count))
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in read]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", ["p", "q"]),
        ("?limit=100&fieldSelector=spec.nodeName%3Dworker-2", ["q"]),
        ("?fieldSelector=metadata.name=p", ["p"]),
        ("?fieldSelector=spec.nodeName!=worker", ["q"]),
        ("?labelSelector=app%3D%3Dq", ["q"]),
        ("?labelSelector=app+in+(p,r)", ["p"]),
        ("?labelSelector=!app", []),
        ("?labelSelector=component=kube-controller-manager", []),
    ],
)
def test_a_list_holds_what_its_selectors_match(client: Client, query: str, wanted: list[str]) -> None:
    status, answer = client.ask("GET", f"/api/v1/pods{query}")
    assert (status, names(answer)) == (200, wanted)
    assert answer["metadata"]["resourceVersion"] == str(FIRST + 3)
    assert names(client.ask("GET", "/api/v1/namespaces/other/pods")[1]) == []


def test_a_selector_that_it_does_not_know_is_refused_instead_of_passed_over(client: Client) -> None:
    for query in ("labelSelector=app+notin+(p)", "fieldSelector=spec.hostNetwork=true"):
        assert client.ask("GET", f"/api/v1/pods?{query}")[0] == 400
        assert client.ask("GET", f"/api/v1/pods?watch=true&resourceVersion={FIRST}&{query}")[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/apis/discovery.k8s.io/v1beta1/endpointslices",
        "/api/v1/namespaces/kube-system/configmaps/kubeadm-config",
        f"{SERVICES}/b",
        f"{SERVICES}/a/scale",
        f"{LEASES}/a/status",
        "/apis/apps/v1/services",
        "/",
    ],
)
def test_what_is_not_there_is_404_as_the_api_says_it(client: Client, path: str) -> None:
    status, answer = client.ask("GET", path)
    assert (status, answer["kind"], answer["reason"]) == (404, "Status", "NotFound")


def test_a_watch_begins_after_the_version_it_names_and_goes_on(
    client: Client, objects: ApiObjects, namespace: Namespace
) -> None:
    watch = client.open("GET", f"/api/v1/services?watch=true&resourceVersion={FIRST}&timeoutSeconds=60")
    assert events(watch, 1) == [("ADDED", "a")]
    with closing(Client(namespace)) as other:
        other.ask("PATCH", f"{SERVICES}/a", {"metadata": {"annotations": {"x": "y"}}})
    objects.put("services", {"metadata": {"name": "b", "namespace": "sip"}})
    assert events(watch, 2) == [("MODIFIED", "a"), ("ADDED", "b")]


def test_for_a_watch_with_a_selector_what_no_longer_matches_is_deleted(
    client: Client, objects: ApiObjects
) -> None:
    query = f"watch=true&resourceVersion={FIRST + 3}&fieldSelector=spec.nodeName=worker"
    watch = client.open("GET", f"/api/v1/pods?{query}")
    objects.put("pods", {"metadata": {"name": "p", "namespace": "sip"}, "spec": {"nodeName": "worker-2"}})
    objects.put("pods", {"metadata": {"name": "q", "namespace": "sip"}, "spec": {"nodeName": "worker"}})
    assert events(watch, 2) == [("DELETED", "p"), ("ADDED", "q")]


@pytest.mark.parametrize(("version", "code"), [(FIRST + 99, 504), (FIRST - 1, 410)])
def test_a_watch_from_the_future_or_from_what_is_forgotten_is_told_so_and_ends(
    client: Client, version: int, code: int
) -> None:
    watch = client.open("GET", f"/api/v1/pods?watch=true&resourceVersion={version}")
    event = json.loads(watch.read())
    assert (event["type"], event["object"]["code"]) == ("ERROR", code)


def test_a_watch_from_no_version_is_refused(client: Client) -> None:
    for query in ("watch=true", "watch=true&resourceVersion=0", "watch=true&resourceVersion=x"):
        assert client.ask("GET", f"/api/v1/pods?{query}")[0] == 400


def test_who_asks_for_bookmarks_is_told_how_far_a_watch_has_come(client: Client, objects: ApiObjects) -> None:
    objects.bookmark_seconds = 0.01
    query = f"watch=true&resourceVersion={FIRST}&allowWatchBookmarks=true"
    watch = client.open("GET", f"/api/v1/services?{query}")
    assert events(watch, 1) == [("ADDED", "a")]
    mark = json.loads(watch.readline())
    assert (mark["type"], mark["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(FIRST + 3))


def test_a_watch_whose_client_has_left_is_over(
    client: Client, objects: ApiObjects, namespace: Namespace
) -> None:
    with closing(Client(namespace)) as other:
        watch = other.open("GET", f"/api/v1/services?watch=true&resourceVersion={FIRST + 3}")
        assert len(objects.watchers("services")) == 1
        watch.close()
    until(lambda: not objects.watchers("services"))


def test_a_watch_ends_when_its_time_is_over(client: Client) -> None:
    assert (
        client.open("GET", f"/api/v1/pods?watch=true&resourceVersion={FIRST}&timeoutSeconds=0").read() == b""
    )
    # The connection is as good as before.
    assert client.ask("GET", "/api/v1/pods")[0] == 200


def test_the_end_of_the_server_ends_its_watches(namespace: Namespace) -> None:
    with serving([namespace]):
        client = Client(namespace)
        watch = client.open("GET", f"/api/v1/pods?watch=true&resourceVersion={FIRST}")
    # Until the last chunk: a connection that broke off would be an error.
    assert watch.read() == b""
    client.close()


def test_of_two_writes_on_the_same_version_the_second_is_refused(client: Client) -> None:
    body = {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a"},
    }
    status, lease = client.ask("POST", LEASES, body)
    assert status == 201
    assert client.ask("POST", LEASES, body)[0] == 409
    meta = {"resourceVersion": lease["metadata"]["resourceVersion"], "uid": lease["metadata"]["uid"]}
    patch = {"metadata": meta, "spec": {"holderIdentity": "b"}}
    status, written = client.ask("PATCH", f"{LEASES}/l", patch)
    assert (status, written["spec"]) == (200, {"holderIdentity": "b"})
    status, refused = client.ask("PATCH", f"{LEASES}/l", patch)
    assert (status, refused["reason"]) == (409, "Conflict")
    assert client.ask("PUT", f"{LEASES}/l", lease)[0] == 409
    assert client.ask("PUT", f"{LEASES}/l", {**written, "spec": {}})[1]["spec"] == {}
    another = {"metadata": {"uid": "another"}, "spec": {}}
    assert client.ask("PATCH", f"{LEASES}/l", another)[0] == 409


def test_a_merge_patch_takes_away_what_is_null_and_leaves_what_it_does_not_name(client: Client) -> None:
    client.ask("PATCH", f"{SERVICES}/a", {"metadata": {"annotations": {"x": "1", "y": "2"}}})
    patch = {"metadata": {"annotations": {"x": None}}}
    service = client.ask("PATCH", f"{SERVICES}/a?fieldManager=kvctl", patch)[1]
    assert service["metadata"]["annotations"] == {"y": "2"}
    assert service["spec"] == {"type": "LoadBalancer"}


def test_the_status_is_written_by_its_subresource_alone(client: Client) -> None:
    there = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    patch = {"spec": {"type": "no"}, "status": there}
    service = client.ask("PATCH", f"{SERVICES}/a/status", patch)[1]
    assert (service["spec"], service["status"]) == ({"type": "LoadBalancer"}, there)
    service = client.ask("PATCH", f"{SERVICES}/a", {"spec": {"x": "y"}, "status": None})[1]
    assert (service["spec"]["x"], service["status"]) == ("y", there)


def test_a_patch_that_changes_nothing_is_no_change(client: Client, objects: ApiObjects) -> None:
    client.ask("PATCH", f"{SERVICES}/a", {"spec": {"type": "LoadBalancer"}})
    assert len(objects.changes("services", "a", namespace="sip")) == 1


def test_a_json_patch_removes_what_is_as_it_tests_and_nothing_else(
    client: Client, objects: ApiObjects
) -> None:
    client.ask("PATCH", f"{SERVICES}/a", {"metadata": {"annotations": {"x.io/y": "1", "z": "2"}}})
    path = "/metadata/annotations/x.io~1y"
    patch = [{"op": "test", "path": path, "value": "0"}, {"op": "remove", "path": path}]
    written = len(objects.changes("services", "a", namespace="sip"))
    status, refused = client.ask("PATCH", f"{SERVICES}/a", patch, kind=JSON)
    assert (status, refused["reason"]) == (422, "Invalid")
    assert len(objects.changes("services", "a", namespace="sip")) == written
    patch[0]["value"] = "1"
    status, service = client.ask("PATCH", f"{SERVICES}/a", patch, kind=JSON)
    assert (status, service["metadata"]["annotations"]) == (200, {"z": "2"})
    assert client.ask("PATCH", f"{SERVICES}/a", patch, kind=JSON)[0] == 422


def test_a_long_list_comes_in_pages_as_it_was_when_it_began(client: Client, objects: ApiObjects) -> None:
    first = client.ask("GET", "/api/v1/pods?limit=1")[1]
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["p"], 1)
    objects.delete("pods", "q", namespace="sip")
    token = first["metadata"]["continue"]
    rest = client.ask("GET", f"/api/v1/pods?limit=1&continue={token}")[1]
    assert names(rest) == ["q"]
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert client.ask("GET", f"/api/v1/pods?continue={token}&resourceVersion=1")[0] == 400
    objects.compact()
    status, gone = client.ask("GET", f"/api/v1/pods?limit=1&continue={token}")
    assert (status, gone["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("PATCH", f"{SERVICES}/a", {}, JSON, 400),
        ("PATCH", f"{SERVICES}/a", {}, "application/json", 415),
        ("PUT", f"{SERVICES}/a", {**KIND, "metadata": {"name": "a", "namespace": "sip"}}, "", 422),
        ("PATCH", f"{SERVICES}/a", {"metadata": {"name": "b"}}, "", 400),
        ("POST", SERVICES, {"metadata": {"name": "c"}}, "", 400),
        ("POST", SERVICES, {**KIND, "metadata": {}}, "", 422),
        ("POST", SERVICES, {**KIND, "metadata": {"name": "c", "resourceVersion": "1"}}, "", 422),
        ("POST", SERVICES, {**KIND, "metadata": {"name": "c", "namespace": "other"}}, "", 400),
        ("POST", SERVICES, {**KIND, "metadata": {"name": "c"}}, MERGE, 415),
        ("POST", SERVICES, b"[]", "", 400),
        ("POST", SERVICES, b"{", "", 400),
        ("POST", f"{SERVICES}/a", {}, "", 405),
        ("PATCH", SERVICES, {}, "", 405),
    ],
)
def test_what_the_api_would_refuse_is_refused(
    client: Client, objects: ApiObjects, method: str, path: str, body: object, kind: str, status: int
) -> None:
    before = objects.get("services", "a", namespace="sip")
    assert client.ask(method, path, body, kind=kind)[0] == status
    assert objects.get("services", "a", namespace="sip") == before
    # Nothing of the refused request is left on the connection.
    assert client.ask("GET", SERVICES)[0] == 200


def test_each_namespace_has_the_same_objects(make_namespace: MakeNamespace) -> None:
    here, there = make_namespace(), make_namespace()
    with serving([here, there]) as objects:
        with closing(Client(here)) as client:
            client.ask("POST", SERVICES, {**KIND, "metadata": {"name": "a"}})
        with closing(Client(there)) as client:
            assert names(client.ask("GET", SERVICES)[1]) == ["a"]
        assert objects.get("services", "a", namespace="sip") is not None
        assert objects.get("services", "b", namespace="sip") is None


def test_a_client_that_goes_before_its_answer_leaves_no_socket_open() -> None:
    gone, threads = threading.Event(), threading.active_count()

    class Late(Handler):
        """Answers when nobody is there any more."""

        def answer(self, request: Request) -> None:
            assert gone.wait(10)
            # Whatever is part of a circle is taken away in any order.
            self.itself = self
            self.begin(200, {"Content-Length": "2"})
            self.wfile.write(b"{}")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with listening(ApiObjects(), Late, port=0) as port:
            with closing(socket.create_connection(("127.0.0.1", port))) as client:
                client.sendall(f"GET {SERVICES} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
                # Closed so, the other end is told to forget it (socket(7), SO_LINGER).
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.set()
        until(lambda: threading.active_count() <= threads)
        gc.collect()
    assert [str(each.message) for each in said] == []
