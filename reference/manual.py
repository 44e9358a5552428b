"""A page -> man(7), as mandoc and groff read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping

from kvctl import __version__
from kvctl.cli.help import OWN
from reference import tables, texts
from reference.commands import Option, Page

_WIDTH = 78
_SECTIONS = {OWN: "This command"}
"""What a section is called under OPTIONS, if not as in --help."""
_ESCAPES = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",
        "~": r"\(ti",
        "^": r"\(ha",
        "`": r"\(ga",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    }
)


def manual(page: Page, pages: Iterable[Page]) -> str:
    """The text of the page's file; `pages`: all there are."""
    return "\n".join(_lines(page, list(pages))) + "\n"


def file_name(page: Page) -> str:
    """Of the page's file."""
    return f"{_title(page)}.1"


def _lines(page: Page, pages: list[Page]) -> Iterator[str]:
    yield r".\" Made by scripts/generate: do not edit."
    yield f'.TH {_title(page).upper()} 1 {texts.DATE} "kvctl {__version__}" "kvctl"'
    # Names of variables may not be broken, and text that is not spread out is easier to read.
    yield from (".nh", ".ad l")
    title = page.title.removesuffix(".")
    yield ".SH NAME"
    yield from _text(f"{_title(page)} - {title[0].lower() + title[1:]}")
    yield from (".SH SYNOPSIS", f"\\fB{_escaped(page.name)}\\fR {_escaped(page.usage)}")
    yield ".SH DESCRIPTION"
    for at, paragraph in enumerate((page.summary, *page.paragraphs)):
        yield from (".PP",) * bool(at)
        yield from (
            _as_it_stands(textwrap.dedent(paragraph).split("\n")) if "\n" in paragraph else _text(paragraph)
        )
    if page.commands:
        yield from _rows("COMMANDS", {f"{page.name} {name}": text for name, text in page.commands})
    if arguments := _arguments(page):
        yield from _rows("ARGUMENTS", arguments)
    yield from _options(page)
    if not page.path:
        yield from _rows("ANNOTATIONS", texts.ANNOTATIONS)
    # kvctl(1) is where somebody looks who does not know by which command something is read.
    options = page.options if page.path else tuple(option for other in pages for option in other.options)
    if variables := _variables(options):
        yield from _rows("ENVIRONMENT", variables)
    yield from _files(options)
    yield from _tables(page)
    yield from _rows("EXIT STATUS", texts.STATUSES.get(page.path, texts.ANY_STATUS))
    yield from _examples(page)
    yield ".SH SEE ALSO"
    yield ",\n".join(_bold_name(name) for name in _related(page, pages))


def _title(page: Page) -> str:
    return "-".join(("kvctl", *page.path))


def _arguments(page: Page) -> dict[str, str]:
    if page.path[-1:] == ("flush",):
        return {argument.metavar: texts.FLUSHED for argument in page.arguments}
    return {a.metavar: texts.ARGUMENTS[a.metavar] for a in page.arguments if a.metavar in texts.ARGUMENTS}


def _options(page: Page) -> Iterator[str]:
    yield ".SH OPTIONS"
    for title, options in page.sections:
        if len(page.sections) > 1:
            yield f".SS {_SECTIONS.get(title, title)}"
        for option in options:
            yield from (".TP", _flags(option))
            need = "Required." if option.required else ""
            yield from _text(" ".join(filter(None, (option.text, need, _default(option)))))


def _flags(option: Option) -> str:
    words = ", ".join(f"\\fB{_escaped(flag)}\\fR" for flag in (*option.flags, *option.opposites))
    if option.metavar is None:
        return words
    value = (
        " | ".join(option.choices) if option.metavar.startswith("[") and option.choices else option.metavar
    )
    return f"{words} \\fI{_escaped(value)}\\fR"


def _default(option: Option) -> str:
    variables = ", then ".join(name for name in option.variables if name not in texts.VARIABLES)
    said = (
        f"Environment: {variables}." if variables else "",
        f"Default: {option.default}." if option.default else "",
    )
    return " ".join(filter(None, said))


def _variables(options: Iterable[Option]) -> dict[str, str]:
    found: dict[str, str] = {}
    for option in options:
        flag = option.flags[-1]
        first: str | None = None
        for name in option.variables:
            if name in texts.VARIABLES:
                found[name] = texts.VARIABLES[name]
                continue
            several = ", comma separated" if option.repeatable else ""
            switch = " (true or false)" if option.metavar is None else ""
            behind = f" and {first} is empty" if first else ""
            found[name] = f"What {flag} says{several}{switch}, where it is not given{behind}."
            first = first or name
        found |= texts.FURTHER_VARIABLES.get(flag, {})
    return found


def _files(options: Iterable[Option]) -> Iterator[str]:
    files: dict[str, str] = {}
    for option in options:
        files |= texts.FILES.get(option.flags[-1], {})
    if files:
        yield from _rows("FILES", files)
    else:
        yield ".SH FILES"
        yield from _text(texts.NO_FILES)


def _tables(page: Page) -> Iterator[str]:
    """What stands in the tables that the command prints."""
    if page.path == tables.LIST:
        yield from _rows("STATUS", {str(status): text for status, text in tables.STATUS_WORDS.items()})
        yield ".PP"
        yield from _text(tables.STATUS_NOTE)
        yield from _rows("COLUMNS", tables.COLUMNS)
    elif page.path in tables.REFERRING:
        yield ".SH STATUS"
        yield from _text(tables.REFERENCE)


def _examples(page: Page) -> Iterator[str]:
    for at, example in enumerate(page.examples):
        yield ".PP" if at else ".SH EXAMPLES"
        yield from _text(f"{example.does}:")
        yield ".PP"
        yield from _as_it_stands(example.lines)


def _as_it_stands(lines: Iterable[str]) -> Iterator[str]:
    yield from (".in +4n", ".nf")
    yield from (_safe(_escaped(line.rstrip()).replace("'", r"\(aq")) for line in lines)
    yield from (".fi", ".in")


def _related(page: Page, pages: list[Page]) -> list[str]:
    """The groups above it, what is in it or stands beside it, and what others have written."""
    above = [other for other in pages if other.path == page.path[: len(other.path)] and other != page]
    within = [other for other in pages if other.path and other.path[:-1] == page.path]
    beside = [
        other for other in pages if other.path[:-1] == page.path[:-1] and other.path not in ((), page.path)
    ]
    own = [*above, *(within or beside)]
    return [*(f"{_title(other)}(1)" for other in own), *texts.SEE_ALSO.get(page.path, ())]


def _rows(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for name, text in rows.items():
        yield from (".TP", f"\\fB{_escaped(name)}\\fR")
        yield from _text(text)


def _bold_name(name: str) -> str:
    title, _, section = name.partition("(")
    return f"\\fB{_escaped(title)}\\fR({section}"


def _text(text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return [_safe(_escaped(line)) for line in lines]


def _safe(line: str) -> str:
    """At the beginning of a line these would be a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
