"""What the commands that look at this node share: reading the source, the host and the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvctl.agent.sign import find_agent
from kvctl.cli.output import printable, warning
from kvctl.cli.source import report_absent, report_problems, report_source
from kvctl.model.host import Host
from kvctl.model.objects import Objects
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.node.host import read_host
from kvctl.policy.lease import lease_of
from kvctl.policy.resolution import Resolution
from kvctl.policy.resolve import resolve
from kvctl.reconcile.leading import Led, lead
from kvctl.reconcile.presence import with_holder
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish


class Wanted(NamedTuple):
    """The source's objects and what follows from them here."""

    objects: Objects
    resolution: Resolution
    settings: Settings
    host: Host
    scope: Scope
    led: Led

    @property
    def wish(self) -> Wish:
        """For a run."""
        return Wish(resolution=self.resolution, scope=self.scope, settings=self.settings, host=self.host)

    def with_holder(self, item: Item) -> Item:
        """The item, with who has its VIP, and by which Lease if the Service says that somebody holds it."""
        if item.ref is None:
            return item
        evidence = self.resolution.evidence(item.ref, node=self.settings.this_node)
        found = with_holder(item, host=self.host, evidence=evidence)
        service = self.resolution.services.get(item.ref)
        if service is None or evidence.vip_host is None:
            return found
        return found._replace(lease=lease_of(item.ref, service.annotations))

    def report(self) -> int:
        """Say what is wrong with the input, and what this host has against it; the exit status this makes."""
        for text in self.led.warnings:
            warning(printable(text))
        return max(
            report_source(self.objects, self.resolution, pruned=self.scope.prune),
            report_problems(self.resolution, self.scope.named),
            report_absent(self.scope.named, self.resolution, pruned=self.scope.prune),
        )


def read_wanted(objects: Objects, *, settings: Settings, scope: Scope, host: Host | None = None) -> Wanted:
    """This host's addresses, and the policies that follow from the objects here: as an agent that lives sees them.

    `host`: as it is to be taken, instead of how it is.
    """
    settings, host = _as_its_agent(settings), read_host() if host is None else host
    led = lead(resolve(objects, settings, host=host), host=host, space=settings.space)
    return Wanted(
        objects=objects, resolution=led.resolution, settings=settings, host=host, scope=scope, led=led
    )


def _as_its_agent(settings: Settings) -> Settings:
    """The settings by which an agent of this node places VIPs: no flag of a command says whether it does."""
    agent = find_agent()
    if agent is None or agent.election is None:
        return settings
    fence_seconds, interface = agent.election
    return settings._replace(
        elects=True, fence_seconds=fence_seconds, interface=settings.interface or interface
    )


def named_but_skipped(items: Sequence[Item], refs: frozenset[ServiceRef] | None) -> int:
    """1 if a Service named on the command line has no rules in any family, or misses them in one."""
    if refs is None:
        return 0
    bad = (Status.SKIPPED, Status.ELSEWHERE, Status.ORPHANED)
    return int(any(item.status in bad for item in items if item.ref in refs))
