"""click's commands -> what there is to say of each, as values: the one thing that scripts and pages are made of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import click

from kvctl.cli.examples import EXAMPLES, Example, Path
from kvctl.cli.help import Group, sections
from kvctl.cli.main import kvctl

_SAID = re.compile(r"\s*\[(?:environment: (?P<variables>[^];]*))?(?:; )?(?:default: (?P<default>[^]]*))?\]$")
"""What a help text says at its end, where it comes from besides the command line."""

_VALUES = {
    "NAMESPACE": "namespaces",
    "NODE": "nodes",
    "CONTEXT": "contexts",
    "FILE": "files",
    "INTERFACE": "interfaces",
    "SERVICE": "services",
    "POD_IP": "addresses",
    "NAMESPACE/NAME": "pods",
    "-- CMD": "program",
}
"""By metavar: what a shell offers. `files`, `interfaces` and `program` it knows itself, others it asks kvctl for."""


class Option(NamedTuple):
    """One option."""

    flags: tuple[str, ...]
    """As they are typed, `-o` before `--output`."""
    opposites: tuple[str, ...]
    """The flags that switch it off."""
    metavar: str | None
    """What follows it; None: nothing."""
    choices: tuple[str, ...]
    """All that may follow."""
    offers: str
    """What kind of values a shell offers, empty: none."""
    text: str
    variables: tuple[str, ...]
    default: str
    """Empty: none, or told by the text."""
    repeatable: bool
    required: bool


class Argument(NamedTuple):
    """What is given without an option."""

    metavar: str
    choices: tuple[str, ...]
    offers: str
    repeatable: bool


class Page(NamedTuple):
    """All there is to say of a command."""

    path: Path
    title: str
    """What it does, in a line."""
    summary: str
    paragraphs: tuple[str, ...]
    """Those with line breaks stand as they are."""
    usage: str
    """What follows the command's name."""
    sections: tuple[tuple[str, tuple[Option, ...]], ...]
    arguments: tuple[Argument, ...]
    commands: tuple[tuple[str, str], ...]
    """Of a group: each with what it does."""
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        """As it is typed."""
        return " ".join(("kvctl", *self.path))

    @property
    def options(self) -> tuple[Option, ...]:
        """Those of all sections."""
        return tuple(option for _, options in self.sections for option in options)


def pages() -> list[Page]:
    """Every command that is shown, groups before what is in them."""
    with click.Context(kvctl, info_name="kvctl", **kvctl.context_settings) as context:
        return list(_pages(kvctl, context, ()))


def _pages(command: click.Command, context: click.Context, path: Path) -> Iterator[Page]:
    yield _page(command, context, path)
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        sub = command.get_command(context, name)
        assert sub is not None
        with click.Context(sub, info_name=name, parent=context) as inner:
            yield from _pages(sub, inner, (*path, name))


def _page(command: click.Command, context: click.Context, path: Path) -> Page:
    in_group = dict(above.summaries()) if (above := _group_above(context)) is not None else {}
    first, *rest = inspect.cleandoc(command.help or "").split("\n\n")
    commands = command.summaries() if isinstance(command, Group) else []
    return Page(
        path=path,
        title=in_group.get(path[-1] if path else "", _one_line(first)),
        summary=_one_line(first),
        paragraphs=tuple(text[2:] if text.startswith("\b\n") else _one_line(text) for text in rest),
        usage=" ".join(command.collect_usage_pieces(context)),
        sections=tuple(
            (title, tuple(_option(option, context) for option in options))
            for title, options in sections(command, context)
        ),
        arguments=tuple(_argument(p, context) for p in command.params if isinstance(p, click.Argument)),
        commands=tuple(commands),
        examples=EXAMPLES.get(path, ()),
    )


def _group_above(context: click.Context) -> Group | None:
    command = context.parent.command if context.parent is not None else None
    return command if isinstance(command, Group) else None


def _option(option: click.Option, context: click.Context) -> Option:
    text = _one_line(option.help or "")
    said = _SAID.search(text)
    default = said["default"] if said and said["default"] else ""
    if not default and option.show_default and option.default is not None:
        default = str(option.default)
    metavar = None if option.is_flag else option.make_metavar(context)
    return Option(
        flags=_short_first(option.opts),
        opposites=_short_first(option.secondary_opts),
        metavar=metavar,
        choices=_choices(option.type),
        offers=_VALUES.get(metavar or "", ""),
        text=text[: said.start()] if said else text,
        variables=tuple(said["variables"].split(", ")) if said and said["variables"] else (),
        default=default,
        repeatable=option.multiple,
        required=option.required,
    )


def _argument(argument: click.Argument, context: click.Context) -> Argument:
    metavar = argument.make_metavar(context)
    words = metavar.split("|") if "|" in metavar else ()
    kind = _VALUES.get(metavar.strip("[]."), "")
    return Argument(metavar, _choices(argument.type) or tuple(words), kind, argument.nargs == -1)


def _choices(kind: click.ParamType) -> tuple[str, ...]:  # type: ignore[type-arg]  # not generic before click 8.3
    return tuple(map(str, kind.choices)) if isinstance(kind, click.Choice) else ()


def first_sentence(text: str) -> str:
    """For lists, where each option has a line; without its full stop."""
    return text.partition(". ")[0].removesuffix(".")


def _short_first(flags: list[str]) -> tuple[str, ...]:
    return tuple(sorted(flags, key=lambda flag: (flag.startswith("--"), flag)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
