"""The door to the kernel's netlink sockets: dumps, requests, multicast messages.

Numbers and layouts are those of netlink(7) and linux/netlink.h. Written out here because importing a
general netlink library takes longer than most commands take to run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from kvctl.errors import NetlinkError
from kvctl.netlink.messages import NLMSG_DONE, NLMSG_ERROR, malformed, message, messages, read_refusal

if TYPE_CHECKING:
    import socket  # imported where one is opened: 4 ms that most commands do not need

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SOL_SOCKET = 1
_SO_RCVBUF = 8
_SO_RCVBUFFORCE = 33
_MSG_TRUNC = 0x20

# The kernel fills datagrams of a dump up to 32 KiB, and a single message may be longer.
_BUFFER_BYTES = 256 * 1024
_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
# So few that their answers fit into the receive buffer of an unprivileged socket, too.
_REQUESTS_IN_FLIGHT = 64
_DUMP_ATTEMPTS = 8


Found = TypeVar("Found")


class Netlink:
    """A netlink socket in the network namespace that the calling thread was in when it was opened.

    For one thread, one request at a time; a context manager. What the kernel refuses, an answer that
    does not come within the time-out and one that cannot be read are NetlinkErrors, which begin with
    `what`, the words of the caller for what was asked.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._port: int = connection.getsockname()[0]
        self._sequence = 0
        self._buffer = bytearray(_BUFFER_BYTES)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def dump(
        self,
        *,
        kind: int,
        payload: bytes,
        read: Callable[[bytearray, int, int], Found | None],
        what: str,
    ) -> list[Found]:
        """Ask for all objects of message type `kind`; the values that `read` makes of them.

        `read` gets the receive buffer and the bounds of one message's payload in it, and returns None
        for what is not wanted; the buffer is used again afterwards. A dump that the kernel calls
        inconsistent (NLM_F_DUMP_INTR, EINTR) or that lost messages (ENOBUFS) is taken anew.
        """
        for _ in range(_DUMP_ATTEMPTS):
            found = self._dump_once(kind=kind, payload=payload, read=read, what=what)
            if found is not None:
                return found
        raise NetlinkError(
            f"{what}: the kernel changed it during each of {_DUMP_ATTEMPTS} attempts",
            errno=errno.EINTR,
            hint="try again",
        )

    def ask(
        self,
        *,
        kind: int,
        payload: bytes,
        read: Callable[[bytearray, int, int], Found],
        what: str,
    ) -> Found:
        """Send a request that a single message answers; what `read` (as in `dump`) makes of it."""
        sequence = self._next_sequence()
        self._send(message(kind, NLM_F_REQUEST, sequence, self._port, payload), what=what)
        while True:
            length = self._receive(what=what)
            for answer, flags, number, to, start, end in messages(self._buffer, length, what):
                if number != sequence or to != self._port:
                    continue
                if answer == NLMSG_ERROR:
                    raise read_refusal(self._buffer, start, end, flags, what) or malformed("answer")
                return read(self._buffer, start, end)

    def hear(self, tell: Callable[[int, bytearray, int, int], None], *, most: int, what: str) -> None:
        """Hand every multicast message that waits to `tell`, of at most `most` datagrams.

        `tell` gets the message's type, the receive buffer and the bounds of the payload in it. Does not
        wait on a socket that was opened with time-out 0. NetlinkError with ENOBUFS: the kernel had to drop
        messages since the last time, and goes on.
        """
        for _ in range(most):
            try:
                length = self._receive(what=what)
            except NetlinkError as error:
                if error.errno == errno.EAGAIN:
                    return
                raise
            for kind, _, _, _, start, end in messages(self._buffer, length, what):
                tell(kind, self._buffer, start, end)

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, *, kind: int, flags: int = 0, payload: bytes, what: str) -> None:
        """Send one request and wait until the kernel has done it."""
        (refusal,) = self.request_each(kind=kind, flags=flags, payloads=(payload,), what=what)
        if refusal is not None:
            raise refusal

    def request_each(
        self, *, kind: int, flags: int = 0, payloads: Sequence[bytes], what: str
    ) -> list[NetlinkError | None]:
        """Send a request a payload, many in flight; for each what the kernel refused, or None if done.

        Raises NetlinkError only when answers are missing or unreadable.
        """
        answers: list[NetlinkError | None] = []
        for first in range(0, len(payloads), _REQUESTS_IN_FLIGHT):
            group = payloads[first : first + _REQUESTS_IN_FLIGHT]
            answers.extend(self._request_group(kind=kind, flags=flags, payloads=group, what=what))
        return answers

    def _dump_once(
        self,
        *,
        kind: int,
        payload: bytes,
        read: Callable[[bytearray, int, int], Found | None],
        what: str,
    ) -> list[Found] | None:
        """One dump up to its end, or None if it is not to be trusted."""
        sequence = self._next_sequence()
        self._send(message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, self._port, payload), what=what)
        buffer, port = self._buffer, self._port
        found: list[Found] = []
        intact = True
        while True:
            try:
                length = self._receive(what=what)
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                intact = False
                continue
            for answer, flags, number, to, start, end in messages(buffer, length, what):
                if number != sequence or to != port:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    intact = False
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    refusal = read_refusal(buffer, start, end, flags, what)
                    if refusal is not None and refusal.errno != errno.EINTR:
                        raise refusal
                    return found if intact and refusal is None and answer == NLMSG_DONE else None
                value = read(buffer, start, end)
                if value is not None:
                    found.append(value)

    def _request_group(
        self, *, kind: int, flags: int, payloads: Sequence[bytes], what: str
    ) -> list[NetlinkError | None]:
        places = {self._next_sequence(): place for place in range(len(payloads))}
        self._send(
            b"".join(
                message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, self._port, payloads[place])
                for sequence, place in places.items()
            ),
            what=what,
        )
        answers: list[NetlinkError | None] = [None] * len(payloads)
        while places:
            length = self._receive(what=what)
            for answer, answer_flags, number, to, start, end in messages(self._buffer, length, what):
                if answer == NLMSG_ERROR and to == self._port and number in places:
                    answers[places.pop(number)] = read_refusal(self._buffer, start, end, answer_flags, what)
        return answers

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def _send(self, data: bytes, *, what: str) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise _failure(what, error) from error

    def _receive(self, *, what: str) -> int:
        """The length of the next datagram of the kernel, which is in the buffer then."""
        while True:
            try:
                length, _, flags, sender = self._socket.recvmsg_into([self._buffer])
            except TimeoutError as error:
                raise NetlinkError(f"{what}: the kernel does not answer", errno=errno.ETIMEDOUT) from error
            except OSError as error:
                raise _failure(what, error) from error
            if sender[0] != 0:
                continue  # any process may send to our port
            if flags & _MSG_TRUNC:
                raise NetlinkError(f"{what}: an answer exceeds {_BUFFER_BYTES} bytes", errno=errno.EMSGSIZE)
            return length


def open_netlink(*, protocol: int, what: str, timeout: float = 10.0, groups: Sequence[int] = ()) -> Netlink:
    """A socket of `protocol` (NETLINK_...), a member of the multicast `groups` (numbers, not bits).

    `timeout` is how many seconds a single answer may take; 0: nothing waits, for sockets that only hear.
    """
    import socket

    try:
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise _failure(what, error) from error
    try:
        connection.settimeout(timeout)
        _enlarge(connection)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            _set_if_known(connection, _SOL_NETLINK, option, 1)  # kernels 4.3, 4.12, 4.20
        connection.bind((0, 0))
        for group in groups:
            connection.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        return Netlink(connection)
    except OSError as error:
        connection.close()
        raise _failure(what, error) from error
    except BaseException:
        connection.close()
        raise


def _failure(what: str, error: OSError) -> NetlinkError:
    number = error.errno or errno.EIO
    return NetlinkError(f"{what}: {os.strerror(number)}", errno=number)


def _enlarge(connection: socket.socket) -> None:
    """As large a receive buffer as is allowed; exceeding net.core.rmem_max takes CAP_NET_ADMIN."""
    if not _set_if_known(connection, _SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES):
        _set_if_known(connection, _SOL_SOCKET, _SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _set_if_known(connection: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        connection.setsockopt(level, option, value)
    except OSError:
        return False
    return True
