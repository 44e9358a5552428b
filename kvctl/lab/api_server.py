"""A small API server for the lab: plain HTTP on the loopback of the namespaces it is given.

    with serving([lab.worker]) as objects:      # http://127.0.0.1:6443 in there
        objects.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {...}})

It knows Services, Pods, Nodes, Leases and Events, and says 404 to all else. No TLS, no accounts, no paging: it is
for an agent in a namespace that a lab made.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from kvctl.lab.api_objects import KINDS, ApiObjects, Object, RefusedError, Target, bad, not_found
from kvctl.lab.netns import Namespace

PORT = 6443
KUBECONFIG = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{PORT}"}}],
        "users": [{"name": "agent", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "agent"}}],
        "current-context": "lab",
    }
)
"""The contents of a kubeconfig for it."""

_MERGE = "application/merge-patch+json"


@contextmanager
def serving(namespaces: Iterable[Namespace]) -> Iterator[ApiObjects]:
    """One server that answers in each of these namespaces for the time of the block."""
    objects = ApiObjects()
    with ExitStack() as stack:
        for namespace in namespaces:
            stack.enter_context(_listening(objects, namespace))
        stack.callback(objects.close)
        yield objects


@contextmanager
def _listening(objects: ApiObjects, namespace: Namespace) -> Iterator[None]:
    with namespace.entered():
        listener = _Listener(("127.0.0.1", PORT), _Handler)
    listener.objects = objects
    thread = threading.Thread(
        target=listener.serve_forever,
        kwargs={"poll_interval": 0.05},
        name=f"API server in {namespace.name}",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _target(path: str) -> Target:
    group, rest = "", path.strip("/").split("/")
    if rest[:2] == ["api", "v1"]:
        rest = rest[2:]
    elif rest[:1] == ["apis"] and rest[2:3] == ["v1"]:
        group, rest = rest[1], rest[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, part = (*rest, "", "", "")[:3]
    kind = KINDS.get((group, resource))
    known = part == "" or (part == "status" and kind is not None and kind.with_status)
    if kind is None or len(rest) > 3 or not known:
        raise not_found(path)
    return Target(kind, namespace, name, part)


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    objects: ApiObjects

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed in the middle of a request is what this lab is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer, not one a header

    @property
    def _objects(self) -> ApiObjects:
        assert isinstance(self.server, _Listener)
        return self.server.objects

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
            self._answer()
        except RefusedError as error:
            self._send(error.status, error.body)

    def _answer(self) -> None:
        # Before anything is said: what is not read is taken for the next request.
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        target, query = _target(parts.path), dict(parse_qsl(parts.query))
        match self.command, bool(target.name):
            case "GET", False if query.get("watch") in ("true", "1"):
                self._stream(self._objects.watch(target, query))
            case "GET", False:
                self._send(HTTPStatus.OK, self._objects.collection(target, query))
            case "GET", True:
                self._send(HTTPStatus.OK, self._objects.read(target))
            case "POST", False:
                self._send(HTTPStatus.CREATED, self._objects.create(target, self._body(content)))
            case "PUT" | "PATCH" as method, True:
                merge = method == "PATCH"
                if merge and self.headers.get("Content-Type") != _MERGE:
                    raise RefusedError(
                        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", f"only {_MERGE}"
                    )
                body = self._body(content)
                self._send(HTTPStatus.OK, self._objects.change(target, body, merge=merge))
            case _:
                raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", self.command)

    def _body(self, content: bytes) -> Object:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise bad("the body is no JSON object")
        return body

    def _send(self, status: HTTPStatus, value: Object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _stream(self, events: Iterator[Object]) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in events:
            self._chunk(json.dumps(event).encode() + b"\n")
        self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""
