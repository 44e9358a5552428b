"""What a plan makes of what was found, when the kernel has taken it and nobody else has written. Pure."""

from __future__ import annotations

from kvctl.model.rules import Rule, Table
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.diff import Plan, texts
from kvctl.netfilter.syntax import render


def written(before: Snapshot, plan: Plan) -> Snapshot | None:
    """`before` with `plan` carried out; None where only a look can tell: a table comes into being, or hides a chain."""
    tables = [table for table in Table if plan.of(table)]
    if not all(table in before.around and before.around[table].position_known for table in tables):
        return None
    chains = dict(before.chains)
    for write in plan.writes:
        rendered = texts(write.chain, write.rules)
        chains[write.chain] = tuple(map(_found, rendered, write.rules))
    for chain, text in plan.trims:
        chains[chain] = _without(chains[chain], text)
    chains.update(dict.fromkeys(plan.flushes, ()))
    for chain in plan.deletes:
        del chains[chain]
    around = {table: _beside(table, beside, plan) for table, beside in before.around.items()}
    return before._replace(chains=chains, around=around)


def _beside(table: Table, beside: Surroundings, plan: Plan) -> Surroundings:
    deleted = [(hook.chain, text) for hook, text in plan.hooks_deleted if hook.table is table]
    inserted = [(hook, rule) for hook, rule in plan.hooks_inserted if hook.table is table]
    if not deleted and not inserted:
        return beside
    hook_chains: dict[str, tuple[FoundRule, ...]] = dict(beside.hook_chains)
    foreign = dict(beside.foreign)
    for chain, text in deleted:
        hook_chains[chain] = _without(hook_chains[chain], text)
    for hook, rule in inserted:
        hook_chains[hook.chain] = (_found(render(rule), rule), *hook_chains.get(hook.chain, ()))
    for chain in {*(chain for chain, _ in deleted), *(hook.chain for hook, _ in inserted)}:
        foreign[chain] = tuple(found.text for found in hook_chains[chain])
    return beside._replace(hook_chains=hook_chains, foreign=foreign)


def _without(rules: tuple[FoundRule, ...], text: str) -> tuple[FoundRule, ...]:
    # As `-D` does, which takes the first rule of that text.
    at = next(place for place, found in enumerate(rules) if found.text == text)
    return (*rules[:at], *rules[at + 1 :])


def _found(text: str, rule: Rule) -> FoundRule:
    return FoundRule(text=text, rule=rule, packets=0, octets=0)
