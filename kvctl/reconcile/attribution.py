"""Whose rule it is that changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kvctl.model.ref import ServiceRef
from kvctl.model.rules import HOOK_CHAINS, Hook, Rule, Table
from kvctl.netfilter.diff import Change
from kvctl.netfilter.syntax import parse
from kvctl.policy import comments, layout


class Attributed(NamedTuple):
    """A plan's changes, sorted by what they matter to."""

    own: dict[ServiceRef, list[Change]]
    """Changes of the rules of one Service."""
    shared: list[Change]
    """Changes that every Service of the family with rules behind that hook depends on: hook, excluded networks."""
    structure: list[Change]
    """Rules that only move within the tree of prefixes, and left-over chains."""

    def of(self, ref: ServiceRef, hooks: Collection[Hook]) -> list[Change]:
        """What matters to a Service with rules behind these hooks, now or in the end."""
        return [*(change for change in self.shared if hook_of(change) in hooks), *self.own.get(ref, ())]


def hook_of(change: Change) -> Hook:
    """The hook behind which a change is, or whose jump it is about."""
    if change.table is Table.NAT:
        return Hook.EGRESS
    marks = change.chain == Hook.MARK.chain or layout.MARKING.is_dispatch(change.chain)
    return Hook.MARK if marks else Hook.DROP


def attribute(
    changes: Sequence[Change], refs: Iterable[ServiceRef], *, had_dispatch: Collection[Hook]
) -> Attributed:
    """Sort `changes`; a jump that only moves to another dispatch chain is no change of its Service.

    `had_dispatch`: the hooks that had dispatch chains before, so that a new one repeats the excluded networks
    of the others.
    """
    if not changes:
        return Attributed(own={}, shared=[], structure=[])
    chains = {chain: ref for ref in refs for chain in layout.chains_of(ref)}
    dispatch = [c for c in changes if layout.is_dispatch_chain(c.chain)]
    added = Counter((hook_of(c), c.rule) for c in dispatch if c.op == "add")
    removed = Counter((hook_of(c), c.rule) for c in dispatch if c.op == "remove")
    own: dict[ServiceRef, list[Change]] = defaultdict(list)
    shared: dict[tuple[Hook, str, str | None], Change] = {}
    structure: list[Change] = []
    for change in changes:
        hook = hook_of(change)
        if change.chain in HOOK_CHAINS:
            shared[hook, change.op, change.rule] = change
            continue
        if change.chain in chains:
            own[chains[change.chain]].append(change)
            continue
        rule = parse(change.rule) if change.rule is not None else None
        ref = _owner(rule) if rule is not None else None
        moves = added[hook, change.rule] > 0 and removed[hook, change.rule] > 0
        if ref is not None and not moves:
            own[ref].append(change)
        elif (
            rule is not None
            and _is_exclusion(rule)
            and not moves
            and not (change.new_chain and hook in had_dispatch)
        ):
            shared.setdefault((hook, change.op, change.rule), change)
        else:
            structure.append(change)
    return Attributed(own=dict(own), shared=list(shared.values()), structure=structure)


def _owner(rule: Rule) -> ServiceRef | None:
    comment = comments.comment_text(rule) or ""
    pod = comments.read_pod(comment) or comments.read_aside_pod(comment)
    if pod is not None:
        return pod[0].ref
    service = comments.read_service(comment) or comments.read_dropped(comment)
    if service is not None:
        return service.ref
    other = comments.read_passed(comment) or comments.read_aside(comment)
    if other is not None:
        return other
    retiring = comments.read_retiring(rule)
    return retiring[0] if retiring else None


def _is_exclusion(rule: Rule) -> bool:
    return comments.read_exclusion(comments.comment_text(rule) or "") is not None
