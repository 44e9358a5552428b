"""The netlink door against a scripted kernel: what no real kernel can be made to say on demand."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from kvctl.errors import NetlinkError
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.netlink.messages import attribute, nested, read_attributes

PORT = 4711
OBJECT, ERROR, DONE = 0x15, 2, 3
INTERRUPTED = 0x10

Reply = bytes | OSError | tuple[bytes, int, int]
"""A datagram of the kernel, or a failure, or a datagram with its flags and sender."""


class Kernel:
    """A socket whose other end follows a script: for each request sent, the replies to give."""

    def __init__(self, *script: Callable[[int], Sequence[Reply]]) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self._script = list(script)
        self._replies: list[Reply] = []

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        (sequence,) = struct.unpack_from("=I", data, 8)
        self._replies.extend(self._script.pop(0)(sequence))
        return len(data)

    def recvmsg_into(self, buffers: list[bytearray]) -> tuple[int, list[object], int, tuple[int, int]]:
        if not self._replies:
            raise TimeoutError
        reply = self._replies.pop(0)
        if isinstance(reply, OSError):
            raise reply
        data, flags, sender = reply if isinstance(reply, tuple) else (reply, 0, 0)
        buffers[0][: len(data)] = data
        return len(data), [], flags, (sender, 0)

    def close(self) -> None:
        self.closed = True


def netlink(kernel: Kernel) -> Netlink:
    return Netlink(cast("socket.socket", kernel))


def message(
    sequence: int, payload: bytes = b"", *, kind: int = OBJECT, flags: int = 2, port: int = PORT
) -> bytes:
    header = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, port)
    return header + payload + bytes(-len(payload) % 4)


def done(sequence: int, *, status: int = 0, flags: int = 2) -> bytes:
    return message(sequence, struct.pack("=i", status), kind=DONE, flags=flags)


def answer(sequence: int, number: int = 0) -> bytes:
    return message(sequence, struct.pack("=i", -number) + bytes(16), kind=ERROR, flags=0)


def payload_of(buffer: bytearray, start: int, end: int) -> bytes | None:
    return bytes(buffer[start:end])


def dump(kernel: Kernel) -> list[bytes]:
    return netlink(kernel).dump(kind=18, payload=b"", read=payload_of, what="cannot look")


def test_a_dump_is_all_messages_of_all_datagrams_up_to_the_end() -> None:
    kernel = Kernel(lambda n: [message(n, b"one") + message(n, b"two!"), message(n, b"3"), done(n)])
    assert dump(kernel) == [b"one", b"two!", b"3"]
    length, kind, flags, _, port = struct.unpack("=IHHII", kernel.sent[0])
    assert (length, kind, flags, port) == (16, 18, 0x301, PORT)


def test_what_the_reader_turns_down_is_left_out() -> None:
    kernel = Kernel(lambda n: [message(n, b"one") + message(n, b"two"), done(n)])
    found = netlink(kernel).dump(
        kind=18, payload=b"", read=lambda b, s, e: None if b[s] == ord("o") else bytes(b[s:e]), what="x"
    )
    assert found == [b"two"]


@pytest.mark.parametrize(
    "first",
    [
        lambda n: [message(n, b"torn", flags=2 | INTERRUPTED), done(n)],
        lambda n: [message(n, b"torn"), done(n, flags=2 | INTERRUPTED)],
        lambda n: [message(n, b"torn"), done(n, status=-errno.EINTR)],
        lambda n: [message(n, b"torn"), answer(n, errno.EINTR)],
        lambda n: [message(n, b"torn"), OSError(errno.ENOBUFS, "lost"), done(n)],
    ],
    ids=["in a message", "at the end", "EINTR at the end", "EINTR instead of an end", "messages lost"],
)
def test_an_inconsistent_dump_is_taken_anew_and_nothing_of_it_kept(
    first: Callable[[int], Sequence[Reply]],
) -> None:
    kernel = Kernel(first, lambda n: [message(n, b"whole"), done(n)])
    assert dump(kernel) == [b"whole"]


def test_a_dump_that_never_comes_out_consistent_ends_with_an_error() -> None:
    kernel = Kernel(*[lambda n: [done(n, flags=2 | INTERRUPTED)]] * 100)
    with pytest.raises(NetlinkError, match=r"^cannot look: the kernel changed it") as caught:
        dump(kernel)
    assert caught.value.errno == errno.EINTR
    assert len(kernel.sent) < 20


@pytest.mark.parametrize(
    "stranger",
    [
        lambda n: message(n - 1, b"stale"),
        lambda n: message(n, b"to another", port=PORT + 1),
        lambda n: (message(n, b"forged") + done(n), 0, 666),
    ],
    ids=["another request", "another port", "another process"],
)
def test_messages_that_do_not_answer_this_request_are_passed_over(stranger: Callable[[int], Reply]) -> None:
    assert dump(Kernel(lambda n: [stranger(n), message(n, b"ours"), done(n)])) == [b"ours"]


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        (lambda n: [answer(n, errno.EPERM)], errno.EPERM),
        (lambda n: [message(n, b"part"), done(n, status=-errno.ENOMEM)], errno.ENOMEM),
        (lambda n: [message(n, b"part")], errno.ETIMEDOUT),
        (lambda n: [OSError(errno.ECONNREFUSED, "no")], errno.ECONNREFUSED),
        (lambda n: [message(n, b"part")[:10]], errno.EBADMSG),
        (lambda n: [message(n, b"part")[:17]], errno.EBADMSG),
        (lambda n: [struct.pack("=IHHII", 8, OBJECT, 2, n, PORT)], errno.EBADMSG),
        (lambda n: [message(n, b"ab", kind=ERROR)], errno.EBADMSG),
        (lambda n: [(message(n, b"part"), socket.MSG_TRUNC, 0)], errno.EMSGSIZE),
    ],
    ids=[
        "refused",
        "refused at the end",
        "no end",
        "socket error",
        "header cut off",
        "payload cut off",
        "length below the header",
        "status cut off",
        "longer than the buffer",
    ],
)
def test_a_failed_dump_is_an_error_with_what_was_asked(
    reply: Callable[[int], Sequence[Reply]], number: int
) -> None:
    with pytest.raises(NetlinkError) as caught:
        dump(Kernel(reply))
    assert caught.value.errno == number
    assert caught.value.message.startswith("cannot look: ") or number == errno.EBADMSG


def test_a_request_ends_with_its_acknowledgement() -> None:
    kernel = Kernel(lambda n: [message(n, b"echo"), answer(n + 1, errno.EPERM), answer(n)])
    netlink(kernel).request(kind=20, flags=0x400, payload=b"abc", what="cannot add")
    assert struct.unpack_from("=IHH", kernel.sent[0]) == (19, 20, 0x405)
    assert kernel.sent[0][16:] == b"abc\0"


def test_a_refused_request_says_why_in_the_kernels_words() -> None:
    text = attribute(1, b"Device does not exist\0")
    capped = struct.pack("=i", -errno.ENODEV) + bytes(16) + text
    kernel = Kernel(lambda n: [message(n, capped, kind=ERROR, flags=0x300)])
    with pytest.raises(NetlinkError) as caught:
        netlink(kernel).request(kind=20, payload=b"", what="cannot add")
    assert caught.value.message == "cannot add: No such device (Device does not exist)"
    assert caught.value.errno == errno.ENODEV


def test_an_answer_that_is_missing_ends_the_wait() -> None:
    with pytest.raises(NetlinkError) as caught:
        netlink(Kernel(lambda n: [])).request(kind=20, payload=b"", what="cannot add")
    assert caught.value.errno == errno.ETIMEDOUT


def ask(kernel: Kernel) -> bytes:
    return netlink(kernel).ask(kind=18, payload=b"", read=lambda b, s, e: bytes(b[s:e]), what="cannot look")


def test_a_question_is_answered_by_one_message() -> None:
    kernel = Kernel(lambda n: [message(n - 1, b"stale"), message(n, b"strange", port=7), message(n, b"this")])
    assert ask(kernel) == b"this"
    assert struct.unpack_from("=IHH", kernel.sent[0]) == (16, 18, 0x1)


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        (lambda n: [answer(n, errno.EPERM)], errno.EPERM),
        (lambda n: [answer(n)], errno.EBADMSG),
        (lambda n: [], errno.ETIMEDOUT),
    ],
    ids=["refused", "acknowledged and not answered", "no answer"],
)
def test_a_question_without_an_answer_is_an_error(
    reply: Callable[[int], Sequence[Reply]], number: int
) -> None:
    with pytest.raises(NetlinkError) as caught:
        ask(Kernel(reply))
    assert caught.value.errno == number


def hear(*replies: Reply, most: int = 100) -> list[tuple[int, bytes]]:
    kernel = Kernel(lambda n: replies)
    kernel.send(bytes(16))
    found: list[tuple[int, bytes]] = []
    netlink(kernel).hear(lambda k, b, s, e: found.append((k, bytes(b[s:e]))), most=most, what="x")
    return found


NOTHING = BlockingIOError(errno.EAGAIN, "nothing waits")


def test_what_waits_is_heard_and_nothing_waited_for() -> None:
    two = message(0, b"one!", kind=16, port=0) + message(0, b"two!", kind=17, port=0)
    forged = (message(0, b"lies", kind=16, port=0), 0, 666)
    assert hear(two, forged, message(0, b"3333", kind=18, port=9), NOTHING) == [
        (16, b"one!"),
        (17, b"two!"),
        (18, b"3333"),
    ]
    assert hear(NOTHING) == []


def test_no_more_is_heard_at_a_time_than_asked_for() -> None:
    assert len(hear(*[message(0, b"more")] * 5, most=3)) == 3


def test_lost_messages_are_said_to_be_lost() -> None:
    with pytest.raises(NetlinkError) as caught:
        hear(message(0, b"heard"), OSError(errno.ENOBUFS, "full"), message(0, b"later"))
    assert caught.value.errno == errno.ENOBUFS


def test_many_requests_each_get_their_own_answer_in_whatever_order() -> None:
    def backwards(first: int, count: int) -> list[bytes]:
        return [answer(n, errno.ENOENT if n % 3 == 0 else 0) for n in range(first, first + count)][::-1]

    kernel = Kernel(lambda n: backwards(n, 64), lambda n: backwards(n, 36))
    answers = netlink(kernel).request_each(kind=20, payloads=[bytes([n]) for n in range(100)], what="x")
    assert [a.errno if a else 0 for a in answers] == [
        errno.ENOENT if n % 3 == 0 else 0 for n in range(1, 101)
    ]
    assert len(kernel.sent) == 2


def test_attributes_survive_the_way_there_and_back() -> None:
    data = nested(1, attribute(2, b"abc"), attribute(3, b"")) + attribute(4, b"12345678")
    outer = read_attributes(data)
    assert outer[4] == b"12345678"
    assert read_attributes(outer[1]) == {2: b"abc", 3: b""}


@pytest.mark.parametrize("data", [b"\x03\0\1\0", b"\x09\0\1\0abcd", b"\0\0\1\0"])
def test_attributes_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(NetlinkError, match="malformed attribute"):
        read_attributes(data)


def test_the_socket_is_closed_however_the_block_ends() -> None:
    kernel = Kernel()
    with pytest.raises(ZeroDivisionError), netlink(kernel):
        raise ZeroDivisionError
    assert kernel.closed


def test_a_protocol_that_the_kernel_does_not_speak_is_an_error_and_leaks_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NetlinkError, match=r"^cannot look: Protocol not supported$"):
        open_netlink(protocol=31, what="cannot look")
    with pytest.raises(NetlinkError, match=r"^cannot look: Invalid argument$"):
        open_netlink(protocol=NETLINK_ROUTE, what="cannot look", groups=(0,))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_real_kernel_names_what_it_refuses() -> None:
    with open_netlink(protocol=NETLINK_ROUTE, what="x") as link, pytest.raises(NetlinkError) as caught:
        # RTM_GETLINK of an interface that cannot exist: struct ifinfomsg with a negative index.
        link.request(kind=18, payload=struct.pack("=BxHiII", 0, 0, -5, 0, 0), what="cannot find")
    assert caught.value.errno in (errno.EINVAL, errno.ENODEV)
    assert caught.value.message.startswith("cannot find: ")
