"""`kvctl egress list`: every Service with egress rules on this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.output import note
from kvctl.cli.settings import this_node, told_assume_vip, told_backend, told_space
from kvctl.errors import UsageError
from kvctl.netfilter.kernel import read_everything, start_reading_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kvctl.cli.node import Wanted
    from kvctl.cli.ways_out import WaysOut
    from kvctl.model.host import Host
    from kvctl.model.ref import ServiceRef
    from kvctl.netfilter.kernel import Reading
    from kvctl.reconcile.compare import Compared
    from kvctl.reconcile.look import Look
    from kvctl.reconcile.problems import Mend
    from kvctl.reconcile.report import Item


@click.command(cls=Command)
@click.option(
    "--watch", is_flag=True, help="Look again and again, with what goes on per second; Ctrl-C ends it."
)
@click.option(
    "--interval",
    type=options.Seconds(least=0.5, most=3600),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks of --watch.",
)
@takes_inputs(by_choice=True)
@options.backend
@options.output()
def command(
    *,
    inputs: Inputs,
    nftables: bool | None,
    output: str,
    watch: bool,
    interval: float,
) -> int:
    """List the Services with egress rules on this node.

    Reads the kernel alone. With -f, --cluster, --kubeconfig or --context it compares with what these ask for.
    With --watch new connections are counted by the rules, and packets and bytes by conntrack, where the sysctl
    net.netfilter.nf_conntrack_acct is 1; a > before them says that there was more, in connections whose end was not
    heard. The source is read once, at the start.
    """
    if watch and output in ("json", "yaml"):
        raise UsageError(f"--watch does not print {output}", hint=f"repeat: kvctl egress list -o {output}")
    compares = inputs.name_a_source
    # The programs that read run while the rest of kvctl is loaded; a source may take its time, so it comes first.
    read = read_everything if compares else start_reading_everything()
    from kvctl.reconcile.target import Scope

    wanted = inputs.wanted(Scope()) if compares else None
    listing = Listing(inputs, wanted=wanted, told=told_backend(nftables))
    found, items = listing.look(read)
    if watch:
        from kvctl.cli.live_list import follow

        return follow(listing, (found, items), wide=output == "wide", interval=interval)
    return _print(listing, found, items, output)


class Listing:
    """One look after the other, all by the same settings."""

    def __init__(self, inputs: Inputs, *, wanted: Wanted | None, told: bool | None) -> None:
        self.node = this_node(inputs.node)
        self.wanted = wanted
        self._inputs = inputs
        self._told = told
        self._assume_vip = told_assume_vip(inputs.assume_vip)

    def mend(self) -> Mend:
        """The command that messages name."""
        from kvctl.cli.again import mend_by

        return mend_by(self._inputs)

    def look(self, read: Callable[[], Reading] = read_everything) -> tuple[Look, list[Item]]:
        """What is there now. Raises as `look` of reconcile does."""
        from kvctl.reconcile.compare import compare
        from kvctl.reconcile.look import look
        from kvctl.reconcile.target import Scope

        found = look(told=self._told, read=read)
        wish = self.wanted.wish if self.wanted is not None else None
        compared = compare(found, wish, scope=Scope())
        items = self._with_causes(found, compared)
        if not items:
            return found, items
        if self.wanted is not None:
            items = [self.wanted.with_holder(item) for item in items]
        else:
            elected = _fenced(found)
            items = _doubted(items, assume_vip=self._assume_vip, node=self.node, elected=elected)
        return found, self._with_routes(items)

    def _with_causes(self, found: Look, compared: Compared) -> list[Item]:
        """The items, those that have drifted with the cause; where none has it costs nothing."""
        if not any(item.status in ("drifted", "missing") for item in compared.items):
            return compared.items
        from kvctl.reconcile.drift import with_causes

        assume = self._assume_vip or self.wanted is not None
        return with_causes(found, compared, mend=self.mend(), host=self._host(), assume_vip=assume)

    def _host(self) -> Host:
        from kvctl.node.host import read_host

        return self.wanted.host if self.wanted is not None else read_host()

    def _with_routes(self, items: list[Item]) -> list[Item]:
        """The items, with a warning where what is marked does not go its way; where nothing is it costs nothing."""
        if not any(item.mark is not None for item in items):
            return items
        from kvctl.cli.ways_out import with_route_warnings

        return with_route_warnings(items, _ways(), self._host(), mend=self.mend())


def _print(listing: Listing, found: Look, items: list[Item], output: str) -> int:
    """The list, and what is to be said of it."""
    from kvctl.cli.items import explain, print_items, report_look

    backend = str(found.choice.backend)
    if output in ("json", "yaml"):  # what would change is for diff to tell
        items = [item._replace(changes=None) for item in items]
    print_items(items, output, backend=backend, node=listing.node, holders=True, ways=_ways)
    status = listing.wanted.report() if listing.wanted is not None else 0
    report_look(found, mend=listing.mend)
    if listing.wanted is not None:
        from kvctl.cli.source import without_errors

        items = without_errors(items, listing.wanted.resolution)
    explain(items)
    _tell_leftover(found)
    if not items:
        note(f"no egress rules on this node ({backend} back end)")
    return status


def _tell_leftover(found: Look) -> None:
    """Which VIPs kvctl has placed for nothing; where it has placed none it costs next to nothing."""
    from kvctl.node.addresses import bound

    placed = bound()
    if placed:
        from kvctl.cli.placing import tell_leftover
        from kvctl.reconcile.leftover import find_leftover, vips_now

        tell_leftover(find_leftover(placed, found, needed=vips_now(found)))


def _ways() -> WaysOut:
    from kvctl.cli.ways_out import look_at_ways_out

    return look_at_ways_out(told_space())


def _fenced(found: Look) -> frozenset[ServiceRef]:
    """Services whose rules have a fence: only who elects writes one."""
    services = [s for site in found.sites.values() for s in site.installed.services.values()]
    return frozenset(s.ref for s in services if s.policy is not None and s.policy.fence is not None)


def _doubted(
    items: list[Item], *, assume_vip: bool, node: str, elected: Collection[ServiceRef]
) -> list[Item]:
    """The items, with who has the VIP, and a warning where it is not where their rules need it."""
    from kvctl.node.host import read_host
    from kvctl.policy.holder import Evidence
    from kvctl.reconcile.presence import with_holder, with_vip_warning

    host, evidence = read_host(), Evidence(node=node)
    items = [with_holder(item, host=host, evidence=evidence) for item in items]
    doubted = [
        with_vip_warning(item, host=host, assume_vip=assume_vip, elected=item.ref in elected)
        for item in items
    ]
    if assume_vip or doubted == items:
        return doubted
    from kvctl.agent.sign import find_agent

    if find_agent() is None:
        return doubted
    # An agent judges by evidence that is not in the kernel, MetalLB's word for one.
    return [with_vip_warning(item, host=host, assume_vip=True) for item in items]
