"""`kvctl egress apply`: make the kernel so."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.agent.sign import refuse_beside_agent
from kvctl.cli import options
from kvctl.cli.diff import find_difference
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import count_by_status, explain, print_items, report_look
from kvctl.cli.node import named_but_skipped, read_wanted
from kvctl.cli.output import error_message, note, printable, warning
from kvctl.model.text import plural
from kvctl.netfilter.lock import namespace_lock
from kvctl.reconcile.changed import action_on, changed_items
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Item
from kvctl.reconcile.run import Applied, apply
from kvctl.reconcile.target import Scope


@click.command(cls=Command)
@options.services
@options.namespace
@takes_inputs()
@click.option("--dry-run", is_flag=True, help="Change nothing; print what diff prints, with exit status 0.")
@options.output()
@options.prune
@options.with_vip
@options.keep_connections
@options.force
@options.lock_timeout
@options.backend
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    inputs: Inputs,
    nftables: bool | None,
    prune: bool,
    keep_connections: bool | None,
    force: bool,
    lock_timeout: float,
    output: str,
    with_vip: bool,
    dry_run: bool,
) -> int:
    """Make the kernel's rules what the objects ask for, and print what changed.

    Without SERVICE it adds, updates and removes; a Service that is absent from the source stays unless --prune is
    given. Only pods of this node count. Connections that have the wrong source are dropped.
    """
    told = options.told_backend(nftables)
    keep = options.told_keep_connections(keep_connections)
    refs = inputs.services(services, namespace=namespace)
    settings = inputs.settings()
    scope = Scope(named=refs, prune=prune)
    if not (force or dry_run):
        refuse_beside_agent()
    status = 0
    objects = inputs.objects()
    if dry_run:
        difference = find_difference(objects, settings=settings, scope=scope, told=told, with_vip=with_vip)
        difference.print(output, node=settings.this_node)
        status = difference.report()
        note("dry run: nothing was changed")
        return status
    if with_vip:
        from kvctl.cli.placing import place

        status = place(objects, settings=settings, scope=scope)
    wanted = read_wanted(objects, settings=settings, scope=scope)
    with namespace_lock(timeout=lock_timeout):
        found = look(told=told)
        errors = wanted.led.open()
        applied = apply(found, wanted.wish, drop_connections=not keep)
        if scope.named is None and not any(outcome.errors for outcome in applied.outcomes):
            errors += wanted.led.close()
    for error in errors:
        error_message(error)
        status = max(status, error.exit_status)
    items = print_changes(applied, output, node=settings.this_node)
    status = max(status, wanted.report(), named_but_skipped(items, refs))
    return max(status, report_applied(applied, items))


def print_changes(applied: Applied, output: str, *, node: str | None) -> list[Item]:
    """Print what a run changed; all the items there are."""
    items = changed_items(applied)
    shown = items if output in ("json", "yaml") else [item for item in items if item.changes]
    print_items(
        shown,
        output,
        backend=str(applied.found.choice.backend),
        node=node,
        extra=("CHANGE", [action_on(item, applied) or "-" for item in shown]),
    )
    return items


def report_applied(applied: Applied, items: Sequence[Item]) -> int:
    """Say what there is to know beside the table; the exit status this makes."""
    report_look(applied.found)
    explain(items)
    return report_run(applied, unchanged=f"nothing to change ({count_by_status(items)})")


def report_run(applied: Applied, *, unchanged: str | None) -> int:
    """Say what a run did beside rules, `unchanged` if nothing; the exit status this makes."""
    dropped = sum(len(outcome.dropped) for outcome in applied.outcomes)
    if dropped:
        note(f"dropped {plural(dropped, 'connection')} with the wrong source address")
    elif (
        unchanged is not None
        and not applied.restores
        and not any(outcome.errors for outcome in applied.outcomes)
    ):
        note(unchanged)
    status = 0
    for outcome in applied.outcomes:
        for text in outcome.warnings:
            warning(printable(text))
        for error in outcome.errors:
            error_message(error)
            status = max(status, error.exit_status)
    return status
