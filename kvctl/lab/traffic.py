"""Traffic that tells what became of it: servers that answer with the source they saw, and clients."""

from __future__ import annotations

import contextlib
import errno
import secrets
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kvctl.lab.netns import Namespace

_TIMEOUT = 2.0
_LONGEST = 2048

# What says "nobody answered" or "somebody refused"; other errors mean that the lab is not as it should be.
_UNANSWERED = (
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


@dataclass(frozen=True, slots=True)
class Heard:
    """What an Echo counts, whether or not its answer reached anybody."""

    protocol: str
    source: str
    destination_port: int


class Echo:
    """TCP and UDP servers on `ports`, both families, in one thread; a context manager.

    `heard` counts what arrived by `Heard`. A request is one line (TCP) or one datagram (UDP).
    """

    def __init__(
        self, namespace: Namespace, *, ports: Iterable[int], protocols: Iterable[str] = ("tcp", "udp")
    ) -> None:
        self.heard: Counter[Heard] = Counter()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name=f"echo in {namespace.name}", daemon=True)
        self._wanted = frozenset(protocols)
        try:
            with namespace.entered():
                for port in sorted(set(ports)):
                    self._listen(port)
        except BaseException:
            self._close()
            raise

    def sources(self, *, protocol: str | None = None, port: int | None = None) -> set[str]:
        """Every source address heard so far, of one protocol or port if given."""
        return {
            each.source
            for each in list(self.heard)
            if protocol in (None, each.protocol) and port in (None, each.destination_port)
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._close()

    def _listen(self, port: int) -> None:
        if "udp" in self._wanted:
            udp = _open(socket.SOCK_DGRAM, port)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._selector.register(udp, selectors.EVENT_READ, port)
        if "tcp" in self._wanted:
            tcp = _open(socket.SOCK_STREAM, port)
            tcp.listen(1024)
            self._selector.register(tcp, selectors.EVENT_READ, port)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                ready = key.fileobj
                if ready is self._woken:
                    return
                assert isinstance(ready, socket.socket)
                # A client that went away in the middle is no reason to stop serving the others.
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    self._attend(ready, port=key.data)

    def _attend(self, ready: socket.socket, *, port: int | None) -> None:
        if ready.type == socket.SOCK_DGRAM:
            self._answer_datagram(ready)
        elif port is not None:
            connection, _ = ready.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, None)
        else:
            self._answer_line(ready)

    def _answer_datagram(self, udp: socket.socket) -> None:
        request, ancillary, _, peer = udp.recvmsg(_LONGEST, socket.CMSG_SPACE(20))
        # The answer has to leave from the address that was asked, which routing alone would not choose.
        arrived = next(data for level, kind, data in ancillary if kind == socket.IPV6_PKTINFO)[:16]
        local = socket.inet_ntop(socket.AF_INET6, arrived)
        answer = self._answer(request, peer=peer, local=(local, udp.getsockname()[1]), protocol="udp")
        info = arrived + struct.pack("=I", 0)
        try:
            udp.sendmsg([answer], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, peer)
        except OSError as error:
            # A source that the server has no way back to: it has been counted.
            if error.errno not in _UNANSWERED:
                raise

    def _answer_line(self, connection: socket.socket) -> None:
        try:
            request = connection.recv(_LONGEST)
            if request:
                peer, local = connection.getpeername(), connection.getsockname()
                connection.sendall(self._answer(request, peer=peer, local=local, protocol="tcp") + b"\n")
                return
        except OSError as error:
            if error.errno not in (*_UNANSWERED, errno.ENOTCONN):
                raise
        self._selector.unregister(connection)
        connection.close()

    def _answer(
        self, request: bytes, *, peer: tuple[str, int], local: tuple[str, int], protocol: str
    ) -> bytes:
        source, destination = _plain(peer[0]), _plain(local[0])
        self.heard[Heard(protocol=protocol, source=source, destination_port=local[1])] += 1
        return request.strip() + f" {source} {peer[1]} {destination} {local[1]}".encode("ascii")

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._wake.close()


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
        token = secrets.token_hex(8).encode("ascii")
        try:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            self._socket.sendall(token + b"\n")
            return self._read_answer(token, until=until)
        except OSError as error:
            if isinstance(error, TimeoutError) or error.errno in _UNANSWERED:
                return None
            raise

    def close(self) -> None:
        """Close the socket; may be called again."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_answer(self, token: bytes, *, until: float) -> Seen | None:
        text = b""
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            received = self._socket.recv(_LONGEST)
            if not received and self._protocol == "tcp":
                return None
            # An answer to an earlier request that was given up may come first.
            text = received if self._protocol == "udp" else text + received
            for line in text.splitlines(keepends=True):
                words = line.split()
                if words[:1] == [token] and (self._protocol == "udp" or line.endswith(b"\n")):
                    source, source_port, destination, port = (word.decode("ascii") for word in words[1:])
                    return Seen(source, int(source_port), destination, int(port))
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
        if isinstance(error, TimeoutError) or error.errno in _UNANSWERED:
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
        self._namespace = namespace
        self._target = (destination, port, protocol, source)
        self._fresh = fresh
        self._interval = interval
        self._timeout = timeout
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"sender in {namespace.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _probe(self) -> Seen | None:
        destination, port, protocol, source = self._target
        return probe(
            self._namespace,
            destination=destination,
            port=port,
            protocol=protocol,
            source=source,
            timeout=self._timeout,
        )

    def _connect(self) -> Connection:
        destination, port, protocol, source = self._target
        return Connection(
            self._namespace,
            destination=destination,
            port=port,
            protocol=protocol,
            source=source,
            timeout=self._timeout,
        )


def _open(kind: int, port: int) -> socket.socket:
    """A socket of both families on every address."""
    try:
        opened = socket.socket(socket.AF_INET6, kind)
    except OSError as error:
        raise OSError(error.errno, "the lab's servers need IPv6 in the kernel") from error
    try:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setblocking(False)
        opened.bind(("::", port))
    except BaseException:
        opened.close()
        raise
    return opened


def _plain(address: str) -> str:
    """An IPv4 address as a socket of both families shows it (`::ffff:10.0.0.1`), in its own form."""
    return address.removeprefix("::ffff:") if "." in address else address
