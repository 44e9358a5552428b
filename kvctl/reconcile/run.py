"""One run over both families and both back ends: look, compare, apply, flush."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.net import Family, Network, family_of, host_network
from kvctl.model.objects import ServiceRef
from kvctl.model.policy import EgressPod
from kvctl.model.settings import Settings
from kvctl.netfilter.binaries import Backend, is_installed
from kvctl.netfilter.choice import Choice, choose_backend
from kvctl.netfilter.diff import Change, Plan, changes
from kvctl.netfilter.foreign import ForeignEgress, kube_vip_rules
from kvctl.netfilter.kernel import Reading, read_everything
from kvctl.netfilter.overrides import find_override
from kvctl.policy.decode import Installed
from kvctl.policy.resolve import Resolution
from kvctl.reconcile.attribution import attribute
from kvctl.reconcile.converge import MakeTarget, Outcome, Site, converge, open_site, plan_for
from kvctl.reconcile.report import Item, Status, compared_items, in_order, undecided_items
from kvctl.reconcile.target import Scope, Target, as_it_is, build_target, rulesets, without


@dataclass(frozen=True)
class Look:
    """What was found: the sites of the back end in use and of the other one."""

    choice: Choice
    sites: dict[Family, Site]
    others: dict[Family, Site]
    foreign: dict[Family, list[ForeignEgress]]
    warnings: tuple[str, ...]
    failed: dict[Family, KvctlError]
    """Families whose rules could not be read: IPv6 where the host has none."""


def look(*, told: bool | None) -> Look:
    """Read everything once. Raises NetfilterUnavailableError where the back end in use cannot be read."""
    reading = read_everything()
    choice = choose_backend(reading, told=told)
    backend = choice.backend
    sites: dict[Family, Site] = {}
    others: dict[Family, Site] = {}
    failed: dict[Family, KvctlError] = {}
    warnings: list[str] = []
    for family in Family:
        try:
            sites[family] = open_site(reading, backend, family)
        except KvctlError as error:
            if family is Family.IPV4:
                raise
            failed[family] = error
        try:
            others[family] = open_site(reading, backend.other, family)
        except KvctlError as error:
            if is_installed(backend.other, family):
                warnings.append(f"the {backend.other} back end could not be read: {error}")
    warnings += _foreign_rules_in_other(reading, backend)
    return Look(
        choice=choice,
        sites=sites,
        others=others,
        foreign={f: kube_vip_rules(reading.tables[backend, f]) for f in sites},
        warnings=tuple(warnings),
        failed=failed,
    )


def _foreign_rules_in_other(reading: Reading, backend: Backend) -> Iterable[str]:
    """One warning if the back end not in use holds source translations of other programs."""
    for family in Family:
        saved = reading.tables.get((backend.other, family))
        if saved is None:
            continue
        nat = saved.tables.get("nat")
        texts = [text for rules in (nat.chains.values() if nat else ()) for _, text in rules]
        if any(("-j MASQUERADE" in text or "-j SNAT" in text) and "kvctl:" not in text for text in texts):
            yield (
                f"the {backend.other} back end holds other programs' source translations too: of the two, the one "
                f"registered later takes a connection; if that is wrong here, choose {backend.other.setting}"
            )
            return


@dataclass(frozen=True)
class Compared:
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


@dataclass(frozen=True)
class Wish:
    """What the source wants of this node."""

    resolution: Resolution
    scope: Scope
    settings: Settings
    host: Host

    def target(self, look_: Look, family: Family) -> MakeTarget:
        """The target as a function of what is installed at the moment."""
        other = look_.others[family].before_installed if family in look_.others else None

        def make(installed: Installed) -> Target:
            return build_target(
                self.resolution,
                installed,
                other=other,
                scope=self.scope,
                settings=self.settings,
                host=self.host,
            )

        return make

    def leaves(self, installed: Installed) -> Target:
        """The target of the back end not in use: nothing of what this run is about."""
        return without(installed, self.scope.named)


def compare(look_: Look, wish: Wish | None, *, scope: Scope) -> Compared:
    """Wanted against found; without a wish the kernel alone is judged."""
    items: list[Item] = []
    plans: dict[Family, Plan] = {}
    other_plans: dict[Family, Plan] = {}
    targets: list[Target] = []
    for family, site in look_.sites.items():
        make: MakeTarget = wish.target(look_, family) if wish else as_it_is
        target = make(site.installed)
        targets.append(target)
        plan = plan_for(site, rulesets(target, site.installed, site.snapshot, retire=False).final, target)
        plans[family] = plan
        items += _items_of(look_, site, target, plan, wish, scope)
        if family in look_.others:
            other = look_.others[family]
            if wish is not None:
                going = wish.leaves(other.installed)
                ruleset = rulesets(going, other.installed, other.snapshot, retire=False).final
                other_plans[family] = plan_for(other, ruleset, going)
            items += _other_items(look_, other, other_plans.get(family), scope)
        items += _foreign_items(look_.foreign.get(family, []), family, scope)
    if wish is not None:
        items += undecided_items(wish.resolution, targets, scope)
    return Compared(items=in_order(items), plans=plans, other_plans=other_plans)


def _items_of(
    look_: Look, site: Site, target: Target, plan: Plan, wish: Wish | None, scope: Scope
) -> list[Item]:
    refs = {*(policy.ref for policy in target.policies), *site.installed.services, *target.held}
    return compared_items(
        resolution=wish.resolution if wish else None,
        target=target,
        installed=site.installed,
        attributed=attribute(changes(plan), refs, had_dispatch=bool(site.installed.entries)),
        scope=scope,
        overridden=override_at(look_, site, target),
    )


def override_at(look_: Look, site: Site, target: Target) -> str | None:
    """What takes these pods' traffic before our rules, if anything does."""
    pods = [host_network(item.address) for item in target.entries]
    if not pods:
        return None
    return find_override(backend=look_.choice.backend, family=site.family, pods=pods)


def _other_items(look_: Look, other: Site, plan: Plan | None, scope: Scope) -> list[Item]:
    target = as_it_is(other.installed)
    refs = set(other.installed.services)
    attributed = attribute(changes(plan) if plan else (), refs, had_dispatch=True)
    found = compared_items(
        resolution=None,
        target=target,
        installed=other.installed,
        attributed=attributed,
        scope=scope,
        overridden=None,
    )
    where = f"in the {other.kernel.backend} back end, while {look_.choice.backend} is in use; apply moves it"
    return [replace(item, status=Status.ORPHANED, reason=where) for item in found]


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


@dataclass
class Applied:
    """What a run did."""

    before: Compared
    after: Compared
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def restores(self) -> int:
        """How many times the kernel was written to."""
        return sum(outcome.restores for outcome in self.outcomes)


def apply(look_: Look, wish: Wish, *, drop_connections: bool) -> Applied:
    """Make the kernel so. The caller holds the lock since before `look`.

    Raises KvctlError; what was done until then is whole in each family.
    """
    needed = {w.policy.family for w in wish.resolution.wanted if wish.scope.covers(w.policy.ref)}
    for family, error in look_.failed.items():
        if family in needed:
            raise error
    before = compare(look_, wish, scope=wish.scope)
    outcomes = []
    for family, site in look_.sites.items():
        make = wish.target(look_, family)
        target = make(site.installed)
        sites: list[tuple[Site, MakeTarget]] = [(site, make)]
        if family in look_.others and not look_.others[family].snapshot.is_empty:
            sites.append((look_.others[family], wish.leaves))
        outcomes.append(
            converge(
                sites,
                host=wish.host,
                drop_connections=drop_connections,
                acts=override_at(look_, site, target) is None,
                pod_networks=wish.resolution.networks.pod[family].networks,
            )
        )
    return Applied(before=before, after=compare(look_, wish, scope=wish.scope), outcomes=outcomes)


def flush(
    look_: Look,
    refs: Collection[ServiceRef] | None,
    *,
    host: Host,
    drop_connections: bool,
    pod_networks: Iterable[Network] = (),
) -> Applied:
    """Remove the rules of `refs` (None: everything of ours) from both back ends."""
    scope = Scope(named=frozenset(refs) if refs is not None else None)
    before = compare(look_, None, scope=scope)
    networks = list(pod_networks)
    outcomes = []
    for family, site in look_.sites.items():

        def make(installed: Installed) -> Target:
            return without(installed, refs)

        sites: list[tuple[Site, MakeTarget]] = [(site, make)]
        if family in look_.others:
            sites.append((look_.others[family], make))
        outcomes.append(
            converge(
                sites,
                host=host,
                drop_connections=drop_connections,
                pod_networks=[n for n in networks if family_of(n) is family],
            )
        )
    return Applied(before=before, after=compare(look_, None, scope=scope), outcomes=outcomes)
