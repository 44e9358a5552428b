"""Printing: data on standard output, messages on standard error, colour and boxes only on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from kvctl.errors import InputError, KvctlError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

FORMATS = ("table", "wide", "json", "yaml")

Json = Mapping[str, object]


def note(text: str) -> None:
    """Something to know that is no error."""
    click.echo(f"Note: {text}", err=True)


def warning(text: str) -> None:
    """Something that may hurt."""
    click.echo(f"Warning: {text}", err=True)


def error_message(error: KvctlError) -> None:
    """An error and its hint."""
    click.echo(f"Error: {printable(error.message)}", err=True)
    if error.hint:
        click.echo(f"Hint: {printable(error.hint)}", err=True)


def input_errors(errors: Iterable[InputError]) -> None:
    """Errors in objects, one after the other."""
    for error in errors:
        error_message(error)


def printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def is_plain() -> bool:
    """Whether standard output is no terminal that understands colours and movements: a pipe, a file, TERM=dumb."""
    return not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"


def coloured(text: str, colour: str | None) -> str:
    """The text in a colour, where the terminal has colours and wants them; None: as it is."""
    if colour is None or is_plain() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour)


def is_ascii_only() -> bool:
    """Whether nothing outside ASCII may be sent: by the encoding, or by a locale that says so.

    In the C locale Python takes UTF-8 (PEP 540) whatever the terminal can show.
    """
    variables = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    told = next(filter(None, variables), "C").lower().replace("-", "")
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return encoding not in ("utf8", "utf16") or "utf8" not in told


def wrapped(text: str, *, indent: int = 4) -> list[str]:
    """The text in lines that fit the terminal, broken at spaces; those after the first are indented by `indent` more.

    Where there is no terminal it is one line, so that it can be searched for.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    if len(text) <= width:
        return [text]
    start = text[: len(text) - len(text.lstrip(" "))]
    deeper = " " * min(len(start) + indent, width // 2)
    return textwrap.wrap(
        text.lstrip(" "),
        max(width, 20),
        initial_indent=start,
        subsequent_indent=deeper,
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_json(document: Json) -> None:
    """A document, indented."""
    import json

    click.echo(json.dumps(document, indent=2))


def print_yaml(document: Json) -> None:
    """The same document as YAML."""
    import yaml

    click.echo(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=False, width=120), nl=False)


class Column(NamedTuple):
    """A column of a table; `style` gives a cell's colour by its text, which never says more than the text."""

    title: str
    style: Callable[[str], str | None] = lambda text: None
    right: bool = False
    breaks: bool = False
    """Cells are comma-separated lists that may go over several lines where the terminal is narrow."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Boxes and colours on a terminal that is wide enough, else plain columns that awk can read."""
    widths = widths_of(columns, rows)
    if not is_plain() and _print_rich(columns, rows, widths):
        return
    for line in plain_lines(columns, rows, widths):
        click.echo(line)


def widths_of(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column, its title included."""
    return [max(map(len, cells)) for cells in zip(*([c.title for c in columns], *rows), strict=True)]


def plain_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> Iterator[str]:
    """A line a row, in columns that awk can read."""
    for row in ([column.title for column in columns], *rows):
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> bool:
    """False, with nothing printed, where the terminal is so narrow that words would break."""
    console = terminal()
    table = boxed(columns, rows, widths, width=console.width)
    if table is None:
        return False
    console.print(table)
    return True


def terminal() -> Console:
    """Standard output, as the terminal it is."""
    from rich.console import Console

    return Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)


def boxed(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int], *, width: int
) -> RichTable | None:
    """The table with colours and a line under its titles; None: words would break in `width` columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    gaps = 2 * (len(columns) - 1)
    if sum(widths) + gaps > width:
        widths = _narrowed(columns, rows, widths)
        if sum(widths) + gaps > width:
            return None
        rows = [
            [cell.replace(",", ",\n") if c.breaks else cell for cell, c in zip(row, columns, strict=True)]
            for row in rows
        ]
    table = Table(
        box=box.ASCII2 if is_ascii_only() else box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="" if os.environ.get("NO_COLOR") else "bold",
    )
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not column.breaks)
    for row in rows:
        cells = zip(row, columns, strict=True)
        table.add_row(*(Text(cell, style=column.style(cell) or "") for cell, column in cells))
    return table


def _narrowed(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[int]:
    """The least widths, with lists over several lines."""
    titles = [column.title for column in columns]
    return [
        max(len(part) for row in (*rows, titles) for part in row[at].split(",")) + 1
        if column.breaks
        else widths[at]
        for at, column in enumerate(columns)
    ]


def amount(count: float) -> str:
    """`0.5`, `9999`, `10.0k`, `1.2M`: six characters at most."""
    if count < 10_000:
        return str(count) if isinstance(count, int) else f"{count:.1f}" if count < 1000 else f"{count:.0f}"
    value, units = float(count), iter("kMGTPE")
    unit = ""
    while value >= 1000:
        value, unit = value / 1000, next(units)
    return f"{value:.1f}{unit}"
