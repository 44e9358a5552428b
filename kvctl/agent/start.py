"""What the agent of a node consists of, put together, started and stopped in order."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from kvctl import __version__
from kvctl.agent.address import Listen
from kvctl.agent.agent import Agent, Output
from kvctl.agent.endpoint import Endpoint, Questions
from kvctl.agent.events import Events
from kvctl.agent.gates import Gates
from kvctl.agent.health import Health, Verdict
from kvctl.agent.inbox import Inbox
from kvctl.agent.journal import Journal, Level, LogFormat
from kvctl.agent.keeper import Keeper
from kvctl.agent.log_stream import PatientStream
from kvctl.agent.metrics import Metrics
from kvctl.agent.outages import Outages
from kvctl.agent.readiness import pod_ready
from kvctl.agent.round import Cause
from kvctl.agent.sign import Election, take_sign
from kvctl.cluster.connection import Connection
from kvctl.cluster.watched import WatchedCluster
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.settings import Settings
from kvctl.netfilter.privilege import require_netfilter
from kvctl.netfilter.watching import RuleChanges
from kvctl.node.changes import HostChanges
from kvctl.node.routing_changes import RoutingChanges

if TYPE_CHECKING:
    from kvctl.agent.tenure import Tenure

_LOCK_SECONDS = 10.0
_EVENTS_PATIENCE = 1.0


class Options(NamedTuple):
    """How an agent is to be."""

    settings: Settings
    node: str
    told: bool | None = None
    """True nft, false legacy, None by the evidence on this host."""
    keep_connections: bool = False
    clean: bool = False
    """Remove all rules at the end."""
    listen: Listen | None = None
    log_format: LogFormat = LogFormat.AUTO
    events: bool = True
    gates: bool = False
    terms: Terms | None = None
    """How Leases are held (serviceElection); None: the rules follow whoever manages the VIPs."""


def run_agent(connection: Connection, options: Options) -> None:
    """Until SIGTERM or SIGINT. Raises KvctlError where it cannot begin: another agent lives here, the port is taken,
    no rule can be written."""
    require_netfilter(options.told)
    inbox, health = Inbox(), Health()
    keeper = new_keeper(options)
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals(inbox))
        journal = stack.enter_context(_journal(options))
        sign = stack.enter_context(
            take_sign(node=options.node, version=__version__, election=_election(options))
        )
        if sign.warning is not None:
            journal.complain(sign.warning)
        cluster = WatchedCluster(
            connection,
            node=options.node,
            notify=inbox.marker(Cause.OBJECTS),
            tell=Outages(journal).tell,
        )
        metrics = Metrics(version=__version__, states=lambda: {s.name: s for s in cluster.states()})
        outputs: list[Output] = [metrics, journal, *_reporters(options, connection, journal, metrics, stack)]
        tenure = stack.enter_context(_elected(options, connection, inbox, journal, metrics))
        if tenure is not None:
            health.asks(tenure.unheard)
        agent = Agent(
            cluster=cluster,
            keeper=keeper,
            inbox=inbox,
            health=health,
            outputs=outputs,
            watch_rules=lambda backend: RuleChanges(backend, inbox.marker(Cause.KERNEL)),
            tenure=tenure,
        )
        if options.listen is not None:
            stack.enter_context(
                Endpoint(
                    options.listen,
                    questions=_questions(agent, cluster, health, metrics),
                    complain=journal.complain,
                )
            )
        host = HostChanges(inbox.marker(Cause.ADDRESSES))
        host.start()
        stack.callback(host.stop)
        routes = RoutingChanges(inbox.marker(Cause.ROUTES))
        routes.start()
        stack.callback(routes.stop)
        _introduce(journal, options, connection)
        _tell_fence(journal, options)
        cluster.start()
        stack.callback(cluster.stop)
        agent.run()
        journal.stopped(why=stop(), rules=_farewell(keeper, options, journal))


def _reporters(
    options: Options, connection: Connection, journal: Journal, metrics: Metrics, stack: ExitStack
) -> list[Output]:
    """Who tells the cluster of each round, begun; they end with `stack`."""
    found: list[Output] = []
    if options.events:
        events = Events(connection, node=options.node, complain=journal.complain, count=metrics.count_report)
        events.start()
        stack.callback(events.stop, patience=_EVENTS_PATIENCE)
        found.append(events)
    if options.gates:
        gates = Gates(connection, complain=journal.complain, count=metrics.count_report)
        gates.start()
        stack.callback(gates.stop)
        found.append(gates)
    return found


@contextmanager
def _elected(
    options: Options, connection: Connection, inbox: Inbox, journal: Journal, metrics: Metrics
) -> Iterator[Tenure | None]:
    """What contends for Leases and places VIPs, as long as the block lasts; None in follow mode."""
    if options.terms is None:
        yield None
        return
    from kvctl.agent.election import elected

    with elected(
        connection,
        options.settings,
        options.terms,
        node=options.node,
        clean=options.clean,
        notify=inbox.marker(Cause.ELECTION),
        observer=metrics.leases,
        say=lambda text: journal.say(Level.INFO, text),
        complain=journal.complain,
        count=metrics.count_report,
    ) as tenure:
        yield tenure


def new_keeper(options: Options) -> Keeper:
    """What makes the rules so, for these options."""
    return Keeper(
        settings=options.settings,
        told=options.told,
        keep_connections=options.keep_connections,
        clock=time.monotonic,
        lock_timeout=_LOCK_SECONDS,
    )


def _introduce(journal: Journal, options: Options, connection: Connection) -> None:
    """The first line of the log."""
    listen = str(options.listen) if options.listen is not None else "off"
    journal.say(
        Level.INFO,
        f"kvctl {__version__} watches {connection.name} for node {options.node}",
        version=__version__,
        node=options.node,
        listen=listen,
        without_vip=str(options.settings.without_vip),
        pod_cidrs=", ".join(map(str, options.settings.pod_cidrs)) or "discovered",
        service_cidrs=", ".join(map(str, options.settings.service_cidrs)) or "discovered",
        clean=options.clean,
        events=options.events,
        readiness_gates=options.gates,
        election=_words(options.terms) if options.terms is not None else "off",
        fence=options.settings.fence_seconds is not None if options.terms is not None else None,
    )


def _election(options: Options) -> Election | None:
    """What commands beside this agent have to know of it."""
    if options.terms is None:
        return None
    return Election(options.settings.fence_seconds, options.settings.interface)


def _tell_fence(journal: Journal, options: Options) -> None:
    """Say so where only the addresses are fenced."""
    if options.terms is None or options.settings.fence_seconds is not None:
        return
    from kvctl.netfilter import fence

    journal.complain(
        f"only addresses are fenced, not rules: {fence.obstacle()}; should this agent die, its pods' packets carry "
        "the VIP for as long as the rules are there, also when another node has it"
    )


def _words(terms: Terms) -> str:
    return (
        f"Leases of {terms.duration:g} s, deadline {terms.renew_deadline:g} s, each {terms.retry_period:g} s"
    )


def _farewell(keeper: Keeper, options: Options, journal: Journal) -> str:
    """What becomes of the rules."""
    if not options.clean:
        return "the rules stay in the kernel, and the next agent goes on with them"
    try:
        removed = keeper.remove_everything()
    except KvctlError as error:
        journal.complain(f"the rules could not be removed: {error}", level=Level.ERROR)
        return "the rules could not be removed"
    failed = [error for outcome in removed.outcomes for error in outcome.errors]
    for failure in failed:
        journal.complain(f"rules could not be removed: {failure}", level=Level.ERROR)
    return "some rules could not be removed" if failed else "the rules are removed (egress_clean)"


def _questions(agent: Agent, cluster: WatchedCluster, health: Health, metrics: Metrics) -> Questions:
    def ready() -> Verdict:
        verdict, missing = health.ready(), cluster.missing()
        return Verdict(good=False, reason=f"{verdict.reason}: {missing}") if missing else verdict

    def pod(namespace: str, name: str) -> tuple[bool, str] | None:
        return pod_ready(agent.last, namespace, name) if agent.last is not None else None

    return Questions(alive=health.alive, ready=ready, pod=pod, metrics=metrics.render)


@contextmanager
def _journal(options: Options) -> Iterator[Journal]:
    """The log on standard error, for which nothing waits; closed after all that speaks in it."""

    def lost(count: int) -> str:
        return journal.lost(count)

    with PatientStream(sys.stderr.fileno(), lost=lost) as stream:
        journal = Journal(options.log_format, stream=stream)
        yield journal


@contextmanager
def _stopped_by_signals(inbox: Inbox) -> Iterator[Callable[[], str]]:
    """SIGTERM and SIGINT end the loop after what it is at; what is yielded names the signal that came."""
    came: list[str] = []

    def stop(number: int, frame: object) -> None:
        came.append(signal.Signals(number).name)
        inbox.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came[0] if came else "asked to"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
