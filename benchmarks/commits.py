"""When rules come into the kernel and which programs the agent runs, heard from outside by a process of its own.

    with hearing(lab.worker, backend="nft", agent=pid, directory=directory) as heard:
        at = heard.arrival("10.0.3.7")          # the first state of the kernel with a rule for this pod

nft: each commit is multicast in its namespace (NFNLGRP_NFTABLES), after it happened. legacy: the kernel tells nothing,
but that a process has ended (the proc connector, linux/cn_proc.h), and when: a restore has written by then. The table
is read after it. So a legacy time includes the end of the process, as the time of a bare restore does.

Needs root in the first pid and network namespaces, and a kernel with CONFIG_PROC_EVENTS.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter.legacy_tables import LegacyTables

DEADLINE = 60.0
_PAUSE = 0.005
_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP = 12, 270, 1, 7
_SO_RCVBUFFORCE, _BUFFER = 33, 64 << 20
# What a rule compares a whole address with: an attribute of 8 octets, NFTA_DATA_VALUE (linux/netfilter/nf_tables.h).
_COMPARED = re.compile(rb"\x08\x00\x01\x00(\x0a\x00..)", re.DOTALL)
_PODS, _WHOLE = b"\x0a\x00", b"\xff" * 4
# linux/connector.h, linux/cn_proc.h: the header of a netlink message and of cn_msg, then struct proc_event.
_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC, _MCAST_LISTEN, _NLMSG_DONE = 11, 1, 1, 1, 3
_HEADERS = 16 + 20
_EVENT, _PIDS = struct.Struct("=IIQ"), struct.Struct("=IIII")
_FORK, _EXEC, _EXIT = 0x1, 0x2, 0x80000000


class Run(NamedTuple):
    """A program that the agent, or what it started, has run."""

    at: float
    """Monotonic seconds."""
    name: str
    """`?`: it had ended before anybody could ask."""


class Heard:
    """What the other process has heard so far; times are monotonic seconds."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal.open(encoding="ascii")
        self._rest = ""
        self._arrivals: dict[str, float] = {}
        self._runs: list[Run] = []
        self._ready = False

    def close(self) -> None:
        """Nothing is read any more."""
        self._journal.close()

    def wait_ready(self) -> None:
        """Until it hears."""
        self._until(
            lambda: self._ready, "the ear does not begin: see benchmarks/commits.py for what it needs"
        )

    def arrival(self, address: str) -> float:
        """When the first state of the kernel with a rule for this address was there; waits for it."""
        self._until(lambda: address in self._arrivals, f"no rule for {address} within {DEADLINE:g} s")
        return self._arrivals[address]

    def arrivals(self) -> dict[str, float]:
        """Of all addresses so far."""
        self._read()
        return self._arrivals

    def runs(self, *, since: float) -> list[Run]:
        """The programs that have been run."""
        self._read()
        return [each for each in self._runs if each.at >= since]

    def _until(self, what: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + DEADLINE
        while not what():
            if time.monotonic() > end:
                raise SystemExit(why)
            time.sleep(_PAUSE)
            self._read()

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._journal.read()).split("\n")
        for line in lines:
            kind, at, word = line.split()
            if kind == "rule":
                self._arrivals.setdefault(word, float(at))
            elif kind == "run":
                self._runs.append(Run(float(at), word))
            else:
                self._ready = True


@contextmanager
def hearing(namespace: Namespace, *, backend: str, agent: int, directory: Path) -> Iterator[Heard]:
    """Hear until the end of the block. `agent`: its process."""
    journal = directory / f"heard-{time.monotonic_ns()}"
    journal.touch()
    argv = [sys.executable, "-m", "benchmarks.commits", namespace.name, backend, str(agent), str(journal)]
    ear = subprocess.Popen(argv, stdin=subprocess.PIPE)
    heard = Heard(journal)
    try:
        heard.wait_ready()
        yield heard
    finally:
        heard.close()
        ear.kill()
        ear.communicate()


class _Processes:
    """What the kernel tells of the agent's processes."""

    at = 0.0
    """When what was heard last happened; monotonic seconds."""

    def __init__(self, agent: int) -> None:
        self._names = {agent: "kvctl"}
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, _CN_IDX_PROC))
        wish = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _MCAST_LISTEN)
        self._socket.send(struct.pack("=IHHII", 16 + len(wish), _NLMSG_DONE, 0, 0, 0) + wish)

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self) -> tuple[Run | None, bool]:
        """The next message: a program that was run; and whether a process has ended that may have written."""
        message = self._socket.recv(4096)
        kind, _, nanoseconds = _EVENT.unpack_from(message, _HEADERS)
        one, two, _, four = _PIDS.unpack_from(message, _HEADERS + _EVENT.size)
        self.at = nanoseconds / 1e9
        if kind == _FORK and two in self._names and four != two:
            self._names[four] = ""
        elif kind == _EXEC and two in self._names:
            self._names[two] = _name(two)
            return Run(self.at, self._names[two]), False
        elif kind == _EXIT and one == two and one in self._names:
            name = self._names.pop(one)
            return None, name == "?" or "restore" in name
        return None, False


def _name(pid: int) -> str:
    with suppress(OSError):
        return os.path.basename(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])) or "?"
    return "?"


class _Commits:
    """The commits of a namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self) -> set[bytes]:
        """The addresses in the next datagram."""
        return set(_COMPARED.findall(self._socket.recv(1 << 20)))


class _Ear:
    """Writes down what happens in the namespace of the thread, and to the processes."""

    def __init__(self, processes: _Processes, *, backend: str, journal: int) -> None:
        self._processes = processes
        self._commits = _Commits() if backend == "nft" else None
        self._tables = LegacyTables()
        self._journal = journal
        self._known = _sources(self._tables)

    def run(self) -> None:
        """Until standard input ends."""
        waiting = select.poll()
        for each in (sys.stdin, self._processes, *((self._commits,) if self._commits else ())):
            waiting.register(each, select.POLLIN)
        self._tell("ready", time.monotonic(), "now")
        while True:
            ready = {number for number, _ in waiting.poll()}
            if sys.stdin.fileno() in ready:
                return
            if self._commits is not None and self._commits.fileno() in ready:
                at = time.monotonic()
                self._tell_new(self._commits.hear(), at)
            if self._processes.fileno() in ready:
                self._hear_process()

    def _hear_process(self) -> None:
        run, may_have_written = self._processes.hear()
        if run is not None:
            self._tell("run", run.at, run.name)
        if may_have_written and self._commits is None:
            self._tell_new(_sources(self._tables), self._processes.at)

    def _tell_new(self, found: set[bytes], at: float) -> None:
        for address in found - self._known:
            self._tell("rule", at, str(IPv4Address(address)))
        self._known |= found

    def _tell(self, kind: str, at: float, word: str) -> None:
        os.write(self._journal, f"{kind} {at:.6f} {word}\n".encode())


def _sources(tables: LegacyTables) -> set[bytes]:
    """The addresses that legacy rules name as their source: struct ipt_ip begins with src, dst and their masks."""
    rules = (rule for chain in tables.read(Family.IPV4).values() for rule in chain)
    return {rule[:4] for rule in rules if rule[8:12] == _WHOLE and rule.startswith(_PODS)}


def main() -> None:
    """The other process: write what it hears to a file."""
    options = argparse.ArgumentParser(description="see benchmarks/commits.py")
    options.add_argument("namespace")
    options.add_argument("backend")
    options.add_argument("agent", type=int)
    options.add_argument("journal")
    told = options.parse_args()
    os.nice(-10)  # what is heard is told when it was heard
    journal = os.open(told.journal, os.O_WRONLY | os.O_APPEND)
    processes = _Processes(told.agent)  # told of in the first network namespace alone
    with Namespace(told.namespace).entered():
        _Ear(processes, backend=told.backend, journal=journal).run()


if __name__ == "__main__":
    main()
