"""`kvctl egress list`: every Service with egress rules on this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.output import note
from kvctl.netfilter.kernel import read_everything, start_reading_everything

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvctl.cli.ways_out import WaysOut
    from kvctl.model.ref import ServiceRef
    from kvctl.reconcile.look import Look
    from kvctl.reconcile.report import Item


@click.command(cls=Command)
@takes_inputs(by_choice=True)
@options.backend
@options.output()
def command(
    *,
    inputs: Inputs,
    nftables: bool | None,
    output: str,
) -> int:
    """List the Services with egress rules on this node.

    Reads the kernel alone. With -f, --cluster, --kubeconfig or --context it compares with what these ask for.
    """
    compares = inputs.name_a_source
    # The programs that read run while the rest of kvctl is loaded; a source may take its time, so it comes first.
    read = read_everything if compares else start_reading_everything()
    from kvctl.cli.items import explain, print_items, report_look
    from kvctl.cli.placing import tell_leftover
    from kvctl.node.addresses import bound
    from kvctl.reconcile.compare import compare
    from kvctl.reconcile.leftover import find_leftover, vips_now
    from kvctl.reconcile.look import look
    from kvctl.reconcile.target import Scope

    scope = Scope()
    status, wish = 0, None
    if compares:
        wanted = inputs.wanted(scope)
        wish = wanted.wish
    found = look(told=options.told_backend(nftables), read=read)
    items = [item._replace(changes=None) for item in compare(found, wish, scope=scope).items]
    node = options.this_node(inputs.node)
    if compares:
        items = [wanted.with_holder(item) for item in items]
    elif items:
        elected = _fenced(found)
        items = _doubted(
            items, assume_vip=options.told_assume_vip(inputs.assume_vip), node=node, elected=elected
        )
    print_items(items, output, backend=str(found.choice.backend), node=node, holders=True, ways=_ways)
    if compares:
        status = wanted.report()
    report_look(found)
    explain(items)
    tell_leftover(find_leftover(bound(), found, needed=vips_now(found)))
    if not items:
        note(f"no egress rules on this node ({found.choice.backend} back end)")
    return status


def _ways() -> WaysOut:
    from kvctl.cli.ways_out import look_at_ways_out

    return look_at_ways_out(options.told_space())


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
