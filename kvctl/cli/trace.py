"""`kvctl egress trace`: what becomes of one packet of a pod, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.items import flow_json, flow_text
from kvctl.cli.output import Json, note, print_json, print_yaml, printable, wrapped
from kvctl.cli.traced_pod import address_of_pod
from kvctl.errors import UsageError
from kvctl.model.net import Address, parse_address
from kvctl.model.text import one_line, plural, quote
from kvctl.trace.judgement import Judgement
from kvctl.trace.packet import WITH_PORTS, Question
from kvctl.trace.question import trace
from kvctl.trace.said import spelled
from kvctl.trace.story import sentence, why
from kvctl.trace.walk import Step

_PORT = click.IntRange(1, 65535)
_LONGEST = 10_000
_ASSUMED = "tcp"
_COLUMN = 22
"""Where a rule begins beside its table and hook; what of it goes over several lines stays there."""


@click.command(cls=Command)
@click.option("--from", "source", metavar="POD_IP", help="The address of the pod.")
@click.option(
    "--pod",
    metavar="NAMESPACE/NAME",
    help="The pod instead of its address, which comes from -f FILE, the cluster, or else the kernel's rules.",
)
@click.option(
    "--to",
    "destination",
    required=True,
    metavar="DST[:PORT]",
    help="Where it sends to; IPv6 with port: [DST]:PORT.",
)
@click.option(
    "--proto",
    "protocol",
    type=click.Choice([*WITH_PORTS, "icmp"]),
    help=f"The protocol; icmp is a ping, in IPv6 too. [default: {_ASSUMED}]",
)
@click.option(
    "--source-port",
    type=_PORT,
    metavar="PORT",
    help="The pod's own port: the connection it may have is found by it.",
)
@click.option(
    "--in-interface",
    metavar="INTERFACE",
    help="The interface the packet comes in by. [default: that of the route to the pod]",
)
@options.files
@options.configuration
@options.output()
def command(
    *,
    source: str | None,
    pod: str | None,
    filenames: Sequence[str],
    kubeconfig: str | None,
    context: str | None,
    destination: str,
    protocol: str | None,
    source_port: int | None,
    in_interface: str | None,
    output: str,
) -> int:
    """Tell what becomes of a packet of a pod: with which source it leaves, by which interface, and by whose rule.

    Follows the packet through the rules that are in the kernel of this node now, everybody's. Where a rule
    cannot be judged and matters, it says which, and the exit status is 1. Sends nothing, changes nothing.
    """
    target, port = _target(destination)
    if source is None and pod is None:
        raise UsageError(
            "neither --from nor --pod is given", hint="give one: --from POD_IP or --pod NAMESPACE/NAME"
        )
    if source is not None and pod is not None:
        raise UsageError("--from and --pod are both given", hint="give one of them")
    if pod is None:
        its_source = _address(source or "", "--from")
    else:
        its_source = address_of_pod(
            pod, version=target.version, filenames=filenames, kubeconfig=kubeconfig, context=context
        )
    if protocol == "icmp" and (port is not None or source_port is not None):
        raise UsageError("icmp has no ports", hint="leave the port away, or give another --proto")
    question = Question(
        source=its_source,
        destination=target,
        protocol="icmpv6" if protocol == "icmp" and target.version == 6 else protocol or _ASSUMED,
        source_port=source_port,
        destination_port=port,
        in_interface=in_interface,
    )
    judgement = trace(question)
    if protocol is None:
        assumed = f"no --proto is given: this is about {_ASSUMED}, and other protocols may go another way"
        judgement = replace(judgement, notes=(assumed, *judgement.notes))
    _print(judgement, output=output)
    return 0 if judgement.verdict is not None else 1


def _print(judgement: Judgement, *, output: str) -> None:
    if output in ("json", "yaml"):
        (print_json if output == "json" else print_yaml)(_json(judgement))
        return
    for line, indent in _lines(judgement, wide=output == "wide"):
        # A comment in anybody's rule may hold anything, line ends too.
        for part in wrapped(one_line(line, longest=_LONGEST), indent=indent):
            click.echo(part)
    for text in judgement.notes:
        note(printable(text))


def _address(text: str, option: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        hint = "as in 10.0.0.1 or fd00::1"
        if "%" in text:
            hint = "leave the zone (%...) away: link-local addresses are not forwarded, and others need none"
        elif re.search("[A-Za-z]", text) and ":" not in text:
            hint = (
                "no name server is asked: give the address that the pod gets (getent ahosts NAME, in the pod)"
            )
        raise UsageError(f"{option} {quote(text)} is not an IP address", hint=hint) from error


def _target(text: str) -> tuple[Address, int | None]:
    """`DST[:PORT]`: an IPv6 address with a port stands in brackets."""
    match = re.fullmatch(r"\[(?P<v6>[^]]*)\](?::(?P<port>.*))?|(?P<v4>[^:]*):(?P<its>[^:]*)", text)
    if match is None:
        return _address(text, "--to"), None
    address = _address(match["v6"] if match["v6"] is not None else match["v4"], "--to")
    port = match["port"] if match["v6"] is not None else match["its"]
    if port is None:
        return address, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UsageError(
            f"--to {quote(text)}: the port is not a number from 1 to 65535", hint="as in 192.0.2.1:443"
        )
    return address, int(port)


def _lines(judgement: Judgement, *, wide: bool) -> list[tuple[str, int]]:
    """Each line, and by how much more it is indented where it goes on in the next."""
    lines = [sentence(judgement), *(f"  cannot be judged: {text}" for text in judgement.unknown[1:])]
    if judgement.steps:
        ways = "" if judgement.verdict else ", one way of several"
        lines.append(f"  the rules that took it{ways}")
    rules = [line for step in judgement.steps for line in _rule(step, wide=wide)]
    rest: list[str] = []
    if judgement.flow is not None:
        rest += ["  its connection", f"    {flow_text(judgement.flow)}"]
    if judgement.others:
        count = plural(len(judgement.others), "connection")
        goes_on = "goes on as it" if len(judgement.others) == 1 else "go on as they"
        rest.append(f"  {count} to the same destination, which {goes_on} began (--source-port looks at one)")
        rest += [f"    {flow_text(flow)}" for flow in judgement.others[: None if wide else 20]]
    return [*((line, 4) for line in lines), *rules, *((line, 4) for line in rest)]


def _rule(step: Step, *, wide: bool) -> list[tuple[str, int]]:
    place = f"{step.place.table} {step.place.hook}"
    rule = f"    {place:<{_COLUMN}}{spelled(step, whole=wide)}"
    return [(rule, _COLUMN), (f"    {'':<{_COLUMN}}  {why(step)}", 4)]


def _json(judgement: Judgement) -> Json:
    packet = judgement.packet
    return {
        "schemaVersion": 1,
        "packet": {
            "source": str(packet.source),
            "sourcePort": packet.source_port,
            "destination": str(packet.destination),
            "destinationPort": packet.destination_port,
            "protocol": packet.protocol,
            "inInterface": packet.in_interface,
        },
        "judged": judgement.verdict is not None,
        "sentence": sentence(judgement),
        "verdict": _text(judgement.verdict),
        "source": _text(judgement.source),
        "destination": _text(judgement.destination),
        "interface": judgement.interface,
        "gateway": _text(judgement.gateway),
        "service": _text(judgement.service),
        "owner": judgement.owner,
        "reason": judgement.reason or None,
        "trouble": judgement.trouble or None,
        "decidedBy": _step_json(judgement.decided) if judgement.decided is not None else None,
        "steps": [_step_json(step) for step in judgement.steps],
        "connection": flow_json(judgement.flow) if judgement.flow is not None else None,
        "otherConnections": [flow_json(flow) for flow in judgement.others],
        "unknown": list(judgement.unknown),
        "notes": list(judgement.notes),
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _step_json(step: Step) -> Json:
    return {
        "hook": step.place.hook,
        "backend": step.place.backend,
        "table": step.place.table,
        "chain": step.chain,
        "rule": spelled(step),
        "why": why(step),
    }
