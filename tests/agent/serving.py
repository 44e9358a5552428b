"""An endpoint whose agent is made of plain values, and ways to call it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvctl.agent.address import Listen
from kvctl.agent.endpoint import Endpoint, Limits, Questions

DEADLINE = 10.0
"""Seconds for what should take a hundredth of one."""


@dataclass
class Said:
    """What the agent says; a test changes it at any time."""

    alive: tuple[bool, str] = (True, "waiting for changes")
    ready: tuple[bool, str] = (True, "the rules are in the kernel")
    pods: dict[tuple[str, str], tuple[bool, str]] = field(default_factory=dict)
    metrics: Callable[[], bytes] = lambda: b"kvctl_up 1\n"
    complaints: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def pod(self, namespace: str, name: str) -> tuple[bool, str] | None:
        self.asked.append((namespace, name))
        return self.pods.get((namespace, name))

    def render(self) -> bytes:
        return self.metrics()

    @property
    def questions(self) -> Questions:
        return Questions(
            alive=lambda: self.alive,
            ready=lambda: self.ready,
            pod=self.pod,
            metrics=self.render,
        )


@contextmanager
def serving(said: Said, *, limits: Limits | None = None, port: int = 0) -> Iterator[Endpoint]:
    """An endpoint that answers in the block."""
    listen = Listen("127.0.0.1", port)
    with Endpoint(
        listen, questions=said.questions, complain=said.complaints.append, limits=limits or Limits()
    ) as endpoint:
        yield endpoint


def call(
    endpoint: Endpoint,
    path: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1",
    accept: str = "*/*",
    body: bytes | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in small letters) and content of the answer."""
    connection = http.client.HTTPConnection(host, endpoint.port, timeout=DEADLINE)
    try:
        connection.request(method, path, headers={"Accept": accept}, body=body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def line(endpoint: Endpoint, path: str) -> tuple[int, str]:
    """Status and text of the answer."""
    status, _, content = call(endpoint, path)
    return status, content.decode().removesuffix("\n")


def dial(endpoint: Endpoint) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", endpoint.port), timeout=DEADLINE)


def raw(endpoint: Endpoint, request: bytes) -> bytes:
    """Everything that comes back for `request`; nothing if the connection is broken off."""
    with dial(endpoint) as connection:
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


def until(condition: Callable[[], bool], *, what: str) -> None:
    """Wait for a condition; fails with `what` was waited for."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def threads_named(name: str) -> int:
    """How many threads of that name live."""
    return sum(thread.name == name for thread in threading.enumerate())
