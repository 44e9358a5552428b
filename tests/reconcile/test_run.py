"""When a run tells that the rules are as they will be: once they are in the kernel, before it looks what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.build import Lab
from kvctl.model.net import Family
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile import run
from kvctl.reconcile.compare import compare
from kvctl.reconcile.converge import Outcome
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.run import Applied
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, service
from tests.kernel.node import LAB_SETTINGS, VIPS, Thing, Worker, lab_pod

ASKED = (service(vip=VIPS), lab_pod())


class Run:
    """A run whose steps are written down: `written`, `compared`; and the rules that there were at each."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self._worker = worker
        self.steps: list[str] = []
        self.rules: list[set[Family]] = []
        """The families that there were rules in, when it was told."""
        self.outcomes: list[Sequence[Outcome]] = []
        monkeypatch.setattr(run, "compare", self._compared)

    def apply(self, *things: Thing, breaks: Family | None = None) -> Applied:
        """One run for these."""
        self.steps.clear()
        with self._worker.lab.worker.entered(), namespace_lock(timeout=10):
            host = read_host()
            resolution = resolve(objects(*things), LAB_SETTINGS, host=host)
            wish = Wish(resolution=resolution, scope=Scope(prune=True), settings=LAB_SETTINGS, host=host)
            found = look(told=None)
            if breaks is not None:
                found.failed[breaks] = KvctlError("its rules cannot be read")
                del found.sites[breaks]
            return run.apply(found, wish, drop_connections=True, written=self._written)

    def _written(self, outcomes: Sequence[Outcome]) -> None:
        self.steps.append("written")
        self.outcomes.append(outcomes)
        saved = {family: "\n".join(self._worker.saved(family)) for family in Family}
        self.rules.append({family for family, text in saved.items() if "--to-source" in text})

    def _compared(self, found: Look, wish: Any, *, scope: Scope) -> Any:
        self.steps.append("compared")
        return compare(found, wish, scope=scope)


@pytest.fixture
def its(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Run:
    """On the worker of a lab."""
    return Run(Worker(lab), monkeypatch)


def test_it_is_told_when_the_rules_of_both_families_are_in(its: Run) -> None:
    applied = its.apply(*ASKED)
    # What there was is compared while the first of them are written: once, and as it was.
    assert its.steps == ["compared", "written", "compared"]
    assert its.rules == [set(Family)]
    assert (bool(applied.before.changes()), bool(applied.after.changes())) == (True, False)


def test_it_is_told_when_they_are_away_and_when_there_was_nothing_to_write(its: Run) -> None:
    its.apply(*ASKED)
    assert its.apply(*ASKED).restores == 0
    its.apply()
    assert its.rules == [set(Family), set(Family), set()]
    assert its.steps == ["compared", "written", "compared"]


def test_where_nothing_is_written_it_is_told_before_anything_is_compared(its: Run) -> None:
    its.apply(*ASKED)
    its.apply(*ASKED)
    assert its.steps == ["written", "compared"]


def test_it_is_told_what_could_not_be_written(its: Run) -> None:
    its.apply(*ASKED, breaks=Family.IPV6)
    assert its.rules == [{Family.IPV4}]
    [outcomes] = its.outcomes
    assert {outcome.family: len(outcome.errors) for outcome in outcomes} == {Family.IPV4: 0, Family.IPV6: 1}
