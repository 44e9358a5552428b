"""Printing: data on standard output, messages on standard error, colour and boxes only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TextIO

import click

from kvctl.errors import InputError, KvctlError

FORMATS = ("table", "wide", "json", "yaml")

Json = Mapping[str, object]


class Kind(StrEnum):
    """What a message begins with."""

    NOTE = "Note"
    """Something to know that is no error."""
    WARNING = "Warning"
    """Something that may hurt."""
    ERROR = "Error"
    HINT = "Hint"


def note(text: str) -> None:
    """Something to know that is no error."""
    tell([(Kind.NOTE, text)])


def warning(text: str) -> None:
    """Something that may hurt."""
    tell([(Kind.WARNING, text)])


def error_message(error: KvctlError) -> None:
    """An error and its hint."""
    hint = [(Kind.HINT, printable(error.hint))] if error.hint else []
    tell([(Kind.ERROR, printable(error.message)), *hint])


def tell(messages: Iterable[tuple[Kind, str]]) -> None:
    """Messages in their order, each of which a terminal breaks between words; several lines stay several.

    They are written at once: a write each takes longer than everything else that is done for them.
    """
    lines = [
        part
        for kind, text in messages
        for line in f"{kind}: {text}".split("\n")
        for part in wrapped(line, stream=sys.stderr)
    ]
    if lines:
        click.echo("\n".join(lines), err=True)


def input_errors(errors: Iterable[InputError]) -> None:
    """Errors in objects, one after the other."""
    for error in errors:
        error_message(error)


def printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor or change its colours."""
    if text.isprintable():
        return text
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


def wrapped(text: str, *, indent: int = 4, stream: TextIO | None = None) -> list[str]:
    """The text in lines that fit the terminal, broken at spaces; those after the first are indented by `indent` more.

    Where `stream` (standard output) is no terminal it is one line, so that it can be searched for.
    """
    if not (sys.stdout if stream is None else stream).isatty():
        return [text]
    # These two import more than most commands need.
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    if len(text) <= width:
        return [text]
    start = text[: len(text) - len(text.lstrip(" "))]
    deeper = " " * min(len(start) + indent, width // 3)
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
    """Laid out for the terminal, in its colours; where there is none plain columns that awk can read."""
    if is_plain():
        click.echo("\n".join(plain_lines(columns, rows)))
        return
    from kvctl.cli.tables import laid_out, terminal

    console = terminal()
    console.print(laid_out(columns, rows, width=console.width))


def widths_of(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column, its title included."""
    return [max(map(len, cells)) for cells in zip(*([c.title for c in columns], *rows), strict=True)]


def plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line a row, in columns that awk can read."""
    padded = []
    for column, cells in zip(columns, zip(*([c.title for c in columns], *rows), strict=True), strict=True):
        pad, width = str.rjust if column.right else str.ljust, max(map(len, cells))
        padded.append([pad(cell, width) for cell in cells])
    return ("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))


def amount(count: float) -> str:
    """`0.5`, `9999`, `10k`, `1.2M`: five characters at most."""
    if count < 10_000:
        return str(count) if isinstance(count, int) else f"{count:.1f}" if count < 100 else f"{count:.0f}"
    value, units = float(count), iter("kMGTPE")
    unit = ""
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
