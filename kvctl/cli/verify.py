"""`kvctl egress verify`: what a pod sends, and which source the other end sees of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.output import Column, Json, error_message, note, print_json, print_table, print_yaml, printable
from kvctl.cli.verify_line import Line
from kvctl.echo.wire import DEFAULT_PORT
from kvctl.errors import KvctlError, UsageError
from kvctl.lab.signals import orderly
from kvctl.model.net import Address, parse_address
from kvctl.model.text import one_line, quote
from kvctl.node.host import read_host
from kvctl.reconcile.look import look
from kvctl.trace.packet import Question
from kvctl.trace.question import trace
from kvctl.trace.story import sentence as trace_sentence
from kvctl.verify.child import Asker, asking, hear_all
from kvctl.verify.expected import Kind, NamedPod, Rules
from kvctl.verify.places import Place, Questions, among, check_ends, opened, pods_of, resolve
from kvctl.verify.sender import LEAST_INTERVAL
from kvctl.verify.tally import Tally, Verdict, next_steps, sentence, verdict_of

_COUNT = 5
_PROTOCOLS = {"tcp": ("tcp",), "udp": ("udp",), "both": ("udp", "tcp")}
_MOST_TRACED = 3


@click.command(cls=Command)
@click.argument("service", metavar="[SERVICE]", required=False)
@options.namespace
@click.option("--from", "source", metavar="POD_IP", help="The address of one pod, instead of a SERVICE.")
@click.option(
    "--to",
    "destination",
    required=True,
    metavar="HOST[:PORT]",
    help=f"Where an echo answers; IPv6 with port: [HOST]:PORT. [default: port {DEFAULT_PORT}]",
)
@click.option(
    "--proto",
    "protocol",
    type=click.Choice(list(_PROTOCOLS)),
    default="both",
    show_default=True,
    help="The protocol.",
)
@click.option(
    "--expect", metavar="ADDRESS", help="The source that has to be seen. [default: as the rules here say]"
)
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    default=None,
    metavar="NUMBER",
    help=f"How many questions from each pod by each protocol. [default: {_COUNT}]",
)
@click.option(
    "--interval",
    type=options.Seconds(least=LEAST_INTERVAL, most=3600),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="The time between two of them. Never more than 100 questions a second together.",
)
@click.option(
    "--timeout",
    type=options.Seconds(least=0.05, most=60),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer may take; then it is lost.",
)
@click.option(
    "--netns",
    metavar="PATH|PID|NAME",
    help="The pod's network namespace, a process in it, or its name. [default: found by the address]",
)
@click.option("--watch", "watches", is_flag=True, help="Go on until Ctrl-C; tell each change as it is seen.")
@click.option(
    "--every",
    type=options.Seconds(least=0.1, most=86_400),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: how often the counts are printed where there is no terminal.",
)
@options.backend
@options.output()
def command(
    *,
    service: str | None,
    namespace: str | None,
    source: str | None,
    destination: str,
    protocol: str,
    expect: str | None,
    count: int | None,
    interval: float,
    timeout: float,
    netns: str | None,
    watches: bool,
    every: float,
    nftables: bool | None,
    output: str,
) -> int:
    """Ask an echo from a pod's own network namespace which source it sees, and compare with what the rules say.

    The echo is kvctl egress echo on a host outside of the cluster. On the node of the pods, as root. What
    is expected is read once, from the kernel's rules: the VIP, or anything else for what a Service does not rewrite.

    Exit status: 0 all as expected; 1 any wrong source, or any answer lost; 4 a pod's namespace cannot be entered.
    """
    if (service is None) is (source is None):
        raise UsageError("whose traffic is not told", hint="give either a SERVICE or --from POD_IP")
    if netns is not None and source is None:
        raise UsageError("--netns is of one pod", hint="give --from POD_IP with it")
    if watches and count is not None:
        raise UsageError("--count has no effect with --watch, which goes on until Ctrl-C")
    pod = _address(source, "--from") if source is not None else None
    told = _address(expect, "--expect") if expect is not None else None
    name, port = _target(destination)
    targets = resolve(name)
    host = read_host()
    check_ends(pod, targets, host)
    found = look(told=options.told_backend(nftables))
    rules = Rules(found, host)
    pods = [NamedPod(pod, rules.name_of(pod))] if pod is not None else _pods(service or "", namespace, rules)
    questions = Questions(
        port=port,
        protocols=_PROTOCOLS[protocol],
        times=None if watches else count or _COUNT,
        interval=interval,
        timeout=timeout,
    )
    with opened(pods, targets, questions, rules=rules, told=told, netns=netns) as (places, missing):
        for error in missing:
            error_message(error)
        report = _Report(rules, backend=str(found.choice.backend), output=output)
        tallies = _watch(places, report, every=every) if watches else _ask(places)
    report.print(tallies)
    status = 0 if verdict_of(tallies) is Verdict.RIGHT else 1
    return status or (missing[0].exit_status if missing else 0)


def _pods(service: str, namespace: str | None, rules: Rules) -> Sequence[NamedPod]:
    refs = options.parse_services([service], namespace=namespace, kubeconfig=None, context=None)
    assert refs is not None
    pods, left_out = among(pods_of(next(iter(refs)), rules))
    if left_out is not None:
        note(left_out)
    return pods


_Tallies = dict[tuple[Address, Address, str], Tally]


def _tallies(places: Sequence[Place]) -> _Tallies:
    every = (asked for place in places for asked in place.asked)
    return {(asked.source, asked.destination, asked.protocol): Tally(asked) for asked in every}


def _of(tallies: _Tallies, asker: Asker, protocol: str) -> Tally:
    return tallies[asker.job.source, asker.job.destination, protocol]


def _ask(places: Sequence[Place]) -> list[Tally]:
    tallies = _tallies(places)
    with orderly(), asking([(place.space, place.job) for place in places]) as askers:
        for told in hear_all(askers):
            if told is not None:
                _of(tallies, told[0], told[1].protocol).add(told[1])
    return list(tallies.values())


def _watch(places: Sequence[Place], report: _Report, *, every: float) -> list[Tally]:
    """Until a signal: that is how it ends, and no fault."""
    tallies = _tallies(places)
    line = Line(every=every, to_stderr=report.is_document)
    try:
        with orderly(), asking([(place.space, place.job) for place in places]) as askers, line:
            for told in hear_all(askers, until=line.next_at):
                if told is not None:
                    asker, outcome = told
                    tally = _of(tallies, asker, outcome.protocol)
                    if tally.add(outcome):
                        line.tell(one_line(tally.news(outcome, report.whose)))
                line.show(list(tallies.values()))
    except (KeyboardInterrupt, SystemExit):
        pass
    return list(tallies.values())


class _Report:
    """What is printed at the end."""

    def __init__(self, rules: Rules, *, backend: str, output: str) -> None:
        self.is_document = output in ("json", "yaml")
        self._rules = rules
        self._backend = backend
        self._output = output

    def whose(self, address: Address, pod: Address) -> str:
        """Whose address the other end saw of a pod."""
        return self._rules.whose(address, pod=pod)

    def print(self, tallies: Sequence[Tally]) -> None:
        """The answer first."""
        first, why = sentence(tallies, self.whose), _traced(tallies)
        if self.is_document:
            (print_json if self._output == "json" else print_yaml)(self._document(first, why, tallies))
            return
        click.echo(one_line(first))
        print_table(_COLUMNS, [self._row(each) for each in tallies])
        for text in (*why, *next_steps(tallies)):
            click.echo(one_line(text))

    def _row(self, tally: Tally) -> list[str]:
        asked, expected = tally.asked, tally.asked.expectation
        seen = ",".join(str(address) for address, _ in tally.seen.most_common()) or "-"
        wanted = str(expected.address) if expected.address is not None else _SHORT[expected.kind]
        cells = [asked.pod or "-", str(asked.source), asked.protocol, wanted, seen]
        return [printable(cell) for cell in (*cells, str(tally.right), str(tally.wrong), str(tally.lost))]

    def _document(self, first: str, why: Sequence[str], tallies: Sequence[Tally]) -> Json:
        return {
            "schemaVersion": 1,
            "backend": self._backend,
            "verdict": str(verdict_of(tallies)),
            "sentence": first,
            "items": [self._json(each) for each in tallies],
            "why": list(why),
            "next": next_steps(tallies),
        }

    def _json(self, tally: Tally) -> Json:
        asked, expected = tally.asked, tally.asked.expectation
        return {
            "pod": asked.pod or None,
            "source": str(asked.source),
            "destination": str(asked.destination),
            "destinationPort": asked.port,
            "protocol": asked.protocol,
            "expected": {
                "kind": str(expected.kind),
                "address": str(expected.address) if expected.address is not None else None,
                "service": str(expected.service) if expected.service is not None else None,
                "sentence": str(expected),
            },
            "asked": tally.total,
            "right": tally.right,
            "wrong": tally.wrong,
            "lost": tally.lost,
            "seen": [
                {
                    "source": str(address),
                    "whose": self.whose(address, asked.source),
                    "right": expected.allows(address),
                    "count": count,
                }
                for address, count in tally.seen.most_common()
            ],
            "losses": {str(loss): count for loss, count in tally.losses.most_common()},
        }


def _bad(text: str) -> str | None:
    return None if text == "0" else "red"


_COLUMNS = (
    Column("POD"),
    Column("FROM"),
    Column("PROTO"),
    Column("EXPECTED"),
    Column("SEEN", breaks=True),
    Column("RIGHT", right=True),
    Column("WRONG", style=_bad, right=True),
    Column("LOST", style=_bad, right=True),
)
_SHORT = {Kind.NOT_VIP: "not the VIP", Kind.SILENCE: "silence", Kind.NOTHING: "a VIP"}


def _traced(tallies: Sequence[Tally]) -> list[str]:
    """What the rules do with what is not right, or is not rewritten: as `trace` says it now."""
    found: list[str] = []
    for each in tallies:
        expected = each.asked.expectation
        if each.total and (each.wrong or each.lost or expected.kind in (Kind.NOT_VIP, Kind.SILENCE)):
            found.append(f"by the rules: {_trace(each)}")
        if len(found) == _MOST_TRACED:
            break
    return found


def _trace(tally: Tally) -> str:
    asked = tally.asked
    try:
        question = Question(
            asked.source, asked.destination, protocol=asked.protocol, destination_port=asked.port
        )
        return trace_sentence(trace(question))
    except KvctlError as error:
        return f"{asked}: {error.message}"


def _address(text: str, option: str) -> Address:
    try:
        return parse_address(text)
    except ValueError:
        raise UsageError(
            f"{option} {quote(text)} is not an IP address", hint="as in 10.0.0.1 or fd00::1"
        ) from None


def _target(text: str) -> tuple[str, int]:
    """`HOST[:PORT]`: an IPv6 address with a port stands in brackets."""
    match = re.fullmatch(r"\[(?P<v6>[^]]*)\](?::(?P<port>.*))?|(?P<host>[^:]*)(?::(?P<its>[^:]*))?", text)
    if match is None:
        return str(_address(text, "--to")), DEFAULT_PORT
    host = match["v6"] if match["v6"] is not None else match["host"]
    port = match["port"] if match["v6"] is not None else match["its"]
    if match["v6"] is not None:
        host = str(_address(host, "--to"))
    if not host:
        raise UsageError(f"--to {quote(text)} names no host", hint="as in 192.0.2.1:5060")
    if port is None:
        return host, DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UsageError(
            f"--to {quote(text)}: the port is not a number from 1 to 65535", hint="as in 192.0.2.1:5060"
        )
    return host, int(port)
