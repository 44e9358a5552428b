"""`kvctl egress list --watch`, as a program behind a pipe and a person at a terminal see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from tests.conftest import MakeLab
from tests.kernel.test_commands import Shell, pod, service

V4 = STANDARD[Family.IPV4]
PATIENCE = 60.0
BLOCK_TITLES = ["SERVICE", "FAMILY", "VIP", "PODS", "STATUS", "CONNS", "NEW/S", "PKTS/S", "BYTES/S"]


@pytest.fixture
def node(make_lab: MakeLab) -> Shell:
    """A worker with one Service, one VIP."""
    node = Shell(make_lab())
    assert node("apply", source=[service(vips=(V4.vip,)), pod()]).status == 0
    return node


@contextmanager
def watching(node: Shell, *, at: int, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`kvctl egress list --watch` that writes to the descriptor `at`."""
    words = [sys.executable, "-m", "kvctl", "egress", "list", "--watch", "--interval", "0.5"]
    with subprocess.Popen(
        node.lab.worker.argv(words),
        stdout=at,
        stderr=at,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Reader:
    """What comes out of a descriptor, waited for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, *, times: int, of: str) -> str:
        """Everything so far, once `of` is in it as often."""
        end = time.monotonic() + PATIENCE
        while self.text.count(of) < times:
            left = end - time.monotonic()
            assert left > 0, self.text
            if select.select([self._descriptor], [], [], left)[0]:
                part = os.read(self._descriptor, 65536)
                assert part, self.text
                self.text += part.decode()
        return self.text


def rows(text: str) -> list[dict[str, str]]:
    """The row of each block."""
    lines = [line.split() for line in text.splitlines() if line.startswith(("SERVICE", "sip/"))]
    return [dict(zip(BLOCK_TITLES, row, strict=True)) for row in lines if row != BLOCK_TITLES]


def test_behind_a_pipe_each_look_is_a_block_with_what_goes_on_per_second(node: Shell) -> None:
    node.lab.worker.write_sysctls({"netfilter/nf_conntrack_acct": "1"})
    out, into = os.pipe()
    with (
        Echo(node.lab.outside, ports=[5060]),
        watching(node, at=into) as process,
        Connection(node.lab.pod, destination=V4.outside_eth1, port=5060) as kept,
    ):
        os.close(into)
        reader = Reader(out)
        reader.until(times=1, of="sip/")
        blocks, seen = 1, rows(reader.text)
        assert (seen[0]["CONNS"], seen[0]["NEW/S"], seen[0]["PKTS/S"]) == ("0", "-", "-")
        while not any(row["NEW/S"] not in ("-", "0.0") for row in seen):
            assert kept.ask() is not None
            blocks += 1
            seen = rows(reader.until(times=blocks, of="sip/"))
        while not any(row["NEW/S"] == "0.0" and row["PKTS/S"] not in ("-", "0.0") for row in seen):
            assert kept.ask() is not None
            blocks += 1
            seen = rows(reader.until(times=blocks, of="sip/"))
        assert "\x1b" not in reader.text
        assert reader.text.isascii()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130
        assert "Error" not in reader.text
    os.close(out)


def test_where_the_kernel_counts_no_bytes_the_reason_stands_above(node: Shell) -> None:
    node.lab.worker.write_sysctls({"netfilter/nf_conntrack_acct": "0"})
    out, into = os.pipe()
    with watching(node, at=into):
        os.close(into)
        reader = Reader(out)
        reader.until(times=2, of="sip/")
        mend = "sysctl -w net.netfilter.nf_conntrack_acct=1"
        assert (
            f"# packets and bytes are not counted before {mend}, and then of new connections" in reader.text
        )
        assert {row["PKTS/S"] for row in rows(reader.text)} == {"-"}
    os.close(out)


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (80, ["SERVICE", "VIP", "PODS", "STATUS", "CONNS", "NEW/S", "PKTS/S", "BYTES/S"]),
        (40, ["PODS", "STATUS", "NEW/S", "PKTS/S", "BYTES/S"]),
    ],
)
def test_on_a_narrow_terminal_status_and_rates_stay_and_a_row_that_drifts_has_its_reason_below(
    node: Shell, columns: int, titles: list[str]
) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with watching(node, at=slave, NO_COLOR="1", COLUMNS=str(columns)):
        os.close(slave)
        reader = Reader(master)
        reader.until(times=2, of="applied")
        node.lab.worker.run(["iptables-nft", "-t", "nat", "-F", "POSTROUTING"])
        reader.until(times=1, of="missing")
    os.close(master)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", reader.text).splitlines()
    assert titles in [line.split() for line in lines]
    assert max(map(len, lines)) <= columns
    assert "drifted: the jump in POSTROUTING of nat is missing" in " ".join(" ".join(lines).split())


def test_on_a_terminal_the_table_stays_in_its_place_and_nothing_is_said_at_the_end(node: Shell) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with watching(node, at=slave) as process:
        os.close(slave)
        reader = Reader(master)
        reader.until(times=3, of="applied")
        assert "\x1b[1A" in reader.text
        process.send_signal(signal.SIGINT)
        reader.until(times=1, of="\x1b[?25h")
        assert process.wait(timeout=PATIENCE) == 130
    assert "interrupted" not in reader.text
    os.close(master)
