"""`kvctl egress flush`: remove kvctl's rules, and only those."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.cli import options
from kvctl.cli.apply import change_word, changed_items, report_run
from kvctl.cli.items import print_items
from kvctl.cli.node import parse_refs, report_look
from kvctl.cli.output import note
from kvctl.errors import UsageError
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.reconcile.run import flush, look


@click.command()
@options.services
@options.namespace
@click.option("--all", "everything", is_flag=True, help="Everything that is kvctl's, in both back ends.")
@options.backend
@options.keep_connections
@options.lock_timeout
@options.output()
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    everything: bool,
    nftables: bool | None,
    keep_connections: bool | None,
    lock_timeout: float,
    output: str,
) -> int:
    """Remove the rules of the named Services, or everything of kvctl's, from both back ends. Never asks.

    Connections that still have a removed VIP as source are dropped. Other programs' rules stay as they are.
    """
    if bool(services) == everything:
        raise UsageError(
            "flush needs either the Services to remove or --all",
            hint="kvctl egress flush NAMESPACE/NAME, or kvctl egress flush --all; kvctl egress list shows what is there",
        )
    refs = parse_refs(services, namespace=namespace, kubeconfig=None, context=None)
    told = options.told_backend(nftables)
    keep = options.told_keep_connections(keep_connections)
    host = read_host()
    with namespace_lock(timeout=lock_timeout):
        found = look(told=told)
        flushed = flush(found, refs, host=host, drop_connections=not keep)
    there = {item.ref for item in flushed.before.items}
    items = [item for item in changed_items(flushed) if item.changes]
    print_items(
        items,
        output,
        backend=str(found.choice.backend),
        node=options.this_node(None),
        extra=("CHANGE", [change_word(item) for item in items]),
    )
    report_look(found)
    for ref in sorted(refs or ()):
        if ref not in there:
            note(f"{ref} has no rules on this node: nothing to remove")
    return report_run(flushed, unchanged="no rules of kvctl's on this node: nothing to remove")
