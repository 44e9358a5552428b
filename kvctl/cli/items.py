"""Items as JSON and as rows: one form for every command that shows Services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kvctl.cli.output import (
    Column,
    Json,
    Kind,
    print_json,
    print_table,
    print_yaml,
    printable,
    tell,
    warning,
)
from kvctl.model.net import Address
from kvctl.model.rules import Table, table_of
from kvctl.netfilter.diff import Change
from kvctl.netfilter.nft import IPTABLES_TABLE
from kvctl.reconcile.report import Item, Status

if TYPE_CHECKING:
    from kvctl.cli.ways_out import WaysOut
    from kvctl.model.flows import Flow, Volume
    from kvctl.reconcile.look import Look
    from kvctl.reconcile.site import Site

SCHEMA_VERSION = 1

VIP_COLOUR = "cyan"
"""Of the address that others see."""

UNCOUNTED = "not counted before sysctl -w net.netfilter.nf_conntrack_acct=1, and then of new connections"
"""Why there are no packets and bytes, and what to do."""

_GOOD = (Status.APPLIED, Status.WANTED)
_BAD = (Status.MISSING, Status.DRIFTED, Status.OVERRIDDEN)


def status_style(text: str) -> str | None:
    """Green for what works, red for what does not, yellow for what somebody should look at."""
    if text in _GOOD:
        return "green"
    return "red" if text in _BAD else "yellow"


def document(
    items: Sequence[Item], *, backend: str | None, node: str | None, ways: WaysOut | None = None
) -> Json:
    """The JSON document of all commands that show items; `ways`: with who has the VIPs, announces them, leads out."""
    shown = [
        item_json(item) if ways is None else {**item_json(item), **holder_json(item), **ways.json(item)}
        for item in items
    ]
    return {"schemaVersion": SCHEMA_VERSION, "backend": backend, "node": node, "items": shown}


def holder_json(item: Item) -> Json:
    """Who has the VIP of an item, and by which Lease."""
    lease = item.lease
    return {
        "holder": item.holder,
        "vipInterface": item.vip_interface,
        "lease": {"namespace": lease.namespace, "name": lease.name} if lease is not None else None,
    }


def item_json(item: Item) -> Json:
    """One item; what cannot be known is null."""
    result: dict[str, object] = {
        "namespace": item.namespace,
        "service": item.service,
        "family": str(item.family) if item.family else None,
        "vip": str(item.vip) if item.vip is not None else None,
        "interface": item.interface,
        "pods": [{"name": pod.name, "ip": str(pod.address), "node": pod.node} for pod in item.pods],
        "ports": list(item.ports),
        "allowedNetworks": list(map(str, item.allowed)),
        "deniedNetworks": list(map(str, item.denied)),
        "excludedNetworks": list(map(str, item.excluded)),
        "status": str(item.status),
        "reason": item.reason,
        "warnings": list(item.warnings),
        "connections": item.connections,
    }
    if item.changes is not None:
        result["changes"] = [change_json(change) for change in item.changes]
    if item.flows is not None:
        result["flows"] = [flow_json(flow) for flow in item.flows]
    if item.problems is not None:
        result["problems"] = list(item.problems)
    return result


def change_json(change: Change) -> Json:
    """One rule that comes or goes."""
    return {"table": str(change.table), "chain": change.chain, "op": change.op, "rule": change.rule}


def flow_json(flow: Flow) -> Json:
    """One connection, as the pod sent it and as the other end sees it."""
    return {
        "protocol": flow.protocol,
        "source": str(flow.original.source),
        "sourcePort": flow.original.source_port,
        "destination": str(flow.original.destination),
        "destinationPort": flow.original.destination_port,
        "seenAs": str(flow.reply.destination),
        "seenAsPort": flow.reply.destination_port,
        "state": flow.state,
        "sent": _volume_json(flow.sent),
        "received": _volume_json(flow.received),
    }


def _volume_json(volume: Volume | None) -> Json | None:
    return None if volume is None else {"packets": volume.packets, "bytes": volume.octets}


def print_items(
    items: Sequence[Item],
    output: str,
    *,
    backend: str | None,
    node: str | None,
    extra: tuple[str, Sequence[str]] | None = None,
    holders: bool = False,
    ways: Callable[[], WaysOut] | None = None,
) -> None:
    """Items in the format asked for.

    `extra`: one more column for the table; `holders`: one that says who has the VIP; `ways`: how to see who
    announces it and what leads out, which not every format needs.
    """
    if output in ("json", "yaml"):
        shown = document(items, backend=backend, node=node, ways=ways() if ways is not None else None)
        print_json(shown) if output == "json" else print_yaml(shown)
        return
    if not items:
        return
    rows = zip(*map(identity, items), strict=True)
    columns = [*zip(IDENTITY, rows, strict=True), *_standing(items)]
    if holders:
        columns.append((Column("HOLDER"), [_holder(item, node) for item in items]))
    if output == "wide":
        columns += _width(items, leases=holders, ways=ways() if ways is not None else None)
    if extra is not None:
        columns.append((Column(extra[0]), extra[1]))
    titles, cells = zip(*columns, strict=True)
    print_table(titles, list(zip(*cells, strict=True)))


_Columns = list[tuple[Column, Sequence[str]]]


def _standing(items: Sequence[Item]) -> _Columns:
    columns: _Columns = [
        (Column("PODS", right=True), [str(len(item.pods)) for item in items]),
        (Column("PORTS", breaks=True), [_ports(item) for item in items]),
        (Column("STATUS", status_style), [str(item.status) for item in items]),
    ]
    if any(item.connections is not None for item in items):
        counts = ["-" if item.connections is None else str(item.connections) for item in items]
        columns.append((Column("CONNS", right=True), counts))
    return columns


def _width(items: Sequence[Item], *, leases: bool, ways: WaysOut | None) -> _Columns:
    """What only the wide table has."""
    columns: _Columns = [
        (Column("INTERFACE"), [item.interface or item.vip_interface or "-" for item in items])
    ]
    if leases:
        columns.append((Column("LEASE"), [str(item.lease or "-") for item in items]))
    if ways is not None:
        announcers = (ways.announcer(item.vip, item.vip_interface) for item in items)
        columns.append((Column("ANNOUNCED"), [str(each) if each is not None else "-" for each in announcers]))
        columns.append((Column("ROUTE"), [ways.route(item) for item in items]))
    lists: tuple[tuple[str, Callable[[Item], Iterable[object]], str], ...] = (
        ("ALLOWED", lambda item: item.allowed, "all"),
        ("DENIED", lambda item: item.denied, "-"),
        ("EXCLUDED", lambda item: item.excluded, "-"),
        ("ADDRESSES", lambda item: (pod.address for pod in item.pods), "-"),
    )
    for title, of, empty in lists:
        columns.append((Column(title, breaks=True), [_joined(map(str, of(item)), empty) for item in items]))
    return columns


IDENTITY = (
    Column("SERVICE"),
    Column("FAMILY"),
    Column("VIP", lambda text: None if text == "-" else VIP_COLOUR),
)
"""The columns that say which item this is."""


def identity(item: Item) -> list[str]:
    """The cells of IDENTITY; the Service as it is named on a command line."""
    return [
        f"{item.namespace or '-'}/{item.service or '-'}",
        str(item.family) if item.family else "-",
        str(item.vip) if item.vip is not None else "-",
    ]


def tells_rules(item: Item) -> bool:
    """Whether an empty list of ports or networks means all; else what its rules are, or would be, is not known."""
    return item.vip is not None and (item.status not in (Status.SKIPPED, Status.ELSEWHERE) or bool(item.pods))


def _ports(item: Item) -> str:
    return _joined(item.ports, "all" if tells_rules(item) else "-")


def _holder(item: Item, node: str | None) -> str:
    """Where its VIP is: here, on another node, or nobody knows."""
    is_here = item.vip_interface is not None or (item.holder is not None and item.holder == node)
    return "here" if is_here else item.holder or "-"


def _joined(texts: Iterable[str], empty: str) -> str:
    return ",".join(texts) or empty


def count_by_status(items: Sequence[Item]) -> str:
    """`2 applied, 1 skipped`."""
    counts = Counter(str(item.status) for item in items)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no Service asks for egress"


def explain(items: Sequence[Item]) -> None:
    """Why items are not simply in order, on standard error: nothing is skipped in silence."""
    tell(message for item in items for message in _explained(item))


def _explained(item: Item) -> Iterator[tuple[Kind, str]]:
    if item.warnings or item.reason is not None:
        where = "/".join(filter(None, (item.namespace, item.service)))
        family = f" ({item.family})" if item.family else ""
        if item.reason is not None and item.status is not Status.FOREIGN:
            yield Kind.NOTE, printable(f"{where}{family} {item.status}: {item.reason}")
        for text in item.warnings:
            yield Kind.WARNING, printable(f"{where}{family}: {text}")


def flow_text(flow: Flow) -> str:
    """One connection on a line."""
    seen = flow.reply
    state = f" {flow.state}" if flow.state else ""
    return f"{ends_text(flow)} seen as {_end(seen.destination, seen.destination_port)}{state}"


def ends_text(flow: Flow) -> str:
    """Protocol and ends of a connection, as the pod sees them."""
    sent = flow.original
    return (
        f"{flow.protocol} {_end(sent.source, sent.source_port)} -> "
        f"{_end(sent.destination, sent.destination_port)}"
    )


def seen_end(flow: Flow) -> str:
    """As whom the other end sees the pod; the port only where it is another than the pod's."""
    seen = flow.reply
    same = seen.destination_port == flow.original.source_port
    return _end(seen.destination, 0 if same else seen.destination_port)


def _end(address: Address, port: int) -> str:
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def report_look(look: Look, *, mend: Callable[[], object] = lambda: "kvctl egress apply") -> None:
    """Say what the look at the kernel found strange; `mend`: the command that writes rules again, once needed."""
    for text in look.warnings:
        warning(printable(text))
    for site in (*look.sites.values(), *look.others.values()):
        for table in _emptied(site):
            warning(
                f"kvctl's chains are here ({site.kernel.backend}, {site.family}), but empty: somebody flushed the "
                f"{table} table; {mend()} writes the rules again, flush --all removes the chains"
            )
    for family, site in look.sites.items():
        for table, beside in site.snapshot.around.items():
            if not beside.position_known:
                place = IPTABLES_TABLE[family][0]
                warning(
                    f"{family}: native nft rules in table {table} hide its text; whether another rule comes before "
                    f"kvctl's jump cannot be seen (nft list table {place} {table} shows it)"
                )


def _emptied(site: Site) -> list[Table]:
    """Tables with chains of ours that say nothing any more."""
    installed = site.installed
    with_chains = {table_of(chain) for chain in site.snapshot.chains}
    with_rules = {
        Table.NAT: bool(installed.services or installed.retiring),
        Table.MANGLE: bool(installed.drops.services or installed.guards or installed.marks),
    }
    return [table for table in Table if table in with_chains and not with_rules[table]]
