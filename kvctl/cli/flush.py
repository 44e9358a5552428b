"""`kvctl egress flush`: remove kvctl's rules, and only those."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from kvctl.agent.sign import refuse_beside_agent
from kvctl.cli import options
from kvctl.cli.apply import report_run
from kvctl.cli.help import Command
from kvctl.cli.items import IDENTITY, identity, print_items, report_look
from kvctl.cli.output import Column, error_message, note, print_table
from kvctl.cli.placing import Placed, take_down, tell_leftover
from kvctl.cli.progress import patient_lock
from kvctl.cli.settings import parse_services, this_node, told_backend, told_keep_connections, told_space
from kvctl.errors import UsageError
from kvctl.node.addresses import Bound, bound
from kvctl.node.host import read_host
from kvctl.reconcile.leading import sweep
from kvctl.reconcile.leftover import find_leftover, vips_now
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.report import Status
from kvctl.reconcile.run import Applied, flush


@click.command(cls=Command)
@options.services
@options.namespace
@click.option("--all", "everything", is_flag=True, help="Remove everything that is kvctl's.")
@options.output()
@options.keep_connections
@options.force(places=False)
@options.lock_timeout
@options.backend
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    everything: bool,
    nftables: bool | None,
    keep_connections: bool | None,
    force: bool,
    lock_timeout: float,
    output: str,
) -> int:
    """Remove the rules of the named Services, or everything of kvctl's, from both back ends. Never asks.

    Connections that still have a removed VIP as source are dropped. Other programs' rules stay as they are.
    """
    if bool(services) == everything:
        raise UsageError(
            "flush needs either the Services to remove or --all",
            hint="kvctl egress flush NAMESPACE/NAME, or --all; kvctl egress list shows what is there",
        )
    refs = parse_services(services, namespace=namespace, kubeconfig=None, context=None)
    told = told_backend(nftables)
    keep = told_keep_connections(keep_connections)
    space = told_space()
    if not force:
        refuse_beside_agent()
    host = read_host()
    with patient_lock(timeout=lock_timeout):
        found = look(told=told)
        flushed = flush(found, refs, host=host, drop_connections=not keep)
        errors = sweep(space) if not _marks_remain(found) else []
        taken, leftover = _take_down(flushed, everything=everything)
    for error in errors:
        error_message(error)
    there = {item.ref for item in flushed.before.items}
    left = {(item.ref, item.family) for item in flushed.after.items}
    gone = [i for i in flushed.before.items if i.ref is not None and (i.ref, i.family) not in left]
    if output in ("json", "yaml"):
        items = [item._replace(status=Status.SKIPPED, reason="flushed") for item in gone]
        print_items(items, output, backend=str(found.choice.backend), node=this_node(None))
    elif gone:
        print_table([*IDENTITY, Column("CHANGE")], [[*identity(item), "removed"] for item in gone])
    report_look(found)
    missing = sorted((refs or frozenset()) - there)
    others = ", ".join(sorted({str(ref) for ref in found.services}))
    for ref in missing:
        note(
            f"{ref} has no rules on this node: nothing to remove"
            + (f" (there are: {others})" if others else "")
        )
    tell_leftover(leftover)
    nothing = None if missing or taken.changed else "no rules of kvctl's on this node: nothing to remove"
    return max(taken.status, int(bool(errors)), report_run(flushed, unchanged=nothing))


def _take_down(flushed: Applied, *, everything: bool) -> tuple[Placed, Collection[Bound]]:
    """Take away the VIPs of what was flushed, but for those that others' rules use; and what no rules use besides."""
    if everything:
        return take_down(None), ()
    used = vips_now(flushed.found)
    left = {(item.ref, item.family) for item in flushed.after.items}
    gone = {item.vip for item in flushed.before.items if item.vip and (item.ref, item.family) not in left}
    return take_down(gone - used), find_leftover(bound(), flushed.found, needed=used)


def _marks_remain(found: Look) -> bool:
    """Whether a rule that marks is left: its way is needed."""
    return any(site.installed.marks for site in (*found.sites.values(), *found.others.values()))
