"""From policies to rules: the only place that spells one.

Only the first packet of a connection meets the nat table, so the rewriting costs established
connections nothing. What is dropped is dropped in mangle, which comes before nat and sees every packet.
What each chain is for is told in `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import groupby
from operator import itemgetter, or_
from typing import NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Address, Family, host_network
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, ExclusionKind, Rank
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import RETURN, Hook, Rule, Ruleset, Target, Verb
from kvctl.policy import comments, layout
from kvctl.policy.prefixes import Pod, tree
from kvctl.policy.service_chains import (
    Passing,
    compile_drop,
    compile_guards,
    compile_marks,
    compile_passing,
    compile_service,
    restore_rule,
)

HOOK = Rule(comment=comments.comment("egress"), target=Target(verb=Verb.JUMP, chain=Hook.EGRESS.root))
"""Our jump in POSTROUTING of nat."""

DROP_HOOK = Rule(
    comment=comments.comment("drop"), target=Target(verb=Verb.JUMP, chain=Hook.DROP.root), asked_only=True
)
"""Our jump in POSTROUTING of mangle. What answers a connection from outside has to pass."""

MARK_HOOK = Rule(
    comment=comments.comment("mark"), target=Target(verb=Verb.JUMP, chain=Hook.MARK.root), asked_only=True
)
"""Our jump in PREROUTING of mangle. Answers go back the way that their connection came."""

HOOKS: Mapping[Hook, Rule] = {Hook.EGRESS: HOOK, Hook.DROP: DROP_HOOK, Hook.MARK: MARK_HOOK}
"""Our jumps."""


class Entry(NamedTuple):
    """A pod's jump to the chain of one of its Services."""

    address: Address
    rank: Rank
    label: str


class Aside(NamedTuple):
    """What goes with rewriting, for some pods: what drops while heartbeats are late, or what marks."""

    jumps: tuple[tuple[Entry, str], ...] = ()
    """Jumps of pods, each with the chain that it leads to."""
    chains: Mapping[str, tuple[Rule, ...]] = {}


NOTHING = Aside()


def entries_of(policy: EgressPolicy) -> tuple[Entry, ...]:
    """The jumps of a policy's pods."""

    def make() -> tuple[Entry, ...]:
        rank = policy.rank
        return tuple(entry(rank, pod) for pod in policy.pods)

    return _entries.get((policy.ref, policy.family), (policy,), make)


_entries: ByKey[tuple[ServiceRef, Family], tuple[Entry, ...]] = ByKey()


def entry(rank: Rank, pod: EgressPod) -> Entry:
    """One pod's jump."""
    return Entry(address=pod.address, rank=rank, label=pod.label)


def compile_ruleset(
    *,
    family: Family,
    policies: Iterable[EgressPolicy],
    exclusions: Sequence[Exclusion],
    dropped: Iterable[EgressPolicy] = (),
) -> Ruleset:
    """The rules of one family for these policies alone, of which some are dropped."""
    policies, dropped = list(policies), list(dropped)
    chains: dict[str, tuple[Rule, ...]] = {}
    for policy in policies:
        chains.update(compile_service(policy))
    for policy in dropped:
        chains.update(compile_drop(policy))
    entries = [item for policy in policies for item in entries_of(policy)]
    chains.update(compile_dispatch(family=family, entries=entries, exclusions=exclusions))
    drops = [item for policy in dropped for item in entries_of(policy)]
    rewritten = by_address(policies, entries)
    guards = guards_of(policies, entries, rewritten)
    chains.update(
        compile_drop_dispatch(
            family=family, entries=drops, exclusions=exclusions, rewritten=rewritten, guards=guards
        )
    )
    marks = marks_of(policies, entries, rewritten)
    chains.update(
        compile_mark_dispatch(family=family, marks=marks, exclusions=exclusions, mask=mask_of(policies))
    )
    used = ((Hook.EGRESS, entries), (Hook.DROP, drops or guards.jumps), (Hook.MARK, marks.jumps))
    hooks = {hook: HOOKS[hook] for hook, there in used if there}
    return Ruleset(family=family, hooks=hooks, chains=chains)


def by_address(
    policies: Iterable[EgressPolicy], entries: Iterable[Entry]
) -> dict[Address, list[EgressPolicy]]:
    """Which of `policies` each address has by `entries`, highest rank first."""
    known = {policy.ref: policy for policy in policies}
    found: dict[Address, list[EgressPolicy]] = {}
    for item in sorted(entries, key=lambda each: each.rank):
        if item.rank.ref in known:
            found.setdefault(item.address, []).append(known[item.rank.ref])
    return found


def jumps_of(entries: Iterable[Entry]) -> list[tuple[Entry, Rule]]:
    """The rules that lead these pods to the chains that rewrite."""
    return [(item, _jump(item, layout.service_chain(item.rank.ref))) for item in entries]


def compile_dispatch(
    *, family: Family, entries: Iterable[Entry], exclusions: Sequence[Exclusion]
) -> Mapping[str, tuple[Rule, ...]]:
    """The chains from the hook to the Services: one, or a tree of prefixes; empty without entries."""
    return _compile_tree(family, jumps_of(entries), exclusion_rules(exclusions), layout.REWRITING)


def compile_drop_dispatch(
    *,
    family: Family,
    entries: Iterable[Entry],
    exclusions: Sequence[Exclusion],
    rewritten: Mapping[Address, Sequence[EgressPolicy]],
    coming: Iterable[Entry] = (),
    guards: Aside = NOTHING,
) -> dict[str, tuple[Rule, ...]]:
    """The same for what is dropped; `rewritten`: the policies of each pod that are not, highest rank first.

    `coming`: jumps to the chains of `layout.COMING`. `guards`: what is dropped only while heartbeats are late.
    A pod meets its Services by rank, but nothing depends on it: each drops, or returns what is not its own to drop.
    """
    chains: dict[str, tuple[Rule, ...]] = {}
    jumps: list[tuple[Entry, Rule]] = []
    for names, its in ((layout.DROPPING, entries), (layout.COMING, coming)):
        for item in its:
            passing = _passing(item, rewritten, names.service_chain(item.rank.ref))
            chains.update(passing.chains)
            text = comments.coming_text if names is layout.COMING else comments.pod_text
            jumps.append((item, _jump(item, passing.chain, text)))
    chains.update(guards.chains)
    jumps += [(item, _jump(item, chain, comments.guard_pod_text)) for item, chain in guards.jumps]
    chains.update(_compile_tree(family, jumps, exclusion_rules(exclusions), layout.DROPPING))
    return chains


def _passing(item: Entry, rewritten: Mapping[Address, Sequence[EgressPolicy]], end: str) -> Passing:
    before = [policy for policy in rewritten.get(item.address, ()) if policy.rank < item.rank]
    return compile_passing(before, item.rank.ref, end)


def guards_of(
    policies: Iterable[EgressPolicy],
    entries: Iterable[Entry],
    rewritten: Mapping[Address, Sequence[EgressPolicy]],
) -> Aside:
    """What guards the fenced ones of `policies` for their pods by `entries`; `rewritten`: as for what is dropped."""
    found = {policy.ref: compile_guards(policy) for policy in policies if policy.fence is not None}
    if not found:
        return NOTHING
    jumps: dict[tuple[Entry, str], None] = {}
    chains: dict[str, tuple[Rule, ...]] = {}
    for item in entries:
        guards = found.get(item.rank.ref)
        if guards is None or guards.established is None:
            continue
        jumps[item, guards.established] = None
        chains.update(guards.chains)
        if guards.late is not None:
            passing = _passing(item, rewritten, guards.late)
            jumps[item, passing.chain] = None
            chains.update(passing.chains)
    return Aside(jumps=tuple(jumps), chains=chains)


def marks_of(
    policies: Iterable[EgressPolicy],
    entries: Iterable[Entry],
    rewritten: Mapping[Address, Sequence[EgressPolicy]],
) -> Aside:
    """What marks the traffic of those of `policies` that have a mark; `rewritten`: the policies of each pod."""
    found = {policy.ref: policy for policy in policies if policy.mark is not None}
    if not found:
        return NOTHING
    jumps: dict[tuple[Entry, str], None] = {}
    chains: dict[str, tuple[Rule, ...]] = {}
    for item in entries:
        policy = found.get(item.rank.ref)
        marks = compile_marks(policy) if policy is not None else None
        if policy is None or marks is None or marks.chain is None:
            continue
        # What others take goes another way, unless that is the same.
        others = [p for p in rewritten.get(item.address, ()) if p.mark != policy.mark]
        passing = _passing(item, {item.address: others}, marks.chain)
        jumps[item, passing.chain] = None
        chains.update(marks.chains)
        chains.update(passing.chains)
    return Aside(jumps=tuple(jumps), chains=chains)


def mask_of(policies: Iterable[EgressPolicy]) -> int:
    """The bits of all marks of these policies."""
    return reduce(or_, (policy.mark.mask for policy in policies if policy.mark is not None), 0)


def compile_mark_dispatch(
    *, family: Family, marks: Aside, exclusions: Sequence[Exclusion], mask: int
) -> dict[str, tuple[Rule, ...]]:
    """The chains from the hook before the routing to what marks; empty without `marks`.

    There a packet still goes where its pod aimed, before any DNAT.
    """
    jumps = [(item, _jump(item, chain, comments.mark_pod_text)) for item, chain in marks.jumps]
    if not jumps:
        return {}
    head = tuple(rule for rule in exclusion_rules(exclusions) if rule.destination is not None)
    chains = _compile_tree(family, jumps, head, layout.MARKING)
    root = layout.MARKING.root
    return {**chains, **marks.chains, root: (restore_rule(mask), *chains[root])}


def _compile_tree(
    family: Family, jumps: Iterable[tuple[Entry, Rule]], head: tuple[Rule, ...], names: layout.Names
) -> Mapping[str, tuple[Rule, ...]]:
    pods: list[Pod] = []
    ranked = [(int(item.address), item, jump) for item, jump in jumps]
    for number, group in groupby(sorted(ranked, key=itemgetter(0)), key=itemgetter(0)):
        its = sorted(group, key=lambda each: each[1].rank)
        pods.append(Pod(number, its[0][1].address, [jump for _, _, jump in its]))
    return tree(family, pods, head=head, names=names) if pods else {}


def exclusion_rules(exclusions: Iterable[Exclusion]) -> tuple[Rule, ...]:
    """What stands at the head of every chain that leads pods to Services."""
    return tuple(rule for exclusion in exclusions for rule in _exclusion_rules(exclusion))


@lru_cache(maxsize=4096)
def _exclusion_rules(exclusion: Exclusion) -> tuple[Rule, ...]:
    """Where the packet goes now, after DNAT, and where the pod aimed, before it.

    Nobody translates what goes to a group, and to ask conntrack takes five times as long as to look at the packet.
    """
    text = comments.comment(comments.exclude_text(exclusion), exclusion.network)
    now = Rule(comment=text, target=RETURN, destination=exclusion.network)
    if exclusion.kind is ExclusionKind.MULTICAST:
        return (now,)
    return now, Rule(comment=text, target=RETURN, original_destination=exclusion.network)


@lru_cache(maxsize=65536)
def _jump(item: Entry, chain: str, text: Callable[[Rank, str], str] = comments.pod_text) -> Rule:
    source = host_network(item.address)
    return Rule(
        comment=comments.comment(text(item.rank, item.label), source),
        target=Target(verb=Verb.JUMP, chain=chain),
        source=source,
    )


def pod_of(item: Entry) -> EgressPod:
    """The pod of an entry that was read back from the kernel."""
    return EgressPod.labelled(item.address, label=item.label)
