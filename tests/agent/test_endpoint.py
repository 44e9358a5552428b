"""The agent's port answers whoever asks properly, whatever the others do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from kvctl.agent.address import Listen
from kvctl.agent.endpoint import Endpoint, Limits
from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from tests.agent.serving import Said, call, dial, line, raw, serving, threads_named, until

QUICK = Limits(connections=8, request_seconds=0.3, answer_seconds=0.5, metrics_seconds=0.0)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def endpoint(said: Said) -> Iterator[Endpoint]:
    with serving(said) as found:
        yield found


def test_health_is_what_the_loop_says(said: Said, endpoint: Endpoint) -> None:
    assert line(endpoint, "/healthz") == (200, "waiting for changes")
    said.alive = (False, "the loop hangs")
    assert line(endpoint, "/healthz") == (503, "the loop hangs")
    assert line(endpoint, "/readyz") == (200, "the rules are in the kernel")


def test_readiness_says_what_is_missing(said: Said, endpoint: Endpoint) -> None:
    said.ready = (False, "Services have not been listed yet")
    assert line(endpoint, "/readyz") == (503, "Services have not been listed yet")


def test_metrics_are_handed_on_as_prometheus_text(endpoint: Endpoint) -> None:
    status, headers, content = call(endpoint, "/metrics")
    assert (status, content) == (200, b"kvctl_up 1\n")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["content-length"] == "11"


def test_a_pod_is_ready_unready_or_unknown(said: Said, endpoint: Endpoint) -> None:
    said.pods = {("sip", "web-0"): (True, "192.168.0.245"), ("sip", "web-1"): (False, "not programmed yet")}
    assert line(endpoint, "/wait?namespace=sip&pod=web-0") == (200, "192.168.0.245")
    assert line(endpoint, "/wait?pod=web-1&namespace=sip") == (503, "not programmed yet")
    status, text = line(endpoint, "/wait?namespace=sip&pod=web-2")
    assert (status, text) == (404, "the agent of this node knows no pod sip/web-2 (yet)")


def test_before_the_first_full_picture_an_unknown_pod_is_no_stranger(said: Said, endpoint: Endpoint) -> None:
    said.ready = (False, "Pods have not been listed yet")
    assert line(endpoint, "/wait?namespace=sip&pod=web-2") == (503, "Pods have not been listed yet")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?namespace=sip",
        "?pod=web-0",
        "?namespace=Sip&pod=web-0",
        "?namespace=sip&pod=../etc",
        "?namespace=sip&pod=web-0%0a",
        "?namespace=sip&pod=" + "a" * 254,
        "?namespace=" + "a" * 64 + "&pod=web-0",
        "?namespace=sip&namespace=sip&pod=web-0",
        "?namespace=sip&pod=%00",
        "?" + "&".join(f"a{n}=1" for n in range(9)),
    ],
)
def test_names_are_checked_before_anybody_is_asked(said: Said, endpoint: Endpoint, query: str) -> None:
    status, text = line(endpoint, "/wait" + query)
    assert status == 400
    assert text.isprintable()
    assert said.asked == []


def test_a_program_gets_json(said: Said, endpoint: Endpoint) -> None:
    said.alive = (False, 'a "quoted" \u202e\x1b[31m line\n')
    status, headers, content = call(endpoint, "/healthz", accept="text/html, Application/JSON;q=0.9")
    assert (status, headers["content-type"]) == (503, "application/json")
    assert json.loads(content) == {"ok": False, "reason": 'a "quoted" \\u202e\\x1b[31m line\\n'}


def test_nothing_in_a_reason_moves_a_terminal(said: Said, endpoint: Endpoint) -> None:
    said.alive = (True, "bad \x1b[31m\u202e\r\nSet-Cookie: a=b")
    assert line(endpoint, "/healthz") == (200, "bad \\x1b[31m\\u202e\\r\\nSet-Cookie: a=b")


def test_head_is_get_without_the_content(endpoint: Endpoint) -> None:
    got, wanted = call(endpoint, "/healthz", method="HEAD"), call(endpoint, "/healthz")
    assert got[2] == b""
    assert got[:2] == wanted[:2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"])
def test_other_methods_are_refused(endpoint: Endpoint, method: str) -> None:
    answer = raw(endpoint, f"{method} /healthz HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_other_pages_are_not_found_and_the_first_one_names_them(endpoint: Endpoint) -> None:
    assert line(endpoint, "/etc/passwd")[0] == 404
    assert line(endpoint, "/healthz/")[0] == 404
    status, text = line(endpoint, "/")
    assert status == 200
    for page in ("/healthz", "/readyz", "/metrics", "/wait"):
        assert page in text


def test_a_fault_inside_is_said_to_the_log_and_not_to_the_caller(said: Said, endpoint: Endpoint) -> None:
    def broken() -> bytes:
        raise RuntimeError("secret")

    said.metrics = broken
    said.alive = None  # type: ignore[assignment]
    for path in ("/metrics", "/healthz"):
        status, text = line(endpoint, path)
        assert status == 500
        assert "secret" not in text
    assert "RuntimeError: secret" in said.complaints[0]
    assert "/healthz failed: TypeError" in said.complaints[1]
    said.alive = (True, "again")
    assert line(endpoint, "/healthz") == (200, "again")


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET //[ HTTP/1.1\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_bad_request(endpoint: Endpoint, request_: bytes) -> None:
    assert raw(endpoint, request_).startswith(b"HTTP/1.1 400 ")


def test_an_endless_request_is_cut_off(endpoint: Endpoint) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"a" * 1_000_000
    # What was not read may make the kernel break the connection before the answer is through.
    assert raw(endpoint, request)[:13] in (b"HTTP/1.1 431 ", b"")
    assert line(endpoint, "/healthz")[0] == 200


def test_a_caller_that_never_ends_its_request_is_left(said: Said) -> None:
    with serving(said, limits=QUICK) as endpoint, dial(endpoint) as slow:
        started = time.monotonic()
        slow.sendall(b"GET /heal")
        slow.settimeout(0.1)
        received = b"?"
        while received:
            # A byte now and then does not put the deadline off.
            try:
                slow.sendall(b"t")
                received = slow.recv(100)
            except TimeoutError:
                received = b"?"
            except ConnectionError:
                received = b""
            assert time.monotonic() - started < 5, "the connection is still open"


def test_a_caller_that_never_reads_is_left(said: Said) -> None:
    said.metrics = lambda: b"x" * 50_000_000
    with serving(said, limits=QUICK) as endpoint, dial(endpoint) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(QUICK.answer_seconds * 1.5)
        until(lambda: len(endpoint._open) == 0, what="the caller that never reads still has its place")
        said.metrics = lambda: b"y\n"
        assert call(endpoint, "/metrics")[2] == b"y\n"


def test_hundreds_of_slow_callers_keep_nobody_out(said: Said) -> None:
    with serving(said, limits=Limits(connections=8, request_seconds=60)) as endpoint:
        before = threading.active_count()
        slow = [dial(endpoint) for _ in range(200)]
        try:
            for connection in slow:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nX:")
            for _ in range(20):
                assert line(endpoint, "/healthz")[0] == 200
            assert threading.active_count() == before
            until(lambda: len(endpoint._open) <= 8, what="more connections than may be")
        finally:
            for connection in slow:
                connection.close()


def test_callers_that_break_off_in_any_way_leave_nothing_behind(said: Said) -> None:
    said.metrics = lambda: b"x" * 300_000
    requests = (
        b"",
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello" * 500,
        b"\0" * 20_000,
    )
    with serving(said, limits=Limits(request_seconds=0.02)) as endpoint:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(180):
            with dial(endpoint) as caller:
                if number % 2:
                    # Closing resets the connection: socket(7), SO_LINGER.
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(ConnectionError):
                    caller.sendall(requests[number // 2 % len(requests)])
                    if number % 3:
                        caller.recv(1)
                    else:
                        caller.shutdown(socket.SHUT_WR)
        until(lambda: not endpoint._open, what="connections are left")
        until(lambda: len(os.listdir("/proc/self/fd")) <= before, what="sockets are left")
        assert line(endpoint, "/healthz")[0] == 200
        assert said.complaints == []


def test_metrics_that_hang_keep_nobody_else_waiting(said: Said) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang() -> bytes:
        hanging.set()
        release.wait(30)
        return b"late\n"

    said.metrics = hang
    with serving(said, limits=QUICK) as endpoint:
        try:
            callers = [dial(endpoint) for _ in range(4)]
            for caller in callers:
                caller.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert hanging.wait(10)
            assert line(endpoint, "/healthz")[0] == 200
            assert threads_named("metrics") == 1
            for caller in callers:
                assert caller.recv(13) == b"HTTP/1.1 503 "
                caller.close()
        finally:
            release.set()
        until(lambda: threads_named("metrics") == 0, what="the thread ends with its work")
        said.metrics = lambda: b"now\n"
        assert call(endpoint, "/metrics")[2] in (b"late\n", b"now\n")
        assert call(endpoint, "/metrics")[2] == b"now\n"


def test_who_scrapes_twice_in_a_second_gets_the_same(said: Said) -> None:
    times = iter(range(100))
    said.metrics = lambda: b"kvctl_scrapes %d\n" % next(times)
    with serving(said, limits=Limits(metrics_seconds=3600)) as endpoint:
        assert {call(endpoint, "/metrics")[2] for _ in range(5)} == {b"kvctl_scrapes 0\n"}
    with serving(said, limits=Limits(metrics_seconds=0)) as endpoint:
        assert call(endpoint, "/metrics")[2] != call(endpoint, "/metrics")[2]


def test_it_stops_at_once_whatever_is_open(said: Said) -> None:
    release = threading.Event()
    said.metrics = lambda: b"late" if release.wait(30) else b""
    endpoint = Endpoint(Listen("127.0.0.1", 0), questions=said.questions, complain=said.complaints.append)
    endpoint.start()
    try:
        with dial(endpoint) as idle, dial(endpoint) as scraping:
            idle.sendall(b"GET /")
            scraping.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            until(lambda: threads_named("metrics") == 1, what="the scrape has begun")
            started = time.monotonic()
            endpoint.stop()
            assert time.monotonic() - started < 1.5
            assert not endpoint._thread.is_alive()
            endpoint.stop()
    finally:
        release.set()
    until(lambda: threads_named("metrics") == 0, what="the metrics' thread ends")
    assert said.complaints == []


def test_it_need_not_have_been_started_to_be_stopped(said: Said) -> None:
    endpoint = Endpoint(Listen("127.0.0.1", 0), questions=said.questions)
    endpoint.stop()
    with pytest.raises(ConnectionRefusedError):
        dial(endpoint)


def test_without_an_address_both_families_are_answered(said: Said, namespace: Namespace) -> None:
    with namespace.entered():
        endpoint = Endpoint(Listen("", 9744), questions=said.questions)
    with endpoint:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with namespace.socket(family, socket.SOCK_STREAM) as caller:
                caller.settimeout(10)
                caller.connect((host, 9744))
                caller.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert caller.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_port_that_is_taken_is_an_error_with_the_setting_to_change(said: Said) -> None:
    with serving(said) as endpoint, pytest.raises(KvctlError) as caught:
        Endpoint(Listen("127.0.0.1", endpoint.port), questions=said.questions)
    assert caught.value.message == f"cannot listen on 127.0.0.1:{endpoint.port}: Address already in use"
    assert "egress_listen" in (caught.value.hint or "")


def test_an_address_of_another_host_is_an_error(said: Said) -> None:
    with pytest.raises(KvctlError, match=r"cannot listen on \[2001:db8::1\]:9744: "):
        Endpoint(Listen("2001:db8::1", 9744), questions=said.questions)
