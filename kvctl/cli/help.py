"""What --help shows of every command: its options in sections, and examples at the end."""

from __future__ import annotations

from collections.abc import Mapping

import click

OWN, OBJECTS, SETTINGS = "Options", "Objects", "Settings"
_ORDER = (OBJECTS, OWN, SETTINGS)
_SECTIONS: Mapping[str, str] = {
    **dict.fromkeys(("filenames", "ask_cluster", "kubeconfig", "context"), OBJECTS),
    **dict.fromkeys(
        ("pod_cidrs", "service_cidrs", "exclude_cidrs", "vip_ranges", "node", "interface"), SETTINGS
    ),
    **dict.fromkeys(("without_vip", "assume_vip", "nftables"), SETTINGS),
}
"""The section of an option that many commands have, by its parameter's name; all others are the command's own."""
_FIRST_COLUMN = 28
"""Where an option is longer than this its text begins on the next line."""


def sections(command: click.Command, context: click.Context) -> list[tuple[str, list[click.Option]]]:
    """The options of a command, those that are hidden left out, by section."""
    # A few options need no headings.
    has_many = any(parameter.name == "pod_cidrs" for parameter in command.params)
    found: dict[str, list[click.Option]] = {title: [] for title in _ORDER}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            title = _SECTIONS.get(parameter.name or "", OWN) if has_many else OWN
            found[title].append(parameter)
    return [(title, parameters) for title, parameters in found.items() if parameters]


def path_of(context: click.Context) -> tuple[str, ...]:
    """The words that lead to the command, `kvctl` left out: `("egress", "apply")`."""
    words: list[str] = []
    while context.parent is not None:
        words.insert(0, context.info_name or "")
        context = context.parent
    return tuple(words)


class Command(click.Command):
    """A command whose --help has sections, and examples at its end."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, section by section."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        write_examples(ctx, formatter)


class Group(click.Group):
    """A group with the same --help; its commands stand in the order in which they are written down."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Not sorted: what is used first comes first."""
        return list(self.commands)

    def summaries(self) -> list[tuple[str, str]]:
        """Each command with what it does, in a line."""
        return [(name, command.get_short_help_str(1000)) for name, command in self.commands.items()]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Whoever mistypes a command is told which one it may be."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            meant = self._meant(ctx, args[0])
            ctx.fail(
                f"No such command {args[0]!r}."
                + (f" Did you mean {ctx.command_path} {meant}?" if meant else "")
            )
        return super().resolve_command(ctx, args)

    def _meant(self, context: click.Context, name: str) -> str | None:
        """The same name in a group within this one, else a name that looks like it."""
        from difflib import get_close_matches

        for at, group in self.commands.items():
            if isinstance(group, Group) and name in group.list_commands(context):
                return f"{at} {name}"
        return next(iter(get_close_matches(name, self.list_commands(context), n=1)), None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with what they do, which is never cut off."""
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands first: they are what a reader looks for."""
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        write_examples(ctx, formatter)


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """The sections, each with a heading."""
    for title, parameters in sections(command, context):
        records = (parameter.get_help_record(context) for parameter in parameters)
        with formatter.section(title):
            formatter.write_dl([record for record in records if record is not None], col_max=_FIRST_COLUMN)


def write_examples(context: click.Context, formatter: click.HelpFormatter) -> None:
    """What it does and the line that is typed, one below the other: lines are never wrapped."""
    from kvctl.cli.examples import EXAMPLES

    examples = EXAMPLES.get(path_of(context), ())
    if not examples:
        return
    with formatter.section("Examples"):
        for at, example in enumerate(examples):
            if at:
                formatter.write("\n")
            formatter.write_text(f"{example.does}:")
            for line in example.lines:
                formatter.write(f"{'':{formatter.current_indent + 2}}{line}\n")
