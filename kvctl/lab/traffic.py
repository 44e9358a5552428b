"""Clients that tell what became of their traffic: which source an Echo at the other end saw."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from kvctl.echo.wire import new_nonce, question, read_answer
from kvctl.lab.netns import Namespace

_TIMEOUT = 2.0
LONGEST = 2048

# What says "nobody answered" or "somebody refused"; other errors mean that the lab is not as it should be.
UNANSWERED = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EPERM,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the other end saw of a request, by its own answer: so the answer has come back, too."""

    source: str
    source_port: int
    destination: str
    """The address at which it arrived: of the back end, where a ClusterIP was asked."""
    destination_port: int


class Connection:
    """A client that keeps its socket: one TCP connection or one UDP flow; a context manager.

    A TCP connection that cannot be made raises TimeoutError or ConnectionError.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        destination: str,
        port: int,
        protocol: str = "udp",
        source: str | None = None,
        source_port: int = 0,
        timeout: float = _TIMEOUT,
    ) -> None:
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self._protocol = protocol
        self._timeout = timeout
        self._socket = namespace.socket(family, kind)
        try:
            self._socket.settimeout(timeout)
            if source is not None or source_port:
                anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind((source or anywhere, source_port))
            self._socket.connect((destination, port))
        except BaseException:
            self._socket.close()
            raise

    @property
    def local_port(self) -> int:
        """The port it sends from, before any rewriting."""
        port = self._socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    def ask(self, *, timeout: float | None = None) -> Seen | None:
        """Send a request and wait for its answer; None if none came in time, or a refusal did."""
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        nonce = new_nonce()
        try:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            self._socket.sendall(question(nonce))
            return self._read_answer(nonce, until=until)
        except OSError as error:
            if isinstance(error, TimeoutError) or error.errno in UNANSWERED:
                return None
            raise

    def close(self) -> None:
        """Close the socket; may be called again."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_answer(self, nonce: bytes, *, until: float) -> Seen | None:
        text = b""
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            received = self._socket.recv(LONGEST)
            if not received and self._protocol == "tcp":
                return None
            # An answer to an earlier request that was given up may come first.
            text = received if self._protocol == "udp" else text + received
            for line in text.splitlines(keepends=True):
                found = read_answer(line, nonce=nonce)
                if found is not None:
                    ends = (
                        str(found.source),
                        found.source_port,
                        str(found.destination),
                        found.destination_port,
                    )
                    return Seen(*ends)
        return None


def probe(
    namespace: Namespace,
    *,
    destination: str,
    port: int,
    protocol: str = "udp",
    source: str | None = None,
    source_port: int = 0,
    timeout: float = _TIMEOUT,
) -> Seen | None:
    """What an Echo at `destination` sees of a new connection; None if no answer came in `timeout` seconds."""
    until = time.monotonic() + timeout
    try:
        connection = Connection(
            namespace,
            destination=destination,
            port=port,
            protocol=protocol,
            source=source,
            source_port=source_port,
            timeout=timeout,
        )
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno in UNANSWERED:
            return None
        raise
    with connection:
        return connection.ask(timeout=max(until - time.monotonic(), 0.001))


class Sender:
    """A thread that sends without a pause and counts every source that the other end saw; a context manager.

    Each request is a connection of its own (a new source port), or with `fresh=False` all are one.
    `interval` seconds lie between two requests: a UDP flow stays 30 s in the kernel's table of connections.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        destination: str,
        port: int,
        protocol: str = "udp",
        source: str | None = None,
        fresh: bool = True,
        interval: float = 0.001,
        timeout: float = _TIMEOUT,
    ) -> None:
        self.sources: Counter[str] = Counter()
        """How many answers named which source."""
        self.unanswered = 0
        way: dict[str, Any] = {
            "destination": destination,
            "port": port,
            "protocol": protocol,
            "source": source,
            "timeout": timeout,
        }
        self._probe: Callable[[], Seen | None] = partial(probe, namespace, **way)
        self._connect: Callable[[], Connection] = partial(Connection, namespace, **way)
        self._fresh = fresh
        self._interval = interval
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"sender in {namespace.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait for the thread to end; raises what stopped it, if that was an error."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_for(self, count: int, *, timeout: float = 10.0) -> None:
        """Until `count` more answers have come; raises TimeoutError if they do not."""
        until = time.monotonic() + timeout
        wanted = self.sources.total() + count
        while self.sources.total() < wanted:
            if self._error is not None or time.monotonic() > until:
                raise TimeoutError(f"{count} more answers have not come in {timeout:g} s") from self._error
            time.sleep(0.001)

    def _run(self) -> None:
        try:
            if self._fresh:
                while not self._stop.wait(self._interval):
                    self._record(self._probe())
            else:
                with self._connect() as connection:
                    while not self._stop.wait(self._interval):
                        self._record(connection.ask())
        except BaseException as error:
            self._error = error

    def _record(self, seen: Seen | None) -> None:
        if seen is None:
            self.unanswered += 1
        else:
            self.sources[seen.source] += 1
