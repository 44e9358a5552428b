"""`kvctl egress list --watch`: a live table on a terminal, a block a look anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

from kvctl.cli.items import IDENTITY, UNCOUNTED, identity, status_style
from kvctl.cli.output import (
    Column,
    amount,
    is_plain,
    plain_lines,
    printable,
    wrapped,
)
from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.netfilter import conntrack
from kvctl.netfilter.endings import Ended, Endings
from kvctl.node.sysctls import read_setting
from kvctl.reconcile.rates import Rate, Sight, rates, sight, subject_of
from kvctl.reconcile.report import Status
from kvctl.signals import orderly

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvctl.cli.list import Listing
    from kvctl.model.flows import Flow
    from kvctl.reconcile.look import Look
    from kvctl.reconcile.report import Item

_INTERRUPTED = 130
_COUNTING = "netfilter/nf_conntrack_acct"
_NOT_COUNTED = f"packets and bytes are {UNCOUNTED}"
_AT_LEAST = "> there was more: connections have ended, and how much they carried was not told"
_UNKNOWN = Rate()
_GOOD = ("applied", "wanted")
_MAY_GO = ("FAMILY", "VIP", "HOLDER", "PORTS", "CONNS", "PODS")
"""The columns that a narrow terminal does not show, the first of them first."""
_MOST_REASONS = 3


class _Seen(NamedTuple):
    """One look."""

    look: Look
    items: Sequence[Item]
    sight: Sight
    failure: str | None = None
    """What could not be read beside the rules."""


def follow(listing: Listing, first: tuple[Look, list[Item]], *, wide: bool, interval: float) -> int:
    """Show look after look until Ctrl-C; one that fails is said, and the next goes on."""
    before, error = None, None
    try:
        # A terminal whose cursor is hidden gets it back, whatever ends this.
        with orderly(), _endings() as endings, _screen() as show:
            now = _counted(first, endings)
            while True:
                head = _head(now, listing.node, interval, error)
                show(head, _columns(now, before, wide=wide), _reasons(now.items))
                end = now.sight.at + interval if error is None else time.monotonic() + interval
                time.sleep(max(0.0, end - time.monotonic()))
                try:
                    now, before, error = _counted(listing.look(), endings), now.sight, None
                except KvctlError as failed:
                    error = failed
    except KeyboardInterrupt:
        return _INTERRUPTED


@contextmanager
def _endings() -> Iterator[Endings | None]:
    """What hears of connections that end; None where that cannot be."""
    with ExitStack() as stack:
        try:
            endings = stack.enter_context(Endings())
        except KvctlError:
            endings = None
        yield endings


def _counted(found: tuple[Look, list[Item]], endings: Endings | None) -> _Seen:
    """A look with what conntrack says at the same moment."""
    look, items = found
    at, failure, ended = time.monotonic(), None, Ended()
    flows: list[Flow] | None = None
    if read_setting(_COUNTING) == 1:
        try:
            flows = [flow for family in Family for flow in _flows(family, items)]
            if endings is not None:
                # After the table: what ends from now on is heard of the next time, and is in the table until then.
                ended = endings.take({item.vip for item in items if item.vip is not None})
        except KvctlError as error:
            failure = str(error)
    counters = sight(items, flows, at=at, ended=ended.flows, lost=ended.lost)
    return _Seen(look, items, counters, failure)


def _flows(family: Family, items: Sequence[Item]) -> list[Flow]:
    vips = {item.vip for item in items if item.vip is not None and item.family is family}
    return conntrack.dump(family=family, sources=(), reply_destinations=vips) if vips else []


def _head(now: _Seen, node: str, interval: float, error: KvctlError | None) -> list[str]:
    """What is said above the table."""
    backend = now.look.choice.backend
    lines = [
        f"node {node}, {backend} back end, {time.strftime('%H:%M:%S')}, every {interval:g} s, Ctrl-C ends"
    ]
    if error is not None:
        lines.append(f"the last look failed, the next goes on: {error}")
    if now.failure is not None:
        lines.append(now.failure)
    elif now.sight.volumes is None:
        lines.append(_NOT_COUNTED)
    if not now.items:
        lines.append("no egress rules on this node")
    return [printable(line).replace("\n", " ") for line in lines]


def _reasons(items: Sequence[Item]) -> list[str]:
    """Why rows are not simply in order."""
    told = [
        printable(f"{identity(item)[0]}{f' ({item.family})' if item.family else ''} {item.status}: {text}")
        for item in items
        if item.status is not Status.FOREIGN
        for text in (item.reason, *item.warnings)
        if text is not None
    ]
    over = len(told) - _MOST_REASONS
    more = [f"and {over} more: kvctl egress list"] if over > 0 else []
    return [text.replace("\n", " ") for text in (*told[:_MOST_REASONS], *more)]


_Columns = list[tuple[Column, Sequence[str]]]


def _columns(now: _Seen, before: Sight | None, *, wide: bool) -> _Columns:
    found = rates(before, now.sight)
    its = [found.get(subject_of(item), _UNKNOWN) for item in now.items]
    rows = list(zip(*map(identity, now.items), strict=True)) or [()] * len(IDENTITY)
    columns: _Columns = [
        *zip(IDENTITY, rows, strict=True),
        (Column("PODS", right=True), [str(len(item.pods)) for item in now.items]),
        (Column("STATUS", status_style), [str(item.status) for item in now.items]),
        (Column("CONNS", right=True), [_count(item.connections) for item in now.items]),
        (Column("NEW/S", right=True), [_count(each.connections) for each in its]),
        (Column("PKTS/S", right=True), [_least(each, each.packets) for each in its]),
        (Column("BYTES/S", right=True), [_least(each, each.octets) for each in its]),
    ]
    if wide:
        columns.append((Column("PORTS", breaks=True), [",".join(item.ports) or "all" for item in now.items]))
        columns.append((Column("HOLDER"), [item.holder or "-" for item in now.items]))
    return columns


def _count(value: float | None) -> str:
    return "-" if value is None else amount(value)


def _least(rate: Rate, value: float | None) -> str:
    return f"{'>' if rate.is_least and value is not None else ''}{_count(value)}"


@contextmanager
def _screen() -> Iterator[Callable[[Sequence[str], _Columns, Sequence[str]], None]]:
    """What shows a head, a table and reasons: in place of the last ones on a terminal, below them elsewhere."""
    if is_plain():
        yield _print_block
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from kvctl.cli.tables import terminal

    console = terminal()
    with ExitStack() as stack:
        # Also where the signal comes while it is being hidden.
        stack.callback(console.show_cursor)
        live = stack.enter_context(
            Live(
                console=console,
                auto_refresh=False,
                vertical_overflow="crop",
                # Its stand-ins for the streams do not know that they are a terminal.
                redirect_stdout=False,
                redirect_stderr=False,
            )
        )

        def show(head: Sequence[str], columns: _Columns, reasons: Sequence[str]) -> None:
            said = [part for line in head for part in wrapped(line)]
            below = [part for line in reasons for part in wrapped(line)]
            titles, rows = _turned(columns)
            if any(">" in cell for row in rows for cell in row):
                said.append(_AT_LEAST)
            kept, table = rows, _narrow(titles, rows, width=console.width)
            # The last line of a terminal stays free: a full one would scroll.
            most = console.height - len(said) - len(below) - 2
            while len(kept) > 1 and (over := _height(table) - most) > 0:
                each = max(1, _height(table) // len(kept))
                kept = _fitting(kept, len(kept) - max(1, over // each))
                table = _narrow(titles, kept, width=console.width)
            if len(kept) < len(rows):
                said.append(f"{len(rows) - len(kept)} rows do not fit here: those as wanted with nothing new")
            parts = [Text("\n".join(said)), table, *map(Text, below)]
            live.update(Group(*parts), refresh=True)

        def _height(table: RenderableType) -> int:
            return len(console.render_lines(table, pad=False))

        yield show


def _narrow(titles: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int) -> RenderableType:
    """A table without the columns that there is no room for; what goes on is in all of them."""
    from kvctl.cli.tables import laid_out, least_left_out

    gone = least_left_out(titles, rows, width=width, may_go=_MAY_GO)
    name, family = 0, 1
    if {"FAMILY", "VIP"} <= gone and len({row[family] for row in rows}) > 1:
        rows = [[f"{row[name]} {row[family]}", *row[1:]] for row in rows]
    left = [at for at, title in enumerate(titles) if title.title not in gone]
    return laid_out([titles[at] for at in left], [[row[at] for at in left] for row in rows], width=width)


def _turned(columns: _Columns) -> tuple[list[Column], list[list[str]]]:
    """Titles and rows."""
    return [column for column, _ in columns], [
        list(row) for row in zip(*(cells for _, cells in columns), strict=True)
    ]


def _fitting(rows: list[list[str]], most: int) -> list[list[str]]:
    """So many rows, in their order: first go those with nothing to see."""
    status, new = len(IDENTITY) + 1, len(IDENTITY) + 3
    idle = ("-", "0", "0.0")
    ranked = sorted(range(len(rows)), key=lambda at: (rows[at][status] in _GOOD, rows[at][new] in idle))
    kept = set(ranked[: max(most, 1)])
    return [row for at, row in enumerate(rows) if at in kept]


def _print_block(head: Sequence[str], columns: _Columns, reasons: Sequence[str]) -> None:
    titles, rows = _turned(columns)
    lines = [f"# {line}" for line in head]
    if rows:
        lines += plain_lines(titles, rows)
    lines += [f"# {line}" for line in reasons]
    click.echo("\n".join([*lines, ""]))
