"""Wanted against found, over everything that was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from kvctl.model.net import Address, Family, host_network
from kvctl.model.policy import EgressPod
from kvctl.model.rules import Hook
from kvctl.netfilter.diff import Change, Plan, changes
from kvctl.netfilter.foreign import ForeignEgress
from kvctl.netfilter.overrides import find_override
from kvctl.policy.decode import Installed
from kvctl.reconcile.attribution import attribute
from kvctl.reconcile.look import Look
from kvctl.reconcile.report import (
    Item,
    Status,
    computed_items,
    in_order,
)
from kvctl.reconcile.site import Site
from kvctl.reconcile.standing import compared_items, undecided_items
from kvctl.reconcile.target import Scope, Target, as_it_is

if TYPE_CHECKING:
    from kvctl.reconcile.wish import Wish


class Compared(NamedTuple):
    """What a comparison found."""

    items: list[Item]
    plans: dict[Family, Plan]
    other_plans: dict[Family, Plan]

    @property
    def differs(self) -> bool:
        """Whether apply would write anything."""
        return any((*self.plans.values(), *self.other_plans.values()))

    def changes(self) -> list[tuple[Family, Change]]:
        """Every change once, family by family."""
        return [
            (family, change)
            for plans in (self.plans, self.other_plans)
            for family, plan in plans.items()
            for change in changes(plan)
        ]


def compare(found: Look, wish: Wish | None, *, scope: Scope) -> Compared:
    """Wanted against found; without a wish the kernel alone is judged."""
    items: list[Item] = []
    plans: dict[Family, Plan] = {}
    other_plans: dict[Family, Plan] = {}
    targets: list[Target] = []
    for family, site in found.sites.items():
        target = target_of(found, site, wish)
        targets.append(target)
        plan = site.plan(target, site.rulesets(target, retire=False).final)
        plans[family] = plan
        items += _items_of(found, site, target, plan, wish, scope)
        if family in found.others:
            other = found.others[family]
            if wish is not None:
                going = wish.leaves(other.installed)
                other_plans[family] = other.plan(going, other.rulesets(going, retire=False).final)
            items += _other_items(found, other, other_plans.get(family), target, scope)
        items += _foreign_items(found.foreign.get(family, []), family, scope)
    if wish is not None:
        items += _unreadable_items(found, wish, scope)
        items += undecided_items(wish.resolution, targets, scope)
    return Compared(items=in_order(items), plans=plans, other_plans=other_plans)


def target_of(found: Look, site: Site, wish: Wish | None) -> Target:
    """The target of a site of the back end in use; without a wish what is there, written as it should be."""
    if wish is None:
        return as_it_is(site.installed)
    return wish.target(site.installed, found.in_other(site.family))


def _items_of(
    found: Look, site: Site, target: Target, plan: Plan, wish: Wish | None, scope: Scope
) -> list[Item]:
    attributed = attribute(
        changes(plan),
        target=target,
        installed=site.installed,
        found=site.snapshot,
        had_dispatch=_dispatching(site.installed),
    )
    items = compared_items(
        resolution=wish.resolution if wish else None,
        target=target,
        installed=site.installed,
        attributed=attributed,
        scope=scope,
        overridden=override_at(found, site, target),
    )
    by_kube_vip = {
        rule.pod.network_address for rule in found.foreign.get(site.family, ()) if rule.pod is not None
    }
    return [_with_kube_vip(item, by_kube_vip) for item in items] if by_kube_vip else items


def _dispatching(installed: Installed) -> set[Hook]:
    """The hooks with jumps behind them."""
    parts = (
        (Hook.EGRESS, installed.entries),
        (Hook.DROP, installed.drops.entries or installed.guards),
        (Hook.MARK, installed.marks),
    )
    return {hook for hook, entries in parts if entries}


def _with_kube_vip(item: Item, by_kube_vip: set[Address]) -> Item:
    both = next((pod for pod in item.pods if pod.address in by_kube_vip), None)
    if both is None:
        return item
    text = (
        f"kube-vip programs egress for pod {both.address} too: use kvctl.io/egress instead of kube-vip.io/egress, "
        "and kube-vip leaves it alone"
    )
    return item._replace(warnings=(*item.warnings, text))


def override_at(found: Look, site: Site, target: Target) -> str | None:
    """What takes these pods' traffic before our rules, if anything does."""
    if not target.entries:
        return None
    known = found.overrides.get(site.family)
    if known is None or known[0] != target.entries:
        pods = (host_network(item.address) for item in target.entries)
        text = find_override(
            backend=found.choice.backend, family=site.family, pods=pods, nft_chains=found.nft_chains
        )
        known = found.overrides[site.family] = (target.entries, text)
    return known[1]


def _other_items(found: Look, other: Site, plan: Plan | None, wanted: Target, scope: Scope) -> list[Item]:
    """What the back end that is not in use holds; `wanted` is the target of the one that is."""
    target = as_it_is(other.installed)
    attributed = attribute(
        changes(plan) if plan else (),
        target=target,
        installed=other.installed,
        found=other.snapshot,
        had_dispatch=list(Hook),
    )
    items = compared_items(
        resolution=None,
        target=target,
        installed=other.installed,
        attributed=attributed,
        scope=scope,
        overridden=None,
    )
    where = f"in the {other.kernel.backend} back end, while {found.choice.backend} is in use"
    lost = {ref: f"{where}: {why}" for ref, why in wanted.lost.items()}
    moved = f"{where}; apply moves it"
    return [
        item._replace(status=Status.ORPHANED, reason=lost.get(item.ref, moved) if item.ref else moved)
        for item in items
    ]


def _unreadable_items(found: Look, wish: Wish, scope: Scope) -> list[Item]:
    """What is wanted in a family whose rules could not be read."""
    if not found.failed:
        return []
    return [
        item._replace(status=Status.MISSING, reason=str(found.failed[item.family]), changes=())
        for item in computed_items(wish.resolution, scope)
        if item.family in found.failed and (item.status is Status.WANTED or item.drops)
    ]


def _foreign_items(found: Iterable[ForeignEgress], family: Family, scope: Scope) -> list[Item]:
    if scope.named is not None:
        return []
    return [
        Item(
            namespace=rule.namespace,
            service=None,
            family=family,
            vip=rule.vip,
            status=Status.FOREIGN,
            reason="written by kube-vip" if rule.vip else "marked by kube-vip, not translated in POSTROUTING",
            pods=(EgressPod(rule.pod.network_address),) if rule.pod is not None else (),
            ports=(rule.port,) if rule.port else (),
            connections=rule.connections,
        )
        for rule in found
    ]
