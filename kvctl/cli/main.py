"""`kvctl`: finds the command, runs it, and turns errors into messages and exit statuses."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from kvctl import __version__
from kvctl.cli.help import Group
from kvctl.cli.output import error_message, printable
from kvctl.errors import KvctlError, ProcessError

INTERRUPTED = 130

_EGRESS_COMMANDS = {
    "compute": (
        "kvctl.cli.compute",
        "Show what the objects ask for, and what keeps them from it; needs no root.",
    ),
    "apply": ("kvctl.cli.apply", "Make the kernel's rules what the objects ask for."),
    "diff": ("kvctl.cli.diff", "Show what apply would change; exit status 3 if anything."),
    "list": ("kvctl.cli.list", "List the Services with egress rules on this node."),
    "show": ("kvctl.cli.show", "Show Services in depth: problems, rules, connections."),
    "trace": ("kvctl.cli.trace", "Tell what becomes of a packet of a pod, and by which rule."),
    "verify": ("kvctl.cli.verify", "Send from a pod, and tell which source the other end sees."),
    "echo": ("kvctl.cli.echo", "Answer with the source that was seen: the other end of verify."),
    "flush": ("kvctl.cli.flush", "Remove kvctl's rules, and only those."),
    "watch": ("kvctl.cli.watch", "Keep this node's rules right, in a cluster: the agent of a DaemonSet."),
    "move": ("kvctl.cli.move", "Hand the VIP of a Service over to another node."),
    "wait": ("kvctl.cli.wait", "Wait until a pod's rules are in the kernel; for init containers."),
}
_COMMANDS = {
    "doctor": ("kvctl.cli.doctor", "Can egress work on this host? Each check with what mends it."),
    "lab": ("kvctl.cli.lab", "A pod, a worker and the outside world on this machine, to try egress out."),
}


class LazyGroup(Group):
    """A group whose commands are imported when they are run: --help and completion stay quick."""

    def __init__(self, *, commands_in: dict[str, tuple[str, str]], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those at hand and those to be imported, in the order they are written down."""
        return [name for name, _ in self.summaries()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; its click command is named `command`."""
        if cmd_name not in self._commands_in:
            return super().get_command(ctx, cmd_name)
        found = import_module(self._commands_in[cmd_name][0]).command
        assert isinstance(found, click.Command)
        return found

    def summaries(self) -> list[tuple[str, str]]:
        """Each command with what it does, without importing one of them."""
        return [
            *super().summaries(),
            *((name, text) for name, (_, text) in self._commands_in.items()),
        ]


class _Egress(LazyGroup):
    def __init__(self, **attributes: object) -> None:
        super().__init__(commands_in=_EGRESS_COMMANDS, **attributes)


class _Kvctl(LazyGroup):
    def __init__(self, **attributes: object) -> None:
        super().__init__(commands_in=_COMMANDS, **attributes)


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Kvctl, context_settings=_CONTEXT)
@click.version_option(__version__, "--version", message="kvctl %(version)s")
@click.option("--debug", is_flag=True, help="Show where an error came from. May stand anywhere.")
def kvctl(*, debug: bool) -> None:
    """Let pods leave the cluster with their Service's load-balancer address.

    A Service of type LoadBalancer with the annotation kube-vip.io/egress: "true" asks for it: what its pods send out
    of the cluster then has the Service's address (the VIP) as its source. kvctl does it by iptables rules on the node
    that has the VIP: by hand, or by an agent on every node (kvctl egress watch).
    """


@kvctl.group(cls=_Egress)
def egress() -> None:
    """Rewrite the source address of pods, and see that it works.

    A Service asks for it that has type LoadBalancer, externalTrafficPolicy Local, an address (the VIP), and these
    annotations, of which only the first is needed:

    \b
      kube-vip.io/egress: "true"
      kube-vip.io/egress-destination-ports: "udp:5060,tcp:8000-8100"
      kube-vip.io/egress-allowed-networks: "192.168.0.0/24"
      kube-vip.io/egress-denied-networks: "192.168.0.1/32"
      kube-vip.io/serviceInterface: eth1

    The VIP is that of status.loadBalancer; where this is empty, that of the annotation kube-vip.io/loadbalancerIPs or
    of spec.loadBalancerIP: from a file as it stands, from a cluster if it lies in a --vip-range.

    SERVICE is NAMESPACE/NAME, or NAME with -n. Objects come from -f FILE or from the cluster. kvctl lab demo --manifest
    prints a Service and a Pod to try with.

    Exit status: 0 done; 1 something failed, or a Service that was named is skipped; 2 wrong usage; 3 diff has found
    something; 4 no access to netfilter; 5 none to the cluster.
    """


def main() -> NoReturn:
    """The entry point; never returns."""
    # Most commands end before there is garbage worth looking for, and looking takes 5 % of their time.
    gc.set_threshold(1_000_000)
    # Started with a closed descriptor (`>&-`), Python has no stream at all.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        status = _run(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        # Nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Whoever closed the pipe has read enough; anything else is lost output.
        status = 0 if isinstance(error, BrokenPipeError) else _report(error)
    gc.freeze()  # at exit Python looks for garbage thrice more
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    arguments, debug = _without_debug(arguments)
    try:
        return _invoke(arguments)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        _say_usage(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            _say_origin(error)
        return _report(error)


def _report(error: BaseException) -> int:
    """Say what went wrong; the exit status it makes."""
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("Error: interrupted", err=True)
        return INTERRUPTED
    if not isinstance(error, KvctlError):
        if isinstance(error, OSError):
            error = KvctlError(f"cannot read or write: {error}")
        else:
            error = KvctlError(
                f"unexpected {type(error).__name__}: {error}",
                hint="this is a fault of kvctl: please report it, with what the same command prints with --debug",
            )
    error_message(error)
    return error.exit_status


def _invoke(arguments: list[str]) -> int:
    # Not kvctl.main(): it makes a closed pipe a failure, also when all work has been done.
    with kvctl.make_context("kvctl", arguments) as context:
        result = kvctl.invoke(context)
    return result if isinstance(result, int) else 0


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*own, *arguments[end:]], len(own) < end


def _say_origin(error: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(error, ProcessError):
        click.echo(f"Command: {' '.join(error.argv)} (status {error.status})", err=True)
        if error.line is not None:
            click.echo(f"Line: {error.line}", err=True)


def _say_usage(error: click.ClickException) -> None:
    click.echo(f"Error: {printable(error.format_message())}", err=True)
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(f"Hint: see {context.command_path} --help", err=True)
