"""Asking an echo: what counts as its answer, and what becomes of questions that have none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvctl.echo.wire import answer, read_question
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.model.net import parse_address
from kvctl.verify.sender import Job, Loss, Outcome, Sender

PORT = 7001
TRUE, FORGED = ("127.0.0.1", 1), ("192.0.2.1", 1)
HERE = ("127.0.0.1", PORT)


def asked(
    namespace: Namespace, *, protocol: str = "udp", to: str = "127.0.0.1", **changes: object
) -> list[Outcome]:
    """What comes of a job in a namespace."""
    address = parse_address(to)
    job = Job(address, address, PORT, (protocol,), times=1, interval=0.01, timeout=2.0, may_stay=True)
    outcomes: list[Outcome] = []
    with namespace.entered():
        Sender(job._replace(**changes), outcomes.append).run()  # type: ignore[arg-type]
    return outcomes


@contextmanager
def strange_udp(namespace: Namespace, *replies: Callable[[bytes], bytes]) -> Iterator[None]:
    """A server that sends these, made of the nonce, one after the other, for one question."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(HERE)
        server.settimeout(10)

        def serve() -> None:
            text, peer = server.recvfrom(2048)
            nonce = read_question(text)
            assert nonce is not None
            for reply in replies:
                server.sendto(reply(nonce), peer)

        with running(serve):
            yield


@contextmanager
def running(function: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("to", ["127.0.0.1", "::1"])
def test_each_question_has_its_outcome(namespace: Namespace, protocol: str, to: str) -> None:
    with Echo(namespace, ports=[PORT]) as echo:
        outcomes = asked(namespace, protocol=protocol, to=to, times=20)
        assert outcomes == [Outcome(protocol, source=parse_address(to))] * 20
        assert echo.heard.total() == 20


def test_a_forged_answer_is_passed_over_and_the_true_one_counts(namespace: Namespace) -> None:
    replies = (
        lambda nonce: answer(b"0" * len(nonce), source=FORGED, destination=HERE),
        lambda nonce: b"kvctl-echo/1 " + nonce + b" 192.0.2.1 1",
        lambda nonce: b"",
        lambda nonce: b"\xff" * 1400,
        lambda nonce: answer(nonce, source=TRUE, destination=HERE),
    )
    with strange_udp(namespace, *replies):
        assert asked(namespace, timeout=10.0) == [Outcome("udp", source=parse_address("127.0.0.1"))]


def test_a_forged_answer_alone_is_none(namespace: Namespace) -> None:
    forged = answer(b"abc", source=FORGED, destination=HERE)
    with strange_udp(namespace, lambda nonce: forged):
        assert asked(namespace, timeout=0.2) == [Outcome("udp", loss=Loss.SILENCE)]


def test_an_answer_that_comes_from_elsewhere_is_none(namespace: Namespace) -> None:
    with (
        namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        server.bind(HERE)
        server.settimeout(10)
        other.bind(("127.0.0.2", PORT))

        def serve() -> None:
            text, peer = server.recvfrom(2048)
            other.sendto(answer(read_question(text) or b"", source=TRUE, destination=HERE), peer)

        with running(serve):
            assert asked(namespace, timeout=0.2) == [Outcome("udp", loss=Loss.SILENCE)]


def test_a_late_answer_is_lost_and_counts_for_no_other_question(namespace: Namespace) -> None:
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(HERE)
        server.settimeout(10)

        def serve() -> None:
            first, peer = server.recvfrom(2048)
            second, later = server.recvfrom(2048)  # by then the first has been given up
            late = answer(read_question(first) or b"", source=FORGED, destination=HERE)
            server.sendto(late, peer)
            server.sendto(late, later)
            server.sendto(answer(read_question(second) or b"", source=TRUE, destination=HERE), later)

        with running(serve):
            outcomes = asked(namespace, times=2, interval=0.3, timeout=0.1)
    assert outcomes[0] == Outcome("udp", loss=Loss.SILENCE)
    assert outcomes[1].source in (parse_address("127.0.0.1"), None)
    assert all(each.source != parse_address(FORGED[0]) for each in outcomes)


@pytest.mark.parametrize(
    ("says", "loss"),
    [(b"", Loss.BROKEN), (b"HTTP/1.1 400 Bad Request\r\n\r\n", Loss.BROKEN), (b"x" * 5000, Loss.BROKEN)],
)
def test_who_speaks_something_else_by_tcp_gives_no_answer(
    namespace: Namespace, says: bytes, loss: Loss
) -> None:
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(HERE)
        server.listen()
        server.settimeout(10)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(2048)
                connection.sendall(says)

        with running(serve):
            assert asked(namespace, protocol="tcp", timeout=10.0) == [Outcome("tcp", loss=loss)]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_why_nobody_answers_is_told(namespace: Namespace, protocol: str) -> None:
    assert asked(namespace, protocol=protocol, timeout=10.0) == [Outcome(protocol, loss=Loss.REFUSED)]
    far = parse_address("203.0.113.1")
    outcome = asked(namespace, protocol=protocol, destination=far)
    assert outcome == [Outcome(protocol, loss=Loss.UNREACHABLE)]
    outcome = asked(namespace, protocol=protocol, source=far)
    assert outcome == [Outcome(protocol, loss=Loss.UNSENT)]


def test_lost_answers_hold_no_question_up(namespace: Namespace) -> None:
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(HERE)
        begun = time.monotonic()
        outcomes = asked(namespace, times=20, timeout=0.5)
        took = time.monotonic() - begun
    assert outcomes == [Outcome("udp", loss=Loss.SILENCE)] * 20
    assert took < 20 * 0.5


def test_it_never_asks_faster_than_it_was_told(namespace: Namespace) -> None:
    with Echo(namespace, ports=[PORT]):
        begun = time.monotonic()
        asked(namespace, times=11, interval=0.05)
        assert time.monotonic() - begun >= 10 * 0.05


def test_what_would_not_leave_the_namespace_is_not_sent(namespace: Namespace) -> None:
    with Echo(namespace, ports=[PORT]) as echo:
        for protocol in ("udp", "tcp"):
            assert asked(namespace, protocol=protocol, may_stay=False) == [
                Outcome(protocol, loss=Loss.STAYED)
            ]
        assert asked(namespace, to="::1", may_stay=False) == [Outcome("udp", loss=Loss.STAYED)]
        assert echo.heard.total() == 0
    far = parse_address("203.0.113.1")
    assert asked(namespace, destination=far, may_stay=False) == [Outcome("udp", loss=Loss.UNREACHABLE)]


def test_who_takes_a_connection_and_says_nothing_is_not_silent(namespace: Namespace) -> None:
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(HERE)
        server.listen()
        assert asked(namespace, protocol="tcp", timeout=0.2) == [Outcome("tcp", loss=Loss.MUTE)]


def test_what_the_pods_own_rules_drop_was_not_sent(namespace: Namespace) -> None:
    namespace.run(["iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "DROP"])
    assert asked(namespace, timeout=5.0) == [Outcome("udp", loss=Loss.UNSENT)]
