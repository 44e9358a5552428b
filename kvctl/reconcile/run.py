"""Make the kernel so, or empty it: both families, both back ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from kvctl.model.host import Host
from kvctl.model.net import Family
from kvctl.model.ref import ServiceRef
from kvctl.policy.decode import Installed
from kvctl.reconcile.compare import Compared, compare, override_at, target_of
from kvctl.reconcile.converge import Connection, Outcome, converge
from kvctl.reconcile.look import Look
from kvctl.reconcile.site import MakeTarget, Site
from kvctl.reconcile.target import Scope, Target, without

if TYPE_CHECKING:
    from kvctl.reconcile.wish import Wish


@dataclass
class Applied:
    """What a run did."""

    found: Look
    before: Compared
    after: Compared
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def restores(self) -> int:
        """How many times the kernel was written to."""
        return sum(outcome.restores for outcome in self.outcomes)

    def had(self, ref: ServiceRef, family: Family | None) -> bool:
        """Whether a Service had rules in the back end in use before the run."""
        return any(ref in site.before_installed.services for site in _of(self.found.sites, family))

    def had_in_other(self, ref: ServiceRef, family: Family | None) -> bool:
        """The same of the other back end."""
        return any(ref in site.before_installed.services for site in _of(self.found.others, family))

    def had_drop(self, ref: ServiceRef, family: Family | None) -> bool:
        """Whether traffic of a Service was dropped before the run."""
        return any(ref in site.before_installed.drops.services for site in _of(self.found.sites, family))

    def has_drop(self, ref: ServiceRef, family: Family | None) -> bool:
        """Whether it is dropped now."""
        return any(ref in site.installed.drops.services for site in _of(self.found.sites, family))

    def has(self, ref: ServiceRef, family: Family | None) -> bool:
        """Whether it has rules now."""
        return any(ref in site.installed.services for site in _of(self.found.sites, family))


def _of(sites: Mapping[Family, Site], family: Family | None) -> list[Site]:
    return [site for its, site in sites.items() if family in (None, its)]


def apply(
    found: Look,
    wish: Wish,
    *,
    drop_connections: bool,
    check_connections: bool = True,
    spared: Container[Connection] = frozenset(),
    written: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> Applied:
    """Make the kernel so. The caller holds the lock since before `look`.

    Each family is done whole or not at all; what failed in one is an error in its outcome. Raises KvctlError
    where nothing may be written in any. `check_connections`, `spared`: as for `converge`. `written` is called when the
    kernel is as it will be: for who waits for that, and not for what is to be told of it.
    """
    asked = [
        *(w.policy for w in wish.resolution.wanted),
        *(s.drop for s in wish.resolution.skipped if s.drop),
    ]
    needed = {policy.family for policy in asked if wish.scope.covers(policy.ref)}
    outcomes = [
        Outcome(family=family, errors=[error]) for family, error in found.failed.items() if family in needed
    ]
    start = found.frozen()
    # What there was is only told: a rule that is asked for does not wait for it, it is compared while that is written.
    before = cache(lambda: compare(start, wish, scope=wish.scope))
    # All of them before anything is written: what may not be written in one family is not written in the other.
    targets = {family: target_of(found, site, wish) for family, site in found.sites.items()}
    for family, site in found.sites.items():
        other = found.in_other(family)

        def make(installed: Installed, other: Installed | None = other) -> Target:
            return wish.target(installed, other)

        sites: list[tuple[Site, MakeTarget]] = [(site, make)]
        if family in found.others and not found.others[family].snapshot.is_empty:
            sites.append((found.others[family], wish.leaves))
        outcomes.append(
            converge(
                sites,
                host=wish.host,
                drop_connections=drop_connections,
                check_connections=check_connections,
                spared=spared,
                acts=override_at(found, site, targets[family]) is None,
                pod_networks=wish.resolution.networks.pod[family].networks,
                meanwhile=before,
            )
        )
    written(outcomes)
    after = before() if start.shows_the_same_as(found) else compare(found, wish, scope=wish.scope)
    return Applied(found=found, before=before(), after=after, outcomes=outcomes)


def flush(
    found: Look,
    refs: Collection[ServiceRef] | None,
    *,
    host: Host,
    drop_connections: bool,
) -> Applied:
    """Remove the rules of `refs` (None: everything of ours) from both back ends."""
    scope = Scope(named=frozenset(refs) if refs is not None else None)
    before = compare(found, None, scope=scope)
    # What cannot be read may hold rules of ours: then nobody may think that they are gone.
    outcomes = [Outcome(family=family, errors=[error]) for family, error in found.others_failed.items()]

    def make(installed: Installed) -> Target:
        return without(installed, refs)

    for family, site in found.sites.items():
        sites: list[tuple[Site, MakeTarget]] = [(site, make)]
        if family in found.others:
            sites.append((found.others[family], make))
        outcomes.append(converge(sites, host=host, drop_connections=drop_connections))
    return Applied(found=found, before=before, after=compare(found, None, scope=scope), outcomes=outcomes)
