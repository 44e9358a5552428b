"""`kvctl egress apply`: make the kernel so."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from kvctl.agent.sign import refuse_beside_agent
from kvctl.cli import options
from kvctl.cli.diff import Difference, find_both, find_difference
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import count_by_status, explain, print_items, report_look
from kvctl.cli.node import named_but_skipped
from kvctl.cli.output import error_message, note, printable, warning
from kvctl.cli.placing import Placed, place, take_leftover, tell_leftover
from kvctl.cli.progress import patient_lock
from kvctl.cli.settings import told_backend, told_keep_connections
from kvctl.cli.source import without_errors
from kvctl.errors import KvctlError
from kvctl.model.net import Address
from kvctl.model.text import plural
from kvctl.node.addresses import Bound, bound
from kvctl.node.routing import read_own_routing
from kvctl.reconcile.changed import action_on, changed_items, taken_over
from kvctl.reconcile.leftover import find_leftover, vips_now
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
@options.force()
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
    told = told_backend(nftables)
    keep = told_keep_connections(keep_connections)
    refs = inputs.services(services, namespace=namespace)
    settings = inputs.settings()
    scope = Scope(named=refs, prune=prune)
    if not (force or dry_run):
        refuse_beside_agent()
    objects = inputs.objects()
    if dry_run:
        difference = find_difference(
            objects, settings=settings, scope=scope, told=told, with_vip=with_vip, force=force
        )
        return _dry_run(difference, output=output, node=settings.this_node)
    with patient_lock(timeout=lock_timeout):
        # Under the lock as well: who flushes at this moment takes the VIP away with the rules, or neither.
        placed = place(objects, settings=settings, scope=scope, force=force) if with_vip else Placed()
        wanted, found = find_both(objects, settings=settings, scope=scope, told=told)
        routing = routing_now()
        errors = wanted.led.open()
        applied = apply(found, wanted.wish, drop_connections=not keep)
        if scope.named is None and not any(outcome.errors for outcome in applied.outcomes):
            errors += wanted.led.close()
        leftover = _leftover(applied, scope=scope, needed=placed.vips)
        left = take_leftover(leftover) if with_vip else 0
    status = max(placed.status, left)
    for error in errors:
        error_message(error)
        status = max(status, error.exit_status)
    items = print_changes(applied, output, node=settings.this_node)
    before = [site.before_installed for site in applied.found.sites.values()]
    for text in taken_over(before, applied.after.items):
        note(text)
    status = max(status, wanted.report(), named_but_skipped(items, refs))
    routed = report_routing(routing)
    if not with_vip:
        tell_leftover(leftover)
    quiet = not (routed or placed.changed or (with_vip and leftover))
    untold = without_errors(items, wanted.resolution)
    return max(status, report_applied(applied, untold, quiet=quiet))


def _dry_run(difference: Difference, *, output: str, node: str | None) -> int:
    difference.print(output, node=node)
    status = difference.report()
    note("dry run: nothing was changed")
    return status


def _leftover(applied: Applied, *, scope: Scope, needed: Collection[Address]) -> tuple[Bound, ...]:
    """The addresses that were placed and are not needed any more; none where what is needed is not certain."""
    if any(outcome.errors for outcome in applied.outcomes):
        return ()
    found = applied.found
    return find_leftover(bound(), found, needed={*needed, *vips_now(found)}, scope=scope)


def routing_now() -> frozenset[object]:
    """The routes and routing rules of kvctl's; none where they cannot be read, which a run tells by itself."""
    try:
        found = read_own_routing()
    except KvctlError:
        return frozenset()
    return frozenset((*found.rules, *found.routes))


def report_routing(before: frozenset[object]) -> bool:
    """Say how many routes and routing rules there were not, or are not any more; whether there are any."""
    several = len(before ^ routing_now())
    if several:
        note(f"changed {several} of the routes and routing rules that lead out by a named interface")
    return bool(several)


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


def report_applied(applied: Applied, items: Sequence[Item], *, quiet: bool = True) -> int:
    """Say what there is to know beside the table; the exit status. `quiet`: nothing but rules was touched."""
    report_look(applied.found)
    explain(items)
    return report_run(applied, unchanged=f"nothing to change ({count_by_status(items)})" if quiet else None)


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
