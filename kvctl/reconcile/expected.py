"""What is wanted, as a look would show it: what is there already need not be taken apart to be known. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.policy import EgressPolicy, Exclusion
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import compile_dispatch, entries_of, jumps_of
from kvctl.policy.dispatch import NO_HINTS, Hints
from kvctl.policy.service_chains import compile_service


class Expected(NamedTuple):
    """What one family of nat probably holds."""

    snapshot: Snapshot | None
    hints: Hints


NOTHING = Expected(snapshot=None, hints=NO_HINTS)


def expect(family: Family, policies: Sequence[EgressPolicy], exclusions: Sequence[Exclusion]) -> Expected:
    """The rules of these policies, if nothing has happened since they were written."""
    entries = [item for policy in policies for item in entries_of(policy)]
    chains = dict(compile_dispatch(family=family, entries=entries, exclusions=exclusions))
    for policy in policies:
        chains.update(compile_service(policy))
    found = {
        chain: tuple(FoundRule(text=render(rule), rule=rule) for rule in rules)
        for chain, rules in chains.items()
    }
    jumps = {id(rule): (rule, item) for item, rule in jumps_of(entries)}
    return Expected(
        snapshot=Snapshot(family=family, chains=found),
        hints=Hints(policies={policy.ref: policy for policy in policies}, jumps=jumps),
    )
