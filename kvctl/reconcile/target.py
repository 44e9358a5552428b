"""What one family of the kernel should hold in the end, and the rules for it in two steps. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPolicy, Exclusion
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import EGRESS_CHAIN, Rule, Ruleset
from kvctl.model.snapshot import Snapshot
from kvctl.policy import layout
from kvctl.policy.compile import HOOK, Entry, compile_dispatch, compile_service, exclusion_rules
from kvctl.policy.decode import Installed, Retiring

if TYPE_CHECKING:
    from kvctl.policy.verdict import Skipped


class Scope(NamedTuple):
    """Which Services a run is about."""

    named: frozenset[ServiceRef] | None = None
    """None: all of them."""
    prune: bool = False
    """Services that are absent from the source go."""

    def covers(self, ref: ServiceRef) -> bool:
        """Whether `ref` may be changed by this run."""
        return self.named is None or ref in self.named


class Target(NamedTuple):
    """What a family should hold in the end."""

    family: Family
    policies: tuple[EgressPolicy, ...] = ()
    """Services whose chains are written."""
    held: frozenset[ServiceRef] = frozenset()
    """Services whose chains stay as they are in the kernel."""
    entries: tuple[Entry, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    lost: Mapping[ServiceRef, str] = {}
    """Services that lose the rules they have, and why."""
    kept: Mapping[ServiceRef, Skipped] = {}
    """Services whose input is faulty and whose rules stay."""
    orphans: frozenset[ServiceRef] = frozenset()
    """Services in the kernel that are absent from the source and stay."""


def without(installed: Installed, refs: Collection[ServiceRef] | None) -> Target:
    """The target of `flush`: everything installed but `refs` (None: nothing at all stays)."""
    going = frozenset(installed.services) if refs is None else frozenset(refs)
    return Target(
        family=installed.family,
        held=frozenset(ref for ref in installed.services if ref not in going),
        entries=tuple(item for item in installed.entries if item.rank.ref not in going),
        exclusions=installed.exclusions,
        lost={ref: "flushed" for ref in installed.services if ref in going},
    )


def as_it_is(installed: Installed) -> Target:
    """The target of a look at the kernel alone: what is there, as this version of kvctl writes it."""
    services = installed.services
    policies = [s.policy for s in services.values() if s.policy is not None and not s.intact]
    return Target(
        family=installed.family,
        policies=tuple(policies),
        held=frozenset(ref for ref, s in services.items() if s.policy is None or s.intact),
        entries=installed.entries,
        exclusions=installed.exclusions,
    )


class Rulesets(NamedTuple):
    """A target as rules, in two steps, so that a kill in between loses nothing."""

    first: Ruleset
    """With marks that name the VIPs whose connections are still to be dropped."""
    final: Ruleset


def rulesets(target: Target, installed: Installed, snapshot: Snapshot, *, retire: bool) -> Rulesets:
    """The rules for `target`; without `retire` both steps are the same and nothing is marked."""
    final = _final_ruleset(target, installed, snapshot)
    if not retire:
        return Rulesets(first=final, final=final)
    chains = dict(final.chains)
    untouched = set(final.untouched)
    marks = _marks(target, installed)
    for ref, rules in marks.items():
        chain = layout.service_chain(ref)
        if chain in untouched:
            continue
        chains[chain] = (*chains.get(chain, ()), *rules)
    if marks and EGRESS_CHAIN not in chains:
        # The excluded networks say which addresses are pods: after a kill that is how their connections are found.
        chains[EGRESS_CHAIN] = exclusion_rules(installed.exclusions)
    return Rulesets(first=final._replace(chains=chains), final=final)


def _final_ruleset(target: Target, installed: Installed, snapshot: Snapshot) -> Ruleset:
    chains: dict[str, tuple[Rule, ...]] = {}
    for policy in target.policies:
        chains.update(compile_service(policy))
    untouched: set[str] = set()
    marked = {retiring.ref for retiring in installed.retiring}
    for ref in target.held:
        for chain in (layout.service_chain(ref), layout.out_chain(ref)):
            bare = _without_marks(chain, snapshot) if ref in marked else None
            if bare is not None:
                chains[chain] = bare
            else:
                untouched.add(chain)
    chains.update(
        compile_dispatch(family=target.family, entries=target.entries, exclusions=target.exclusions)
    )
    if not target.entries and (target.policies or target.held):
        # Services whose pods have all gone keep their rules, and the networks that those rules rely on.
        chains[EGRESS_CHAIN] = exclusion_rules(target.exclusions)
    return Ruleset(
        family=target.family,
        hook=HOOK if target.entries else None,
        chains=chains,
        untouched=frozenset(untouched),
    )


def _without_marks(chain: str, snapshot: Snapshot) -> tuple[Rule, ...] | None:
    """A chain's rules but for retiring marks, if every rule in it is one that can be written again."""
    found = snapshot.chains.get(chain, ())
    rules = [item.rule for item in found if item.rule is not None]
    if not found or len(rules) != len(found):
        return None
    bare = tuple(rule for rule in rules if layout.read_retiring(rule) is None)
    return bare if bare and len(bare) < len(rules) else None


def _marks(target: Target, installed: Installed) -> dict[ServiceRef, list[Rule]]:
    """The VIPs that go, by Service: those of rules that go or change, and those marked by a run that was cut off."""
    staying: dict[ServiceRef, set[Address]] = {policy.ref: {policy.vip} for policy in target.policies}
    going = {Retiring(r.ref, r.vip): None for r in installed.retiring}
    for ref, service in installed.services.items():
        if ref not in target.held:
            going |= {Retiring(ref, vip): None for vip in service.vips}
    marks: dict[ServiceRef, list[Rule]] = {}
    for retiring in going:
        if retiring.vip not in staying.get(retiring.ref, ()):
            mark = layout.retiring_rule(retiring.ref, retiring.vip)
            marks.setdefault(retiring.ref, []).append(mark)
    return marks
