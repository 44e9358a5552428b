"""`kvctl egress wait`: in an init container, wait until the pod's rules are in the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import click

from kvctl.agent.address import DEFAULT_PORT, AgentAddress, parse_agent
from kvctl.agent.asking import timed_out, wait_for_rules
from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.output import note, printable, warning
from kvctl.cluster.fields import A_LABEL, A_SUBDOMAIN, is_label, is_subdomain
from kvctl.errors import UsageError
from kvctl.model.net import parse_address
from kvctl.model.text import quote
from kvctl.signals import orderly

_DOWNWARD = "in a container, set it from the field {} by the downward API (valueFrom.fieldRef)"


@click.command(cls=Command)
@click.option("--pod", metavar="POD", help="The name of the pod that waits. [environment: POD_NAME]")
@click.option("-n", "--namespace", metavar="NAMESPACE", help="Its namespace. [environment: POD_NAMESPACE]")
@click.option(
    "--agent",
    metavar="URL",
    help="The agent of this node. "
    f"[environment: egress_agent; default: port {DEFAULT_PORT} of the address in HOST_IP]",
)
@click.option(
    "--timeout",
    type=options.Seconds(most=86_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.option(
    "--on-timeout",
    type=click.Choice(["fail", "continue"]),
    default="fail",
    show_default=True,
    help="What happens then: exit status 1, or a warning and 0.",
)
def command(
    *, pod: str | None, namespace: str | None, agent: str | None, timeout: float, on_timeout: str
) -> int:
    """Wait until the rules of this pod are in the kernel of its node.

    For an init container: what the pod's other containers send then leaves with the VIP, from the first packet.
    Asks the agent of the node; needs no permission and no Kubernetes API.
    """
    name = _told("--pod", pod, "POD_NAME", is_subdomain, A_SUBDOMAIN, field="metadata.name")
    where = _told("--namespace", namespace, "POD_NAMESPACE", is_label, A_LABEL, field="metadata.namespace")
    address = agent_of(agent, os.environ)
    who = f"{where}/{name}"
    # The first process of a container is not ended by SIGTERM unless it asks for it (pid_namespaces(7)).
    with orderly():
        reply = wait_for_rules(
            address,
            namespace=where,
            pod=name,
            deadline=time.monotonic() + timeout,
            say=lambda reason: note(printable(f"{who} waits: {reason}")),
        )
    if reply.ready:
        note(printable(f"{who} may start: {reply.reason}"))
        return 0
    error = timed_out(reply, who=who, timeout=timeout)
    if on_timeout == "fail":
        raise error
    warning(printable(f"{error.message}; {who} starts all the same (--on-timeout continue)"))
    return 0


def _told(
    flag: str, value: str | None, variable: str, fits: Callable[[str], bool], what: str, *, field: str
) -> str:
    """The flag's value, else the variable's. Raises UsageError if there is none, or it is not `what`."""
    place = flag if value is not None else f"environment variable {variable}"
    text = value if value is not None else os.environ.get(variable, "")
    if not text:
        raise UsageError(f"neither {flag} nor {variable} is given", hint=_DOWNWARD.format(field))
    if not fits(text):
        raise UsageError(f"{place}: {quote(text)} is not {what}")
    return text


def agent_of(flag: str | None, environ: Mapping[str, str]) -> AgentAddress:
    """--agent, else egress_agent, else the node's own address. Raises UsageError."""
    if flag is not None:
        return parse_agent(flag, where="--agent")
    if url := environ.get("egress_agent", "").strip():
        return parse_agent(url, where="environment variable egress_agent")
    host = environ.get("HOST_IP", "").strip()
    if not host:
        raise UsageError(
            "neither --agent, egress_agent nor HOST_IP says where the agent of this node is",
            hint=_DOWNWARD.format("status.hostIP"),
        )
    try:
        return AgentAddress(str(parse_address(host)), DEFAULT_PORT)
    except ValueError:
        raise UsageError(
            f"environment variable HOST_IP: {quote(host)} is not an IP address",
            hint=_DOWNWARD.format("status.hostIP"),
        ) from None
