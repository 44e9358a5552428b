"""One family of one back end: what was found there, and what a target would change."""

from __future__ import annotations

from collections.abc import Callable

from kvctl.model.net import Family, host_network
from kvctl.model.rules import Hook, Ruleset
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.diff import Plan, diff
from kvctl.netfilter.kernel import Kernel, Reading
from kvctl.netfilter.position import rule_in_the_way
from kvctl.policy.compile import HOOKS
from kvctl.policy.decode import Installed, decode
from kvctl.reconcile.steps import guarded, marked
from kvctl.reconcile.target import Target

MakeTarget = Callable[[Installed], Target]


class Site:
    """One family of one back end: what is found there now, and what was there before the run."""

    def __init__(self, kernel: Kernel, family: Family, snapshot: Snapshot) -> None:
        self.kernel = kernel
        self.family = family
        self.snapshot = self.before = snapshot
        self.installed = self.before_installed = decode(snapshot)

    def reread(self) -> None:
        """Look again."""
        saved = self.kernel.read(self.family)
        self.snapshot = self.kernel.snapshot(self.family, saved, hooks=HOOKS, known=self.snapshot.chains)
        self.installed = decode(self.snapshot)


def open_site(reading: Reading, backend: Backend, family: Family) -> Site:
    """The site as `reading` found it; raises what kept it from being read."""
    error = reading.failed.get((backend, family))
    if error is not None:
        raise error
    kernel = Kernel(backend)
    return Site(kernel, family, kernel.snapshot(family, reading.tables[backend, family], hooks=HOOKS))


def plan_for(site: Site, ruleset: Ruleset, target: Target) -> Plan:
    """What `ruleset` changes at a site as last seen."""
    in_the_way = {}
    hooked = (
        (Hook.EGRESS, target.entries),
        (Hook.DROP, (*target.drops.entries, *guarded(target, site.installed))),
        (Hook.MARK, marked(target, site.installed)),
    )
    for hook, entries in hooked:
        if hook in ruleset.hooks and site.snapshot.beside(hook.table).position_known:
            pods = [host_network(item.address) for item in entries]
            rule = rule_in_the_way(site.snapshot, pods, hook)
            if rule is not None:
                in_the_way[hook] = rule
    return diff(ruleset, site.snapshot, in_the_way=in_the_way)
