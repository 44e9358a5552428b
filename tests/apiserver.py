"""The lab's API server on the loopback of the tests: strict, remembering what it was asked, and at fault on demand.

    with serving() as server:
        server.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {...}})
        config = server.kubeconfig(tmp_path / "config")
        server.delete("services", "a", namespace="sip")
        server.fail(Status(429, retry_after=1), on=watches("services"))     # the next such request
        server.upset("pods", Cut())                                          # watches that are open now

Every change gets the next resource version and reaches the watchers. Requests that a real server would
not understand are answered as it would, and recorded in `complaints`: `serving` fails on them at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvctl.lab.api import server as lab_server
from kvctl.lab.api.kinds import Object
from kvctl.lab.api.objects import ApiObjects
from kvctl.lab.api.refusals import FaultyRequestError, RefusedError
from kvctl.lab.api.requests import Request
from kvctl.lab.api.server import BrokenOffError, Handler
from kvctl.lab.api.watches import Watcher, WatchOverError
from tests.apifaults import (
    Body,
    Cut,
    Drip,
    Drop,
    End,
    Fault,
    FaultError,
    Hang,
    Match,
    Rule,
    Status,
    anything,
    lists,
    watches,
)
from tests.apistrictness import objection

__all__ = [
    "TOKEN",
    "ApiServer",
    "Body",
    "Cut",
    "Drip",
    "Drop",
    "End",
    "Fault",
    "Hang",
    "Match",
    "Object",
    "Request",
    "Status",
    "anything",
    "listening",
    "lists",
    "serving",
    "watches",
]

TOKEN = "s3cr3t-t0ken"


class ApiServer(ApiObjects):
    """The objects, what goes wrong, and what was asked. All methods are safe to call from any thread."""

    def __init__(self, *, bookmark_seconds: float = 0.5) -> None:
        super().__init__(bookmark_seconds=bookmark_seconds)
        self.url = ""
        self.token = TOKEN
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self._rules: list[Rule] = []
        self._absent: set[str] = set()

    def put(self, resource: str, value: Mapping[str, Any]) -> Object:
        """As the lab's, but all objects are of one age: how quick a test is makes no difference."""
        meta = {"creationTimestamp": "2026-01-31T12:00:00Z", **value["metadata"]}
        return super().put(resource, {**value, "metadata": meta})

    # What goes wrong.

    def fail(self, fault: Fault, *, on: Match, times: int | None = 1) -> None:
        """Answer the next `times` requests that match so (None: until `mend`)."""
        with self._lock:
            self._rules.append(Rule(fault, on, times))

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
            several = self.watchers(resource)
            for watcher in several:
                watcher.tell(FaultError(fault))
            return len(several)

    def fault_for(self, request: Request) -> Fault | None:
        """What goes wrong with this request; it counts as one of the times."""
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

    # What was asked.

    def asked(self, match: Match) -> list[Request]:
        """The requests that match, oldest first."""
        return [request for request in list(self.requests) if match(request)]

    def watching(self, resource: str) -> int:
        """How many watches of a resource are open."""
        return len(self.watchers(resource))

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


class _Handler(Handler):
    """A connection on which things go wrong."""

    _fault: Fault | None = None
    """What happens to the watch that this request opens."""

    @property
    def api(self) -> ApiServer:
        assert isinstance(self.objects, ApiServer)
        return self.objects

    def answer(self, request: Request) -> None:
        self.api.requests.append(request)
        if request.accept != "application/json":
            self.api.complaints.append(f"Accept: {request.accept}")
        if request.token != self.api.token:
            raise RefusedError(401, "Unauthorized")
        self._fault = self.api.fault_for(request)
        if self._fault is not None and not (request.is_watch and isinstance(self._fault, Cut | End | Drip)):
            self._misbehave(self._fault)
            return
        try:
            if (error := objection(request)) is not None:
                raise error
            super().answer(request)
        except FaultyRequestError as error:
            self.api.complaints.append(f"{request.method} {request.path}: {error}")
            raise

    def _misbehave(self, fault: Fault) -> None:
        if isinstance(fault, Status):
            raise _refusal(fault)
        if isinstance(fault, Hang):
            self._stay()
        if isinstance(fault, Drop):
            raise BrokenOffError
        content = fault.content if isinstance(fault, Body) else b'{"kind": "PodList", "items": ['
        more = 0 if isinstance(fault, Body) else 1000
        self.begin(200, {"Content-Length": str(len(content) + more)})
        self.wfile.write(content)
        self.wfile.flush()
        if isinstance(fault, Drip):
            self._drip(fault, self.wfile.write)
        if more:
            raise BrokenOffError

    def _drip(self, fault: Drip, write: Callable[[bytes], object]) -> None:
        while not self.api.closing.wait(fault.seconds):
            write(b" ")
            self.wfile.flush()
        raise BrokenOffError

    def _stay(self) -> None:
        """Hold the connection until the client goes away or the test ends."""
        self.connection.settimeout(0.05)
        while not self.api.closing.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
        raise BrokenOffError

    # Watches.

    def stream(self, watcher: Watcher, *, bookmarks: bool, end: float) -> None:
        if self._fault is not None:
            self._misbehave_in_stream(self._fault)
        while True:
            try:
                return super().stream(watcher, bookmarks=bookmarks, end=end)
            except FaultError as error:
                self._misbehave_in_stream(error.fault)

    def _misbehave_in_stream(self, fault: Fault) -> None:
        match fault:
            case Status():
                raise _refusal(fault)
            case End():
                raise WatchOverError
            case Body(content):
                self.chunk(content + b"\n")
            case Hang():
                self._stay()
            case Cut():
                self.chunk(b'{"type": "MODIFIED", "obj')
                raise BrokenOffError
            case Drip():
                self._drip(fault, self.chunk)
            case _:
                raise BrokenOffError


def _refusal(fault: Status) -> RefusedError:
    return RefusedError(fault.code, fault.reason, fault.message, retry_after=fault.retry_after)


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
    with lab_server.listening(server, _Handler, port=port) as found:
        try:
            yield found
        finally:
            server.close()
