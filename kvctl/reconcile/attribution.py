"""Whose rule it is that changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import HOOK_CHAINS, Hook, Rule, Table, Verb
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import Change
from kvctl.netfilter.syntax import parse
from kvctl.policy import comments, layout
from kvctl.policy.decode import Installed
from kvctl.reconcile.steps import guarded, marked
from kvctl.reconcile.target import Target


class Attributed(NamedTuple):
    """A plan's changes, sorted by what they matter to."""

    own: dict[ServiceRef, list[Change]]
    """Changes of the rules of one Service, and of the gates of its pods."""
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
    changes: Sequence[Change],
    *,
    target: Target,
    installed: Installed,
    found: Snapshot,
    had_dispatch: Collection[Hook],
) -> Attributed:
    """Sort `changes`, that turn `found`, which was read as `installed`, into `target`.

    What only moves within the tree is no change of its Service: a pod's jump that is in another dispatch chain from now
    on, a gate that leads to another one because prefixes have been split or joined.
    `had_dispatch`: the hooks that had dispatch chains before, so that a new one repeats the excluded networks
    of the others.
    """
    if not changes:
        return Attributed(own={}, shared=[], structure=[])
    chains = _owned(changes, _refs(target, installed))
    steps = [*_read(changes, chains), *_lost_with_chains(changes, found)]
    moves = _Moves.of(steps)
    leads = _leads(target, installed, {step.gate for step in steps if step.gate})
    own: dict[ServiceRef, list[Change]] = defaultdict(list)
    shared: dict[tuple[Hook, str, str | None], Change] = {}
    structure: list[Change] = []
    for step in steps:
        change, hook, rule = step.change, step.hook, step.rule
        if change.chain in HOOK_CHAINS:
            shared[hook, change.op, change.rule] = change
            continue
        owners = {chains[change.chain]} if change.chain in chains else set[ServiceRef]()
        stays = rule is not None and moves.has(step)
        if not owners and rule is not None and not stays:
            owners = leads.get((hook, step.gate), set()) if step.gate is not None else _owners(rule)
        for ref in owners:
            own[ref].append(change)
        if owners or step.with_chain:
            continue
        repeats = change.new_chain and hook in had_dispatch
        if rule is not None and _is_exclusion(rule) and not stays and not repeats:
            shared.setdefault((hook, change.op, change.rule), change)
        else:
            structure.append(change)
    return Attributed(own=dict(own), shared=list(shared.values()), structure=structure)


def _owned(changes: Iterable[Change], refs: Iterable[ServiceRef]) -> Mapping[str, ServiceRef]:
    """Of the chains that change those that are a Service's own, each with whose it is."""
    changed = {change.chain for change in changes}
    # Mostly there are none: that pods come and go does not show in these chains.
    own = {chain for chain in changed if chain not in HOOK_CHAINS and not layout.is_dispatch_chain(chain)}
    if not own:
        return {}
    return {chain: ref for ref in refs for chain in layout.chains_of(ref) if chain in own}


class _Step(NamedTuple):
    """A change, and what it says."""

    change: Change
    hook: Hook
    rule: Rule | None
    """None: it is no rule of ours, or in a chain whose owner is known."""
    in_tree: bool
    """It is about a chain that leads to the Services."""
    with_chain: bool = False
    """The rule goes because its chain does, which is a change of its own."""

    @property
    def gate(self) -> Address | None:
        """The pod that the rule lets through, if it is one that leads a single address on."""
        rule = self.rule
        if rule is None or rule.target.verb is not Verb.GOTO or rule.source is None or not self.in_tree:
            return None
        return rule.source.network_address if rule.source.num_addresses == 1 else None


def _read(changes: Iterable[Change], chains: Collection[str]) -> Iterator[_Step]:
    """`chains`: those of the Services."""
    for change in changes:
        told = change.rule if change.chain not in chains and change.chain not in HOOK_CHAINS else None
        yield _Step(
            change,
            hook_of(change),
            parse(told) if told is not None else None,
            in_tree=layout.is_dispatch_chain(change.chain),
        )


def _lost_with_chains(changes: Iterable[Change], found: Snapshot) -> Iterator[_Step]:
    """The rules of dispatch chains that go: some of them come back in another one."""
    for change in changes:
        if change.rule is None and layout.is_dispatch_chain(change.chain):
            hook = hook_of(change)
            for each in found.chains.get(change.chain, ()):
                gone = Change(change.chain, "remove", each.text, table=change.table)
                yield _Step(gone, hook, each.rule, in_tree=True, with_chain=True)


class _Moves(NamedTuple):
    """What is in another dispatch chain from now on."""

    rules: frozenset[tuple[Hook, Rule]]
    gates: frozenset[tuple[Hook, Address]]
    """Those that lead to another chain, because there is a new one, or theirs has gone."""

    @classmethod
    def of(cls, steps: Iterable[_Step]) -> _Moves:
        """A gate that leads elsewhere, although there are the same chains, has been changed by somebody."""
        steps = [step for step in steps if step.in_tree]
        come = [step for step in steps if step.change.op == "add"]
        go = [step for step in steps if step.change.op == "remove"]
        if not come or not go:
            return cls(frozenset(), frozenset())
        new = {step.change.chain for step in come if step.change.new_chain}
        gone = {step.change.chain for step in go if step.with_chain}
        to, was = _gates(come), _gates(go)
        return cls(
            rules=frozenset(_rules(come) & _rules(go)),
            gates=frozenset(key for key in to.keys() & was.keys() if to[key] in new or was[key] in gone),
        )

    def has(self, step: _Step) -> bool:
        """Whether a change is part of a move."""
        same = step.in_tree and step.rule is not None and (step.hook, step.rule) in self.rules
        return same or (step.gate is not None and (step.hook, step.gate) in self.gates)


def _rules(steps: Iterable[_Step]) -> set[tuple[Hook, Rule]]:
    return {(step.hook, step.rule) for step in steps if step.rule is not None}


def _gates(steps: Iterable[_Step]) -> dict[tuple[Hook, Address], str | None]:
    """Where each gate leads."""
    return {(step.hook, step.gate): step.rule.target.chain for step in steps if step.rule and step.gate}


def _refs(target: Target, installed: Installed) -> frozenset[ServiceRef]:
    return installed.refs | target.rewrites.refs | target.drops.refs


def _leads(
    target: Target, installed: Installed, pods: Collection[Address]
) -> dict[tuple[Hook, Address], set[ServiceRef]]:
    """The Services that each of these pods is led to behind each hook, now or in the end."""
    if not pods:
        return {}
    # All pods of the node are looked at: as numbers they are told apart in a fifth of the time.
    asked = set(map(int, pods))
    guards = (item for item, _ in installed.guards)
    marks = (item for item, _ in installed.marks)
    jumps = {
        Hook.EGRESS: (*target.entries, *installed.entries),
        Hook.DROP: (
            *target.drops.entries,
            *installed.drops.entries,
            *guarded(target, installed),
            *guards,
        ),
        Hook.MARK: (*marked(target, installed), *marks),
    }
    leads: dict[tuple[Hook, Address], set[ServiceRef]] = defaultdict(set)
    for hook, items in jumps.items():
        for item in items:
            if int(item.address) in asked:
                leads[hook, item.address].add(item.rank.ref)
    return leads


def _owners(rule: Rule) -> set[ServiceRef]:
    owner = _owner(rule)
    return set() if owner is None else {owner}


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
