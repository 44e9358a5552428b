"""Addresses that `apply --with-vip` has put on interfaces and that no Service has rules with any more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kvctl.model.net import Address, family_of
from kvctl.model.ref import ServiceRef
from kvctl.node.addresses import Bound
from kvctl.policy.decode import Installed, InstalledService
from kvctl.reconcile.compare import target_of
from kvctl.reconcile.look import Look
from kvctl.reconcile.target import Scope, Target
from kvctl.reconcile.wish import Wish


def find_leftover(
    placed: Iterable[Bound], found: Look, *, needed: Collection[Address], scope: Scope | None = None
) -> tuple[Bound, ...]:
    """What of `placed` is the VIP of no Service: `needed` are those that are.

    With a `scope` that names Services only what was the VIP of their rules before the run. What has a lifetime is an
    agent's; and where rules could not be read nobody knows which VIPs they use.
    """
    rows = list(placed)
    lent = {each.address for each in rows if each.lifetime is not None}
    named = None if scope is None or scope.named is None else _vips_before(found, scope.named)
    unread = {*found.failed, *found.others_failed}
    return tuple(
        each
        for each in sorted(rows, key=lambda each: (str(each.address), each.interface))
        if each.address not in lent
        and each.address not in needed
        and (named is None or each.address in named)
        and family_of(each.address) not in unread
    )


def vips_now(found: Look) -> frozenset[Address]:
    """The VIPs of all rules there are, in either back end."""
    return frozenset(
        vip
        for site in (*found.sites.values(), *found.others.values())
        for vip in _vips(_services(site.installed))
    )


def vips_to_be(found: Look, wish: Wish) -> frozenset[Address]:
    """The VIPs of all rules that there will be after a run."""
    vips: set[Address] = set()
    for site in found.sites.values():
        target = target_of(found, site, wish)
        vips |= {policy.vip for policy in (*target.policies, *target.drops.policies)}
        vips |= _held(target, site.installed)
    for site in found.others.values():
        vips |= _held(wish.leaves(site.installed), site.installed)
    return frozenset(vips)


def _held(target: Target, installed: Installed) -> set[Address]:
    """The VIPs of the rules that stay as they are."""
    stay = {*target.held, *target.drops.held}
    return set(_vips(each for each in _services(installed) if each.ref in stay))


def _vips_before(found: Look, refs: Collection[ServiceRef]) -> set[Address]:
    sites = (*found.sites.values(), *found.others.values())
    return set(_vips(each for site in sites for each in _services(site.before_installed) if each.ref in refs))


def _services(installed: Installed) -> Iterator[InstalledService]:
    yield from installed.services.values()
    yield from installed.drops.services.values()


def _vips(services: Iterable[InstalledService]) -> Iterator[Address]:
    for each in services:
        yield from each.vips
        if each.policy is not None:
            yield each.policy.vip
