"""`kvctl`: finds the command, runs it, and turns errors into messages and exit statuses."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from kvctl import __version__
from kvctl.cli.output import error_message
from kvctl.errors import KvctlError

INTERRUPTED = 130

_EGRESS_COMMANDS = {
    "compute": ("kvctl.cli.compute", "Show the rules that the objects ask for; needs no root and no kernel."),
    "apply": ("kvctl.cli.apply", "Make the kernel's rules what the objects ask for."),
    "diff": ("kvctl.cli.diff", "Show what apply would change; exit status 3 if anything."),
    "list": ("kvctl.cli.list", "List the Services with egress rules on this node."),
    "show": ("kvctl.cli.show", "Show Services in depth: problems, rules, connections."),
    "flush": ("kvctl.cli.flush", "Remove kvctl's rules, and only those."),
}
_COMMANDS = {
    "lab": ("kvctl.cli.lab", "A pod, a worker and the outside world on this machine, to try egress out."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run: --help and completion stay quick."""

    def __init__(self, *, commands_in: dict[str, tuple[str, str]], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those at hand and those to be imported, in the order they are written down."""
        return [*self._commands_in, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; its click command is named `command`."""
        if cmd_name not in self._commands_in:
            return super().get_command(ctx, cmd_name)
        found = import_module(self._commands_in[cmd_name][0]).command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands for --help, without importing them."""
        rows = [(name, text) for name, (_, text) in self._commands_in.items()]
        rows += [(name, sub.get_short_help_str()) for name, sub in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Egress(LazyGroup):
    def __init__(self, **attributes: object) -> None:
        super().__init__(commands_in=_EGRESS_COMMANDS, **attributes)


class _Kvctl(LazyGroup):
    def __init__(self, **attributes: object) -> None:
        super().__init__(commands_in=_COMMANDS, **attributes)


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Kvctl, context_settings=_CONTEXT)
@click.version_option(__version__, "--version", message="kvctl %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and the commands that were run.")
def kvctl(*, debug: bool) -> None:
    """Let pods leave the cluster with their Service's load-balancer address.

    A Service of type LoadBalancer with the annotation kube-vip.io/egress: "true" asks for it.
    """


@kvctl.group(cls=_Egress)
def egress() -> None:
    """Rewrite the source address of pods, and see that it works.

    SERVICE is NAMESPACE/NAME, or NAME with -n. Objects come from -f FILE or from the cluster.
    """


def main() -> NoReturn:
    """The entry point; never returns."""
    try:
        status = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _run() -> int:
    try:
        result = kvctl.main(prog_name="kvctl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        _say_usage(error)
        return error.exit_code
    except KvctlError as error:
        if "--debug" in sys.argv:
            import traceback

            traceback.print_exc()
        error_message(error)
        return error.exit_status


def _say_usage(error: click.ClickException) -> None:
    click.echo(f"Error: {error.format_message()}", err=True)
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(f"Hint: see {context.command_path} --help", err=True)
