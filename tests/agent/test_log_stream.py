"""A log that nobody reads: nothing waits for it, and what is lost is counted."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.agent.journal import Journal, Level, LogFormat
from kvctl.agent.log_stream import PatientStream
from kvctl.lab.build import Lab
from tests.agent.process import ENVIRONMENT, Watching, eventually, pod_object, service_object
from tests.apiserver import ApiServer
from tests.kernel.node import Packets

AT_ONCE = 2.0
"""Seconds that are more than enough where nothing is waited for."""
QUICK = 5.0
_SMALL = 4096


class Pipe:
    """A small pipe, full or empty at the start."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, _SMALL)

    def fill(self) -> None:
        """Whoever writes now waits."""
        os.write(self.writing, b"-" * (_SMALL - 1) + b"\n")

    def read_to_end(self) -> list[str]:
        """Everything that comes until no writer is left; call it when the test's own end is closed."""
        with os.fdopen(os.dup(self.reading), encoding="utf-8") as stream:
            return [line for line in stream.read().splitlines() if not line.startswith("-")]

    def read(self) -> str:
        """What is in it, or comes next."""
        return os.read(self.reading, 1 << 16).decode()

    def close_reading(self) -> None:
        """As when the reader has gone."""
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1

    def close_writing(self) -> None:
        """The end for the reader."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    it = Pipe()
    yield it
    it.close_reading()
    it.close_writing()


def patient(pipe: Pipe, *, most: int = 10) -> PatientStream:
    return PatientStream(pipe.writing, lost=lambda count: f"lost {count}\n", most=most)


def lines_of(pipe: Pipe, stream: PatientStream) -> list[str]:
    """Read all that the stream has to say, to its end."""
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(pipe.read_to_end()))
    reader.start()
    stream.close(patience=QUICK)
    pipe.close_writing()
    reader.join(QUICK)
    assert not reader.is_alive()
    return found


def test_lines_come_in_order_and_all_of_them_before_it_is_closed(pipe: Pipe) -> None:
    stream = patient(pipe, most=1000)
    for number in range(500):
        stream.write(f"line {number} ä\n")
    assert lines_of(pipe, stream) == [f"line {number} ä" for number in range(500)]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_nobody_reads_holds_up_nobody_and_the_count_of_the_lost_follows(
    pipe: Pipe, blocking: bool
) -> None:
    pipe.fill()
    os.set_blocking(pipe.writing, blocking)
    stream = patient(pipe, most=10)
    stream.write("held\n")
    eventually(lambda: not stream._waiting)  # the thread has it, and waits
    begun = time.monotonic()
    for number in range(100):
        stream.write(f"line {number}\n")
    assert time.monotonic() - begun < AT_ONCE
    assert lines_of(pipe, stream) == ["held", *(f"line {number}" for number in range(10)), "lost 90"]


def test_the_count_stands_where_the_lost_lines_would_and_only_once(pipe: Pipe) -> None:
    pipe.fill()
    stream = patient(pipe, most=4)
    stream.write("held\n")
    eventually(lambda: not stream._waiting)
    for number in range(6):
        stream.write(f"early {number}\n")
    assert pipe.read().startswith("-")
    eventually(lambda: not stream._waiting and not stream._lost)
    stream.write("late\n")
    early = [f"early {number}" for number in range(4)]
    assert lines_of(pipe, stream) == ["held", *early, "lost 2", "late"]


def test_closing_waits_as_long_as_it_is_told_and_no_longer(pipe: Pipe) -> None:
    pipe.fill()
    stream = patient(pipe)
    stream.write("held\n")
    begun = time.monotonic()
    stream.close(patience=0.2)
    assert 0.2 <= time.monotonic() - begun < AT_ONCE
    stream.write("after the end\n")
    pipe.read()  # lets the thread go


def test_a_reader_that_has_gone_and_a_closed_descriptor_do_no_harm(pipe: Pipe) -> None:
    pipe.close_reading()
    stream = patient(pipe)
    stream.write("to nobody\n")
    eventually(lambda: not stream._waiting)
    stream.write("and again\n")
    stream.close()
    assert not stream._thread.is_alive()
    closed = PatientStream(1 << 20, lost=str)
    assert not closed.isatty()
    closed.write("nowhere\n")
    closed.close()
    assert not closed._thread.is_alive()


def test_a_terminal_is_known_as_one(pipe: Pipe) -> None:
    ends = pty.openpty()
    terminal = PatientStream(ends[1], lost=str)
    other = patient(pipe)
    assert (terminal.isatty(), other.isatty()) == (True, False)
    for stream in (terminal, other):
        stream.close()
    for end in ends:
        os.close(end)


def test_the_journal_tells_the_lost_lines_in_its_own_format() -> None:
    with open(os.devnull, "w", encoding="utf-8") as stream:
        journal = Journal(LogFormat.JSON, stream=stream, now=lambda: 0.0)
        assert journal.lost(3) == (
            '{"time": "1970-01-01T00:00:00.000Z", "level": "warning", '
            '"message": "lost 3 lines of this log: standard error was not read", "lines_lost": 3}\n'
        )
        text = Journal(LogFormat.TEXT, stream=stream).lost(1)
        assert text.endswith(
            f"{Level.WARNING.upper()} lost 1 line of this log: standard error was not read lines_lost=1\n"
        )


@pytest.mark.parametrize("backend", ["nft"])
def test_an_agent_whose_standard_error_nobody_reads_works_and_ends(
    lab: Lab, server: ApiServer, packets: Packets, pipe: Pipe, tmp_path: Path
) -> None:
    pipe.fill()
    server.put("services", service_object())
    server.put("pods", pod_object())
    config = server.kubeconfig(tmp_path / "kubeconfig")
    argv = [sys.executable, "-m", "kvctl", "egress", "watch", "--kubeconfig", str(config)]
    process = subprocess.Popen(
        lab.worker.argv(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=pipe.writing,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        eventually(Watching(lab, process, tmp_path / "none", ENVIRONMENT).ready)
        assert packets.seen() == packets.who.vip
        server.delete("services", "sip-client", namespace="sip")
        eventually(lambda: packets.seen() == packets.who.worker_eth1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(QUICK) == 0
    finally:
        process.kill()
        process.wait(QUICK)
