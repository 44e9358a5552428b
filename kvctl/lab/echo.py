"""Servers that answer with the source they saw."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kvctl.lab.netns import Namespace
from kvctl.lab.traffic import LONGEST, UNANSWERED


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
        request, ancillary, _, peer = udp.recvmsg(LONGEST, socket.CMSG_SPACE(20))
        # The answer has to leave from the address that was asked, which routing alone would not choose.
        arrived = next(data for level, kind, data in ancillary if kind == socket.IPV6_PKTINFO)[:16]
        local = socket.inet_ntop(socket.AF_INET6, arrived)
        answer = self._answer(request, peer=peer, local=(local, udp.getsockname()[1]), protocol="udp")
        info = arrived + struct.pack("=I", 0)
        try:
            udp.sendmsg([answer], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, peer)
        except OSError as error:
            # A source that the server has no way back to: it has been counted.
            if error.errno not in UNANSWERED:
                raise

    def _answer_line(self, connection: socket.socket) -> None:
        try:
            request = connection.recv(LONGEST)
            if request:
                peer, local = connection.getpeername(), connection.getsockname()
                connection.sendall(self._answer(request, peer=peer, local=local, protocol="tcp") + b"\n")
                return
        except OSError as error:
            if error.errno not in (*UNANSWERED, errno.ENOTCONN):
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
