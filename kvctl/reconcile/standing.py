"""How each Service of one family stands: what is wanted against what is in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Family
from kvctl.model.policy import DROPPED, EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Hook
from kvctl.netfilter.diff import Change
from kvctl.policy.compile import Entry, pod_of
from kvctl.policy.decode import Installed, InstalledService
from kvctl.reconcile.attribution import Attributed, hook_of
from kvctl.reconcile.report import Item, Status, covered, drift_reason, policy_item, skipped_item
from kvctl.reconcile.steps import guarded, marked
from kvctl.reconcile.target import Scope, Target

if TYPE_CHECKING:
    from kvctl.policy.resolution import Resolution
    from kvctl.policy.verdict import Skipped

_IDLE = (
    "no pod is led to its rules, so they rewrite nothing: its pods have gone, or are another Service's by now"
)
# What rules in the kernel alone say of a Service whose traffic is dropped.
_ELSEWHERE = f"the VIP is elsewhere: {DROPPED}"


def compared_items(
    *,
    resolution: Resolution | None,
    target: Target,
    installed: Installed,
    attributed: Attributed,
    scope: Scope,
    overridden: str | None,
) -> list[Item]:
    """The items of one family for commands that look at the kernel; without `resolution` from the kernel alone."""
    drops = target.drops.refs
    view = _View(
        target=target,
        installed=installed,
        attributed=attributed,
        overridden=overridden,
        warnings=_warnings(resolution, installed.family),
        skips=resolution.skips if resolution is not None else _no_skips,
        entries=_by_ref(target.entries if target.held else ()),
        dropped=_by_ref(target.drops.entries),
        drops={policy.ref: policy for policy in target.drops.policies},
        guarded=_refs(guarded(target, installed), installed.guards),
        marked=_refs(marked(target, installed), installed.marks),
        rewritten_refs=target.rewrites.refs,
        dropped_refs=drops,
    )
    items = [view.policy(policy) for policy in target.policies if policy.ref not in drops]
    items += [view.held(ref) for ref in sorted(target.held - drops)]
    items += [view.drop(ref) for ref in sorted(drops)]
    # What goes from the other back end alone is told there.
    items += [view.lost(ref, why) for ref, why in target.lost.items() if ref in installed.refs]
    items += view.retiring()
    if resolution is not None:
        accounted = {*target.kept, *target.lost, *drops}
        items += [
            skipped_item(skip, changes=())
            for skip in resolution.skipped
            if skip.family is installed.family and skip.ref not in accounted
        ]
    return [_with_idleness(item) for item in items if scope.named is None or covered(item, scope)]


def _with_idleness(item: Item) -> Item:
    """With a warning if its rules are there, and no pod is led to them."""
    idle = item.status in (Status.APPLIED, Status.ORPHANED) and not item.drops and not item.pods
    return item._replace(warnings=(*item.warnings, _IDLE)) if idle else item


def undecided_items(resolution: Resolution, targets: Sequence[Target], scope: Scope) -> list[Item]:
    """Services that were refused before their families were known and have no rules in any family."""
    accounted = {ref for target in targets for ref in (*target.kept, *target.lost)}
    return [
        skipped_item(skip, changes=())
        for skip in resolution.skipped
        if skip.family is None and skip.ref not in accounted and scope.covers(skip.ref)
    ]


_items: ByKey[tuple[ServiceRef, Family], Item] = ByKey()


class _View(NamedTuple):
    target: Target
    installed: Installed
    attributed: Attributed
    overridden: str | None
    warnings: Mapping[ServiceRef, tuple[str, ...]]
    skips: Callable[[ServiceRef], Sequence[Skipped]]
    """Why the source has nothing rewritten for a Service."""
    entries: Mapping[ServiceRef, list[Entry]]
    """The target's jumps by Service."""
    dropped: Mapping[ServiceRef, list[Entry]]
    """Those of what is dropped."""
    drops: Mapping[ServiceRef, EgressPolicy]
    """What is to be dropped anew, by Service."""
    guarded: frozenset[ServiceRef]
    """Services that have a part in mangle because they are rewritten only while heartbeats come."""
    marked: frozenset[ServiceRef]
    """Services whose traffic is marked."""
    rewritten_refs: frozenset[ServiceRef]
    """Services that have rules in nat in the end."""
    dropped_refs: frozenset[ServiceRef]
    """Services that have rules which drop in the end."""

    def policy(self, policy: EgressPolicy) -> Item:
        service = self.installed.services.get(policy.ref)
        changes, warnings = self._changes(policy.ref), self.warnings.get(policy.ref, ())

        def make() -> Item:
            status, reason = self._status(service, changes)
            return policy_item(policy, status=status, exclusions=self.target.exclusions)._replace(
                reason=reason,
                warnings=warnings,
                connections=service.connections if service else None,
                changes=changes,
            )

        # What is there and right is told in the same words each round.
        grounds = (policy, service, changes, warnings, self.overridden, *self.target.exclusions)
        return _items.get((policy.ref, policy.family), grounds, make)

    def held(self, ref: ServiceRef) -> Item:
        service = self.installed.services[ref]
        return self._stays(ref, self._installed_item(service, self.entries.get(ref, [])), service)

    def drop(self, ref: ServiceRef) -> Item:
        """A Service whose traffic is dropped because its VIP is elsewhere."""
        service = self.installed.drops.services.get(ref)
        policy = self.drops.get(ref)
        if policy is not None:
            item = policy_item(policy, status=Status.ELSEWHERE, exclusions=self.target.exclusions)
        else:
            assert service is not None  # else nothing could be held
            item = self._installed_item(service, self.dropped.get(ref, []))._replace(connections=None)
        item = item._replace(drops=True)
        if ref in self.target.kept or ref in self.target.orphans:
            return self._stays(ref, item, service)
        skip = self._skip(ref)
        changes = self._changes(ref)
        status, reason = self._drop_status(ref, service, changes)
        said = skip.reason if skip is not None and skip.drop is not None else _ELSEWHERE
        return item._replace(
            status=status,
            reason=said if reason is None else f"{said}; {reason}",
            warnings=skip.warnings if skip is not None else (),
            changes=changes,
        )

    def _drop_status(
        self, ref: ServiceRef, service: InstalledService | None, changes: Sequence[Change]
    ) -> tuple[Status, str | None]:
        if ref in self.rewritten_refs:
            return Status.DRIFTED, "a change was cut off, its rewriting is here too; apply finishes it"
        if service is None or (service.intact and not changes):
            return Status.ELSEWHERE, None
        if ref in self.installed.services and self._skip(ref) is not None:
            return Status.ELSEWHERE, "a change was cut off; apply finishes it"
        return Status.DRIFTED, drift_reason(changes)

    def _stays(self, ref: ServiceRef, item: Item, service: InstalledService | None) -> Item:
        """What is there and is not written anew, although it was not asked for just so."""
        kept = self.target.kept.get(ref)
        changes = self._changes(ref)
        if ref in self.target.orphans:
            own = tuple(self.attributed.own.get(ref, ()))
            why = "not in the source; --prune removes it" + (f"; {_ELSEWHERE}" if item.drops else "")
            return item._replace(status=Status.ORPHANED, reason=why, changes=own)
        if item.drops:
            status, more = self._drop_status(ref, service, changes)
            said: str | None = _ELSEWHERE if more is None else f"{_ELSEWHERE}; {more}"
        else:
            status, said = self._status(service, changes)
        warnings: tuple[str, ...] = ()
        if kept is not None:
            warnings = (f"the last good rules are kept: {kept.reason}", *kept.warnings)
        return item._replace(status=status, reason=said, warnings=warnings, changes=changes)

    def lost(self, ref: ServiceRef, why: str) -> Item:
        found = self.installed if ref in self.installed.services else self.installed.drops
        skip = self._skip(ref)
        status = Status(skip.status.value) if skip is not None else Status.ORPHANED
        item = self._installed_item(found.services[ref], found.entries_of(ref))
        warnings = skip.warnings if skip is not None else ()
        return item._replace(status=status, reason=why, warnings=warnings, changes=self._changes(ref))

    def retiring(self) -> list[Item]:
        by_ref = {
            mark.ref: mark.vip for mark in self.installed.retiring if mark.ref not in self.installed.refs
        }
        accounted = self.rewritten_refs | self.dropped_refs
        return [
            Item(
                namespace=ref.namespace,
                service=ref.name,
                family=self.installed.family,
                vip=vip,
                status=Status.RETIRING,
                reason="a removal was cut off before its connections were dropped; apply or flush finishes it",
                changes=tuple(self.attributed.own.get(ref, ())),
            )
            for ref, vip in by_ref.items()
            if ref not in accounted
        ]

    def _installed_item(self, service: InstalledService, entries: Sequence[Entry]) -> Item:
        pods = tuple(pod_of(entry) for entry in sorted(entries, key=lambda e: int(e.address)))
        exclusions = self.installed.exclusions
        if service.policy is None:
            return Item(
                namespace=service.ref.namespace,
                service=service.ref.name,
                family=self.installed.family,
                vip=None,
                status=Status.DRIFTED,
                pods=pods,
                excluded=tuple(e.network for e in exclusions),
            )
        return policy_item(
            service.policy,
            status=Status.APPLIED,
            exclusions=exclusions,
            pods=pods,
            connections=service.connections,
        )

    def _status(
        self, service: InstalledService | None, changes: Sequence[Change]
    ) -> tuple[Status, str | None]:
        if service is None:
            return Status.MISSING, None
        if changes or not service.intact:
            return Status.DRIFTED, drift_reason(changes)
        if self.overridden is not None:
            return Status.OVERRIDDEN, self.overridden
        return Status.APPLIED, None

    def _skip(self, ref: ServiceRef) -> Skipped | None:
        its = [skip for skip in self.skips(ref) if skip.family in (None, self.installed.family)]
        return its[-1] if its else None

    def _changes(self, ref: ServiceRef) -> tuple[Change, ...]:
        own, shared, structure = self.attributed
        # Mostly something differs of one Service alone, and this is another.
        if ref not in own and not shared and (own or not structure):
            return ()
        parts = (
            (Hook.EGRESS, ref in self.installed.services or ref in self.rewritten_refs),
            (
                Hook.DROP,
                ref in self.installed.drops.services or ref in self.dropped_refs or ref in self.guarded,
            ),
            (Hook.MARK, ref in self.marked),
        )
        hooks = [hook for hook, has in parts if has]
        changes = self.attributed.of(ref, hooks)
        if not changes and not self.attributed.own and not self.attributed.shared:
            # Nothing but the tree itself is wrong: then no pod is led to its Service's chain for sure.
            changes = [change for change in self.attributed.structure if hook_of(change) in hooks]
        return tuple(changes)


def _warnings(resolution: Resolution | None, family: Family) -> dict[ServiceRef, tuple[str, ...]]:
    wanted = resolution.wanted if resolution is not None else ()
    return {item.policy.ref: item.warnings for item in wanted if item.policy.family is family}


def _no_skips(ref: ServiceRef) -> Sequence[Skipped]:
    """By the kernel alone nothing is known to be skipped."""
    return ()


def _refs(wanted: Iterable[Entry], found: Iterable[tuple[Entry, str]]) -> frozenset[ServiceRef]:
    return frozenset(item.rank.ref for item in (*wanted, *(entry for entry, _ in found)))


def _by_ref(entries: Iterable[Entry]) -> dict[ServiceRef, list[Entry]]:
    by_ref: dict[ServiceRef, list[Entry]] = {}
    for item in entries:
        by_ref.setdefault(item.rank.ref, []).append(item)
    return by_ref
