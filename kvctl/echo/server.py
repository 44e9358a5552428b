"""The echo: TCP and UDP servers of both families that answer each question with the source they saw.

It stands outside of a cluster, where anybody may call. So: one thread whatever the number of callers, a bound on how
many connections there are (whoever has most of them loses the one that has been idle longest: a crowd from one place
keeps nobody else away), an end to each that is idle or has asked enough, and nobody is waited for who does not read.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NamedTuple

from kvctl.echo.wire import LONGEST_QUESTION, NOBODYS, answer, read_question
from kvctl.errors import KvctlError
from kvctl.model.net import Address

_AT_ONCE = 16
"""Lines that a client may send in one go: nobody who waits for answers sends more."""
_RECEIVED = 2048
_UNREAD_BYTES = 16_384
_BACKLOG = 256
_IP_PKTINFO = 8  # linux/in.h; Python has it from 3.14 on
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.05


class Limits(NamedTuple):
    """What callers may take together."""

    connections: int = 256
    idle_seconds: float = 10.0
    """From a connection's beginning, or its last answer, to its end."""
    answers: int = 100
    """By one connection: then it is closed. verify makes a connection for each question."""


class Question(NamedTuple):
    """A question that came; addresses in their own form, without a zone."""

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    peer: tuple[str, int]
    local: tuple[str, int]
    until: float
    """When it will have been idle for too long."""
    place: str
    """Where it calls from: one caller may have every address of an IPv6 /64."""
    left: int
    """Answers until it is closed."""
    text: bytes = b""
    """What has come of a line."""


def listen(
    *, port: int, address: Address | None = None, protocols: Iterable[str] = ("tcp", "udp")
) -> list[socket.socket]:
    """Sockets of these protocols for `Server`, on one address, or all of both families.

    In the network namespace of the calling thread. Raises KvctlError where nothing can listen there.
    """
    opened: list[socket.socket] = []
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    try:
        for protocol in protocols:
            opened.append(_open(kinds[protocol], address, port))
    except OSError as error:
        for each in opened:
            each.close()
        place = f"port {port}" if address is None else f"{address} port {port}"
        raise KvctlError(
            f"cannot listen on {place} ({protocol}): {error.strerror}",
            hint="give another --port or --listen"
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            else "ports below 1024 need root: give another --port",
        ) from error
    return opened


class Server:
    """Answers on `sockets` (of `listen`) from `serve` until `stop`; `close` closes them and every connection.

    `heard` is told of each question, whether or not its answer reaches anybody.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        limits: Limits = Limits(),  # noqa: B008 (a value)
        heard: Callable[[Question], None] = lambda question: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._heard = heard
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        # In the order in which they will have been idle for too long.
        self._clients: dict[socket.socket, _Client] = {}
        self._places: Counter[str] = Counter()
        self._listeners = frozenset(each for each in sockets if each.type == socket.SOCK_STREAM)
        for each in sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer until `stop` is called, by another thread."""
        while True:
            for key, _ in self._selector.select(self._patience()):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is self._woken:
                    return
                self._attend(ready)
            self._drop_idle()

    def stop(self) -> None:
        """Let `serve` return."""
        self._wake.send(b"x")

    def close(self) -> None:
        """Close everything."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._wake.close()

    def _patience(self) -> float | None:
        oldest = next(iter(self._clients.values()), None)
        return None if oldest is None else max(oldest.until - self._clock(), 0)

    def _attend(self, ready: socket.socket) -> None:
        client = self._clients.get(ready)
        if client is not None:
            self._answer_lines(client)
        elif ready.type == socket.SOCK_DGRAM:
            self._answer_datagram(ready)
        # What is neither was a connection that has been dropped since it was found ready.
        elif ready in self._listeners:
            self._accept(ready)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, peer = listener.accept()
        except OSError as error:
            # It stays ready until there is room: a client that is idle makes some.
            if error.errno in _OUT_OF_DESCRIPTORS and not self._drop_oldest():
                time.sleep(_PAUSE)
            return
        connection.setblocking(False)
        try:
            # Who does not read is noticed soon, and takes little of this host's memory.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
            local = connection.getsockname()
            self._selector.register(connection, selectors.EVENT_READ)
        except OSError:
            connection.close()
            return
        until, end = self._clock() + self._limits.idle_seconds, _end(peer)
        client = _Client(connection, end, _end(local), until, _place(end[0]), self._limits.answers)
        self._clients[connection] = client
        self._places[client.place] += 1
        if len(self._clients) > self._limits.connections:
            self._drop_of_most()

    def _answer_lines(self, client: _Client) -> None:
        try:
            received = client.socket.recv(_RECEIVED)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        # Whoever sends no line end means all that was sent.
        text = client.text + (received or b"\n" * bool(client.text))
        *lines, client.text = text.split(b"\n")
        too_much = len(lines) > _AT_ONCE or len(client.text) > LONGEST_QUESTION
        if too_much or not self._answer_each(client, lines) or not received:
            self._drop(client)

    def _answer_each(self, client: _Client, lines: Sequence[bytes]) -> bool:
        """False where the client does not take its answers, or has had enough of them."""
        for line in lines:
            self._heard(Question("tcp", *client.peer, *client.local))
            text = answer(read_question(line) or NOBODYS, source=client.peer, destination=client.local)
            try:
                if client.socket.send(text) != len(text):
                    return False
            except OSError:
                return False
            client.left -= 1
            if client.left == 0:
                return False
            client.until = self._clock() + self._limits.idle_seconds
            self._clients[client.socket] = self._clients.pop(client.socket)
        return True

    def _answer_datagram(self, udp: socket.socket) -> None:
        try:
            text, ancillary, _, peer = udp.recvmsg(_RECEIVED, socket.CMSG_SPACE(20))
        except OSError:
            return
        nonce = read_question(text)
        arrived = _arrival(ancillary)
        if nonce is None or arrived is None:
            return
        source, local = _end(peer), _end((arrived.address, udp.getsockname()[1]))
        answered = answer(nonce, source=source, destination=local)
        if len(answered) > len(text):
            return
        self._heard(Question("udp", *source, *local))
        # A source that there is no way back to: it has been heard.
        with contextlib.suppress(OSError):
            udp.sendmsg([answered], [arrived.leave], 0, peer)

    def _drop_idle(self) -> None:
        now = self._clock()
        while self._clients and next(iter(self._clients.values())).until <= now:
            self._drop_oldest()

    def _drop_of_most(self) -> None:
        """Of the place with most connections the one that has been idle longest."""
        (place, _), *_ = self._places.most_common(1)
        self._drop(next(client for client in self._clients.values() if client.place == place))

    def _drop_oldest(self) -> bool:
        """False where there is none."""
        oldest = next(iter(self._clients.values()), None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket]
        self._places[client.place] -= 1
        if not self._places[client.place]:
            del self._places[client.place]
        self._selector.unregister(client.socket)
        client.socket.close()


class _Arrival(NamedTuple):
    """The address that a datagram was sent to, and what makes the answer leave from it: routing alone may not."""

    address: str
    leave: tuple[int, int, bytes]


def _arrival(ancillary: Iterable[tuple[int, int, bytes]]) -> _Arrival | None:
    """Structs of ipv6(7) and ip(7): in6_pktinfo is an address and an interface, in_pktinfo an interface and two."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            packed, interface = data[:16], data[16:20]
            # Only a link-local address needs its interface; any other may be answered by another way.
            if not IPv6Address(packed).is_link_local:
                interface = bytes(4)
            return _Arrival(socket.inet_ntop(socket.AF_INET6, packed), (level, kind, packed + interface))
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            leave = struct.pack("=I4s4s", 0, data[8:12], bytes(4))
            return _Arrival(socket.inet_ntop(socket.AF_INET, data[8:12]), (level, kind, leave))
    return None


def _open(kind: int, address: Address | None, port: int) -> socket.socket:
    """A socket on this address, or on all; without IPv6 in the kernel, on all of IPv4."""
    families = [socket.AF_INET6, socket.AF_INET] if address is None else [_family(address)]
    for at, family in enumerate(families):
        try:
            opened = socket.socket(family, kind)
        except OSError:
            if at + 1 == len(families):
                raise
            continue
        break
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address is not None))
            if kind == socket.SOCK_DGRAM:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif kind == socket.SOCK_DGRAM:
            opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        opened.setblocking(False)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((str(address) if address is not None else "", port))
        if kind == socket.SOCK_STREAM:
            opened.listen(_BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _place(address: str) -> str:
    """The address, of IPv6 the first 64 bits."""
    return address if "." in address else str(IPv6Address(int(IPv6Address(address)) >> 64 << 64))


def _end(address: tuple[str, int]) -> tuple[str, int]:
    """Address and port; IPv4 as a socket of both families shows it (`::ffff:10.0.0.1`) in its own form."""
    text = address[0].partition("%")[0]
    return (text.removeprefix("::ffff:") if "." in text else text), address[1]
