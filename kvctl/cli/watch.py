"""`kvctl egress watch`: keep this node right, in a cluster."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence

import click
from click.core import ParameterSource

from kvctl.agent.address import DEFAULT_LISTEN, Listen, parse_listen
from kvctl.agent.journal import LogFormat, parse_log_format
from kvctl.agent.start import Options, run_agent
from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.settings import electing, environment_bool, this_node, told_backend, told_keep_connections
from kvctl.cluster.connection import open_connection
from kvctl.election.terms import read_terms
from kvctl.errors import UsageError

_OF_AGENT = ("clean", "listen", "events", "gates", "elect", "log_format")
"""Options that only a process that stays has a use for."""


@click.command(cls=Command)
@takes_inputs(files=False)
@click.option("-f", "--filename", "files", multiple=True, hidden=True)
@options.backend
@options.keep_connections
@click.option(
    "--once",
    is_flag=True,
    help="Make the rules right once, print what changed, and end: for cron and debugging.",
)
@click.option(
    "--clean",
    is_flag=True,
    default=None,
    help="Remove all rules at the end instead of leaving them to the next agent. [environment: egress_clean]",
)
@click.option(
    "--listen",
    metavar="[ADDRESS]:PORT",
    help="Where metrics, health and the readiness of pods are told; off: nowhere. "
    f"[environment: egress_listen; default: {DEFAULT_LISTEN}]",
)
@click.option(
    "--events/--no-events",
    "events",
    default=None,
    help="Tell Services' states as Kubernetes Events. [environment: egress_events; default: yes]",
)
@click.option(
    "--readiness-gates",
    "gates",
    is_flag=True,
    default=None,
    help="Set the condition kube-vip.io/egress-enabled of Pods that have it as a readiness gate. "
    "[environment: egress_readinessgates]",
)
@click.option(
    "--elect",
    is_flag=True,
    default=None,
    help="Contend for the Leases of Services with a pod here, and place the VIPs of those held (serviceElection). "
    "[environment: svc_election, vip_leaseduration, vip_renewdeadline, vip_retryperiod]",
)
@options.output()
@click.option(
    "--log-format",
    metavar="FORMAT",
    help="How to log: auto (text on a terminal, else json), text or json. "
    "[environment: egress_logformat; default: auto]",
)
def command(
    *,
    inputs: Inputs,
    files: Sequence[str],
    nftables: bool | None,
    keep_connections: bool | None,
    once: bool,
    clean: bool | None,
    listen: str | None,
    events: bool | None,
    gates: bool | None,
    elect: bool | None,
    log_format: str | None,
    output: str,
) -> int:
    """Keep the rules of this node equal to what Services and Pods ask for, until it is told to end.

    Runs on each node (a DaemonSet). What others undo is mended within seconds; SIGTERM leaves the rules in place.
    """
    if files:
        raise UsageError(
            "-f: an agent follows a cluster, not files", hint="for files: kvctl egress apply -f FILE"
        )
    _refuse_idle_options(once=once)
    terms = read_terms(os.environ) if _switch(elect, "svc_election", default=False) else None
    if once and terms is not None:
        raise UsageError(
            "--once cannot elect (svc_election is true): only an agent that stays can hold the Lease of a VIP, and "
            "rules without one could use a VIP that another node has by then",
            hint="to look: kvctl egress diff; where another program places the VIPs: svc_election=false",
        )
    settings = electing(inputs.settings(), terms)
    told = Options(
        settings=settings,
        node=this_node(inputs.node),
        told=told_backend(nftables),
        keep_connections=told_keep_connections(keep_connections),
        clean=_switch(clean, "egress_clean", default=False),
        listen=_listen(listen),
        log_format=_log_format(log_format),
        events=_switch(events, "egress_events", default=True),
        gates=_switch(gates, "egress_readinessgates", default=False),
        terms=terms,
    )
    connection = open_connection(kubeconfig=inputs.kubeconfig, context=inputs.context)
    if once:
        from kvctl.cli.once import once as run_once

        return run_once(connection, told, output=output)
    # What was set for a command that ends soon is not for a process that stays.
    gc.set_threshold(2000, 20, 20)
    run_agent(connection, told)
    return 0


def _refuse_idle_options(*, once: bool) -> None:
    """Raise UsageError for an option that would have no effect; the environment is shared, and may say more."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        flag = parameter.opts[-1]
        if given and once and name in _OF_AGENT:
            raise UsageError(f"{flag} has no effect with --once, which ends by itself and tells nobody else")
        if given and not once and name == "output":
            raise UsageError(
                f"{flag} has no effect without --once: an agent prints nothing but its log",
                hint="choose the form of the log with --log-format",
            )


def _switch(flag: bool | None, variable: str, *, default: bool) -> bool:
    told = flag if flag is not None else environment_bool(variable)
    return default if told is None else told


def _listen(flag: str | None) -> Listen | None:
    if flag is not None:
        return parse_listen(flag, where="--listen")
    # Empty is unset, as everywhere: `off` switches it off.
    return parse_listen(os.environ.get("egress_listen", "").strip() or DEFAULT_LISTEN)


def _log_format(flag: str | None) -> LogFormat:
    if flag is not None:
        return parse_log_format(flag, where="--log-format")
    return parse_log_format(os.environ.get("egress_logformat", ""))
