"""A Service in depth, as lines and as JSON: problems first, then what is wanted, found and going on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from kvctl.cli.items import (
    UNCOUNTED,
    VIP_COLOUR,
    ends_text,
    flow_json,
    holder_json,
    item_json,
    seen_end,
    status_style,
    tells_rules,
)
from kvctl.cli.output import Json, amount, coloured, printable, wrapped
from kvctl.model.flows import Flow
from kvctl.model.text import plural
from kvctl.node.sysctls import read_setting
from kvctl.reconcile.detail import Detail
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.side_by_side import Row, Standing, short

if TYPE_CHECKING:
    from kvctl.cli.around import Around
    from kvctl.cli.told import Told

_MOST = 20
"""Pods, rules and connections that are shown unless all are asked for."""
_LEFT = 20
"""Columns of the titles."""
_MOST_TARGETS = 3
_COUNTED = "packets and bytes; in nat the first packet of each connection"
_LACKING = "others are missing: -f or --cluster shows which"
_BOTH_WAYS = "packets and bytes, both ways"
_COUNTING = "netfilter/nf_conntrack_acct"


def worst_first(details: Iterable[Detail]) -> list[Detail]:
    """Those with the worst problems first, else in their order."""
    return sorted(details, key=lambda each: min((p.weight for p in each.problems), default=100))


class _Line(NamedTuple):
    """A line, and the word in it that has a colour."""

    text: str
    word: str = ""
    colour: str | None = None
    indent: int = 4
    """Of what goes over to the next line."""

    def parts(self) -> Iterator[str]:
        """As the terminal gets it."""
        for part in wrapped(printable(self.text).replace("\n", "\\n"), indent=self.indent):
            yield part.replace(self.word, coloured(self.word, self.colour), 1) if self.word else part


def lines(each: Detail, around: Around, told: Told | None, *, wide: bool) -> Iterator[str]:
    """What a person reads; `told`: the Events about the Service, where a cluster was named."""
    for line in _lines(each, around, told, wide=wide):
        yield from line.parts()


def _lines(each: Detail, around: Around, told: Told | None, *, wide: bool) -> Iterator[_Line]:
    item = each.item
    problems, its_notes = each.sentences, notes(each)
    yield _headline(item, next(iter((*problems, *its_notes)), ""))
    yield from (_Line(f"  ! {text}", "!", "red") for text in problems[1:])
    yield from (_Line(f"  * {text}", "*", "yellow") for text in its_notes[0 if problems else 1 :])
    for title, value in _facts(each, around):
        vip = str(item.vip) if title == "VIP" else ""
        yield _Line(f"  {title + ':':<{_LEFT}}{value}", vip, VIP_COLOUR, indent=_LEFT)
    yield from _pods(item, wide=wide)
    yield from _rules(each, wide=wide)
    yield from _flows(each, wide=wide)
    if told is not None:
        yield from map(_Line, told.lines(item.ref))


def _headline(item: Item, worst: str) -> _Line:
    name = "/".join(filter(None, (item.namespace, item.service))) or "rules without a Service"
    family = f" {item.family}" if item.family else ""
    status = f": {item.status}"
    return _Line(f"{name}{family}{status}{f': {worst}' if worst else ''}", status, status_style(item.status))


def _facts(each: Detail, around: Around) -> list[tuple[str, str]]:
    item = each.item
    known = tells_rules(item)
    begun = "-" if item.connections is None else f"{item.connections} begun under these rules"
    return [
        *around.facts(each),
        ("ports", ", ".join(item.ports) or ("all traffic" if known else "-")),
        ("allowed networks", ", ".join(map(str, item.allowed)) or ("all" if known else "-")),
        ("denied networks", ", ".join(map(str, item.denied)) or ("none" if known else "-")),
        ("never rewritten to", ", ".join(map(str, item.excluded)) or "-"),
        ("connections", begun),
        ("ports in use", "none" if each.ports is None else f"{each.ports}, its busiest destination"),
    ]


def _pods(item: Item, *, wide: bool) -> Iterator[_Line]:
    yield _Line(f"  {plural(len(item.pods), 'pod')}")
    shown = item.pods if wide else item.pods[:_MOST]
    for pod in shown:
        where = f" on {pod.node}" if pod.node else ""
        yield _Line(f"    {pod.address}  {pod.name or pod.label}{where}")
    yield from _more(len(item.pods) - len(shown))


def _rules(each: Detail, *, wide: bool) -> Iterator[_Line]:
    rows = each.rows
    if not rows:
        return
    wrong = sum(row.standing is not Standing.THERE for row in rows)
    as_wanted = f"{wrong} not as wanted" if wrong else "all as wanted"
    if not wrong and each.item.status is Status.DRIFTED:
        as_wanted = _LACKING
    yield _Line(f"  {plural(len(rows), 'rule')}, {as_wanted} ({_COUNTED})")
    left = len(rows) if wide else _MOST
    hidden = 0
    for row in rows:
        if row.standing is Standing.THERE:
            left -= 1
            if left < 0:
                hidden += 1
                continue
        yield _rule(row, wide=wide)
    yield from _more(hidden)


def _rule(row: Row, *, wide: bool) -> _Line:
    counts = _counts(row.packets, row.octets)
    text = row.text if wide else short(row.text)
    colour = None if row.standing is Standing.THERE else "red"
    return _Line(f"    {row.standing:<11} {counts} {row.chain}  {text}", row.standing, colour)


def _counts(packets: int | None, octets: int | None) -> str:
    """Two columns."""
    return " ".join(f"{'-' if each is None else amount(each):>5}" for each in (packets, octets))


def _flows(each: Detail, *, wide: bool) -> Iterator[_Line]:
    flows = sorted(each.item.flows or (), key=lambda flow: flow not in each.wrong)
    counts = (
        (len(each.wrong), "with another source than the rules give"),
        (len(each.unlisted), "left alone"),
    )
    said = "".join(f", {count} of them {what}" for count, what in counts if count)
    counted = any(flow.sent for flow in flows)
    yield _Line(f"  {plural(len(flows), 'live connection')}{said}{f' ({_BOTH_WAYS})' if counted else ''}")
    if flows and not counted:
        why = UNCOUNTED if read_setting(_COUNTING) == 0 else "not counted: they are older than the counting"
        yield _Line(f"    packets and bytes: - ({why})")
    shown = flows if wide else flows[:_MOST]
    yield from (_flow(each, flow, counted=counted) for flow in shown)
    yield from _more(len(flows) - len(shown))


def _flow(each: Detail, flow: Flow, *, counted: bool) -> _Line:
    volumes = [volume for volume in (flow.sent, flow.received) if volume is not None]
    packets, octets = sum(volume.packets for volume in volumes), sum(volume.octets for volume in volumes)
    counts = _counts(*((packets, octets) if volumes else (None, None))) + " " if counted else ""
    seen, state = f"seen as {seen_end(flow)}", f" {flow.state}" if flow.state else ""
    remark, colour = "", "green" if flow.reply.destination == each.item.vip else None
    if flow in each.wrong:
        remark, colour = " (wrong source)", "red"
    elif flow in each.unlisted:
        remark = " (left alone)"
    return _Line(f"    {counts}{ends_text(flow)} {seen}{state}{remark}", seen, colour)


def _more(count: int) -> Iterator[_Line]:
    if count > 0:
        yield _Line(f"    and {count} more: -o wide shows all")


def notes(each: Detail) -> list[str]:
    """What is as it was asked for, and may surprise."""
    if not each.unlisted:
        return []
    targets = Counter(f"{flow.protocol}:{flow.reply.source_port}" for flow in each.unlisted)
    shown = ", ".join(target for target, _ in targets.most_common(_MOST_TARGETS))
    count, one = plural(len(each.unlisted), "connection"), len(each.unlisted) == 1
    leave = f"{count} {'leaves' if one else 'leave'} without the VIP"
    ports = ", ".join(each.item.ports)
    if ports and not any(_is_asked(flow, each.item) for flow in each.unlisted):
        return [
            f"{leave}: the Service asks for {ports} alone, and {'it goes' if one else 'they go'} to {shown}"
        ]
    return [f"{leave}, by the Service's ports and networks: to {shown}"]


def _is_asked(flow: Flow, item: Item) -> bool:
    """Whether it is one of the ports that the Service lists."""
    for port in item.ports:
        protocol, _, span = port.partition(":")
        first, _, last = span.partition("-")
        if protocol == flow.protocol and int(first) <= flow.reply.source_port <= int(last or first):
            return True
    return False


def json(each: Detail, around: Around, told: Told | None) -> Json:
    """The same for programs; what cannot be known is null."""
    ports = each.ports
    return {
        **item_json(each.item),
        **holder_json(each.item),
        **around.json(each),
        "flows": [
            {**flow_json(flow), "wrongSource": flow in each.wrong, "leftAlone": flow in each.unlisted}
            for flow in each.item.flows or ()
        ],
        "notes": notes(each),
        "rules": [
            {
                "table": str(row.table),
                "chain": row.chain,
                "standing": str(row.standing),
                "rule": row.text,
                "packets": row.packets,
                "bytes": row.octets,
            }
            for row in each.rows
        ],
        "portUse": None
        if ports is None
        else {
            "protocol": ports.protocol,
            "destination": str(ports.destination),
            "destinationPort": ports.destination_port,
            "used": ports.used,
            "of": ports.ports,
        },
        "events": told.json(each.item.ref) if told is not None else None,
    }
