"""What has drifted at one site, and by what: one judgement for `list` and `show`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvctl.model.host import Host
from kvctl.model.net import Family, host_network
from kvctl.model.rules import HOOK_CHAINS, Hook
from kvctl.netfilter.diff import Plan
from kvctl.netfilter.position import rule_in_the_way
from kvctl.policy import layout
from kvctl.reconcile.compare import Compared
from kvctl.reconcile.look import Look
from kvctl.reconcile.problems import Mend, Problem, Weight, drift_problems, in_order
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.side_by_side import Row, SideBySide, Standing
from kvctl.reconcile.site import Site

DIFFERING = (Status.DRIFTED, Status.MISSING)
"""Of items whose rules are not as they should be."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The rules of one site beside those that are wanted."""

    site: Site
    in_the_way: Mapping[Hook, str]
    """Foreign rules before our jumps, that may end the walk of our pods' packets."""
    rules: SideBySide

    @classmethod
    def of(cls, site: Site, compared: Compared, plan: Plan | None) -> Drift:
        """`plan`: what turns the site into what is wanted."""
        refs = {item.ref for item in compared.items if item.family is site.family and item.ref is not None}
        in_the_way = _in_the_way(site)
        rules = SideBySide(
            site.snapshot,
            plan or Plan(site.family),
            refs={*site.installed.refs, *refs},
            in_the_way=in_the_way,
        )
        return cls(site, in_the_way, rules)

    def rows(self, item: Item) -> tuple[Row, ...]:
        """The Service's rules, wanted beside actual."""
        if item.ref is None:
            return ()
        rows = self.rules.of(item.ref, changes=item.status is not Status.APPLIED)
        if item.status is Status.ORPHANED:
            # They stay for lack of --prune, and nobody wants them.
            return tuple(
                row._replace(standing=Standing.UNWANTED) if row.chain not in HOOK_CHAINS else row
                for row in rows
            )
        if item.status is Status.DRIFTED and self._empty_ways():
            # By what is left of the rules nobody needs the jump to them; by what they were for it is right.
            return tuple(
                row._replace(standing=Standing.THERE)
                if row.chain in HOOK_CHAINS and row.standing is Standing.UNWANTED
                else row
                for row in rows
            )
        return rows

    def problems(self, item: Item, rows: tuple[Row, ...], *, mend: Mend) -> list[Problem]:
        """What is wrong with the rules of an item."""
        flushed = item.status is Status.MISSING and item.reason is None and bool(self._empty_ways())
        if not (item.status is Status.DRIFTED or flushed) or item.drops:
            return [] if item.reason is None else [Problem(Weight.RULES, item.reason)]
        own = layout.REWRITING.service_chain(item.ref) if item.ref is not None else ""
        empty = [*self._empty_ways(), *([own] if self.site.snapshot.chains.get(own) == () else ())]
        return drift_problems(rows, self.in_the_way, empty=empty, reason=item.reason, mend=mend)

    def _empty_ways(self) -> list[str]:
        """The chains to Services that hold nothing, the root first; kvctl leaves none so."""
        chains = self.site.snapshot.chains
        return sorted(
            (name for name, rules in chains.items() if not rules and layout.REWRITING.is_dispatch(name)),
            key=lambda name: (name != layout.REWRITING.root, name),
        )


def with_causes(found: Look, compared: Compared, *, mend: Mend, host: Host, assume_vip: bool) -> list[Item]:
    """The items, each that differs with what `show` says first as its reason."""
    drifts: dict[Family, Drift] = {}
    return [
        _with_cause(
            item,
            found,
            compared,
            drifts,
            mend if assume_vip else mend._replace(with_vip=_away(item, found, host)),
        )
        if item.status in DIFFERING and item.family in found.sites
        else item
        for item in compared.items
    ]


def _away(item: Item, found: Look, host: Host) -> bool:
    """Whether its VIP is to be brought back, by whoever mends its rules: where nobody elects."""
    if item.vip is None or item.ref is None or item.family is None or host.holds(item.vip) is not None:
        return False
    service = found.sites[item.family].installed.services.get(item.ref)
    return service is None or service.policy is None or service.policy.fence is None


def _with_cause(item: Item, found: Look, compared: Compared, drifts: dict[Family, Drift], mend: Mend) -> Item:
    assert item.family is not None  # else it is of no site
    if item.family not in drifts:
        drifts[item.family] = Drift.of(found.sites[item.family], compared, compared.plans.get(item.family))
    drift = drifts[item.family]
    sentences = in_order(drift.problems(item, drift.rows(item), mend=mend))
    return item._replace(reason=next(iter(sentences), item.reason))


def _in_the_way(site: Site) -> dict[Hook, str]:
    installed = site.installed
    guarded = (item.address for item, _ in installed.guards)
    pods = {
        Hook.EGRESS: {item.address for item in installed.entries},
        Hook.DROP: {*(item.address for item in installed.drops.entries), *guarded},
        Hook.MARK: {item.address for item, _ in installed.marks},
    }
    rules = {
        hook: rule_in_the_way(site.snapshot, [host_network(address) for address in its], hook)
        for hook, its in pods.items()
        if its
    }
    return {hook: rule for hook, rule in rules.items() if rule is not None}
