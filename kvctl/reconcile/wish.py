"""What the source wants of this node: for each Service that is wanted or installed, what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.memo import Last
from kvctl.model.net import Family, within
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, ExclusionKind, WithoutVip, canonical
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Table
from kvctl.model.settings import Settings
from kvctl.policy.compile import Entry, entries_of, entry, pod_of
from kvctl.policy.decode import Installed, InstalledService
from kvctl.policy.faults import claim_lost, endpoint_refusal
from kvctl.policy.holder import not_here
from kvctl.policy.pods import members
from kvctl.policy.resolution import Resolution
from kvctl.policy.verdict import Fate, Skipped
from kvctl.reconcile.expected import Expected, expect
from kvctl.reconcile.target import Scope, Share, Target, without


@dataclass(frozen=True)
class Wish:
    """What the source wants of this node."""

    resolution: Resolution
    scope: Scope
    settings: Settings
    host: Host

    def target(self, installed: Installed, other: Installed | None) -> Target:
        """The target of the back end in use; `other`: what the other one held when it was looked at."""
        return self._targets(installed, other)

    def expected(self, family: Family) -> Expected:
        """What a family of the back end in use holds if nothing has changed since the last run."""
        policies = _asked(self.resolution, family, self.scope)[Table.NAT].policies
        return expect(family, policies, self.resolution.networks.exclusions[family])

    def leaves(self, installed: Installed) -> Target:
        """The target of the back end not in use: nothing of what this run is about."""
        return self._leaving(installed)

    @cached_property
    def _targets(self) -> Callable[[Installed, Installed | None], Target]:
        def target(installed: Installed, other: Installed | None) -> Target:
            return build_target(
                self.resolution,
                installed,
                other=other,
                scope=self.scope,
                settings=self.settings,
                host=self.host,
            )

        return Last(target)

    @cached_property
    def _leaving(self) -> Callable[[Installed], Target]:
        return Last(lambda installed: without(installed, self.scope.named))


def build_target(
    resolution: Resolution,
    installed: Installed,
    *,
    other: Installed | None = None,
    scope: Scope,
    settings: Settings,
    host: Host | None,
) -> Target:
    """Decide about every Service that is wanted, or installed in this family in either back end.

    `other`: what the back end that is not in use holds; what of it stays is written into the one in use.
    Raises KvctlError when a run for single Services would change the excluded networks of the others.
    """
    family = installed.family
    asked = _asked(resolution, family, scope)
    decided = {policy.ref for its in asked.values() for policy in its.policies}
    policies: dict[Table, list[EgressPolicy]] = {table: [] for table in Table}
    entries: dict[Table, list[Entry]] = {table: [] for table in Table}
    held: dict[Table, set[ServiceRef]] = {table: set() for table in Table}
    verdicts = _Verdicts(resolution, scope, settings, host, family)
    for ref in sorted(installed.refs - decided):
        for stay in verdicts.judge(ref, installed):
            entries[stay.table] += stay.entries
            if stay.moves:
                policies[stay.table].append(stay.policy())
            else:
                held[stay.table].add(ref)
    for ref in sorted(other.refs - decided - installed.refs) if other is not None else ():
        if other is None or not scope.covers(ref):
            continue
        for stay in verdicts.judge(ref, other):
            if stay.service.policy is not None:
                policies[stay.table].append(stay.policy())
                entries[stay.table] += stay.entries
    settle = bool(any(held.values()) or verdicts.kept or verdicts.orphans)
    shares = {
        table: asked[table].and_more(policies[table], held=held[table], entries=entries[table])
        for table in Table
    }
    rewrites = shares[Table.NAT]
    return Target(
        family=family,
        policies=rewrites.policies,
        held=rewrites.held,
        entries=rewrites.entries,
        drops=shares[Table.MANGLE],
        exclusions=_exclusions(resolution, installed, other, scope, settle=settle),
        lost=verdicts.lost,
        kept=verdicts.kept,
        orphans=frozenset(verdicts.orphans),
    )


def _asked(resolution: Resolution, family: Family, scope: Scope) -> Mapping[Table, Share]:
    """What the source asks for; of all Services its own tuples, by which it is known again without a look inside."""
    rewrites, drops = resolution.policies(family), resolution.drops(family)
    if scope.named is None:
        return {Table.NAT: Share(rewrites, entries=resolution.entries(family)), Table.MANGLE: _share(drops)}
    return {
        table: _share(tuple(policy for policy in its if scope.covers(policy.ref)))
        for table, its in ((Table.NAT, rewrites), (Table.MANGLE, drops))
    }


def _share(policies: tuple[EgressPolicy, ...]) -> Share:
    return Share(policies, entries=tuple(item for policy in policies for item in entries_of(policy)))


class _Stay(NamedTuple):
    """Rules of a Service that stay, or stay in the other table: then they are written there by what was found."""

    table: Table
    found_in: Table
    service: InstalledService
    entries: list[Entry]

    @property
    def moves(self) -> bool:
        """Whether they change their table."""
        return self.table is not self.found_in

    def policy(self) -> EgressPolicy:
        """The policy that the rules were written by, for the pods that stay."""
        assert self.service.policy is not None
        return self.service.policy._replace(pods=tuple(map(pod_of, self.entries)))


@dataclass
class _Verdicts:
    """Judges installed Services that get no new rules, and remembers what becomes of them."""

    resolution: Resolution
    scope: Scope
    settings: Settings
    host: Host | None
    family: Family
    lost: dict[ServiceRef, str] = field(default_factory=dict)
    kept: dict[ServiceRef, Skipped] = field(default_factory=dict)
    orphans: set[ServiceRef] = field(default_factory=set)

    def judge(self, ref: ServiceRef, installed: Installed) -> list[_Stay]:
        """What stays of a Service's rules; nothing: the Service loses them."""
        parts = ((Table.NAT, installed), (Table.MANGLE, installed.drops))
        found = [
            _Stay(table, table, part.services[ref], part.entries_of(ref))
            for table, part in parts
            if ref in part.services
        ]
        if not self.scope.covers(ref):
            return found
        if ref not in self.resolution.present:
            return self._judge_absent(ref, found)
        skip = _skip_of(ref, self.resolution, self.family)
        if skip is None:
            self.lost[ref] = _not_asked(self.resolution, ref, installed.family)
        elif skip.fate is Fate.LOSE:
            self.lost[ref] = skip.reason
        else:
            stay = self._judge_faulty(skip, found)
            return [stay] if stay is not None else []
        return []

    def _judge_absent(self, ref: ServiceRef, found: list[_Stay]) -> list[_Stay]:
        """A Service that the source does not have: it stays unless pruned, but not with another tenant's pods."""
        if self.scope.prune and not self.resolution.unidentified:
            self.lost[ref] = "not in the source (--prune)"
            return []
        self.orphans.add(ref)
        if len(found) > 1:  # a change was cut off
            acts = Table.MANGLE if any(self._away(stay.service) for stay in found) else Table.NAT
            found = [stay for stay in found if stay.table is acts]
        return [
            stay._replace(entries=[item for item in stay.entries if not _anothers(item, self.resolution)])
            for stay in found
        ]

    def _judge_faulty(self, skip: Skipped, found: list[_Stay]) -> _Stay | None:
        """A Service with faulty input: it is rewritten or dropped as its last good rules say, for its pods of today."""
        ref = skip.ref
        services = [stay.service for stay in found]
        fault = next(filter(None, (self._vip_fault(service) for service in services)), None)
        if fault is not None:
            self.lost[ref] = f"{fault}; {skip.reason}"
            return None
        away = next(filter(None, map(self._away, services)), None)
        if away is not None and not self._drops(skip, found):
            self.lost[ref] = f"{away}; {skip.reason}"
            return None
        table = Table.NAT if away is None else Table.MANGLE
        stay = next((stay for stay in found if stay.table is table), found[0])
        entries = _kept_entries(skip, stay.entries, self.resolution, self.settings, self.host)
        if not entries:
            self.lost[ref] = f"none of the pods of its present rules is there any more; {skip.reason}"
            return None
        if stay.table is not table and stay.service.policy is None:
            self.lost[ref] = f"its present rules do not say what they are for; {skip.reason}"
            return None
        self.kept[ref] = skip
        return stay._replace(table=table, entries=entries)

    def _drops(self, skip: Skipped, found: list[_Stay]) -> bool:
        """Whether traffic is to be dropped where the VIP is not; where the input does not tell, as it is by now."""
        if skip.without_vip is not None:
            return skip.without_vip is WithoutVip.DROP
        is_dropped = any(
            stay.table is Table.MANGLE
            or (stay.service.policy is not None and stay.service.policy.drops_without_vip)
            for stay in found
        )
        return is_dropped or self.settings.without_vip is WithoutVip.DROP

    def _vip_fault(self, service: InstalledService) -> str | None:
        """Why the VIP of a Service's present rules must not be used."""
        for vip in service.vips:
            fault = self.resolution.rules.fault(vip)
            if fault is not None:
                return f"the VIP {vip} of its present rules {fault}"
            lost = claim_lost(service.ref, vip, self.resolution.claims)
            if lost is not None:
                return lost
        return None

    def _away(self, service: InstalledService) -> str | None:
        """The sentence that says that the VIP of its present rules is not here."""
        evidence = self.resolution.evidence(service.ref, node=self.settings.this_node)
        sentences = (
            not_here(
                vip,
                host=self.host,
                assume=self.settings.assume_vip,
                evidence=evidence,
                elected=self.settings.elects,
            )
            for vip in service.vips
        )
        return next(filter(None, sentences), None)


def _skip_of(ref: ServiceRef, resolution: Resolution, family: Family) -> Skipped | None:
    skips = resolution.skips(ref)
    own = [skip for skip in skips if skip.family in (None, family)]
    unclear = [skip for skip in skips if skip.vip_unclear and skip.fate is Fate.KEEP]
    return own[-1] if own else next(iter(unclear), None)


def _not_asked(resolution: Resolution, ref: ServiceRef, family: Family) -> str:
    return (
        f"the Service has no {family} VIP any more"
        if resolution.asks(ref)
        else "the Service does not ask for egress any more"
    )


def _anothers(item: Entry, resolution: Resolution) -> bool:
    """Whether the source knows that the address of this entry belongs to a pod of another tenant by now."""
    owner = resolution.index.owners.get(item.address)
    return owner is not None and owner.namespace != item.rank.ref.namespace


def _is_still(item: Entry, resolution: Resolution) -> bool:
    """Whether the source says that the address of this entry belongs to the very pod it belonged to."""
    owner = resolution.index.owners.get(item.address)
    if owner is None or owner.namespace != item.rank.ref.namespace:
        return False
    return EgressPod.named(item.address, name=owner.name).label == item.label


def _kept_entries(
    skip: Skipped, own: Sequence[Entry], resolution: Resolution, settings: Settings, host: Host | None
) -> list[Entry]:
    """The jumps of a Service with faulty input: its pods of today, by its rules of yesterday."""
    if not own:
        return []
    service = resolution.services.get(skip.ref)
    if service is None:  # the object is malformed: who its pods are is not known, who they were is
        return [item for item in own if _is_still(item, resolution)]
    if not service.selector and service.ref not in resolution.index.endpoints:
        return [item for item in own if not _anothers(item, resolution)]
    rank, before = own[0].rank, {item.address for item in own}
    family = Family.IPV4 if own[0].address.version == 4 else Family.IPV6
    node = None if resolution.node_is_unknown else settings.node
    found = members(service, family=family, index=resolution.index, node=node)
    inside = () if resolution.node_is_unknown else resolution.networks.pod[family].networks
    return [
        entry(rank, EgressPod.named(pod.address, name=pod.name, node=pod.node))
        for pod in found.addresses
        if (pod.address in before or within(pod.address, inside))
        and endpoint_refusal(pod, rules=resolution.rules, host=host) is None
    ]


def _exclusions(
    resolution: Resolution, installed: Installed, other: Installed | None, scope: Scope, *, settle: bool
) -> tuple[Exclusion, ...]:
    wanted = resolution.networks.exclusions[installed.family]
    others = other.exclusions if other is not None else ()
    if scope.named is None:
        # A file that says less than the last one must not open the cluster's own networks to rules that
        # stay from before.
        return canonical((*wanted, *installed.exclusions, *others)) if settle else wanted
    if not settle or not (installed.entries or installed.drops.entries):
        return wanted
    fixed = {e.network for e in wanted if e.kind is not ExclusionKind.NODE}
    present = {e.network for e in installed.exclusions if e.kind is not ExclusionKind.NODE}
    if fixed != present:
        more = ", ".join(sorted(map(str, fixed - present))) or "none"
        less = ", ".join(sorted(map(str, present - fixed))) or "none"
        raise KvctlError(
            f"the {installed.family} excluded networks differ from those in the kernel, which other Services "
            f"share: only wanted: {more}; only in the kernel: {less}",
            hint="run apply without naming a Service, or give the same CIDRs as then",
        )
    return installed.exclusions
