"""Printing: data on standard output, messages on standard error, colour and boxes only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `style` gives a cell's colour by its text, which never says more than the text."""

    title: str
    style: Callable[[str], str | None] = lambda text: None
    right: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """With boxes and colours on a terminal, else plain columns that awk can read."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _print_rich(columns, rows)
        return
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") not in ("utf8", "utf16")
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(cell, style=column.style(cell) or "") for cell, column in zip(row, columns, strict=True))
        )
    Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False).print(table)
