"""What the rules cost each packet and each new connection: of a pod without egress, and of one with it.

Two labs of the same make, one without rules of kvctl's; chunk by chunk the same frames go through both, so that
whatever else this machine does meets both alike. Two labs are never quite alike (where the kernel's tables lie in
memory makes up to three in a hundred): the same is measured before any rule is written, and what differs then is
taken off: the ratio is that of the medians with rules and before, each of the chunks' ratios. 1 is no difference.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from benchmarks import clusters
from benchmarks.processes import before_others, choice, kvctl, run
from benchmarks.ring import CHUNK, Ring, Tuple, hardware_address
from benchmarks.rows import Bar, Row, median, spread
from kvctl.lab.build import Lab, built, unique_prefix
from kvctl.lab.topology import STANDARD, Pod, standard
from kvctl.model.net import Family

_PORT = 5060
_WHERE = STANDARD[Family.IPV4]
_TO = IPv4Address(_WHERE.outside_eth1)
_CHUNKS, _QUICK_CHUNKS = 300, 20
_PORTS = 30
"""Times CHUNK: so many connections to one place there can be, each with a port of its own."""
_PODS = (
    Pod(name="bystander", worker="worker", addresses=(clusters.BYSTANDER,)),
    Pod(name="egress", worker="worker", addresses=(clusters.EGRESS_POD,)),
)

Chunk = Sequence[Tuple]


class Way(NamedTuple):
    """Whose packets are measured, and what they are without kvctl."""

    who: str
    pod: Pod
    source: str
    """What the outside has to see with rules; without them it sees the node."""
    against: str


class What(NamedTuple):
    """Which packets."""

    name: str
    unit: str
    chunk: Callable[[str, int], Chunk]
    """By the pod's address and the chunk's number."""
    between: int
    """After so many chunks the connections are forgotten."""


def _one_flow(address: str, number: int) -> Chunk:
    return (Tuple(IPv4Address(address), 4000, _TO, _PORT),)


def _new_flows(address: str, number: int) -> Chunk:
    source, first = IPv4Address(address), 10_000 + number % _PORTS * CHUNK
    return [Tuple(source, first + each, _TO, _PORT) for each in range(CHUNK)]


_WAYS = (
    Way("bystander", _PODS[0], source=_WHERE.worker_eth1, against="no rules of kvctl's"),
    Way("egress pod", _PODS[1], source=clusters.EGRESS_VIP, against="MASQUERADE"),
)
_WHATS = (
    # Where its connection happens to lie in memory is more to a packet than most rules are: it lies in many places.
    What("packets", "packets/s", _one_flow, between=5),
    What("new connections", "connections/s", _new_flows, between=_PORTS),
)
_BARS = {
    ("bystander", "packets", 1000): Bar(0.97, at_most=False),
    ("bystander", "new connections", 1000): Bar(0.95, at_most=False),
    ("bystander", "new connections", 5000): Bar(0.90, at_most=False),
    ("egress pod", "new connections", 1000): Bar(0.90, at_most=False),
}


def measure(*, backend: str, sizes: Sequence[int], quick: bool) -> Iterator[Row]:
    """The rows of a back end, size by size, in the same two labs."""
    chunks = _QUICK_CHUNKS if quick else _CHUNKS
    with ExitStack() as stack:
        stack.enter_context(_on_one_processor())
        sides = _Sides(stack, backend=backend)
        alike = {(way, what): sides.ratio(way, what, chunks=chunks) for way in _WAYS for what in _WHATS}
        for services in sizes:
            sides.apply(services=services)
            for way in _WAYS:
                sides.check(way)
                for what in _WHATS:
                    pairs = sides.pairs(way, what, chunks=chunks)
                    yield _row(way, what, pairs, alike=alike[way, what], backend=backend, services=services)


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """What another one does in the background is not measured."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Pair(NamedTuple):
    """Packets or connections a second of one chunk, without and with rules."""

    bare: float
    ruled: float

    @property
    def ratio(self) -> float:
        return self.ruled / self.bare


class _Sides:
    """The two labs."""

    def __init__(self, stack: ExitStack, *, backend: str) -> None:
        topology = standard(backend=backend, pods=_PODS)
        self._backend = backend
        self._bare, self._ruled = self._labs = [
            stack.enter_context(built(topology, prefix=unique_prefix("bench"))) for _ in range(2)
        ]
        self._sinks = [_sink(stack, lab) for lab in self._labs]
        self._rings = {
            way: [stack.enter_context(_ring(lab, way.pod.name)) for lab in self._labs] for way in _WAYS
        }
        for way in _WAYS:
            self._expect(way, _WHERE.worker_eth1, _WHERE.worker_eth1)

    def apply(self, *, services: int) -> None:
        """Have kvctl write the rules of so many Services into one of them, and no others."""
        with self._ruled.worker.entered(), tempfile.TemporaryDirectory() as directory:
            source = str(clusters.write(Path(directory, "cluster.json"), services=services))
            told = ("--prune", "--assume-vip", choice(self._backend))
            run(kvctl("egress", "apply", "-f", source, "--node", "worker", *told))

    def check(self, way: Way) -> None:
        """That the outside sees what it has to: SystemExit if not, nobody measures rules that do nothing."""
        self._expect(way, _WHERE.worker_eth1, way.source)

    def ratio(self, way: Way, what: What, *, chunks: int) -> float:
        """The median of the chunks' ratios."""
        return median([pair.ratio for pair in self.pairs(way, what, chunks=chunks)])

    def pairs(self, way: Way, what: What, *, chunks: int) -> list[_Pair]:
        """What so many chunks give; who goes first changes."""
        rings, found = self._rings[way], []
        for number in range(chunks):
            chunk = what.chunk(way.pod.addresses[0], number)
            if number % what.between == 0:
                self._forget()
                # The first chunk fills caches, and is another flow than those that follow.
                self._send(rings, _one_flow(way.pod.addresses[0], number), first=0)
            found.append(self._send(rings, chunk, first=number % 2))
        return found

    def _send(self, rings: list[Ring], chunk: Chunk, *, first: int) -> _Pair:
        for ring in rings:
            ring.load(chunk)
        rates = [0.0, 0.0]
        with before_others():
            for place in (first, 1 - first):
                rates[place] = CHUNK / rings[place].send()
        return _Pair(*rates)

    def _forget(self) -> None:
        """Empty the tables of connections."""
        for lab in self._labs:
            lab.worker.run(["conntrack", "-F"])

    def _expect(self, way: Way, *sources: str) -> None:
        self._forget()
        for sink in self._sinks:
            _drain(sink)
        self._send(self._rings[way], _new_flows(way.pod.addresses[0], 0), first=0)
        for sink, source in zip(self._sinks, sources, strict=True):
            seen = _drain(sink)
            if seen != {source}:
                raise SystemExit(f"{way.who}: packets leave with {sorted(seen) or 'none'}, not with {source}")


def _sink(stack: ExitStack, lab: Lab) -> socket.socket:
    """Somebody listens, or the outside would answer each packet that nobody does."""
    sink = stack.enter_context(lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sink.bind((_WHERE.outside_eth1, _PORT))
    sink.setblocking(False)
    return sink


def _drain(sink: socket.socket) -> set[str]:
    """The sources of what has come."""
    found: set[str] = set()
    while True:
        try:
            found.add(sink.recvfrom(16)[1][0])
        except BlockingIOError:
            return found


def _ring(lab: Lab, name: str) -> Ring:
    number = [each.name for each in lab.topology.pods].index(name)
    return Ring(lab[name], interface="eth0", to=hardware_address(lab.worker, f"veth{number}"))


def _row(way: Way, what: What, pairs: Sequence[_Pair], *, alike: float, backend: str, services: int) -> Row:
    rates = [pair.ruled for pair in pairs]
    return Row(
        part="datapath",
        measure=f"{way.who}, {what.name}",
        backend=backend,
        services=services,
        value=median(rates),
        unit=what.unit,
        spread=spread(rates),
        against=way.against,
        other=median([pair.bare for pair in pairs]),
        ratio=median([pair.ratio for pair in pairs]) / alike,
        bar=_BARS.get((way.who, what.name, services)),
    )
