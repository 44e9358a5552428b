"""Tables on a terminal: as wide as there is room, and nothing cut off or broken within a word where there is none."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvctl.cli.output import Column, is_ascii_only, widths_of

_GAP = 2

Cells = Sequence[Sequence[str]]


def terminal() -> Console:
    """Standard output, as the terminal it is."""
    return Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)


def laid_out(columns: Sequence[Column], rows: Cells, *, width: int) -> RenderableType:
    """The first of these that fits: a table; one whose lists go over several lines; both with the first column above
    the others; else a line a cell.
    """
    if _needs(widths_of(columns, rows)) <= width:
        return _table(columns, rows)
    broken = [
        [cell.replace(",", ",\n") if c.breaks else cell for cell, c in zip(row, columns, strict=True)]
        for row in rows
    ]
    if _needs(_broken_widths(columns, broken)) <= width:
        return _table(columns, broken)
    for form in (rows, broken):
        if _GAP + _needs(_broken_widths(columns[1:], [row[1:] for row in form])) <= width:
            return _below_names(columns, form)
    return Group(*(_block(columns, row, width=width) for row in broken))


def least_left_out(columns: Sequence[Column], rows: Cells, *, width: int, may_go: Sequence[str]) -> set[str]:
    """The titles, the first of `may_go`, without which it is a table; else, without which only names stand above."""
    for above in (0, 1):
        for count in range(len(may_go) + 1):
            gone = set(may_go[:count])
            left = [at for at, column in enumerate(columns) if column.title not in gone][above:]
            widths = widths_of([columns[at] for at in left], [[row[at] for at in left] for row in rows])
            if _GAP * above + _needs(widths) <= width:
                return gone
    return set(may_go)


def _needs(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _broken_widths(columns: Sequence[Column], rows: Cells) -> list[int]:
    """The width of each column whose cells may have several lines."""
    return [
        max(len(part) for cell in (column.title, *(row[at] for row in rows)) for part in cell.split("\n"))
        for at, column in enumerate(columns)
    ]


def _table(columns: Sequence[Column], rows: Cells) -> Table:
    table = Table(
        box=box.ASCII2 if is_ascii_only() else box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="" if os.environ.get("NO_COLOR") else "bold",
    )
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_styled(column, cell) for column, cell in zip(columns, row, strict=True)))
    return table


def _styled(column: Column, cell: str) -> Text:
    return Text(cell, style=column.style(cell) or "")


def _below_names(columns: Sequence[Column], rows: Cells) -> Group:
    """The first column on lines of its own."""
    first, *others = columns
    widths = _broken_widths(others, [row[1:] for row in rows])
    titles = _line(others, [column.title for column in others], widths, is_title=True)
    bold = "" if os.environ.get("NO_COLOR") else "bold"
    rule = ("-" if is_ascii_only() else "\u2500") * (_GAP + _needs(widths))
    lines = [Text(first.title, style=bold), *titles, Text(rule)]
    for row in rows:
        lines += [_styled(first, row[0]), *_line(others, row[1:], widths)]
    return Group(*lines)


def _line(
    columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], *, is_title: bool = False
) -> list[Text]:
    """One row, on as many lines as its longest list has parts."""
    parts = [cell.split("\n") for cell in cells]
    bold = "bold" if is_title and not os.environ.get("NO_COLOR") else ""
    lines = []
    for at in range(max(map(len, parts), default=0)):
        line = Text(" " * _GAP)
        for column, texts, width, cell in zip(columns, parts, widths, cells, strict=True):
            text = texts[at] if at < len(texts) else ""
            padded = text.rjust(width) if column.right else text.ljust(width)
            line.append(padded + " " * _GAP, style=bold or column.style(cell) or "")
        line.rstrip()
        lines.append(line)
    return lines


def _block(columns: Sequence[Column], row: Sequence[str], *, width: int) -> Group:
    """The first cell, and below it the others with their titles, as many on a line as fit."""
    first, *others = columns
    lines, line = [_styled(first, row[0])], Text(" " * _GAP)
    for column, cell in zip(others, row[1:], strict=True):
        head = f"{column.title}: "
        whole = Text(head).append(cell.replace("\n", ""), style=column.style(cell) or "")
        if len(line) > _GAP and len(line) + len(whole) > width:
            lines.append(line)
            line = Text(" " * _GAP)
        if len(line) + len(whole) <= width:
            line.append(whole).append(" " * _GAP)
            continue
        start, *more = cell.split("\n")
        lines.append(Text(" " * _GAP + head).append(start))
        lines += [Text(" " * (_GAP + len(head)) + part) for part in more]
    lines.append(line)
    for each in lines:
        each.rstrip()
    return Group(*(each for each in lines if each))
