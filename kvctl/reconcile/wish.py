"""What the source wants of this node: for each Service that is wanted or installed, what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.net import Family, within
from kvctl.model.policy import EgressPod, Exclusion, ExclusionKind, canonical
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.compile import Entry, entries_of, entry, pod_of
from kvctl.policy.decode import Installed, InstalledService
from kvctl.policy.holder import not_here
from kvctl.policy.judge import claim_lost, endpoint_refusal
from kvctl.policy.pods import members
from kvctl.policy.resolve import Resolution
from kvctl.policy.verdict import Fate, Skipped
from kvctl.reconcile.target import Scope, Target, without


@dataclass(frozen=True)
class Wish:
    """What the source wants of this node."""

    resolution: Resolution
    scope: Scope
    settings: Settings
    host: Host

    def target(self, installed: Installed, other: Installed | None) -> Target:
        """The target of the back end in use; `other`: what the other one held when it was looked at."""
        return build_target(
            self.resolution,
            installed,
            other=other,
            scope=self.scope,
            settings=self.settings,
            host=self.host,
        )

    def leaves(self, installed: Installed) -> Target:
        """The target of the back end not in use: nothing of what this run is about."""
        return without(installed, self.scope.named)


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
    policies = [policy for policy in resolution.policies(family) if scope.covers(policy.ref)]
    entries = [item for policy in policies for item in entries_of(policy)]
    wanted = {policy.ref for policy in policies}
    verdicts = _Verdicts(resolution, scope, settings, host, _skipped_of(resolution, family))
    for ref, service in installed.services.items():
        if ref in wanted:
            continue
        stays = verdicts.judge(service, installed.entries_of(ref), family=family)
        if stays is not None:
            verdicts.held.add(ref)
            entries += stays
    for ref, service in other.services.items() if other is not None else ():
        if other is None or ref in wanted or ref in installed.services or not scope.covers(ref):
            continue
        stays = verdicts.judge(service, other.entries_of(ref), family=family)
        if stays is not None and service.policy is not None:
            policies.append(service.policy._replace(pods=tuple(map(pod_of, stays))))
            entries += stays
    settle = bool(verdicts.held or verdicts.kept or verdicts.orphans)
    return Target(
        family=family,
        policies=tuple(policies),
        held=frozenset(verdicts.held),
        entries=tuple(entries),
        exclusions=_exclusions(resolution, installed, other, scope, settle=settle),
        lost=verdicts.lost,
        kept=verdicts.kept,
        orphans=frozenset(verdicts.orphans),
    )


@dataclass
class _Verdicts:
    """Judges installed Services that get no new rules, and remembers what becomes of them."""

    resolution: Resolution
    scope: Scope
    settings: Settings
    host: Host | None
    skipped: Mapping[ServiceRef, Skipped]
    held: set[ServiceRef] = field(default_factory=set)
    lost: dict[ServiceRef, str] = field(default_factory=dict)
    kept: dict[ServiceRef, Skipped] = field(default_factory=dict)
    orphans: set[ServiceRef] = field(default_factory=set)

    def judge(self, service: InstalledService, own: list[Entry], *, family: Family) -> list[Entry] | None:
        """The jumps that stay, of `own`; None: the Service loses its rules."""
        ref = service.ref
        if not self.scope.covers(ref):
            return own
        if ref not in self.resolution.present:
            return self._judge_absent(ref, own)
        skip = self.skipped.get(ref)
        if skip is None:
            self.lost[ref] = _not_asked(self.resolution, ref, family)
            return None
        why = _why_lost(skip, service, self.resolution, self.settings, self.host)
        if why is not None:
            self.lost[ref] = why
            return None
        stays = _kept_entries(skip, own, self.resolution, self.settings, self.host)
        if not stays:
            self.lost[ref] = f"none of the pods of its present rules is there any more; {skip.reason}"
            return None
        self.kept[ref] = skip
        return stays

    def _judge_absent(self, ref: ServiceRef, own: list[Entry]) -> list[Entry] | None:
        """A Service that the source does not have: it stays unless pruned, but not with another tenant's pods."""
        if self.scope.prune and not self.resolution.unidentified:
            self.lost[ref] = "not in the source (--prune)"
            return None
        self.orphans.add(ref)
        return [item for item in own if not _anothers(item, self.resolution)]


def _skipped_of(resolution: Resolution, family: Family) -> dict[ServiceRef, Skipped]:
    found = {skip.ref: skip for skip in resolution.skipped if skip.family in (None, family)}
    for skip in resolution.skipped:
        if skip.vip_unclear and skip.fate is Fate.KEEP:
            found.setdefault(skip.ref, skip)
    return found


def _why_lost(
    skip: Skipped,
    service: InstalledService,
    resolution: Resolution,
    settings: Settings,
    host: Host | None,
) -> str | None:
    """Why rules go although the Service is in the source; None: a faulty input keeps them."""
    if skip.fate is Fate.LOSE:
        return skip.reason
    for vip in service.vips:
        fault = resolution.rules.fault(vip)
        if fault is not None:
            return f"the VIP {vip} of its present rules {fault}; {skip.reason}"
        reason = claim_lost(service.ref, vip, resolution.claims) or not_here(
            vip,
            host=host,
            assume=settings.assume_vip,
            evidence=resolution.evidence(service.ref, node=settings.this_node),
        )
        if reason is not None:
            return f"{reason}; {skip.reason}"
    return None


def _not_asked(resolution: Resolution, ref: ServiceRef, family: Family) -> str:
    asks = any(w.policy.ref == ref for w in resolution.wanted) or any(
        s.ref == ref for s in resolution.skipped
    )
    return (
        f"the Service has no {family} VIP any more"
        if asks
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
    if not settle or not installed.entries:
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
