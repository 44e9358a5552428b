"""`kvctl egress wait` against the agent's own endpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kvctl.agent.endpoint import Endpoint
from tests.agent.serving import DEADLINE, Said, serving

Wait = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def endpoint(said: Said) -> Iterator[Endpoint]:
    with serving(said) as found:
        yield found


@pytest.fixture
def wait() -> Iterator[Wait]:
    """`wait(*arguments, **environment)`: the command, begun; ended with the test."""
    begun: list[subprocess.Popen[str]] = []
    bare = {k: v for k, v in os.environ.items() if k not in ("POD_NAME", "POD_NAMESPACE", "HOST_IP")}

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kvctl", "egress", "wait", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**bare, **environment},
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and messages."""
    out, err = process.communicate(timeout=30)
    assert out == ""
    return process.returncode, err


def of_pod(endpoint: Endpoint) -> dict[str, str]:
    return {
        "POD_NAME": "web-0",
        "POD_NAMESPACE": "sip",
        "egress_agent": f"http://127.0.0.1:{endpoint.port}",
    }


def test_a_pod_whose_rules_are_in_starts_at_once(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    said.pods[("sip", "web-0")] = (True, "the rules are in the kernel")
    assert ended(wait(**of_pod(endpoint))) == (0, "Note: sip/web-0 may start: the rules are in the kernel\n")
    assert said.asked == [("sip", "web-0")]


def test_flags_come_before_the_environment(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    said.pods[("voip", "db-0")] = (True, "in")
    url = f"http://127.0.0.1:{endpoint.port}"
    environment = {"POD_NAME": "x", "POD_NAMESPACE": "y", "egress_agent": "http://192.0.2.1", "HOST_IP": "z"}
    done = ended(wait("--pod", "db-0", "-n", "voip", "--agent", url, **environment))
    assert done == (0, "Note: voip/db-0 may start: in\n")


def test_it_waits_through_every_reason_and_says_each_once(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    said.ready = (False, "Pods have not been listed yet")
    process = wait(**of_pod(endpoint))
    assert process.stderr is not None
    assert process.stderr.readline() == "Note: sip/web-0 waits: Pods have not been listed yet\n"
    said.ready = (True, "")
    assert process.stderr.readline() == (
        "Note: sip/web-0 waits: the agent of this node knows no pod sip/web-0 (yet)\n"
    )
    said.pods[("sip", "web-0")] = (False, "not programmed \x1b[31m yet")
    assert process.stderr.readline() == "Note: sip/web-0 waits: not programmed \\x1b[31m yet\n"
    asked = len(said.asked)
    while len(said.asked) < asked + 2:
        assert process.poll() is None
        time.sleep(0.01)
    said.pods[("sip", "web-0")] = (True, "in")
    assert ended(process) == (0, "Note: sip/web-0 may start: in\n")


def test_an_agent_that_comes_later_is_found(said: Said, wait: Wait) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = wait("--pod", "web-0", "-n", "sip", "--agent", f"http://127.0.0.1:{port}")
    assert process.stderr is not None
    assert process.stderr.readline() == (
        f"Note: sip/web-0 waits: no answer from http://127.0.0.1:{port}: connection refused\n"
    )
    said.pods[("sip", "web-0")] = (True, "in")
    with serving(said, port=port):
        assert ended(process) == (0, "Note: sip/web-0 may start: in\n")


def test_at_time_out_it_fails_and_says_what_was_missing(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    said.pods[("sip", "web-0")] = (False, "the VIP is on node worker-2")
    started = time.monotonic()
    status, told = ended(wait("--timeout", "0.5", **of_pod(endpoint)))
    assert status == 1
    assert 0.5 <= time.monotonic() - started < DEADLINE
    assert (
        "Error: the rules of sip/web-0 were not in the kernel within 0.5 s: the VIP is on node worker-2"
        in told
    )
    assert "Hint: " in told


def test_at_time_out_it_lets_the_pod_start_if_told_so(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    status, told = ended(wait("--timeout", "0", "--on-timeout", "continue", **of_pod(endpoint)))
    assert status == 0
    assert told.startswith("Warning: the rules of sip/web-0 were not in the kernel within 0 s: ")
    assert said.asked == [("sip", "web-0")]


def test_a_server_that_hangs_is_left_at_time_out(wait: Wait) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        status, told = ended(wait("--pod", "a", "-n", "b", "--agent", url, "--timeout", "0.3"))
    assert status == 1
    assert "it takes too long" in told


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 999\r\n\r\n\xff\x1b[31m" + b"x" * 100,
        b"HTTP/1.1 " + b"9" * 5000,
    ],
)
def test_what_is_no_agent_is_said_and_asked_again(wait: Wait, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as caller:
                caller.recv(65536)
                caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        status, told = ended(wait("--pod", "a", "-n", "b", "--agent", url, "--timeout", "0.2"))
        thread.join(10)
    assert status == 1
    assert "Note: b/a waits: " in told
    assert "\x1b" not in told
    assert "Traceback" not in told


def test_a_question_that_is_refused_is_not_asked_again(wait: Wait, said: Said, endpoint: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as caller:
                caller.recv(65536)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nno!\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        status, told = ended(wait("--pod", "a", "-n", "b", "--agent", url))
        thread.join(10)
    assert (status, told) == (1, "Error: the agent refuses the question about b/a: no!\n")


def test_no_proxy_of_the_environment_is_asked(said: Said, endpoint: Endpoint, wait: Wait) -> None:
    said.pods[("sip", "web-0")] = (True, "in")
    status, _ = ended(wait(http_proxy="http://127.0.0.1:1", **of_pod(endpoint)))
    assert status == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_when_the_pod_is_deleted(
    said: Said, endpoint: Endpoint, wait: Wait, number: signal.Signals, status: int
) -> None:
    process = wait(**of_pod(endpoint))
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    assert ended(process)[0] == status


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ([], {}, "neither --pod nor POD_NAME is given"),
        (["--pod", "a"], {}, "neither --namespace nor POD_NAMESPACE is given"),
        (["--pod", "a", "-n", "b"], {}, "neither --agent, egress_agent nor HOST_IP"),
        (["--pod", "A", "-n", "b"], {}, '--pod: "A" is not an RFC 1123 subdomain'),
        (["--pod", ""], {"POD_NAME": "a"}, "neither --pod nor POD_NAME is given"),
        (["-n", "b"], {"POD_NAME": "a/b"}, 'environment variable POD_NAME: "a/b" is not'),
        (["--pod", "a", "-n", "b", "--agent", "x"], {}, '--agent: "x" is not the address of an agent'),
        (["--pod", "a", "-n", "b"], {"egress_agent": "x"}, 'environment variable egress_agent: "x" is not'),
        (["--pod", "a", "-n", "b"], {"HOST_IP": "a b@c"}, "environment variable HOST_IP: "),
        (["--pod", "a", "-n", "b"], {"HOST_IP": "node-1"}, 'HOST_IP: "node-1" is not an IP address'),
        (["--pod", "a", "-n", "b", "--agent", "x:1", "--timeout", "nan"], {}, "'--timeout'"),
        (["--timeout", "soon"], {}, '"soon" is not a number of seconds from 0 to 86400'),
        (["--pod", "a", "-n", "b", "--timeout", "-1"], {}, "'--timeout'"),
    ],
)
def test_what_is_missing_or_wrong_is_a_usage_error(
    wait: Wait, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    status, told = ended(wait(*arguments, **environment))
    assert status == 2
    assert says in told
    assert "Hint: " in told or "is not an RFC 1123" in told


def test_the_nodes_address_is_where_the_agent_is_unless_told_otherwise() -> None:
    from kvctl.cli.wait import agent_of

    assert str(agent_of(None, {"HOST_IP": "192.168.0.240"})) == "http://192.168.0.240:9744"
    assert str(agent_of(None, {"HOST_IP": "fd00::240"})) == "http://[fd00::240]:9744"
    assert str(agent_of(None, {"HOST_IP": "a", "egress_agent": "http://b:1"})) == "http://b:1"
    assert str(agent_of("http://c:2", {"egress_agent": "http://b:1"})) == "http://c:2"
