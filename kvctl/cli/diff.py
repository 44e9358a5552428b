"""`kvctl egress diff`: what apply would change."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.cli import options
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import count_by_status, explain, print_items, report_look
from kvctl.cli.node import named_but_skipped
from kvctl.cli.output import note, printable
from kvctl.model.net import Family
from kvctl.netfilter.diff import Change, restore_text
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.target import Scope

DIFFERENCES = 3

_SIGNS = {"add": "+", "insert": "+", "remove": "-", "delete-chain": "-", "flush-chain": "-"}


@click.command()
@options.services
@options.namespace
@takes_inputs()
@options.backend
@options.prune
@options.output("iptables")
@click.option(
    "--family",
    type=click.Choice([str(family) for family in Family]),
    default=str(Family.IPV4),
    show_default=True,
    help="The family of -o iptables.",
)
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    inputs: Inputs,
    nftables: bool | None,
    prune: bool,
    output: str,
    family: str,
) -> int:
    """Show what apply would change, rule by rule. Exit status 3 if it would change anything.

    With -o iptables it prints the restore text that changes the kernel as it was just read, and is good for
    that one only.
    """
    refs = inputs.services(services, namespace=namespace)
    settings = inputs.settings()
    scope = Scope(named=refs, prune=prune)
    wanted = inputs.wanted(scope)
    found = look(told=options.told_backend(nftables))
    compared = compare(found, wanted.wish, scope=scope)
    routing = wanted.led.plan(whole=refs is None)
    if output == "iptables":
        plan = compared.plans.get(Family(family))
        click.echo(restore_text(plan) if plan else "", nl=False)
    else:
        print_comparison(compared, output, found=found, node=settings.this_node, routing=routing.lines())
    status = max(wanted.report(), named_but_skipped(compared.items, refs))
    report_look(found)
    explain(compared.items)
    if compared.differs or routing:
        return status or DIFFERENCES
    if not status:
        note(f"no difference: apply would change nothing ({count_by_status(compared.items)})")
    return status


def print_comparison(
    compared: Compared, output: str, *, found: Look, node: str | None, routing: Sequence[str] = ()
) -> None:
    """The items, and in a table after them every change once."""
    print_items(compared.items, output, backend=str(found.choice.backend), node=node)
    if output in ("table", "wide"):
        lines = [printable(_line(family, change)) for family, change in compared.changes()]
        lines += map(printable, routing)
        if lines:
            click.echo("\n".join(["", *lines]))


def _line(family: Family, change: Change) -> str:
    if change.rule is None:
        word = "delete chain" if change.op == "delete-chain" else "empty chain"
        return f"{_SIGNS[change.op]} {family} {change.table}: {word} {change.chain}"
    verb = "-I" if change.op == "insert" else "-A"
    return f"{_SIGNS[change.op]} {family} {change.table}: {verb} {change.chain} {change.rule}"
