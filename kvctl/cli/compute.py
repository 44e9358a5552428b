"""`kvctl egress compute`: what is wanted, without a look at any kernel."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import explain, print_items
from kvctl.cli.output import note
from kvctl.cli.source import nobody_asks, report_absent, report_problems, report_source, without_errors
from kvctl.errors import UsageError
from kvctl.model.net import Family
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.policy.compile import compile_ruleset
from kvctl.policy.resolution import Resolution
from kvctl.policy.resolve import resolve
from kvctl.reconcile.report import Status, computed_items
from kvctl.reconcile.target import Scope


@click.command(cls=Command)
@options.services
@options.namespace
@takes_inputs(of_node=False)
@options.output("iptables")
@click.option(
    "--family",
    type=click.Choice([str(family) for family in Family]),
    default=str(Family.IPV4),
    show_default=True,
    help="Which one -o iptables prints.",
)
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    inputs: Inputs,
    output: str,
    family: str,
) -> int:
    """Show what the objects ask for: a row for each Service and family, and for each that is skipped the reason.

    Needs no root and looks at no kernel. Pods of all nodes count unless --node is given.
    The rules themselves are printed by -o iptables, as text for iptables-restore --noflush on a kernel without rules of
    kvctl's.
    """
    if output == "iptables" and services:
        raise UsageError(
            "-o iptables takes no SERVICE: the text is for a kernel without rules of kvctl's",
            hint="leave the SERVICE out, or use diff -o iptables",
        )
    refs = inputs.services(services, namespace=namespace)
    settings = inputs.settings(only_here=False)
    objects = inputs.objects()
    resolution = resolve(objects, settings, host=None)
    scope = Scope(named=refs)
    items = computed_items(resolution, scope)
    if output == "iptables":
        click.echo(_restore_text(resolution, Family(family)), nl=False)
    else:
        print_items(items, output, backend=None, node=settings.node)
    status = max(
        report_source(objects, resolution), report_problems(resolution, refs), report_absent(refs, resolution)
    )
    explain(without_errors(items, resolution))
    if not items and not status:
        note(nobody_asks(objects, resolution))
    skipped = refs is not None and any(item.status is not Status.WANTED for item in items)
    return max(status, int(skipped))


def _restore_text(resolution: Resolution, family: Family) -> str:
    ruleset = compile_ruleset(
        family=family, policies=resolution.policies(family), exclusions=resolution.networks.exclusions[family]
    )
    return restore_text(diff(ruleset, Snapshot(family=family)))
