"""What Prometheus is told. Every name is in the tables here and in `collectors`; labels are bounded by what is here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from kvctl.agent.collectors import ConntrackCollector, FlowCollector, WatchCollector, WatchState
from kvctl.agent.lease_metrics import LeaseCollector
from kvctl.agent.round import Cause, Round, Subject
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Item, Status

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REPORTED = tuple(status for status in Status if status not in (Status.WANTED, Status.FOREIGN))
"""One does not occur after a round, the other is no Service's."""


class Metrics:
    """One registry. `round` is for the loop, `render` for whoever asks, in any thread."""

    def __init__(
        self,
        *,
        version: str,
        states: Callable[[], Mapping[str, WatchState]] = dict,
        clock: Callable[[], float] = time.monotonic,
        flows: FlowCollector | None = None,
        conntrack: ConntrackCollector | None = None,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each: nothing reads them
        self._registry = CollectorRegistry()
        self._begun_last: dict[Subject, int] = {}
        self._counted: Mapping[int, Item] = {}
        """By their identity: the items of the last round."""
        self._away: set[Subject] = set()
        """Whose connections were counted and who has no item any more."""
        self._flows = flows or FlowCollector(clock=clock)
        self.leases = LeaseCollector(clock=clock)
        self._make()
        for collector in (
            self._flows,
            WatchCollector(states, clock=clock),
            conntrack or ConntrackCollector(),
            self.leases,
        ):
            self._registry.register(collector)
        Info("kvctl_build", "The version that runs.", registry=self._registry).info({"version": version})

    def _make(self) -> None:
        registry = self._registry
        self._duration = Histogram(
            "kvctl_sync_duration_seconds",
            "From the first mark of a round to the last write.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._syncs = Counter("kvctl_syncs_total", "Rounds.", ["cause", "result"], registry=registry)
        self._last = Gauge(
            "kvctl_last_sync_timestamp_seconds",
            "When the last round that did not fail ended; 0: none yet.",
            registry=registry,
        )
        self._changes = Counter(
            "kvctl_rule_changes_total", "Services (in one family) changed.", ["action"], registry=registry
        )
        self._failures = Counter(
            "kvctl_restore_failures_total",
            "Writes that were refused; most go through when tried again.",
            registry=registry,
        )
        self._restores = Counter("kvctl_restores_total", "Writes to the kernel.", registry=registry)
        self._repairs = Counter(
            "kvctl_drift_repairs_total",
            "Services (in one family) that others had changed.",
            registry=registry,
        )
        self._contested = Gauge(
            "kvctl_contested", "1 while another program keeps undoing what is written.", registry=registry
        )
        self._services = Gauge(
            "kvctl_services", "Services (in one family) with a pod here.", ["status"], registry=registry
        )
        self._begun = Counter(
            "kvctl_connections_begun_total",
            "Connections begun with the VIP; counted on when rules are rewritten.",
            ["namespace", "service", "family"],
            registry=registry,
        )
        self._dropped = Counter(
            "kvctl_connections_dropped_total",
            "Connections dropped for their wrong source.",
            registry=registry,
        )
        self._reports = Counter(
            "kvctl_reports_total",
            "Events and conditions for the API server: sent, or dropped.",
            ["kind", "result"],
            registry=registry,
        )
        for cause in Cause:
            self._syncs.labels(cause, "ok")
            self._syncs.labels(cause, "failed")
        for action in Action:
            self._changes.labels(action)

    def round(self, done: Round) -> None:
        """Count a round."""
        self._duration.observe(done.duration)
        self._syncs.labels(done.cause, "failed" if done.failed else "ok").inc()
        self._restores.inc(done.restores)
        self._failures.inc(done.restores_refused)
        self._dropped.inc(done.dropped)
        self._contested.set(done.contested is not None)
        self.leases.look()
        for turn in done.turns:
            if turn.action is not None:
                self._changes.labels(turn.action).inc()
            if turn.repaired and turn.action is not Action.FAILED:
                self._repairs.inc()
        if not done.complete:
            return
        if not done.failed:
            self._last.set(done.ended)
        self._count_services(done)
        self._count_connections(done)
        self._flows.watch(item.vip for item in done.items if item.vip is not None and _has_rules(item))

    def count_report(self, kind: str, result: str) -> None:
        """Count an Event or a condition (`kind`) that was `sent`, `refused` or `dropped`."""
        self._reports.labels(kind, result).inc()

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4. Reads conntrack, at most every 15 s."""
        return generate_latest(self._registry)

    def _count_services(self, done: Round) -> None:
        counts = dict.fromkeys(_REPORTED, 0)
        for item in done.items:
            if item.status in counts and _is_here(item, done):
                counts[item.status] += 1
        for status, count in counts.items():
            self._services.labels(status).set(count)

    def _count_connections(self, done: Round) -> None:
        """A rule that is written anew counts from 0: then what it shows has come since."""
        before, self._counted = self._counted, {id(item): item for item in done.items}
        # What is the very same as in the last round shows what it showed then.
        found = [item for item in done.before if id(item) not in before]
        fresh = [item for key, item in self._counted.items() if key not in before]
        # First as it was found, then as it is now: a rule that this round rewrote loses nothing.
        for subject, shown in _counters((*found, *fresh)):
            last = self._begun_last.get(subject, 0)
            self._begun.labels(*_labels(subject)).inc(shown - last if shown >= last else shown)
            self._begun_last[subject] = shown
        gone = (item for key, item in before.items() if key not in self._counted)
        self._away.update(subject for subject, _ in _counters((*found, *gone)))
        if self._away:
            self._forget(done)

    def _forget(self, done: Round) -> None:
        """Who has no item begins anew when it comes back; a Service that is no more is forgotten."""
        present = done.resolution.present if done.resolution is not None else frozenset()
        refs = {subject.ref for subject in self._away}
        # A ServiceRef is equal to the pair that it is.
        named = (item for item in done.items if (item.namespace, item.service) in refs)
        self._away.difference_update(subject for subject, _ in _counters(named))
        for subject in self._away:
            self._begun_last[subject] = 0
        for subject in [subject for subject in self._away if subject.ref not in present]:
            # Its series must not stay for the life of the agent.
            self._away.remove(subject)
            del self._begun_last[subject]
            self._begun.remove(*_labels(subject))


def _counters(items: Iterable[Item]) -> Iterable[tuple[Subject, int]]:
    for item in items:
        if item.ref is not None and item.connections is not None:
            yield Subject(item.ref, item.family), item.connections


def _labels(subject: Subject) -> tuple[str, str, str]:
    return subject.ref.namespace, subject.ref.name, str(subject.family)


def _has_rules(item: Item) -> bool:
    return item.status in (Status.APPLIED, Status.DRIFTED, Status.OVERRIDDEN)


def _is_here(item: Item, done: Round) -> bool:
    """A Service without a pod here is skipped on this node for no reason that anybody could mend."""
    if item.status is not Status.SKIPPED:
        return True
    return item.ref is not None and done.concerns_this_node(item.ref)
