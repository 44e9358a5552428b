"""Rulesets as a kernel holds them: saved and read back, between two sections of a change, and for a packet."""

from __future__ import annotations

from collections.abc import Sequence

from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPolicy, Exclusion
from kvctl.model.rules import Hook, Ruleset, Table, table_of
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.netfilter.savetext import parse_tables, snapshot_of
from kvctl.netfilter.syntax import parse, render
from kvctl.policy.compile import entries_of
from kvctl.reconcile.steps import Rulesets
from kvctl.reconcile.target import Share, Target
from tests.policy.strategies import Packet
from tests.policy.walker import ANY, Moment, is_dropped, source_after


def outcome(nat: Ruleset, mangle: Ruleset, packet: Packet, moment: Moment = ANY) -> Address | str | None:
    """The source the packet leaves with, None for its own, or that it is dropped."""
    return "dropped" if is_dropped(mangle, packet, moment) else source_after(nat, packet, moment)


def saved(ruleset: Ruleset) -> Snapshot:
    """What is read of a kernel that holds these rules and no others."""
    text = restore_text(diff(ruleset, Snapshot(family=ruleset.family)))
    for chain in {hook.chain for hook in Hook}:
        text = text.replace(f"-I {chain} 1 ", f"-A {chain} ")
    return snapshot_of(parse_tables(text), ruleset.family)


def saved_as_meant(ruleset: Ruleset) -> Snapshot:
    """The same, of rules that are within the kernel's bounds and that come back as they were."""
    for rule in (*ruleset.hooks.values(), *(rule for rules in ruleset.chains.values() for rule in rules)):
        assert parse(render(rule)) == rule
        assert len(rule.comment) <= 255
    assert max(map(len, ruleset.chains)) <= 28
    found = saved(ruleset)
    assert not diff(ruleset, found)
    return found


def first_of(steps: Rulesets, old: Ruleset) -> Ruleset:
    """What is there after the first section of a change from `old`: what it leaves alone, too."""
    stays = {name: old.chains[name] for name in steps.first.untouched if name in old.chains}
    return steps.first._replace(chains={**stays, **steps.first.chains})


def target_of(
    family: Family,
    here: Sequence[EgressPolicy],
    excluded: tuple[Exclusion, ...] = (),
    *,
    dropped: Sequence[EgressPolicy] = (),
) -> Target:
    """The target of a run that wants just these."""
    entries, drops = (tuple(item for it in its for item in entries_of(it)) for its in (here, dropped))
    return Target(
        family=family,
        policies=tuple(here),
        entries=entries,
        drops=Share(policies=tuple(dropped), entries=drops),
        exclusions=excluded,
    )


def joined(nat: Ruleset, mangle: Ruleset) -> Ruleset:
    """The tables of two rulesets in one kernel."""
    parts = ((Table.NAT, nat), (Table.MANGLE, mangle))
    return Ruleset(
        family=nat.family,
        hooks={
            hook: rule for table, part in parts for hook, rule in part.hooks.items() if hook.table is table
        },
        chains={
            name: rules
            for table, part in parts
            for name, rules in part.chains.items()
            if table_of(name) is table
        },
    )


def bare(policy: EgressPolicy | None) -> EgressPolicy:
    """A policy as far as the kernel tells it."""
    assert policy is not None
    return policy._replace(pods=tuple(pod._replace(name=None, node=None) for pod in policy.pods))
