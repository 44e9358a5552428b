"""The echo among callers that are many, slow, silent or hostile; on the loopback of a namespace of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile

import pytest

from kvctl.echo.server import Limits, Question, Server, listen
from kvctl.echo.wire import answer, question
from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.net import parse_address
from tests.waiting import until

PORT = 7001
NONCE = b"abc"


class Running:
    """A server that answers, and what it has heard."""

    def __init__(self, server: Server, heard: list[Question]) -> None:
        self.server = server
        self.heard = heard


@contextmanager
def serving(
    namespace: Namespace,
    *,
    limits: Limits = Limits(),  # noqa: B008 (a value)
    address: str | None = None,
    clock: Callable[[], float] | None = None,
) -> Iterator[Running]:
    heard: list[Question] = []
    with namespace.entered():
        sockets = listen(port=PORT, address=parse_address(address) if address else None)
    its_clock = {"clock": clock} if clock is not None else {}
    server = Server(sockets, limits=limits, heard=heard.append, **its_clock)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield Running(server, heard)
    finally:
        server.stop()
        thread.join(10)
        server.close()
        assert not thread.is_alive()


def client(
    namespace: Namespace, *, kind: int = socket.SOCK_STREAM, to: str = "127.0.0.1", timeout: float = 10.0
) -> socket.socket:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    made = namespace.socket(family, kind)
    made.settimeout(timeout)
    try:
        made.connect((to, PORT))
    except OSError:
        made.close()
        raise
    return made


def line_of(own: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        part = own.recv(4096)
        if not part:
            break
        text += part
    return text


def was_closed(own: socket.socket) -> bool:
    """By the end of what it sends, or by a reset where something of ours had not been read."""
    try:
        return own.recv(10) == b""
    except ConnectionResetError:
        return True


def expected(own: socket.socket, *, nonce: bytes = NONCE, to: str = "127.0.0.1") -> bytes:
    name = own.getsockname()
    return answer(nonce, source=(name[0], name[1]), destination=(to, PORT))


@pytest.mark.parametrize("to", ["127.0.0.1", "127.0.0.9", "::1"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_it_tells_the_source_in_its_own_form_and_from_the_address_asked(
    namespace: Namespace, kind: int, to: str
) -> None:
    with serving(namespace), client(namespace, kind=kind, to=to) as own:
        own.sendall(question(NONCE))
        assert own.recv(4096) == expected(own, to=to)


@pytest.mark.parametrize("address", ["127.0.0.9", "::1"])
def test_it_listens_on_one_address_alone_if_told(namespace: Namespace, address: str) -> None:
    with serving(namespace, address=address):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with client(namespace, kind=kind, to=address) as own:
                own.sendall(question(NONCE))
                assert own.recv(4096) == expected(own, to=address)
        with pytest.raises(ConnectionRefusedError):
            client(namespace, to="127.0.0.1")


def test_a_person_with_nc_gets_a_line_for_an_empty_line_and_for_one_without_its_end(
    namespace: Namespace,
) -> None:
    with serving(namespace):
        for text in (b"\n", b"hello\r\n", b"hello"):
            with client(namespace) as own:
                own.sendall(text)
                own.shutdown(socket.SHUT_WR)
                assert line_of(own) == expected(own, nonce=b"-")
                assert own.recv(10) == b""


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\n",
        b"x" * 200,
        b"kvctl-ask/1 abc\n",  # shorter than its answer
        answer(NONCE, source=("10.0.0.1", 1), destination=("10.0.0.2", 2)).ljust(200),
        question(b"n" * 33),
        b"\xff" * 1400,
        question(NONCE) * 2,
    ],
)
def test_what_could_harm_others_is_not_answered_by_udp(namespace: Namespace, datagram: bytes) -> None:
    with serving(namespace) as running, client(namespace, kind=socket.SOCK_DGRAM) as own:
        own.send(datagram)
        own.send(question(NONCE))
        # One socket is answered in order: had there been an answer, it would have come first.
        assert own.recv(4096) == expected(own)
        assert len(running.heard) == 1


def test_a_slow_client_holds_nobody_up_and_loses_its_place(namespace: Namespace) -> None:
    now = [0.0]
    limits = Limits(idle_seconds=5.0)
    with serving(namespace, limits=limits, clock=lambda: now[0]), client(namespace) as slow:
        slow.sendall(b"kvctl-ask")
        with client(namespace) as quick:
            quick.sendall(question(NONCE))
            assert line_of(quick) == expected(quick)
            now[0] = 4.0
            quick.sendall(question(NONCE))
            assert line_of(quick) == expected(quick)
            slow.sendall(b"/1")
            now[0] = 6.0
            # Whatever wakes the server lets it look at the time.
            quick.sendall(question(NONCE))
            assert line_of(quick) == expected(quick)
            assert was_closed(slow)
            quick.sendall(question(NONCE))
            assert line_of(quick) == expected(quick)


def test_the_time_alone_ends_who_is_idle(namespace: Namespace) -> None:
    with serving(namespace, limits=Limits(idle_seconds=0.05)), client(namespace) as own:
        assert was_closed(own)


def test_of_too_many_the_one_idle_longest_goes(namespace: Namespace) -> None:
    with serving(namespace, limits=Limits(connections=20)), ExitStack() as stack:
        clients = [stack.enter_context(client(namespace)) for _ in range(20)]
        for own in (*clients, clients[0]):
            own.sendall(question(NONCE))
            assert line_of(own) == expected(own)
        late = stack.enter_context(client(namespace))
        late.sendall(question(NONCE))
        assert line_of(late) == expected(late)
        assert was_closed(clients[1])
        clients[0].sendall(question(NONCE))
        assert line_of(clients[0]) == expected(clients[0])


def test_a_crowd_that_is_busy_keeps_nobody_away_who_comes_from_elsewhere(namespace: Namespace) -> None:
    namespace.batch(["addr add 127.0.0.2/8 dev lo"])
    with serving(namespace, limits=Limits(connections=20)), ExitStack() as stack:
        crowd = [stack.enter_context(client(namespace)) for _ in range(19)]
        with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
            own.settimeout(10)
            own.bind(("127.0.0.2", 0))
            own.connect(("127.0.0.1", PORT))
            for _ in range(3):
                crowd += [stack.enter_context(client(namespace)) for _ in range(5)]
                for each in crowd[-10:]:
                    with suppress(OSError):
                        each.sendall(question(NONCE))
                assert line_of(crowd[-1]).startswith(b"kvctl-echo/1 ")
            own.sendall(question(NONCE))
            assert line_of(own).startswith(b"kvctl-echo/1 abc 127.0.0.2 ")


def test_a_connection_that_has_asked_enough_is_closed_after_its_last_answer(namespace: Namespace) -> None:
    with serving(namespace, limits=Limits(answers=3)), client(namespace) as own:
        for _ in range(3):
            own.sendall(question(NONCE))
            assert line_of(own).startswith(b"kvctl-echo/1 abc ")
        assert own.recv(4096) == b""


def test_many_clients_at_once_each_get_their_own(namespace: Namespace) -> None:
    with serving(namespace) as running, ExitStack() as stack:
        clients = [stack.enter_context(client(namespace)) for _ in range(200)]
        for number, own in enumerate(clients):
            own.sendall(question(str(number).encode()))
        for number, own in enumerate(clients):
            assert line_of(own) == expected(own, nonce=str(number).encode())
        assert {each.source_port for each in running.heard} == {own.getsockname()[1] for own in clients}


@pytest.mark.parametrize("text", [b"x" * 5000, b"\n" * 1000])
def test_who_sends_without_end_is_closed_and_others_are_served(namespace: Namespace, text: bytes) -> None:
    with serving(namespace), client(namespace) as flood, client(namespace) as own:
        flood.sendall(text)
        received = 0
        with pytest.raises(ConnectionResetError) if _is_reset(text) else ExitStack():
            while part := flood.recv(65536):
                received += len(part)
        assert received < 100 * len(question(NONCE))
        own.sendall(question(NONCE))
        assert line_of(own) == expected(own)


def _is_reset(text: bytes) -> bool:
    """What was not read when it was closed makes the kernel send a reset."""
    return len(text) > 2048


def test_who_does_not_read_is_closed_and_others_are_served(namespace: Namespace) -> None:
    with serving(namespace) as running, client(namespace) as own:
        with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", PORT))

            def asks_on() -> bool:
                before = len(running.heard)
                try:
                    deaf.send(b"\n" * 8)
                    until(lambda: len(running.heard) > before, seconds=2)
                except (ConnectionError, AssertionError):
                    return False
                return True

            asked = sum(1 for _ in takewhile(bool, (asks_on() for _ in range(1000))))
        assert 10 < asked < 1000
        own.sendall(question(NONCE))
        assert line_of(own) == expected(own)


def test_a_client_that_is_gone_is_forgotten(namespace: Namespace) -> None:
    with serving(namespace, limits=Limits(idle_seconds=3600)):
        with client(namespace) as own:
            own.sendall(question(NONCE))
            assert line_of(own) == expected(own)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            client(namespace).close()
        until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_where_nothing_can_listen_it_is_said(namespace: Namespace) -> None:
    with serving(namespace), namespace.entered():
        with pytest.raises(KvctlError, match="cannot listen on port 7001") as error:
            listen(port=PORT)
        assert error.value.hint == "give another --port or --listen"
        with pytest.raises(KvctlError, match=r"cannot listen on 203\.0\.113\.1 port 7002"):
            listen(port=7002, address=parse_address("203.0.113.1"))
