"""The API server by HTTP, on the loopback of the network namespaces it is given. No TLS, no accounts.

with serving([lab.worker]) as objects:      # http://127.0.0.1:6443 in there
    objects.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {...}})
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kvctl.lab.api.kinds import Object
from kvctl.lab.api.objects import ApiObjects
from kvctl.lab.api.refusals import FaultyRequestError, RefusedError, bad
from kvctl.lab.api.requests import Request, Target, read_path
from kvctl.lab.api.watches import Change, Watcher, WatchOverError, event
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

_LONGEST_WATCH = 1800.0


@contextmanager
def serving(namespaces: Iterable[Namespace]) -> Iterator[ApiObjects]:
    """One server that answers in each of these namespaces for the time of the block."""
    objects = ApiObjects()
    with ExitStack() as stack:
        for namespace in namespaces:
            stack.enter_context(listening(objects, Handler, port=PORT, namespace=namespace))
        stack.callback(objects.close)
        yield objects


@contextmanager
def listening(
    objects: ApiObjects, handler: type[Handler], *, port: int, namespace: Namespace | None = None
) -> Iterator[int]:
    """The port (0: any) of the loopback, here or in a namespace, at which these objects are to be had."""
    with namespace.entered() if namespace is not None else nullcontext():
        listener = Listener(("127.0.0.1", port), handler)
    listener.objects = objects
    where = namespace.name if namespace is not None else "here"
    thread = threading.Thread(
        target=listener.serve_forever,
        kwargs={"poll_interval": 0.02},
        name=f"API server {where}",
        daemon=True,
    )
    thread.start()
    try:
        yield int(listener.server_address[1])
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class Listener(ThreadingHTTPServer):
    """Accepts connections, a thread each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    objects: ApiObjects

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed in the middle of a request is what this server is for."""


class BrokenOffError(Exception):
    """The connection ends here."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer, not one a header

    @property
    def objects(self) -> ApiObjects:
        """What the requests are about."""
        assert isinstance(self.server, Listener)
        return self.server.objects

    def finish(self) -> None:
        """Close both ends of the connection, also where the client has gone before it had its whole answer."""
        for stream in (self.wfile, self.rfile):
            with suppress(OSError):
                stream.close()

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
            self.answer(self._request())
        except RefusedError as error:
            self.refuse(error)
        except (BrokenOffError, OSError):
            self.close_connection = True

    def _request(self) -> Request:
        # Before anything is said: what is not read is taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:
            raise BrokenOffError  # a client that was killed in the middle of its request
        parts = urlsplit(self.path)
        try:
            body = json.loads(content) if content else None
        except ValueError:
            body = None
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise bad(f"the query {parts.query}") from error
        return Request(
            method=self.command,
            path=parts.path,
            target=read_path(parts.path),
            query=dict(pairs),
            content_type=self.headers.get("Content-Type"),
            body=body,
            accept=self.headers.get("Accept"),
            token=(self.headers.get("Authorization") or "").partition(" ")[2],
            agent=self.headers.get("User-Agent") or "",
        )

    def answer(self, request: Request) -> None:
        """Do what a request says; raises RefusedError before the answer has begun."""
        if request.target is None:
            raise FaultyRequestError(404, "NotFound", f"no such path: {request.path}")
        target, objects = request.target, self.objects
        match request.method, bool(target.name):
            case "GET", False if request.is_watch:
                self.watch(target, request)
            case "GET", False:
                self.send(200, objects.collection(target, request.query))
            case "GET", True:
                self.send(200, objects.read(target))
            case "POST", False:
                self.send(201, objects.create(target, request))
            case "PUT", True:
                self.send(200, objects.replace(target, request))
            case "PATCH", True:
                self.send(200, objects.patch(target, request))
            case _:
                raise FaultyRequestError(405, "MethodNotAllowed", f"{request.method} {request.path}")

    def refuse(self, error: RefusedError) -> None:
        """Say no."""
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        self.send(error.code, error.body, headers=headers)

    def send(self, code: int, value: Object, *, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        content = json.dumps(value).encode()
        self.begin(code, {**(headers or {}), "Content-Length": str(len(content))})
        self.wfile.write(content)
        self.wfile.flush()

    def begin(self, code: int, headers: Mapping[str, str]) -> None:
        """The head of an answer."""
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        for key, text in headers.items():
            self.send_header(key, text)
        self.end_headers()

    # Watches.

    def watch(self, target: Target, request: Request) -> None:
        """Events as they come, until the watch's time is over."""
        seconds = min(float(request.query.get("timeoutSeconds", _LONGEST_WATCH)), _LONGEST_WATCH)
        end = time.monotonic() + seconds
        with self.objects.watch(target, request.query) as watcher:
            self.begin(200, {"Transfer-Encoding": "chunked"})
            self.wfile.flush()
            try:
                self.stream(watcher, bookmarks="allowWatchBookmarks" in request.query, end=end)
            except WatchOverError:
                pass
            except RefusedError as error:
                self.line({"type": "ERROR", "object": error.body})
        self.chunk(b"")

    def stream(self, watcher: Watcher, *, bookmarks: bool, end: float) -> None:
        """Tell what `watcher` is told, until `end` (monotonic) or the first exception among it, which is raised."""
        due = time.monotonic() + self.objects.bookmark_seconds
        while (now := time.monotonic()) < end:
            if (item := watcher.take()) is not None:
                self._tell(item, watcher)
            elif not bookmarks or now < due:
                self._wait(watcher, seconds=(min(end, due) if bookmarks else end) - now)
            elif (mark := self.objects.bookmark(watcher)) is not None:
                self.line(mark)
                due = now + self.objects.bookmark_seconds

    def _tell(self, item: Change | Exception, watcher: Watcher) -> None:
        if isinstance(item, Exception):
            raise item
        if (told := event(item, watcher.matches)) is not None:
            self.line(told)

    def _wait(self, watcher: Watcher, *, seconds: float) -> None:
        """Until something is told; BrokenOffError: the client has left."""
        waiting = select.poll()
        waiting.register(watcher, select.POLLIN)
        waiting.register(self.connection, select.POLLIN)
        ready = {number for number, _ in waiting.poll(seconds * 1000)}
        # A client that watches has nothing to say.
        if self.connection.fileno() in ready and not self.connection.recv(1, socket.MSG_DONTWAIT):
            raise BrokenOffError

    def line(self, value: Object) -> None:
        """An event of a watch."""
        self.chunk(json.dumps(value).encode() + b"\n")

    def chunk(self, content: bytes) -> None:
        """A part of an answer; empty: its end."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""
