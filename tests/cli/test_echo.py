"""`kvctl egress echo` as a program: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvctl import proc
from kvctl.cli import main as cli
from kvctl.echo.wire import question
from kvctl.errors import UsageError
from kvctl.lab.build import _forgetful, _same_kvctl
from kvctl.lab.netns import Namespace
from tests.waiting import until

PORT = 9745


def ask(namespace: Namespace, *, to: str = "127.0.0.1") -> bytes:
    """The answer to one question by TCP; empty: nobody is there yet."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with namespace.socket(family, socket.SOCK_STREAM) as own:
        own.settimeout(10)
        try:
            own.connect((to, PORT))
        except ConnectionRefusedError:
            return b""
        own.sendall(question(b"abc"))
        return own.recv(4096)


@contextmanager
def echoing(namespace: Namespace, *arguments: str) -> Iterator[proc.Running]:
    argv = [*_forgetful({}), "-m", "kvctl", "egress", "echo", *arguments]
    running = proc.Running(namespace.argv(argv), env=_same_kvctl())
    try:
        until(lambda: ask(namespace), seconds=30)
        yield running
    finally:
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_it_is_told_to_end_and_says_whom(namespace: Namespace, number: int) -> None:
    with echoing(namespace, "--log") as running:
        assert ask(namespace).startswith(b"kvctl-echo/1 abc 127.0.0.1 ")
        assert ask(namespace, to="::1").startswith(b"kvctl-echo/1 abc ::1 ")
        os.kill(running.pid, number)
        done = running.finish(deadline=10)
    assert (done.status, done.stdout) == (0, "")
    first, *lines, last = done.stderr.splitlines()
    assert first == f"Note: answering on every address, port {PORT} (tcp and udp); Ctrl-C ends it"
    assert lines[0].startswith("tcp 127.0.0.1:")
    assert lines[0].endswith(f" -> 127.0.0.1:{PORT}")
    assert lines[-1].endswith(f" -> [::1]:{PORT}")
    assert last == f"Note: {len(lines)} questions answered: 127.0.0.1 ({len(lines) - 1}), ::1 (1)"


def test_it_is_silent_about_callers_and_leaves_a_protocol_out_if_told(namespace: Namespace) -> None:
    with echoing(namespace, "--listen", "127.0.0.1", "--no-udp") as running:
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(10)
            own.connect(("127.0.0.1", PORT))
            own.send(question(b"abc"))
            with pytest.raises(ConnectionRefusedError):
                own.recv(4096)
        os.kill(running.pid, signal.SIGINT)
        done = running.finish(deadline=10)
    assert done.stderr.splitlines()[0] == f"Note: answering on 127.0.0.1, port {PORT} (tcp); Ctrl-C ends it"
    assert len(done.stderr.splitlines()) == 2


def test_nobody_who_reads_its_log_is_waited_for(namespace: Namespace) -> None:
    """A terminal that was stopped, or a pager that was left: its pipe is full here, and closed then."""
    argv = [*_forgetful({}), "-m", "kvctl", "egress", "echo", "--log"]
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    while select.select([], [writes], [], 0)[1]:
        os.write(writes, b"." * 4096)
    with subprocess.Popen(
        namespace.argv(argv), stderr=writes, stdout=subprocess.DEVNULL, env={**os.environ, **_same_kvctl()}
    ) as running:
        try:
            until(lambda: ask(namespace), seconds=30)
            for _ in range(3):
                assert ask(namespace).startswith(b"kvctl-echo/1 abc ")
            os.close(reads)
            for _ in range(3):
                assert ask(namespace).startswith(b"kvctl-echo/1 abc ")
            running.terminate()
            assert running.wait(10) == 0
        finally:
            running.kill()
            os.close(writes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--listen", "localhost"), '--listen "localhost" is not an IP address'),
        (("--no-tcp", "--no-udp"), "neither TCP nor UDP is left"),
    ],
)
def test_what_makes_no_server_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        cli._invoke(["egress", "echo", *arguments])
    assert error.value.hint
