"""A node whose agent is measured: a lab, an API server with a cluster of many Services, and `kvctl egress watch`.

Every Service asks for egress; the first `serving` of them have the node's pods in turn. Objects are as long as real
ones (of which kvctl keeps little). Events are off: they are told a few a second for minutes, whatever is measured.
The API server lives in the process of the benchmark: its CPU is not the agent's.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from benchmarks.commits import Heard, hearing
from kvctl.lab.build import Lab, built, unique_prefix
from kvctl.lab.topology import standard
from tests.agent.process import Watching, node_object, pod_object, service_object, watching
from tests.apiserver import ApiServer, Object, serving

_TICKS = os.sysconf("SC_CLK_TCK")
_FIRST_POD, _POD_ADDRESSES = int(IPv4Address("10.0.1.0")), 65000
_MOST_ADDRESSES = 32
"""Of each pod, one after the other: none is used twice, so that each rule is of one change."""
_FIRST_VIP = int(IPv4Address("198.18.0.0"))
_SERVICE_TEXT, _POD_TEXT = "x" * 1500, "x" * 4000
_READY_PAUSE, _READY_DEADLINE = 0.02, 90.0


class Size(NamedTuple):
    """How much there is in the cluster."""

    services: int
    pods: int
    """On the node."""
    serving: int
    """How many Services have these pods."""


class Change(NamedTuple):
    """A pod that has got another address."""

    pod: int
    address: str
    at: float
    """Monotonic seconds: right before it was handed to those who watch."""


class Cpu(NamedTuple):
    """Seconds of CPU since the agent began."""

    own: float
    """All its threads, exactly."""
    children: float
    """What it has started and has ended, in ticks of 10 ms."""

    @property
    def whole(self) -> float:
        """Both."""
        return self.own + self.children

    def since(self, other: Cpu) -> Cpu:
        """What has been used meanwhile."""
        return Cpu(self.own - other.own, self.children - other.children)


class Agent:
    """A running agent."""

    def __init__(self, watching: Watching, *, first_rules: float) -> None:
        self.first_rules = first_rules
        """Seconds from the start of the process until it was ready."""
        self.pid = watching.process.pid
        self._watching = watching

    def cpu(self) -> Cpu:
        """Until now."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        # linux/posix-timers.h: the clock of a process, here with all its threads (CPUCLOCK_SCHED).
        own = time.clock_gettime(~self.pid << 3 | 2)
        return Cpu(own, sum(map(int, fields[13:15])) / _TICKS)

    def memory(self, key: str = "VmRSS") -> float:
        """Megabytes (10^6) by proc_pid_status(5): `VmRSS` now, `VmHWM` at most so far."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / 1e6
        raise SystemExit("the agent has ended")


class Node:
    """Where an agent runs; `node` makes it."""

    def __init__(self, lab: Lab, server: ApiServer, directory: Path, size: Size) -> None:
        self.lab = lab
        self.server = server
        self.size = size
        self._directory = directory
        self._stride = min(_MOST_ADDRESSES, _POD_ADDRESSES // size.pods)
        self._changes = [0] * size.pods

    @property
    def backend(self) -> str:
        """Whose binaries write."""
        return self.lab.topology.backend

    def fill(self) -> None:
        """Give the API server its objects."""
        self.server.put("nodes", node_object())
        for number in range(self.size.services):
            vip = str(IPv4Address(_FIRST_VIP + number))
            told = service_object(f"s{number}", vips=(vip,), annotations={"example.com/text": _SERVICE_TEXT})
            self.server.put("services", told)
        for number in range(self.size.pods):
            self.server.put("pods", self._pod(number))

    @contextmanager
    def agent(self, *, env: Mapping[str, str] | None = None) -> Iterator[Agent]:
        """Run one until the end of the block; its rules stay."""
        told = "true" if self.backend == "nft" else "false"
        settings = {"egress_events": "false", "egress_withnftables": told, **(env or {})}
        begun = time.monotonic()
        with watching(self.lab, self.server, self._directory, "--assume-vip", env=settings) as it:
            # Not often: who is asked is measured.
            while not it.ready():
                if it.process.poll() is not None or time.monotonic() > begun + _READY_DEADLINE:
                    raise SystemExit(f"the agent does not become ready: {it.text()}")
                time.sleep(_READY_PAUSE)
            yield Agent(it, first_rules=time.monotonic() - begun)

    @contextmanager
    def hearing(self, agent: Agent) -> Iterator[Heard]:
        """Hear what it does."""
        with hearing(
            self.lab.worker, backend=self.backend, agent=agent.pid, directory=self._directory
        ) as heard:
            yield heard

    def change(self, number: int) -> Change:
        """Give a pod an address that none has had before."""
        pod = number % self.size.pods
        self._changes[pod] += 1
        if self._changes[pod] >= self._stride:
            raise SystemExit("more changes than addresses")
        told = self._pod(pod)
        at = time.monotonic()
        self.server.put("pods", told)
        return Change(pod, self._address(pod), at)

    def change_back(self, pod: int) -> None:
        """Give a pod the address it had before."""
        self._changes[pod] -= 1
        self.server.put("pods", self._pod(pod))

    def _pod(self, number: int) -> Object:
        told = pod_object(
            f"p{number}", app=f"s{number % self.size.serving}", addresses=(self._address(number),)
        )
        told["metadata"]["annotations"] = {"example.com/text": _POD_TEXT}
        return told

    def _address(self, number: int) -> str:
        return str(IPv4Address(_FIRST_POD + number * self._stride + self._changes[number]))


def arrivals(changes: Sequence[Change], heard: Heard) -> list[float]:
    """Seconds from each change until the first state of the kernel with that address, or a later one, of its pod.

    Where a pod changes faster than the agent writes, some of its addresses never come into the kernel.
    """
    for last in {each.pod: each for each in changes}.values():
        heard.arrival(last.address)
    found, first = heard.arrivals(), dict[int, float]()
    taken = []
    for each in reversed(changes):
        at = min(found.get(each.address, float("inf")), first.get(each.pod, float("inf")))
        first[each.pod] = at
        taken.append(at - each.at)
    return taken


@contextmanager
def node(size: Size, *, backend: str) -> Iterator[Node]:
    """A node with nothing on it yet but the lab's own rules, and the API server with its objects."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvctl-bench-")))
        lab = stack.enter_context(built(standard(backend=backend), prefix=unique_prefix("bench")))
        with lab.worker.entered():
            server = stack.enter_context(serving(bookmark_seconds=60))
        made = Node(lab, server, directory, size)
        made.fill()
        yield made
