"""`kvctl egress apply` as a whole process: all rules, no change, one pod changed; beside the bare iptables-restore.

In the worker's namespace of a lab. Everything of a size is done in turn, again and again, so that the ratios are of
one time. The texts that iptables-restore gets are those that kvctl gave it, the same for either.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import clusters
from benchmarks.peer import Peer, measured
from benchmarks.processes import NOTHING, Started, choice, in_turn, kvctl, run, seconds, started_by
from benchmarks.rows import Bar, Row, median, spread
from kvctl.lab.build import built, restore_binary, unique_prefix
from kvctl.lab.topology import standard
from kvctl.model.net import Family

_PEER_SECONDS, _QUICK_PEER_SECONDS = 45.0, 2.0
_FIXED = 0.35
"""Seconds that an apply may take besides what the binary does."""
_BARS = {
    "cold apply, of its allowance": Bar(1.0),
    "cold apply, times faster": Bar(50, at_most=False),
    "no-op apply": Bar(_FIXED),
    "no-op apply, restores": Bar(0),
}
_BARRED_SIZE = 1000

Seconds = dict[str, list[float]]


def measure(*, backend: str, sizes: Sequence[int], quick: bool) -> Iterator[Row]:
    """The rows of a back end, size by size."""
    peer = measured(backend=backend, pods=max(sizes), limit=_QUICK_PEER_SECONDS if quick else _PEER_SECONDS)
    with built(standard(backend=backend), prefix=unique_prefix("bench")) as lab:
        for services in sizes:
            with lab.worker.entered(), tempfile.TemporaryDirectory() as directory:
                node = _Node(Path(directory), backend=backend, services=services)
                taken = node.measure(quick=quick)
            yield from _Rows(backend, services, taken).all(peer=peer, node=node)


def _repetitions(services: int) -> int:
    return 11 if services <= 100 else 9 if services <= 1000 else 3


class _Node:
    """A namespace without rules of kvctl's, and three sources for it: JSON, YAML, JSON with the first pod moved."""

    def __init__(self, directory: Path, *, backend: str, services: int) -> None:
        self._backend = backend
        self._services = services
        self._restore = restore_binary(backend=backend, family=Family.IPV4)
        self._at_first = run([self._restore.replace("-restore", "-save"), "-t", "nat"]).stdout
        self._json, self._yaml, self._moved = (
            str(clusters.write(directory / name, services=services, moved=name.startswith("moved")))
            for name in ("cluster.json", "cluster.yaml", "moved.json")
        )
        self.cold = self._recorded(self._json)
        self.no_op = self._recorded(self._json)
        self.there = self._recorded(self._moved)
        self._back = self._recorded(self._json)

    def measure(self, *, quick: bool) -> Seconds:
        """Seconds of each."""
        repetitions = 2 if quick else _repetitions(self._services)
        turn: dict[str, Callable[[], float]] = {
            "nothing": lambda: seconds(NOTHING),
            "bare": lambda: self._from_nothing(lambda: self._bare(self.cold)),
            "cold": lambda: self._from_nothing(lambda: self._apply(self._json)),
            "no-op": lambda: self._apply(self._json),
            "there": lambda: self._apply(self._moved),
            "back": lambda: self._apply(self._json),
            "bare there": lambda: self._bare(self.there),
            "bare back": lambda: self._bare(self._back),
        }
        taken = in_turn(turn, repetitions=repetitions)
        from_yaml = {"yaml": lambda: self._from_nothing(lambda: self._apply(self._yaml))}
        taken |= in_turn(from_yaml, repetitions=min(repetitions - 1, 3))
        self.flush()
        return taken

    def flush(self) -> None:
        """The table nat as it was at first."""
        run([self._restore, "-w", "10", "-T", "nat"], stdin=self._at_first)

    def _arguments(self, source: str) -> list[str]:
        told = ("--node", "worker", "--assume-vip", choice(self._backend))
        return ["egress", "apply", "-f", source, *told]

    def _apply(self, source: str) -> float:
        return seconds(kvctl(*self._arguments(source)))

    def _recorded(self, source: str) -> list[Started]:
        return started_by(*self._arguments(source))

    def _bare(self, several: Sequence[Started]) -> float:
        return sum(seconds(each.argv, stdin=each.stdin) for each in several if each.restores)

    def _from_nothing(self, measured: Callable[[], float]) -> float:
        self.flush()
        return measured()


class _Rows(NamedTuple):
    """Figures become rows."""

    backend: str
    services: int
    taken: Seconds

    def all(self, *, peer: Peer, node: _Node) -> Iterator[Row]:
        """Those of one size."""
        bare, cold, json = "bare iptables-restore", self.taken["cold"], "JSON"
        changed = self.taken["there"] + self.taken["back"]
        for_bare = median(self.taken["bare"])
        one_by_one = peer.seconds(self.services)
        yield self._row("cold apply", cold, against=bare, other=for_bare)
        allowance = _FIXED + 2 * for_bare
        yield self._row(
            "cold apply, of its allowance", cold, against=f"{_FIXED:g} s + 2 × bare restore", other=allowance
        )
        faster = self._row(
            "cold apply, times faster", cold, against=peer.name(self.services), other=one_by_one
        )
        yield faster._replace(ratio=one_by_one / median(cold))
        yield self._row("cold apply from YAML", self.taken["yaml"], against=json, other=median(cold))
        nothing = median(self.taken["nothing"])
        yield self._row("no-op apply", self.taken["no-op"], against="python -c pass", other=nothing)._replace(
            ratio=None
        )
        yield self._count("no-op apply, programs", len(node.no_op))
        yield self._count("no-op apply, restores", sum(each.restores for each in node.no_op))
        delta = median(self.taken["bare there"] + self.taken["bare back"])
        yield self._row("one pod changed", changed, against=bare, other=delta)
        yield self._count("one pod changed, restores", sum(each.restores for each in node.there))

    def _row(self, name: str, taken: Sequence[float], *, against: str, other: float) -> Row:
        return Row(
            part="apply",
            measure=name,
            backend=self.backend,
            services=self.services,
            value=median(taken),
            unit="s",
            spread=spread(taken),
            against=against,
            other=other,
            ratio=median(taken) / other,
            bar=self._bar(name),
        )

    def _count(self, name: str, count: int) -> Row:
        return Row(
            part="apply",
            measure=name,
            backend=self.backend,
            services=self.services,
            value=count,
            unit="processes",
            spread=(count, count),
            bar=self._bar(name),
        )

    def _bar(self, name: str) -> Bar | None:
        return _BARS.get(name) if self.services == _BARRED_SIZE else None
