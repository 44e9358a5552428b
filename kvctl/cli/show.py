"""`kvctl egress show`: one Service in depth, problems first."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.cli import depth, options
from kvctl.cli.again import mend_by
from kvctl.cli.around import look_around
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import document, report_look
from kvctl.cli.output import error_message, note, print_json, print_yaml
from kvctl.cli.settings import told_backend
from kvctl.cli.told import read_told
from kvctl.errors import InputError
from kvctl.model.ref import ServiceRef
from kvctl.node.host import read_host
from kvctl.reconcile.compare import compare
from kvctl.reconcile.detail import detail
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.report import Item
from kvctl.reconcile.target import Scope


@click.command(cls=Command)
@options.services
@options.namespace
@takes_inputs(by_choice=True)
@options.backend
@options.output()
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    inputs: Inputs,
    nftables: bool | None,
    output: str,
) -> int:
    """Show Services in depth: problems first, then the rules, wanted beside found, and live connections.

    The first line is the worst cause. Reads the kernel alone. With -f, --cluster, --kubeconfig or --context it
    compares with what these ask for; with a cluster it shows the last Events too. Each rule is there, missing, not
    wanted, in the wrong place, or there with another comment; of another program's rules those in the way are shown.
    """
    compares = inputs.name_a_source
    refs = inputs.services(services, namespace=namespace)
    scope = Scope(named=refs)
    settings = inputs.settings()
    status = 0
    wanted = inputs.wanted(scope) if compares else None
    wish = wanted.wish if wanted is not None else None
    found = look(told=told_backend(nftables))
    compared = compare(found, wish, scope=scope)
    host = wanted.host if wanted is not None else read_host()
    shown = frozenset(item.ref for item in compared.items if item.ref is not None)
    around = look_around(inputs, host=host, node=settings.this_node, wanted=wanted, shown=shown)
    # With a source it has been judged where the VIP is, by all the evidence there is; so does an agent.
    judged = compares or settings.assume_vip or around.ways.agent is not None
    mend = mend_by(inputs)
    found_details = detail(found, compared, host=host, assume_vip=judged, mend=mend)
    details = [around.judged(each, mend=mend) for each in found_details]
    items = [each.item for each in details]
    told = read_told(inputs, items)
    if output in ("json", "yaml"):
        whole = {
            **document((), backend=str(found.choice.backend), node=settings.this_node),
            "items": [depth.json(each, around, told) for each in details],
        }
        print_json(whole) if output == "json" else print_yaml(whole)
    elif details:
        in_turn = depth.worst_first(details)
        texts = ("\n".join(depth.lines(each, around, told, wide=output == "wide")) for each in in_turn)
        click.echo("\n\n".join(texts))
    if wanted is not None:
        status = wanted.report()
    report_look(found, mend=lambda: mend)
    status = max(status, _report_missing(refs or frozenset(), items, found))
    if not items and refs is None:
        note(f"no egress rules on this node ({found.choice.backend} back end)")
    return status


def _report_missing(refs: frozenset[ServiceRef], items: Sequence[Item], found: Look) -> int:
    """Say which of the Services named are not there, and which of the same name are; the exit status this makes."""
    missing = sorted(refs - {item.ref for item in items})
    for ref in missing:
        same = sorted(str(other) for other in found.services if other.name == ref.name)
        hint = f"did you mean {' or '.join(same[:3])}?" if same else "see: kvctl egress list"
        error_message(InputError(f"{ref} has no egress rules on this node", hint=hint))
    return int(bool(missing))
