"""Printing: data on standard output, messages on standard error, colour and boxes only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import click

from kvctl.errors import InputError, KvctlError

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
    widths = [max(map(len, cells)) for cells in zip(*([c.title for c in columns], *rows), strict=True)]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and _print_rich(columns, rows, widths):
        return
    for row in ([column.title for column in columns], *rows):
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> bool:
    """False, with nothing printed, where the terminal is so narrow that words would break."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plain = bool(os.environ.get("NO_COLOR"))
    console = Console(no_color=plain, highlight=False)
    if sum(widths) + 2 * (len(columns) - 1) > console.width:
        widths = [
            max(len(part) for row in (*rows, [c.title for c in columns]) for part in row[at].split(","))
            + int(column.breaks)
            if column.breaks
            else widths[at]
            for at, column in enumerate(columns)
        ]
        if sum(widths) + 2 * (len(columns) - 1) > console.width:
            return False
        rows = [
            [cell.replace(",", ",\n") if c.breaks else cell for cell, c in zip(row, columns, strict=True)]
            for row in rows
        ]
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") not in ("utf8", "utf16")
    table = Table(
        box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="" if plain else "bold",
    )
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not column.breaks)
    for row in rows:
        cells = zip(row, columns, strict=True)
        table.add_row(*(Text(cell, style=column.style(cell) or "") for cell, column in cells))
    console.print(table)
    return True
