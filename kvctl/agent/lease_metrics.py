"""Metrics of serviceElection: which Leases this node holds, how old the last renewal is, what it has bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvctl.election.electorate import Holding, LeaseState
from kvctl.errors import KvctlError
from kvctl.model.lease import LeaseKey
from kvctl.node.addresses import Bound, bound


class Electors(Protocol):
    """What is needed of an Electorate."""

    def held(self) -> Mapping[LeaseKey, Holding]: ...
    def states(self) -> Mapping[LeaseKey, LeaseState]: ...


class LeaseCollector(Collector):
    """Nothing at all until `serve`: in follow mode there are no Leases. Everything may be called from any thread."""

    def __init__(
        self, *, clock: Callable[[], float], addresses: Callable[[], Collection[Bound]] = bound
    ) -> None:
        self._clock = clock
        self._addresses = addresses
        self._electors: Electors | None = None
        self._lock = threading.Lock()
        self._held: frozenset[LeaseKey] = frozenset()
        self._gained = 0
        self._lost = 0
        self._answered = 0

    def serve(self, electors: Electors) -> None:
        """Whose Leases these are."""
        self._electors = electors

    def look(self) -> None:
        """Count what was gained or lost since the last look: after each round, which every change causes."""
        if self._electors is None:
            return
        with self._lock:
            held = frozenset(self._electors.held())
            self._gained += len(held - self._held)
            self._lost += len(self._held - held)
            self._held = held

    def probed(self, answers: Sized) -> None:
        """Count the VIPs that somebody else on the network answered for."""
        with self._lock:
            self._answered += len(answers)

    def collect(self) -> Iterator[Metric]:
        """The series of a Lease are there as long as this node contends for it."""
        if self._electors is None:
            return
        self.look()
        held, states = self._electors.held(), self._electors.states()
        each = GaugeMetricFamily(
            "kvctl_lease_held",
            "1: this node holds the Lease; 0: it contends for it.",
            labels=["namespace", "lease"],
        )
        for key in sorted({*states, *held}):
            each.add_metric(list(key), float(key in held))
        yield each
        now = self._clock()
        yield GaugeMetricFamily(
            "kvctl_lease_renewal_age_seconds",
            "Time since the last good renewal of the Lease held that waits for one longest; 0: none is held.",
            value=max((now - holding.sent for holding in held.values()), default=0.0),
        )
        changes = CounterMetricFamily(
            "kvctl_lease_changes_total",
            "Leases that this node has gained, or held no more.",
            labels=["change"],
        )
        changes.add_metric(["gained"], self._gained)
        changes.add_metric(["lost"], self._lost)
        yield changes
        yield CounterMetricFamily(
            "kvctl_probes_answered_total",
            "VIPs that were not bound because another host answered for them.",
            value=self._answered,
        )
        yield from self._vips()

    def describe(self) -> list[Metric]:
        """Nothing is asked when this is registered."""
        return []

    def _vips(self) -> Iterator[Metric]:
        """Nothing where the kernel does not tell: a zero would say that there are none."""
        try:
            count = len(self._addresses())
        except KvctlError:
            return
        yield GaugeMetricFamily("kvctl_vips_bound", "VIPs that kvctl has on interfaces here.", value=count)
