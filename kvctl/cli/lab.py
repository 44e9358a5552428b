"""`kvctl lab`: the pod, the worker and the outside on one machine, in network namespaces."""

from __future__ import annotations

import sys

import click

from kvctl.cli import options
from kvctl.cli.help import Group
from kvctl.cli.settings import environment_bool
from kvctl.errors import UsageError

_MOST_WORKERS = 5


@click.group(cls=Group)
def lab() -> None:
    """A pod, a worker and the outside world on this machine, in network namespaces.

    Needs root, or a kernel that lets users make namespaces. Touches nothing of the host's network.
    """


# The name that cli/main.py imports.
command = lab


@lab.command(short_help="Show what egress does, with real packets; removes what it has built.")
@options.backend
@click.option(
    "--manifest", is_flag=True, help="Print the Service and Pod that the demo applies, and do nothing."
)
@click.option(
    "--workers",
    type=click.IntRange(1, _MOST_WORKERS),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help=f"More than one, {_MOST_WORKERS} at most: show a failover instead, with an agent on each (serviceElection). "
    "Needs root.",
)
def demo(nftables: bool | None, manifest: bool, workers: int) -> None:
    """Show what egress does, with real packets, in a lab that is removed afterwards."""
    from kvctl.lab import demo as story
    from kvctl.lab import failover, userns
    from kvctl.signals import orderly

    if manifest and workers > 1:
        raise UsageError("--manifest has no effect with --workers: the agents there have an API server")
    if manifest:
        click.echo(story.MANIFEST, nl=False)
        return
    # The failover says itself what it lacks without root.
    if userns.needed() and workers == 1:
        userns.reenter(sys.argv[1:])
    with orderly():
        if workers > 1:
            failover.run(backend=_backend(nftables), workers=workers, say=click.echo)
        else:
            story.run(backend=_backend(nftables), say=click.echo)


@lab.command()
@options.backend
def up(nftables: bool | None) -> None:
    """Build the lab and leave it; say what is there."""
    from kvctl.lab import playground, userns
    from kvctl.lab.demo import PICTURE
    from kvctl.signals import orderly

    if userns.needed():
        userns.keep()
        userns.reenter_kept(sys.argv[1:])
    with orderly():
        new = playground.up(backend=_backend(nftables))
    click.echo("The lab is up:\n" if new else "The lab has been up already:\n")
    click.echo(PICTURE)
    click.echo(
        "kvctl lab exec pod|worker|outside|peer|server -- CMD   runs a command inside\n"
        "kvctl lab down                                         removes it\n"
        "\n"
        "There are no rules of kvctl's in a new one. To write those of the demo:\n"
        "\n"
        "  kvctl lab demo --manifest > sip.yaml\n"
        "  kvctl lab exec worker -- kvctl egress apply -f sip.yaml"
    )


@lab.command()
def down() -> None:
    """Remove the lab that `up` has built."""
    from kvctl.lab import playground, userns

    found = userns.release() if userns.needed() else playground.down()
    click.echo("The lab has been removed." if found else "There is no lab.", err=not found)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("where", metavar="pod|worker|outside|peer|server")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def execute(where: str, argv: tuple[str, ...]) -> None:
    """Run CMD inside, with this terminal; its exit status is the answer."""
    from kvctl.lab import playground, userns

    # Behind the first argument click leaves everything as it is, the -- too.
    program = argv[1:] if argv[0] == "--" else argv
    if not program:
        raise click.UsageError("no CMD is given")
    if userns.needed():
        userns.reenter_kept(sys.argv[1:])
    playground.execute(where, program)


def _backend(nftables: bool | None) -> str:
    from kvctl.lab.playground import default_backend

    wanted = environment_bool("egress_withnftables") if nftables is None else nftables
    if wanted is None:
        return default_backend()
    return "nft" if wanted else "legacy"
