"""`kvctl egress diff`: what apply would change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.items import count_by_status, document, explain, print_items, report_look
from kvctl.cli.node import Wanted, named_but_skipped, read_wanted
from kvctl.cli.output import note, print_json, print_yaml, printable
from kvctl.cli.placing import Placing, find_places, removal, tell_leftover
from kvctl.cli.settings import told_backend
from kvctl.cli.source import without_errors
from kvctl.model.host import Host
from kvctl.model.net import Family
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.netfilter.diff import Change, restore_text
from kvctl.netfilter.kernel import reading_everything
from kvctl.node.addresses import Bound, bound
from kvctl.node.host import read_host
from kvctl.node.routing_plan import RoutingPlan
from kvctl.reconcile.changed import taken_over
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.leftover import find_leftover, vips_to_be
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.target import Scope

DIFFERENCES = 3

_OPERATIONS = {"+": "add", "-": "remove"}
_SIGNS = {"add": "+", "insert": "+", "remove": "-", "delete-chain": "-", "flush-chain": "-"}


@click.command(cls=Command)
@options.services
@options.namespace
@takes_inputs()
@options.output("iptables")
@click.option(
    "--family",
    type=click.Choice([str(family) for family in Family]),
    default=str(Family.IPV4),
    show_default=True,
    help="Which one -o iptables prints.",
)
@options.prune
@options.with_vip
@options.backend
def command(
    *,
    services: Sequence[str],
    namespace: str | None,
    inputs: Inputs,
    nftables: bool | None,
    prune: bool,
    with_vip: bool,
    output: str,
    family: str,
) -> int:
    """Show what apply would change, rule by rule. Exit status 3 if it would change anything.

    With -o iptables it prints the restore text that changes the kernel as it was just read, and is good for
    that one only.
    """
    refs = inputs.services(services, namespace=namespace)
    settings = inputs.settings()
    difference = find_difference(
        inputs.objects(),
        settings=settings,
        scope=Scope(named=refs, prune=prune),
        told=told_backend(nftables),
        with_vip=with_vip,
    )
    if output == "iptables":
        plan = difference.compared.plans.get(Family(family))
        click.echo(restore_text(plan) if plan else "", nl=False)
    else:
        difference.print(output, node=settings.this_node)
    items = difference.compared.items
    status = max(difference.report(), named_but_skipped(items, refs))
    if difference:
        return status or DIFFERENCES
    if not status:
        note(f"no difference: apply would change nothing ({count_by_status(items)})")
    return status


class Difference(NamedTuple):
    """What apply would change; false if nothing."""

    wanted: Wanted
    found: Look
    compared: Compared
    placing: Placing | None
    leftover: tuple[Bound, ...]
    """What was placed and nobody needs: with `placing` it goes, else it stays."""
    routing: RoutingPlan

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.compared.differs or self.routing or self._placed or self._taken)

    @property
    def _placed(self) -> tuple[str, ...]:
        return self.placing.lines() if self.placing is not None else ()

    @property
    def _taken(self) -> tuple[str, ...]:
        return tuple(map(removal, self.leftover)) if self.placing is not None else ()

    def print(self, output: str, *, node: str | None) -> None:
        """The items, and in a table after them every change once."""
        items, backend = self.compared.items, str(self.found.choice.backend)
        network = (*self._placed, *self.routing.lines(), *self._taken)
        if output in ("json", "yaml"):
            shown = {
                **document(items, backend=backend, node=node),
                "network": [{"op": _OPERATIONS[line[0]], "what": line[2:]} for line in network],
            }
            print_json(shown) if output == "json" else print_yaml(shown)
            return
        print_items(items, output, backend=backend, node=node)
        lines = [*(_line(family, change) for family, change in self.compared.changes()), *network]
        if lines:
            click.echo("\n".join(["", *map(printable, lines)]))

    def report(self) -> int:
        """Say what there is to know beside that; the exit status this makes."""
        status = self.wanted.report()
        if self.placing is not None:
            status = max(status, self.placing.report())
        else:
            tell_leftover(self.leftover)
        before = [site.installed for site in self.found.sites.values()]
        for text in taken_over(before, self.compared.items):
            note(text)
        report_look(self.found)
        explain(without_errors(self.compared.items, self.wanted.resolution))
        return status


def find_both(
    objects: Objects, *, settings: Settings, scope: Scope, told: bool | None, host: Host | None = None
) -> tuple[Wanted, Look]:
    """What is wanted and what is there: the programs that read run while it is worked out what is wanted."""
    with reading_everything() as read:
        wanted = read_wanted(objects, settings=settings, scope=scope, host=host)
        return wanted, look(told=told, read=read, expect=wanted.wish.expected)


def find_difference(
    objects: Objects,
    *,
    settings: Settings,
    scope: Scope,
    told: bool | None,
    with_vip: bool,
    force: bool = False,
) -> Difference:
    """Compare the kernel with what the objects ask for. `with_vip`, `force`: as `apply` would make it with these."""
    placing = host = None
    if with_vip:
        host = read_host()
        placing = find_places(objects, settings=settings, scope=scope, host=host, force=force)
        host = placing.on(host)
    wanted, found = find_both(objects, settings=settings, scope=scope, told=told, host=host)
    compared = compare(found, wanted.wish, scope=scope)
    needed = {*vips_to_be(found, wanted.wish), *(placing.vips if placing is not None else ())}
    return Difference(
        wanted=wanted,
        found=found,
        compared=compared,
        placing=placing,
        leftover=find_leftover(bound(), found, needed=needed, scope=scope),
        routing=wanted.led.plan(whole=scope.named is None),
    )


def _line(family: Family, change: Change) -> str:
    if change.rule is None:
        word = "delete chain" if change.op == "delete-chain" else "empty chain"
        return f"{_SIGNS[change.op]} {family} {change.table}: {word} {change.chain}"
    verb = "-I" if change.op == "insert" else "-A"
    return f"{_SIGNS[change.op]} {family} {change.table}: {verb} {change.chain} {change.rule}"
