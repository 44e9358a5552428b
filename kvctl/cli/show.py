"""`kvctl egress show`: one Service in depth, problems first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from kvctl.cli import options
from kvctl.cli.around import Around, look_around
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import document, flow_text, holder_json, item_json, report_look
from kvctl.cli.output import error_message, note, print_json, print_yaml, printable
from kvctl.errors import InputError
from kvctl.model.text import plural
from kvctl.node.host import read_host
from kvctl.reconcile.compare import compare
from kvctl.reconcile.detail import Detail, detail
from kvctl.reconcile.look import look
from kvctl.reconcile.target import Scope

_MOST_FLOWS = 20


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
    """Show Services in depth: problems first, then what is wanted, the rules in the kernel, live connections.

    Reads the kernel alone. With -f, --cluster, --kubeconfig or --context it compares with what these ask for.
    """
    compares = inputs.name_a_source
    refs = inputs.services(services, namespace=namespace)
    scope = Scope(named=refs)
    settings = inputs.settings()
    status = 0
    wanted = inputs.wanted(scope) if compares else None
    wish = wanted.wish if wanted is not None else None
    found = look(told=options.told_backend(nftables))
    compared = compare(found, wish, scope=scope)
    host = wanted.host if wanted is not None else read_host()
    shown = frozenset(item.ref for item in compared.items if item.ref is not None)
    around = look_around(inputs, host=host, node=settings.this_node, wanted=wanted, shown=shown)
    # With a source it has been judged where the VIP is, by all the evidence there is; so does an agent.
    judged = compares or settings.assume_vip or around.ways.agent is not None
    details = [around.judged(each) for each in detail(found, compared, host=host, assume_vip=judged)]
    items = [each.item for each in details]
    if output in ("json", "yaml"):
        whole = {
            **document(items, backend=str(found.choice.backend), node=settings.this_node),
            "items": [
                {**item_json(each.item), **holder_json(each.item), **around.json(each)} for each in details
            ],
        }
        print_json(whole) if output == "json" else print_yaml(whole)
    elif details:
        texts = ("\n".join(_lines(each, around, wide=output == "wide")) for each in details)
        click.echo("\n\n".join(texts))
    if wanted is not None:
        status = wanted.report()
    report_look(found)
    there = {item.ref for item in items}
    for ref in sorted((refs or frozenset()) - there):
        error_message(InputError(f"{ref} has no egress rules on this node", hint="see: kvctl egress list"))
        status = 1
    if not items and refs is None:
        note(f"no egress rules on this node ({found.choice.backend} back end)")
    return status


_COMMENT = re.compile(r' -m comment --comment "[^"]*"')


def _short(rule: str) -> str:
    """A rule without its comment, which repeats what is said above it."""
    return _COMMENT.sub("", rule)


def _lines(each: Detail, around: Around, *, wide: bool) -> list[str]:
    item = each.item
    name = "/".join(filter(None, (item.namespace, item.service))) or "rules without a Service"
    family = f" {item.family}" if item.family else ""
    lines = [f"{name}{family}: {item.status}"]
    lines += [f"  ! {printable(text)}" for text in item.problems or ()]
    facts = [
        *around.facts(each),
        ("ports", ", ".join(item.ports) or "all traffic"),
        ("allowed networks", ", ".join(map(str, item.allowed)) or "all"),
        ("denied networks", ", ".join(map(str, item.denied)) or "none"),
        ("never rewritten to", ", ".join(map(str, item.excluded)) or "-"),
        ("connections", "-" if item.connections is None else f"{item.connections} begun under these rules"),
    ]
    lines += [printable(f"  {title + ':':<20}{value}") for title, value in facts]
    lines.append(f"  {plural(len(item.pods), 'pod')}")
    for pod in item.pods:
        where = f" on {pod.node}" if pod.node else ""
        lines.append(f"    {pod.address}  {pod.name or pod.label}{where}")
    if each.rules:
        lines.append("  rules in the kernel (packets; where it is rewritten, the first of each connection)")
        rules = [(c, n, text if wide else _short(text)) for c, n, text in each.rules]
        lines += [printable(f"    {packets:>8}  {chain}  {text}") for chain, packets, text in rules]
    flows = item.flows or ()
    lines.append(f"  {plural(len(flows), 'live connection')}")
    shown = flows if wide else flows[:_MOST_FLOWS]
    lines += [f"    {flow_text(flow)}" for flow in shown]
    if len(shown) < len(flows):
        lines.append(f"    and {len(flows) - len(shown)} more: -o wide shows all")
    return lines
