"""The rules for a target in two steps, so that a kill in between loses nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from kvctl.model.memo import Last
from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPolicy, Exclusion
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Hook, Rule, Ruleset, Table
from kvctl.model.snapshot import Snapshot
from kvctl.policy import comments, layout
from kvctl.policy.compile import (
    HOOKS,
    Aside,
    Entry,
    by_address,
    compile_dispatch,
    compile_drop_dispatch,
    compile_mark_dispatch,
    exclusion_rules,
    guards_of,
    marks_of,
    mask_of,
)
from kvctl.policy.compile import NOTHING as NO_ASIDE
from kvctl.policy.decode import Installed, Part, Retiring
from kvctl.policy.service_chains import compile_drop, compile_service
from kvctl.reconcile.target import NOTHING, Share, Target


class Rulesets(NamedTuple):
    """A target as rules, in two steps, so that a kill in between loses nothing.

    In the first mangle is written before nat, in the second after it: what is to be dropped is dropped before
    it is rewritten no more, and until it is rewritten.
    """

    first: Ruleset
    """With all that is dropped now or in the end, and marks that name the VIPs whose connections are to be dropped."""
    final: Ruleset


FIRST_ORDER = (Table.MANGLE, Table.NAT)
FINAL_ORDER = (Table.NAT, Table.MANGLE)


def rulesets(target: Target, installed: Installed, snapshot: Snapshot, *, retire: bool) -> Rulesets:
    """The rules for `target`; without `retire` nothing is marked."""
    final = _nat_ruleset(target, installed, snapshot)
    first = _marked(final, target, installed) if retire else final
    share = _still_dropped(target, installed)
    policies = _policies_of(target.rewrites, installed)
    aside = any(policy.fence or policy.mark for policy in policies)
    if not share.refs and not aside and not installed.guards and not installed.marks:
        return Rulesets(first=first, final=final)
    before = by_address([s.policy for s in installed.services.values() if s.policy], installed.entries)
    after = by_address(policies, target.entries)
    both = _in_both(before, after)
    guards = guards_of(policies, target.entries, both)
    first = _joined(
        first,
        target,
        share,
        both,
        coming=_coming(target, installed),
        guards=_and_found(guards, installed.guards),
    )
    final = _joined(final, target, target.drops, after, guards=guards_of(policies, target.entries, after))
    marks = marks_of(policies, target.entries, after)
    found = [service.policy for service in installed.services.values() if service.policy is not None]
    mask = mask_of(policies)
    return Rulesets(
        first=_still_there(
            _marking(first, target, _and_found(marks, installed.marks), mask=mask | mask_of(found)), snapshot
        ),
        final=_marking(final, target, marks, mask=mask),
    )


def guarded(target: Target, installed: Installed) -> list[Entry]:
    """The jumps in nat of pods that are guarded in mangle too."""
    return _entries_with(target, installed, attrgetter("fence"))


def marked(target: Target, installed: Installed) -> list[Entry]:
    """The jumps in nat of pods whose traffic is marked in mangle."""
    return _entries_with(target, installed, attrgetter("mark"))


def _entries_with(target: Target, installed: Installed, has: Callable[[EgressPolicy], object]) -> list[Entry]:
    refs = {policy.ref for policy in filter(has, _policies_of(target.rewrites, installed))}
    return [item for item in target.entries if item.rank.ref in refs] if refs else []


def _and_found(wanted: Aside, found: Iterable[tuple[Entry, str]]) -> Aside:
    """With what is in place: connections that are still to be dropped stay guarded, and on their way, till then.

    What is in place comes first, so that of two marks the wanted one stays.
    """
    return wanted._replace(jumps=tuple(dict.fromkeys((*found, *wanted.jumps))))


def _marking(ruleset: Ruleset, target: Target, marks: Aside, *, mask: int) -> Ruleset:
    """The rules, with those that mark."""
    if not marks.jumps:
        return ruleset
    chains = compile_mark_dispatch(family=target.family, marks=marks, exclusions=target.exclusions, mask=mask)
    return ruleset._replace(
        hooks={**ruleset.hooks, Hook.MARK: HOOKS[Hook.MARK]}, chains={**ruleset.chains, **chains}
    )


def _still_there(first: Ruleset, snapshot: Snapshot) -> Ruleset:
    """With the chains that jumps in place lead to. Their names tell their content, so new ones are others."""
    todo = [rule.target.chain for rules in first.chains.values() for rule in rules if rule.target.chain]
    untouched = set(first.untouched)
    while todo:
        chain = todo.pop()
        if layout.is_content_named(chain) and chain not in first.chains and chain not in untouched:
            untouched.add(chain)
            found = snapshot.chains.get(chain, ())
            todo += [item.rule.target.chain for item in found if item.rule and item.rule.target.chain]
    return first._replace(untouched=frozenset(untouched))


def _marked(rewriting: Ruleset, target: Target, installed: Installed) -> Ruleset:
    marks = _marks(target, installed)
    if not marks:
        return rewriting
    chains = dict(rewriting.chains)
    for ref, rules in marks.items():
        chain = layout.service_chain(ref)
        if chain in rewriting.untouched:
            continue
        chains[chain] = (*chains.get(chain, ()), *rules)
    root = layout.REWRITING.root
    if root not in chains:
        # The excluded networks say which addresses are pods: after a kill that is how their connections are found.
        chains[root] = exclusion_rules(installed.exclusions)
    return rewriting._replace(chains=chains)


def _nat_ruleset(target: Target, installed: Installed, snapshot: Snapshot) -> Ruleset:
    asked = _rewriting(target.family, target.policies, target.entries, target.exclusions)
    if not target.held:
        return asked
    chains = dict(asked.chains)
    untouched: set[str] = set()
    marked = {retiring.ref for retiring in installed.retiring}
    has_out = any(map(layout.REWRITING.is_out, snapshot.chains))  # else nobody need hash their names
    for ref in target.held:
        for chain in (layout.service_chain(ref), *((layout.out_chain(ref),) if has_out else ())):
            bare = _without_marks(chain, snapshot) if ref in marked else None
            if bare is not None:
                chains[chain] = bare
            else:
                untouched.add(chain)
    if not target.entries:
        chains[layout.REWRITING.root] = exclusion_rules(target.exclusions)
    return asked._replace(chains=chains, untouched=frozenset(untouched))


def _compiled(
    family: Family,
    policies: Sequence[EgressPolicy],
    entries: Sequence[Entry],
    exclusions: Sequence[Exclusion],
) -> Ruleset:
    chains: dict[str, tuple[Rule, ...]] = {}
    for policy in policies:
        chains.update(compile_service(policy))
    chains.update(compile_dispatch(family=family, entries=entries, exclusions=exclusions))
    if not entries and policies:
        # Services whose pods have all gone keep their rules, and the networks that those rules rely on.
        chains[layout.REWRITING.root] = exclusion_rules(exclusions)
    hooks = {Hook.EGRESS: HOOKS[Hook.EGRESS]} if entries else {}
    return Ruleset(family=family, hooks=hooks, chains=chains)


_rewriting = Last(_compiled)
"""Of the same target there is one: it is asked for before a write, after it, and for what is told of both."""


def _joined(
    rewriting: Ruleset,
    target: Target,
    drops: Share,
    rewritten: Mapping[Address, Sequence[EgressPolicy]],
    *,
    coming: Share = NOTHING,
    guards: Aside = NO_ASIDE,
) -> Ruleset:
    """The rules of nat, and beside them those that drop."""
    if not drops.refs and not guards.jumps:
        return rewriting
    chains = dict(rewriting.chains)
    for policy in drops.policies:
        chains.update(compile_drop(policy))
    for policy in coming.policies:
        chains.update(compile_drop(policy, layout.COMING))
    names = layout.DROPPING
    untouched = {chain for ref in drops.held for chain in (names.service_chain(ref), names.out_chain(ref))}
    chains.update(
        compile_drop_dispatch(
            family=target.family,
            entries=drops.entries,
            exclusions=target.exclusions,
            rewritten=rewritten,
            coming=coming.entries,
            guards=guards,
        )
    )
    leads = drops.entries or guards.jumps
    if not leads:
        chains[names.root] = exclusion_rules(target.exclusions)
    hooks = {Hook.DROP: HOOKS[Hook.DROP]} if leads else {}
    return rewriting._replace(
        hooks={**rewriting.hooks, **hooks}, chains=chains, untouched=rewriting.untouched | untouched
    )


def _still_dropped(target: Target, installed: Installed) -> Share:
    """What is dropped now as it is, and what will be dropped, but for what `_coming` is for."""
    found, coming = installed.drops, _coming(target, installed)
    policies = tuple(policy for policy in target.drops.policies if policy not in coming.policies)
    written = {policy.ref for policy in policies}
    wanted = [item for item in target.drops.entries if item not in coming.entries]
    places = {(item.address, item.rank.ref) for item in wanted}
    return Share(
        policies=policies,
        held=target.drops.held.union(ref for ref in found.services if ref not in written),
        entries=(
            *wanted,
            *(item for item in found.entries if (item.address, item.rank.ref) not in places),
        ),
    )


def _coming(target: Target, installed: Installed) -> Share:
    """What will be dropped of Services of which something else is dropped now: for a moment both is."""
    found = installed.drops.services
    changed = {
        policy.ref: policy
        for policy in target.drops.policies
        if policy.ref in found and not _is_same(policy, found[policy.ref].policy)
    }
    entries = tuple(item for item in target.drops.entries if item.rank.ref in changed) if changed else ()
    return Share(policies=tuple(changed.values()), entries=entries)


def _is_same(policy: EgressPolicy, found: EgressPolicy | None) -> bool:
    return found is not None and (_matches(policy), policy.rank) == (_matches(found), found.rank)


def _policies_of(share: Share, installed: Part) -> list[EgressPolicy]:
    """The policies of a share, those of held Services as the kernel has them."""
    found = [installed.services[ref].policy for ref in share.held if ref in installed.services]
    return [*share.policies, *(policy for policy in found if policy is not None)]


def _in_both(
    before: Mapping[Address, Sequence[EgressPolicy]], after: Mapping[Address, Sequence[EgressPolicy]]
) -> Mapping[Address, Sequence[EgressPolicy]]:
    """The policies by which each address is rewritten already, and still will be: they alone may let pass."""
    taken = {address: {_matches(policy) for policy in policies} for address, policies in before.items()}
    return {
        address: [policy for policy in policies if _matches(policy) in taken.get(address, ())]
        for address, policies in after.items()
    }


def _matches(policy: EgressPolicy) -> tuple[object, ...]:
    """What of a policy decides which packets are its own."""
    return (policy.ref, policy.ports, policy.allowed, policy.denied)


def _without_marks(chain: str, snapshot: Snapshot) -> tuple[Rule, ...] | None:
    """A chain's rules but for retiring marks, if every rule in it is one that can be written again."""
    found = snapshot.chains.get(chain, ())
    rules = [item.rule for item in found if item.rule is not None]
    if not found or len(rules) != len(found):
        return None
    bare = tuple(rule for rule in rules if comments.read_retiring(rule) is None)
    return bare if bare and len(bare) < len(rules) else None


def _marks(target: Target, installed: Installed) -> dict[ServiceRef, list[Rule]]:
    """The VIPs that go, by Service: those of rules that go or change, and those marked by a run that was cut off."""
    staying = {policy.ref: (policy.vip,) for policy in target.policies}
    going = {Retiring(r.ref, r.vip): None for r in installed.retiring}
    for ref, service in installed.services.items():
        vips = staying.get(ref, ())
        if vips != service.vips and ref not in target.held:
            going |= {Retiring(ref, vip): None for vip in service.vips}
    marks: dict[ServiceRef, list[Rule]] = {}
    for retiring in going:
        if retiring.vip not in staying.get(retiring.ref, ()):
            mark = comments.retiring_rule(retiring.ref, retiring.vip)
            marks.setdefault(retiring.ref, []).append(mark)
    return marks
