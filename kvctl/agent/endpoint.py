"""The agent's one HTTP port: metrics, health, readiness, and whether a pod's rules are in the kernel.

It listens on the node's own addresses, where anybody may call. So: one thread whatever the number of
callers, a deadline for every connection, a bound on how many there are (the oldest goes first: a slow
caller loses its place, a quick one is always served), and nothing in an answer that is not for everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.agent.address import Listen
from kvctl.agent.http_text import (
    LONGEST_HEAD,
    Answer,
    RefusedError,
    Request,
    parse_request,
    render_answer,
    verdict_answer,
)
from kvctl.cluster.fields import A_LABEL, A_SUBDOMAIN, is_label, is_subdomain
from kvctl.errors import KvctlError
from kvctl.model.text import quote

_PAGES = "/healthz  /readyz  /metrics  /wait?namespace=NAMESPACE&pod=POD"
# Prometheus' text format; https://prometheus.io/docs/instrumenting/exposition_formats/
_METRICS_KIND = "text/plain; version=0.0.4; charset=utf-8"


class Limits(NamedTuple):
    """What a caller may take."""

    connections: int = 128
    request_seconds: float = 3.0
    """For the request to be in."""
    answer_seconds: float = 10.0
    """From then on until the answer is out; a scrape may wait for the kernel's list of connections."""
    metrics_seconds: float = 1.0
    """For how long metrics that were rendered serve whoever asks next."""


class Questions(NamedTuple):
    """What the endpoint asks of the agent; all but `metrics` are asked in its thread and must answer at once."""

    alive: Callable[[], tuple[bool, str]]
    ready: Callable[[], tuple[bool, str]]
    pod: Callable[[str, str], tuple[bool, str] | None]
    """Whether the rules of the pod (namespace, name) are in, and why not; None: no such pod here."""
    metrics: Callable[[], bytes]
    """Prometheus' text; may take its time, and is asked by one thread at a time."""


class Endpoint:
    """Answers from `start` to `stop` (or in a `with` block); the socket is opened here, in this network namespace.

    `complain` is told of what goes wrong inside, in a line. Raises KvctlError if nothing can listen there.
    """

    def __init__(
        self,
        listen: Listen,
        *,
        questions: Questions,
        complain: Callable[[str], None] = lambda line: None,
        limits: Limits = Limits(),  # noqa: B008 (a value)
    ) -> None:
        self._questions = questions
        self._complain = complain
        self._limits = limits
        self._socket = _open(listen)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        # Only the endpoint's thread looks at what follows.
        self._open: dict[asyncio.Task[None], None] = {}
        self._rendering: asyncio.Task[Answer] | None = None
        self._rendered_at = 0.0

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        self._up.wait()

    def stop(self) -> None:
        """Close every connection and the socket; returns within about a second. May be called again."""
        if self._loop is not None:
            # The loop has gone if it was stopped before.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(timeout=2)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._complain(f"the HTTP port does not answer any more: {type(error).__name__}: {error}")
        finally:
            self._up.set()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._complain(f"HTTP port: {context.get('message')}"))
        self._loop = loop
        server = await asyncio.start_server(self._serve, sock=self._socket, limit=LONGEST_HEAD)
        self._up.set()
        await self._end.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        if len(self._open) > self._limits.connections:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        try:
            await self._attend(reader, writer)
        except (asyncio.CancelledError, TimeoutError, asyncio.IncompleteReadError, OSError):
            # Too slow, gone, or we are: nobody is left to be told.
            writer.transport.abort()
        finally:
            self._open.pop(task, None)
            writer.close()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Without a buffer of its own, drain() returns when the kernel has all.
        writer.transport.set_write_buffer_limits(0)
        head_only = False
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse_request(head)
            head_only = request.head_only
            answer = await self._answer(request)
        except asyncio.LimitOverrunError:
            answer = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long")
        except RefusedError as error:
            answer = _refusal(error.status, error.reason)
        async with asyncio.timeout(self._limits.answer_seconds):
            writer.write(render_answer(answer, head_only=head_only))
            await writer.drain()

    async def _answer(self, request: Request) -> Answer:
        try:
            if request.path == "/metrics":
                async with asyncio.timeout(self._limits.answer_seconds):
                    return await self._metrics()
            status, reason = self._judge(request)
        except RefusedError:
            raise
        except TimeoutError:
            status, reason = HTTPStatus.SERVICE_UNAVAILABLE, "the metrics took too long"
        except Exception as error:
            self._complain(f"HTTP port: {request.path} failed: {type(error).__name__}: {error}")
            status, reason = HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of kvctl: see the agent's log"
        return verdict_answer(status, reason, as_json=request.wants_json)

    def _judge(self, request: Request) -> tuple[HTTPStatus, str]:
        match request.path:
            case "/healthz":
                return _status(self._questions.alive())
            case "/readyz":
                return _status(self._questions.ready())
            case "/wait":
                return self._judge_pod(request.query)
            case "/":
                return HTTPStatus.OK, _PAGES
        return HTTPStatus.NOT_FOUND, f"there is no such page; there are: {_PAGES}"

    def _judge_pod(self, query: dict[str, str]) -> tuple[HTTPStatus, str]:
        namespace, name = query.get("namespace", ""), query.get("pod", "")
        if not (namespace and name):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "ask /wait?namespace=NAMESPACE&pod=NAME")
        if not is_label(namespace):
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"namespace={quote(namespace)} is not {A_LABEL}")
        if not is_subdomain(name):
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"pod={quote(name)} is not {A_SUBDOMAIN}")
        verdict = self._questions.pod(namespace, name)
        if verdict is not None:
            return _status(verdict)
        ready = self._questions.ready()
        if not ready[0]:
            return _status(ready)
        return HTTPStatus.NOT_FOUND, f"the agent of this node knows no pod {namespace}/{name} (yet)"

    async def _metrics(self) -> Answer:
        """Rendered in a thread of its own; who asks meanwhile or within a second gets the same."""
        now = asyncio.get_running_loop().time()
        done = self._rendering is not None and self._rendering.done()
        if self._rendering is None or (done and now - self._rendered_at >= self._limits.metrics_seconds):
            self._rendering = asyncio.create_task(self._render())
        # One caller that goes away must not take the others' answer along.
        return await asyncio.shield(self._rendering)

    async def _render(self) -> Answer:
        content, error = await _in_daemon_thread(self._questions.metrics)
        self._rendered_at = asyncio.get_running_loop().time()
        if content is not None:
            return Answer(HTTPStatus.OK, content, _METRICS_KIND)
        self._complain(f"HTTP port: /metrics failed: {type(error).__name__}: {error}")
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of kvctl: see the agent's log")


async def _in_daemon_thread(work: Callable[[], bytes]) -> tuple[bytes | None, Exception | None]:
    """What `work` returns or raises. The thread does not keep the process from ending, as an executor's would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[bytes | None, Exception | None]] = loop.create_future()

    def deliver(outcome: tuple[bytes | None, Exception | None]) -> None:
        if not future.done():
            future.set_result(outcome)

    def run() -> None:
        outcome: tuple[bytes | None, Exception | None]
        try:
            outcome = (work(), None)
        except Exception as error:
            outcome = (None, error)
        # The loop may have been closed meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=run, name="metrics", daemon=True).start()
    return await future


def _status(verdict: tuple[bool, str]) -> tuple[HTTPStatus, str]:
    good, reason = verdict
    return (HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE), reason


def _refusal(status: HTTPStatus, reason: str) -> Answer:
    return verdict_answer(status, reason, as_json=False)


def _open(listen: Listen) -> socket.socket:
    """A listening socket; without an address one of both families, or of IPv4 where the node has no IPv6."""
    try:
        if listen.host:
            family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
            return socket.create_server((listen.host, listen.port), family=family, backlog=128)
        return _open_everywhere(listen.port)
    except OSError as error:
        raise KvctlError(
            f"cannot listen on {listen}: {os.strerror(error.errno or 0)}",
            hint="another program has the port: choose another with --listen or egress_listen; off switches it off"
            if error.errno == errno.EADDRINUSE
            else "choose an address of this node and a free port with --listen or egress_listen; off switches it off",
        ) from None


def _open_everywhere(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return socket.create_server(("", port), backlog=128)
