"""`kvctl egress verify`: what a pod sends, and which source the other end sees of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.output import error_message, note, warning
from kvctl.cli.settings import parse_services, told_assume_vip, told_backend
from kvctl.cli.verify_line import Line
from kvctl.cli.verify_report import Report
from kvctl.echo.wire import DEFAULT_PORT
from kvctl.errors import UsageError
from kvctl.model.net import Address, Family, family_of, parse_address
from kvctl.model.ref import ServiceRef
from kvctl.model.text import one_line, quote
from kvctl.node.host import read_host
from kvctl.reconcile.look import look
from kvctl.signals import orderly
from kvctl.verify.by_rules import let_out
from kvctl.verify.child import Asker, asking, hear_all
from kvctl.verify.expected import NamedPod, Rules
from kvctl.verify.faults import MEND
from kvctl.verify.places import Place, Questions, among, check_ends, of_family, opened, pods_of, resolve
from kvctl.verify.sender import LEAST_INTERVAL
from kvctl.verify.tally import Tally, Verdict, unproved, verdict_of

_COUNT = 5
_PROTOCOLS = {"tcp": ("tcp",), "udp": ("udp",), "both": ("udp", "tcp")}


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
@options.assume_vip
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
    assume_vip: bool | None,
    nftables: bool | None,
    output: str,
) -> int:
    """Ask an echo from a pod's own network namespace which source it sees, and compare with what the rules say.

    The echo is kvctl egress echo on a host outside of the cluster. On the node of the pods, as root. What
    is expected is read once, from the kernel's rules: the VIP, or anything else for what a Service does not rewrite.
    Whoever may change the network inside of a pod can fake the answers that it gets: what counts then is what the
    echo itself has seen (kvctl egress echo --log).

    Exit status: 0 all as expected; 1 any wrong source, any answer lost, or nothing asked that SERVICE rewrites; 4 a
    pod's namespace cannot be entered. Ctrl-C is how --watch is meant to end: it ends with one of these, too.
    """
    _check(service=service, source=source, netns=netns, count=count if watches else None)
    pod = _address(source, "--from") if source is not None else None
    told = _address(expect, "--expect") if expect is not None else None
    name, port = _target(destination)
    targets = _targets(name, told)
    host = read_host()
    check_ends(pod, targets, host)
    found = look(told=told_backend(nftables))
    rules = Rules(found, host)
    of = _ref(service, namespace) if service is not None else None
    pods = _pods(of, pod, rules, {family_of(target) for target in targets})
    questions = Questions(
        port=port,
        protocols=_PROTOCOLS[protocol],
        times=None if watches else count or _COUNT,
        interval=interval,
        timeout=timeout,
        of=of,
    )
    with opened(pods, targets, questions, rules=rules, told=told, netns=netns) as (places, missing):
        for error in missing:
            error_message(error)
        report = Report(
            rules, backend=str(found.choice.backend), output=output, assume_vip=told_assume_vip(assume_vip)
        )
        tallies = _watch(places, report, every=every) if watches else _ask(places)
    for tally in let_out(tallies):
        tally.let_out()
    report.print(tallies)
    status = 0 if verdict_of(tallies) is Verdict.RIGHT else 1
    return status or (missing[0].exit_status if missing else 0)


def _check(*, service: str | None, source: str | None, netns: str | None, count: int | None) -> None:
    """Refuse what does not go together; `count`: what was given beside --watch. Raises UsageError."""
    if service is None and source is None:
        raise UsageError(
            "neither a SERVICE nor --from is given", hint="give one: NAMESPACE/NAME or --from POD_IP"
        )
    if service is not None and source is not None:
        raise UsageError("a SERVICE and --from are both given", hint="give one of them")
    if netns is not None and source is None:
        raise UsageError("--netns is of one pod", hint="give --from POD_IP with it")
    if count is not None:
        raise UsageError("--count has no effect with --watch, which goes on until Ctrl-C")


def _ref(service: str, namespace: str | None) -> ServiceRef:
    refs = parse_services([service], namespace=namespace, kubeconfig=None, context=None)
    assert refs is not None
    return next(iter(refs))


def _pods(
    of: ServiceRef | None, pod: Address | None, rules: Rules, families: Collection[Family]
) -> Sequence[NamedPod]:
    """Those of the Service, or the one that is named."""
    if of is None:
        assert pod is not None
        return [NamedPod(pod, rules.name_of(pod))]
    pods, left_out = among(pods_of(of, rules, families))
    if left_out is not None:
        note(left_out)
    for fault in rules.flushed(families):
        warning(f"{fault}: not every pod is led to its Service; {MEND}")
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


def _watch(places: Sequence[Place], report: Report, *, every: float) -> list[Tally]:
    """Until a signal: that is how it ends, and no fault."""
    tallies = _tallies(places)
    if verdict_of(tallies.values()) is Verdict.UNPROVED:
        warning(unproved(places[0].asked[0]))
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


def _targets(name: str, told: Address | None) -> Sequence[Address]:
    """The addresses of `--to` that can see the source that is expected."""
    targets = resolve(name)
    if told is None:
        return targets
    same, left_out = of_family(targets, told)
    if left_out is not None:
        note(left_out)
    return same


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
