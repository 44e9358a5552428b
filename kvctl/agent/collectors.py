"""Metrics that are read when somebody asks: live connections, conntrack's own counters, the watches."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvctl.errors import KvctlError
from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family, family_of
from kvctl.netfilter import conntrack

PORTS = 64512
"""The source ports that a connection may get from 1024 up: so many to one destination, then no more."""

# /proc/net is that of the process's first thread; the rules may be those of another namespace in tests.
_STATISTICS = Path("/proc/thread-self/net/stat/nf_conntrack")
_ENTRIES = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class WatchState(Protocol):
    """What a watch says of itself."""

    @property
    def last_contact(self) -> float | None:
        """Monotonic time at which the server was last heard; None: never yet."""

    @property
    def errors(self) -> int:
        """Failures so far."""


class Usage(NamedTuple):
    """How much of a VIP's ports is taken."""

    flows: int = 0
    share: float = 0.0
    """Of the ports towards the destination that has most of them, 0 to 1."""


def usage_of(flows: Iterable[Flow], vips: Collection[Address]) -> dict[Address, Usage]:
    """The live connections that carry each VIP as their rewritten source."""
    total: Counter[Address] = Counter()
    towards: Counter[tuple[Address, str, Address, int]] = Counter()
    for flow in flows:
        vip = flow.reply.destination
        if flow.original.source == vip:
            continue  # the node's own, nobody rewrote it
        total[vip] += 1
        if flow.reply.destination_port:
            towards[vip, flow.protocol, flow.reply.source, flow.reply.source_port] += 1
    worst: dict[Address, int] = {}
    for (vip, *_), count in towards.items():
        worst[vip] = max(count, worst.get(vip, 0))
    return {vip: Usage(total[vip], worst.get(vip, 0) / PORTS) for vip in vips}


class FlowCollector(Collector):
    """Live connections by VIP, from one dump of conntrack a family, at most every `interval` seconds."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        interval: float = 15.0,
        dump: Callable[..., list[Flow]] = conntrack.dump,
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._dump = dump
        self._lock = threading.Lock()
        self._vips: tuple[Address, ...] = ()
        self._asked: tuple[float, frozenset[Address]] | None = None
        self._usage: dict[Address, Usage] | None = None

    def watch(self, vips: Iterable[Address]) -> None:
        """The VIPs in use here from now on."""
        self._vips = tuple(vips)

    def collect(self) -> Iterator[Metric]:
        """Nothing where conntrack cannot be read: a zero would say that there are none."""
        usage = self._current()
        if usage is None:
            return
        flows = GaugeMetricFamily("kvctl_live_flows", "Live connections with this VIP.", labels=["vip"])
        share = GaugeMetricFamily(
            "kvctl_port_share",
            "Share of a VIP's source ports that is taken towards its busiest destination.",
            labels=["vip"],
        )
        for vip in sorted(usage, key=str):
            flows.add_metric([str(vip)], usage[vip].flows)
            share.add_metric([str(vip)], usage[vip].share)
        yield from (flows, share)

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks the kernel nothing."""
        return []

    def _current(self) -> dict[Address, Usage] | None:
        with self._lock:
            now, vips = self._clock(), frozenset(self._vips)
            fresh = self._asked is not None and now - self._asked[0] < self._interval
            if not (fresh and self._asked is not None and self._asked[1] == vips):
                self._asked, self._usage = (now, vips), self._look(vips)
            return self._usage

    def _look(self, vips: frozenset[Address]) -> dict[Address, Usage] | None:
        flows: list[Flow] = []
        try:
            for family in Family:
                mine = [vip for vip in vips if family_of(vip) is family]
                if mine:
                    flows += self._dump(family=family, sources=(), reply_destinations=mine)
        except KvctlError:
            return None
        return usage_of(flows, vips)


class WatchCollector(Collector):
    """How the watches of the cluster do."""

    def __init__(self, states: Callable[[], Mapping[str, WatchState]], *, clock: Callable[[], float]) -> None:
        self._states = states
        self._clock = clock
        self._begun = clock()

    def collect(self) -> Iterator[Metric]:
        """A kind that was never heard of lags since the agent began: a server that is away at the start shows."""
        lag = GaugeMetricFamily(
            "kvctl_watch_lag_seconds",
            "Time since the API server was last heard of this kind, or since the agent began.",
            labels=["kind"],
        )
        errors = CounterMetricFamily(
            "kvctl_watch_errors_total", "Lists and watches of this kind that failed.", labels=["kind"]
        )
        now = self._clock()
        for kind, state in sorted(self._states().items()):
            heard = self._begun if state.last_contact is None else state.last_contact
            lag.add_metric([kind], max(0.0, now - heard))
            errors.add_metric([kind], state.errors)
        yield from (lag, errors)

    def describe(self) -> list[Metric]:
        """Nothing is asked when this is registered."""
        return []


class ConntrackCollector(Collector):
    """conntrack's own counters in this network namespace; nothing where the kernel does not tell them."""

    def __init__(
        self, *, statistics: Path = _STATISTICS, entries: Path = _ENTRIES, limit: Path = _LIMIT
    ) -> None:
        self._statistics = statistics
        self._gauges = (
            (entries, "kvctl_conntrack_entries", "Entries in the conntrack table."),
            (limit, "kvctl_conntrack_limit", "Entries that the conntrack table may hold."),
        )

    def collect(self) -> Iterator[Metric]:
        """Counters since boot."""
        totals = read_statistics(_text(self._statistics))
        for column, name, what in _COLUMNS:
            if column in totals:
                yield CounterMetricFamily(name, what, value=totals[column])
        for path, name, what in self._gauges:
            text = _text(path).strip()
            if text.isdecimal():
                yield GaugeMetricFamily(name, what, value=int(text))

    def describe(self) -> list[Metric]:
        """Nothing is read when this is registered."""
        return []


_COLUMNS = (
    (
        "insert_failed",
        "kvctl_conntrack_insert_failed_total",
        "New connections that got no entry: a VIP without a free port shows here.",
    ),
    ("drop", "kvctl_conntrack_drop_total", "Packets that conntrack dropped."),
)


def read_statistics(text: str) -> dict[str, int]:
    """The columns of /proc/net/stat/nf_conntrack: names first, then one line of hexadecimal numbers a CPU."""
    names, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    try:
        rows = [[int(cell, 16) for cell in line] for line in lines]
    except ValueError:
        return {}
    return {name: sum(row[at] for row in rows if at < len(row)) for at, name in enumerate(names)}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
