"""An API server on the loopback that behaves on the wire as Kubernetes does, and misbehaves on demand.

    with serving() as server:
        server.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {...}})
        config = server.kubeconfig(tmp_path / "config")
        server.delete("services", "a", namespace="sip")
        server.fail(Status(429, retry_after=1), on=watches("services"))     # the next such request
        server.upset("pods", Cut())                                          # watches that are open now

Every change gets the next resource version and reaches the watchers. Requests that a real server would
not understand are answered as it would, and recorded in `complaints`: `serving` fails on them at its end.
Facts: kubernetes.io/docs/reference/using-api/api-concepts; staging/src/k8s.io/apiserver (cacher.go, watch.go).
"""

from __future__ import annotations

import base64
import copy
import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

Object = dict[str, Any]
TOKEN = "s3cr3t-t0ken"


class Resource(NamedTuple):
    """A kind and where the API has it."""

    name: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    fields: frozenset[str] = frozenset(("metadata.name", "metadata.namespace"))

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES = {
    (resource.group, resource.version, resource.name): resource
    for resource in (
        Resource("services", "Service"),
        Resource(
            "pods",
            "Pod",
            fields=frozenset(("metadata.name", "metadata.namespace", "spec.nodeName", "status.phase")),
        ),
        Resource("nodes", "Node", namespaced=False, fields=frozenset(("metadata.name",))),
        Resource("configmaps", "ConfigMap"),
        Resource("events", "Event"),
        Resource("events", "Event", group="events.k8s.io"),
        Resource("endpointslices", "EndpointSlice", group="discovery.k8s.io"),
        Resource("servicecidrs", "ServiceCIDR", group="networking.k8s.io", namespaced=False),
        Resource("leases", "Lease", group="coordination.k8s.io"),
        Resource("servicel2statuses", "ServiceL2Status", group="metallb.io", version="v1beta1"),
    )
}
_QUERY_LIST = {
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "fieldSelector",
    "labelSelector",
}
_QUERY_WATCH = {
    "watch",
    "allowWatchBookmarks",
    "resourceVersion",
    "timeoutSeconds",
    "fieldSelector",
    "labelSelector",
}


# What a server may do wrong. --------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """A refusal; in a stream an ERROR event."""

    code: int
    reason: str = ""
    retry_after: int | None = None
    message: str = "as the test wants it"


@dataclass(frozen=True)
class Drop:
    """The connection ends without an answer; in a stream in the middle of it."""


@dataclass(frozen=True)
class Hang:
    """No answer, or no further event or bookmark, and the connection stays: half-open."""


@dataclass(frozen=True)
class Cut:
    """The answer ends in the middle; a stream in the middle of an event."""


@dataclass(frozen=True)
class End:
    """A stream ends as if its time were over; at a request: the stream ends at once."""


@dataclass(frozen=True)
class Drip:
    """The answer, or an event, comes byte by byte, so many seconds apart, and never ends."""

    seconds: float = 0.02


@dataclass(frozen=True)
class Body:
    """These bytes instead of the answer; in a stream as a line of it."""

    content: bytes


Fault = Status | Drop | Hang | Cut | End | Drip | Body


class Request(NamedTuple):
    """A request as the server saw it."""

    method: str
    path: str
    resource: str
    """Plural name; empty: no such path."""
    query: Mapping[str, str]
    content_type: str | None
    body: Any
    token: str
    agent: str

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") in ("true", "1")


Match = Callable[[Request], bool]


def watches(resource: str) -> Match:
    """Watches of a resource."""
    return lambda request: request.resource == resource and request.is_watch


def lists(resource: str) -> Match:
    """Lists of a resource, every page."""
    return lambda request: request.resource == resource and request.method == "GET" and not request.is_watch


def anything(resource: str) -> Match:
    """Every request for a resource."""
    return lambda request: request.resource == resource


# The server. ------------------------------------------------------------------------------------------


class _Change(NamedTuple):
    version: int
    resource: Resource
    before: Object | None
    after: Object | None
    stored: Object
    """What a DELETED event shows: the last state, with the version of the deletion."""


@dataclass
class _Watcher:
    resource: Resource
    matches: Callable[[Object], bool]
    inbox: queue.Queue[_Change | Fault | None] = field(default_factory=queue.Queue)


@dataclass
class _Rule:
    fault: Fault
    on: Match
    times: int | None


class _StatusError(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class ApiServer:
    """The state. All methods are safe to call from any thread."""

    def __init__(self, *, bookmark_seconds: float = 0.5) -> None:
        self.url = ""
        self.token = TOKEN
        self.bookmark_seconds = bookmark_seconds
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self._lock = threading.RLock()
        self._version = 1000
        self._oldest = 1000
        """Watches from before this version are 410."""
        self._objects: dict[tuple[Resource, str, str], Object] = {}
        self._history: list[_Change] = []
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        self._watchers: list[_Watcher] = []
        self._rules: list[_Rule] = []
        self._absent: set[str] = set()
        self.closing = threading.Event()

    # For tests: objects.

    def put(self, resource: str, value: Mapping[str, Any]) -> Object:
        """Create or replace an object; returns it as stored. A new `uid` unless it exists or has one."""
        what = self._resource(resource)
        with self._lock:
            key = self._key(what, value["metadata"])
            before = self._objects.get(key)
            after = copy.deepcopy(dict(value))
            meta = after["metadata"]
            meta.setdefault("uid", before["metadata"]["uid"] if before else str(uuid.uuid4()))
            meta.setdefault("creationTimestamp", "2026-01-31T12:00:00Z")
            if what.namespaced:
                meta.setdefault("namespace", "default")
            self._store(what, key, before, after)
            return copy.deepcopy(after)

    def delete(self, resource: str, name: str, *, namespace: str = "") -> None:
        """Delete an object; KeyError if there is none."""
        what = self._resource(resource)
        with self._lock:
            key = (what, namespace or ("default" if what.namespaced else ""), name)
            self._store(what, key, self._objects[key], None)

    def get(self, resource: str, name: str, *, namespace: str = "") -> Object | None:
        """A copy of an object."""
        what = self._resource(resource)
        with self._lock:
            key = (what, namespace or ("default" if what.namespaced else ""), name)
            return copy.deepcopy(self._objects.get(key))

    def objects(self, resource: str) -> list[Object]:
        """Copies of all objects of a resource. `events` are those of both groups."""
        with self._lock:
            return [copy.deepcopy(o) for (what, _, _), o in self._objects.items() if what.name == resource]

    # For tests: what goes wrong.

    def fail(self, fault: Fault, *, on: Match, times: int | None = 1) -> None:
        """Answer the next `times` requests that match so (None: until `mend`)."""
        with self._lock:
            self._rules.append(_Rule(fault, on, times))

    def mend(self) -> None:
        """Forget all faults that are still to come."""
        with self._lock:
            self._rules.clear()
            self._absent.clear()

    def absent(self, resource: str) -> None:
        """The server does not know this resource (404), until `mend`."""
        self._absent.add(resource)

    def forbid(self, resource: str) -> None:
        """RBAC does not allow it (403), until `mend`."""
        self.fail(Status(403, "Forbidden"), on=anything(resource), times=None)

    def upset(self, resource: str, fault: Fault) -> int:
        """Let it happen in every watch of a resource that is open now; returns how many there are."""
        with self._lock:
            several = [w for w in self._watchers if w.resource.name == resource]
            for watcher in several:
                watcher.inbox.put(fault)
            return len(several)

    def compact(self) -> None:
        """Forget history: older versions and continue tokens are 410 from now on."""
        with self._lock:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self._pages.clear()

    # For tests: what was asked.

    def asked(self, match: Match) -> list[Request]:
        """The requests that match, oldest first."""
        return [request for request in list(self.requests) if match(request)]

    def watching(self, resource: str) -> int:
        """How many watches of a resource are open."""
        with self._lock:
            return sum(watcher.resource.name == resource for watcher in self._watchers)

    def kubeconfig(self, path: Path, *, token: str = TOKEN) -> str:
        """Write a kubeconfig for this server; returns its path."""
        user = {"name": "me", "user": {"token": token}}
        cluster = {"name": "it", "cluster": {"server": self.url}}
        context = {"name": "here", "context": {"cluster": "it", "user": "me"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [context],
                    "clusters": [cluster],
                    "users": [user],
                }
            )
        )
        return str(path)

    # State.

    def _resource(self, name: str, *, group: str | None = None) -> Resource:
        return next(r for r in RESOURCES.values() if r.name == name and group in (None, r.group))

    def _key(self, what: Resource, meta: Mapping[str, Any]) -> tuple[Resource, str, str]:
        return (what, meta.get("namespace", "default") if what.namespaced else "", meta["name"])

    def _store(
        self, what: Resource, key: tuple[Resource, str, str], before: Object | None, after: Object | None
    ) -> None:
        self._version += 1
        if after is not None:
            after["metadata"]["resourceVersion"] = str(self._version)
            self._objects[key] = after
            shown = after
        else:
            assert before is not None
            shown = copy.deepcopy(before)
            shown["metadata"]["resourceVersion"] = str(self._version)
            del self._objects[key]
        change = _Change(self._version, what, before, after, shown)
        self._history.append(change)
        for watcher in self._watchers:
            if watcher.resource == what:
                watcher.inbox.put(change)

    def complain(self, text: str, status: Status) -> _StatusError:
        self.complaints.append(text)
        return _StatusError(status)

    def fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.on(request):
                    if rule.times is not None:
                        rule.times -= 1
                        if not rule.times:
                            self._rules.remove(rule)
                    return rule.fault
            if request.resource in self._absent:
                return Status(404, "NotFound")
            return None

    # Reading.

    def list(self, what: Resource, namespace: str, request: Request) -> Object:
        query = request.query
        if extra := set(query) - _QUERY_LIST:
            raise self.complain(f"list {request.path}: {extra}", Status(400, "BadRequest"))
        matches = self._selector(what, namespace, request)
        limit = int(query.get("limit", "0"))
        token = query.get("continue")
        with self._lock:
            if token is None:
                version = self._version
                several = [
                    copy.deepcopy(o) for (w, _, _), o in self._objects.items() if w == what and matches(o)
                ]
                several.sort(key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"]))
            else:
                if query.get("resourceVersion"):
                    raise self.complain("resourceVersion with continue", Status(400, "BadRequest"))
                if token not in self._pages:
                    raise _StatusError(Status(410, "Expired", message="the continue token is too old"))
                version, several = self._pages[token]
            meta: Object = {"resourceVersion": str(version)}
            if limit and len(several) > limit:
                following = base64.urlsafe_b64encode(f"{version}:{uuid.uuid4()}".encode()).decode()
                self._pages[following] = (version, several[limit:])
                meta["continue"] = following
                if not (query.get("fieldSelector") or query.get("labelSelector")):
                    meta["remainingItemCount"] = len(several) - limit
                several = several[:limit]
        return {
            "kind": f"{what.kind}List",
            "apiVersion": what.api_version,
            "metadata": meta,
            "items": several,
        }

    def open_watch(self, what: Resource, namespace: str, request: Request) -> tuple[_Watcher, Fault | None]:
        """A watcher that has everything since its version in its inbox, or what to say instead."""
        query = request.query
        if extra := set(query) - _QUERY_WATCH:
            raise self.complain(f"watch {request.path}: {extra}", Status(400, "BadRequest"))
        if not query.get("resourceVersion", "").isdecimal() or query["resourceVersion"] == "0":
            raise self.complain("a watch from no version misses deletions", Status(400, "BadRequest"))
        since = int(query["resourceVersion"])
        watcher = _Watcher(what, self._selector(what, namespace, request))
        with self._lock:
            if since < self._oldest:
                return watcher, Status(410, "Expired", message="too old resource version")
            if since > self._version:
                return watcher, Status(504, "Timeout", message="Too large resource version")
            for change in self._history:
                if change.version > since and change.resource == what:
                    watcher.inbox.put(change)
            self._watchers.append(watcher)
        return watcher, None

    def close_watch(self, watcher: _Watcher) -> None:
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def bookmark(self, what: Resource) -> Object:
        """At the current version, or earlier where something is still on its way: the caller looks first."""
        meta = {"resourceVersion": str(self._version), "creationTimestamp": None}
        return {"kind": what.kind, "apiVersion": what.api_version, "metadata": meta}

    def _selector(self, what: Resource, namespace: str, request: Request) -> Callable[[Object], bool]:
        fields = _parsed_fields(request.query.get("fieldSelector", ""))
        unknown = {path for path, _, _ in fields} - what.fields
        labels = _parsed_labels(request.query.get("labelSelector", ""))
        if unknown or labels is None:
            raise self.complain(f"selector of {request.path}: {request.query}", Status(400, "BadRequest"))

        def matches(value: Object) -> bool:
            meta = value["metadata"]
            return (
                (not namespace or meta.get("namespace") == namespace)
                and all((_at(value, path) == wanted) is equal for path, equal, wanted in fields)
                and all(test(meta.get("labels") or {}) for test in labels)
            )

        return matches

    # Writing.

    def create(self, what: Resource, namespace: str, request: Request) -> Object:
        body = self._checked_body(what, namespace, request)
        meta = body["metadata"]
        if "name" not in meta and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
        if not meta.get("name"):
            raise self.complain(f"POST {request.path}: no name", Status(422, "Invalid"))
        if meta.get("resourceVersion"):
            raise self.complain("POST with a resourceVersion", Status(422, "Invalid"))
        if what.kind == "Event" and (fault := _event_fault(what, body)):
            raise self.complain(f"Event: {fault}", Status(422, "Invalid", message=fault))
        with self._lock:
            key = self._key(what, meta)
            if key in self._objects:
                raise _StatusError(Status(409, "AlreadyExists"))
            meta["uid"] = str(uuid.uuid4())
            self._store(what, key, None, body)
            return copy.deepcopy(body)

    def update(self, what: Resource, namespace: str, name: str, request: Request) -> Object:
        body = self._checked_body(what, namespace, request)
        with self._lock:
            before = self._existing(what, namespace, name)
            old = body["metadata"].get("resourceVersion")
            if not old:
                raise self.complain(f"PUT {request.path} without resourceVersion", Status(422, "Invalid"))
            if old != before["metadata"]["resourceVersion"]:
                raise _StatusError(Status(409, "Conflict"))
            body["metadata"]["uid"] = before["metadata"]["uid"]
            self._store(what, self._key(what, before["metadata"]), before, body)
            return copy.deepcopy(body)

    def patch(self, what: Resource, namespace: str, name: str, part: str, request: Request) -> Object:
        kinds = ("application/merge-patch+json", "application/strategic-merge-patch+json")
        if request.content_type not in kinds or not isinstance(request.body, dict):
            raise self.complain(f"PATCH as {request.content_type}", Status(415, "UnsupportedMediaType"))
        if what.group == "metallb.io" and "strategic" in request.content_type:
            raise self.complain("no strategic merge for a CRD", Status(415, "UnsupportedMediaType"))
        with self._lock:
            before = self._existing(what, namespace, name)
            meta = request.body.get("metadata") or {}
            for key in ("resourceVersion", "uid"):
                if meta.get(key) not in (None, before["metadata"][key]):
                    raise _StatusError(Status(409, "Conflict"))
            body = {part: request.body.get(part) or {}} if part else request.body
            after = _merged(before, body, strategic="strategic" in request.content_type)
            if after != before:
                self._store(what, self._key(what, before["metadata"]), before, after)
            return copy.deepcopy(after)

    def existing(self, what: Resource, namespace: str, name: str) -> Object:
        with self._lock:
            return copy.deepcopy(self._existing(what, namespace, name))

    def _existing(self, what: Resource, namespace: str, name: str) -> Object:
        found = self._objects.get((what, namespace, name))
        if found is None:
            raise _StatusError(Status(404, "NotFound"))
        return found

    def _checked_body(self, what: Resource, namespace: str, request: Request) -> Object:
        body = request.body
        if request.content_type != "application/json" or not isinstance(body, dict):
            raise self.complain(f"{request.method} as {request.content_type}", Status(415, "Unsupported"))
        if (body.get("kind"), body.get("apiVersion")) != (what.kind, what.api_version):
            raise self.complain(
                f"{request.method} {request.path} of {body.get('apiVersion')} {body.get('kind')}",
                Status(400, "BadRequest"),
            )
        if what.namespaced and body.get("metadata", {}).setdefault("namespace", namespace) != namespace:
            raise self.complain(f"{request.path}: namespace does not match", Status(400, "BadRequest"))
        return body


def _event_fault(what: Resource, body: Object) -> str:
    """What validation says (pkg/apis/core/validation/events.go); empty: nothing."""
    regarding = body.get("regarding" if what.group else "involvedObject") or {}
    text = body.get("note" if what.group else "message", "")
    if regarding.get("namespace", "") != body["metadata"]["namespace"] and (
        regarding.get("namespace") or body["metadata"]["namespace"] != "default"
    ):
        return "the object's namespace is not the Event's"
    if len(text.encode()) > 1024:
        return "the text has more than 1024 bytes"
    if len(body.get("reason", "")) > 128:
        return "the reason has more than 128 characters"
    if not what.group:
        return ""
    needed = ("eventTime", "reportingController", "reportingInstance", "action", "reason")
    missing = [name for name in needed if not body.get(name)]
    if missing:
        return f"{', '.join(missing)}: required"
    if body.get("type") not in ("Normal", "Warning"):
        return "type is neither Normal nor Warning"
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["eventTime"]):
        return "eventTime is not a MicroTime"
    return ""


def _merged(base: Any, patch: Any, *, strategic: bool) -> Any:
    """RFC 7386; strategic: the lists that Kubernetes merges by key here are conditions, by `type`."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(copy.deepcopy(base)) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif strategic and key == "conditions":
            known = {c["type"]: c for c in result.get(key) or []}
            for condition in value:
                known[condition["type"]] = {**known.get(condition["type"], {}), **condition}
            result[key] = list(known.values())
        else:
            result[key] = _merged(result.get(key), value, strategic=strategic)
    return result


def _at(value: Object, path: str) -> str:
    here: Any = value
    for part in path.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here if isinstance(here, str) else ""


def _parsed_fields(text: str) -> list[tuple[str, bool, str]]:
    found = []
    for term in filter(None, text.split(",")):
        path, equal, wanted = re.fullmatch(r"([\w.]+)(!=|==?)(.*)", term).groups()  # type: ignore[union-attr]
        found.append((path, equal != "!=", wanted))
    return found


def _parsed_labels(text: str) -> list[Callable[[Mapping[str, str]], bool]] | None:
    """The tests of a label selector; None: it is none."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for term in filter(None, re.split(r",(?![^(]*\))", text)):
        if among := re.fullmatch(r"([\w./-]+) in \(([\w.,-]+)\)", term):
            values = among[2].split(",")
            if not all(re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", value) for value in values):
                return None
            tests.append(lambda labels, key=among[1], v=values: labels.get(key) in v)  # type: ignore[misc]
        elif same := re.fullmatch(r"([\w./-]+)==?([\w.-]*)", term):
            tests.append(lambda labels, key=same[1], v=same[2]: labels.get(key) == v)  # type: ignore[misc]
        elif there := re.fullmatch(r"(!?)([\w./-]+)", term):
            tests.append(lambda labels, no=there[1], key=there[2]: (key in labels) is not bool(no))  # type: ignore[misc]
        else:
            return None
    return tests


# The wire. --------------------------------------------------------------------------------------------

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.]+)/(?P<version>v\w+))"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?/(?P<resource>[a-z0-9]+)"
    r"(?:/(?P<name>[a-z0-9.-]+))?(?:/(?P<part>status))?"
)


class _BrokenOffError(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer, not one a header

    @property
    def api(self) -> ApiServer:
        api: ApiServer = self.server.api  # type: ignore[attr-defined]
        return api

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        try:
            self._answer(self._request())
        except (_BrokenOffError, OSError):
            self.close_connection = True

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        found = _PATH.fullmatch(parts.path)
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:
            raise _BrokenOffError  # a client that was killed in the middle of its request
        try:
            body = json.loads(content) if content else None
        except ValueError:
            body = None
        request = Request(
            method=self.command,
            path=parts.path,
            resource=found["resource"] if found else "",
            query=dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))),
            content_type=self.headers.get("Content-Type"),
            body=body,
            token=(self.headers.get("Authorization") or "").partition(" ")[2],
            agent=self.headers.get("User-Agent") or "",
        )
        self.api.requests.append(request)
        if self.headers.get("Accept") != "application/json":
            self.api.complaints.append(f"Accept: {self.headers.get('Accept')}")
        return request

    def _answer(self, request: Request) -> None:
        if request.token != self.api.token:
            self._status(Status(401, "Unauthorized"))
            return
        fault = self.api.fault_for(request)
        if fault is not None and not (request.is_watch and isinstance(fault, Cut | End | Drip)):
            self._misbehave(fault)
            return
        found = _PATH.fullmatch(request.path)
        what = (
            RESOURCES.get((found["group"] or "", found["version"] or "v1", found["resource"]))
            if found
            else None
        )
        try:
            if what is None or found is None:
                raise self.api.complain(f"no such path: {request.path}", Status(404, "NotFound"))
            if request.is_watch:
                self._watch(what, found["namespace"] or "", request, fault)
            else:
                self._json(*self._value(what, found, request))
        except _StatusError as error:
            self._status(error.status)

    def _value(self, what: Resource, found: re.Match[str], request: Request) -> tuple[int, Object]:
        namespace, name = found["namespace"] or "", found["name"]
        api = self.api
        match request.method, bool(name):
            case "GET", False:
                return 200, api.list(what, namespace, request)
            case "GET", True:
                return 200, api.existing(what, namespace, name)
            case "POST", False:
                return 201, api.create(what, namespace, request)
            case "PUT", True:
                return 200, api.update(what, namespace, name, request)
            case "PATCH", True:
                return 200, api.patch(what, namespace, name, found["part"] or "", request)
        raise api.complain(f"{request.method} {request.path}", Status(405, "MethodNotAllowed"))

    def _json(self, code: int, value: Object, *, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _status(self, status: Status) -> None:
        headers = {} if status.retry_after is None else {"Retry-After": str(status.retry_after)}
        self._json(status.code, _status_object(status), headers=headers)

    def _misbehave(self, fault: Fault) -> None:
        if isinstance(fault, Status):
            self._status(fault)
            return
        if isinstance(fault, Hang):
            self._stay()
        if isinstance(fault, Drop):
            raise _BrokenOffError
        content = fault.content if isinstance(fault, Body) else b'{"kind": "PodList", "items": ['
        more = 0 if isinstance(fault, Body) else 1000
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) + more))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if isinstance(fault, Drip):
            self._drip(fault, self.wfile.write)
        if more:
            raise _BrokenOffError

    def _drip(self, fault: Drip, write: Callable[[bytes], object]) -> None:
        while not self.api.closing.wait(fault.seconds):
            write(b" ")
            self.wfile.flush()
        raise _BrokenOffError

    def _stay(self) -> None:
        """Hold the connection until the client goes away or the test ends."""
        self.connection.settimeout(0.05)
        while not self.api.closing.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
        raise _BrokenOffError

    # Watches.

    def _watch(self, what: Resource, namespace: str, request: Request, fault: Fault | None) -> None:
        watcher, first = self.api.open_watch(what, namespace, request)
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            if first is not None or fault is not None:
                watcher.inbox = queue.Queue()
                watcher.inbox.put(first or fault)
            end = time.monotonic() + int(request.query.get("timeoutSeconds", "1800"))
            self._stream(watcher, bookmarks="allowWatchBookmarks" in request.query, end=end)
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            self.api.close_watch(watcher)

    def _stream(self, watcher: _Watcher, *, bookmarks: bool, end: float) -> None:
        due = time.monotonic() + self.api.bookmark_seconds
        while not self.api.closing.is_set() and (now := time.monotonic()) < end:
            try:
                item = watcher.inbox.get(timeout=max(0.0, min(0.05, end - now)))
            except queue.Empty:
                self._raise_if_left()
                if bookmarks and now >= due:
                    self._bookmark(watcher)
                    due = now + self.api.bookmark_seconds
                continue
            if isinstance(item, _Change):
                if (event := _event(item, watcher.matches)) is not None:
                    self._line(event)
            elif isinstance(item, Status):
                self._line({"type": "ERROR", "object": _status_object(item)})
                return
            elif isinstance(item, End):
                return
            elif item is not None:
                self._misbehave_in_stream(item)

    def _raise_if_left(self) -> None:
        self.connection.setblocking(False)
        try:
            if not self.connection.recv(1):
                raise _BrokenOffError
        except BlockingIOError:
            pass
        finally:
            self.connection.setblocking(True)

    def _bookmark(self, watcher: _Watcher) -> None:
        with self.api._lock:
            if not watcher.inbox.empty():
                return
            value = self.api.bookmark(watcher.resource)
        self._line({"type": "BOOKMARK", "object": value})

    def _misbehave_in_stream(self, fault: Fault) -> None:
        match fault:
            case Body(content):
                self._chunk(content + b"\n")
            case Hang():
                self._stay()
            case Cut():
                self._chunk(b'{"type": "MODIFIED", "obj')
                raise _BrokenOffError
            case Drip():
                self._drip(fault, self._chunk)
            case _:
                raise _BrokenOffError

    def _line(self, value: Object) -> None:
        self._chunk(json.dumps(value).encode() + b"\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _event(change: _Change, matches: Callable[[Object], bool]) -> Object | None:
    """What a watcher with a selector sees: an object that no longer matches is DELETED for it."""
    before = change.before is not None and matches(change.before)
    after = change.after is not None and matches(change.after)
    if not before and not after:
        return None
    kind = "DELETED" if not after else "MODIFIED" if before else "ADDED"
    shown = {"kind": change.resource.kind, "apiVersion": change.resource.api_version, **change.stored}
    return {"type": kind, "object": shown}


def _status_object(status: Status) -> Object:
    value: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": status.message,
        "reason": status.reason,
        "code": status.code,
    }
    if status.retry_after is not None:
        value["details"] = {"retryAfterSeconds": status.retry_after}
    return value


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests want."""


@contextmanager
def serving(*, bookmark_seconds: float = 0.5) -> Iterator[ApiServer]:
    """A running server; at the end it must have had nothing to complain about."""
    server = ApiServer(bookmark_seconds=bookmark_seconds)
    with listening(server) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server
    assert server.complaints == []


@contextmanager
def listening(server: ApiServer, *, port: int = 0) -> Iterator[int]:
    """A port (0: any) of the loopback at which `server` answers: a network namespace each needs its own."""
    listener = _Listener(("127.0.0.1", port), _Handler)
    listener.block_on_close = False
    listener.api = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield int(listener.server_address[1])
    finally:
        server.closing.set()
        listener.shutdown()
        listener.server_close()
        thread.join(10)
