"""The verdict on a packet: what all its ways have in common, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.flows import Flow
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import EGRESS_CHAIN, Verb
from kvctl.netfilter.kernel import Reading
from kvctl.trace.facts import Facts
from kvctl.trace.matching import matches
from kvctl.trace.packet import Packet, Tracking, later_packet
from kvctl.trace.passage import Passed, pass_through
from kvctl.trace.ruleset import parse_any
from kvctl.trace.said import Spared, own_rule, owner_of, service_of, spelled, what_is_rewritten, why_spared
from kvctl.trace.targets import End
from kvctl.trace.walk import Place, Step, TooMany, Way


class Verdict(StrEnum):
    """What becomes of a packet."""

    REWRITTEN = "rewritten"
    """It leaves with the VIP of a Service, by a rule of kvctl's."""
    TRANSLATED = "translated"
    """It leaves with another source than its own, by a rule of another program's."""
    UNCHANGED = "unchanged"
    DROPPED = "dropped"
    DELIVERED = "delivered"
    """It ends at this node."""
    UNROUTABLE = "unroutable"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a packet; without a verdict: why that cannot be told."""

    packet: Packet
    """As it came."""
    verdict: Verdict | None = None
    source: Address | None = None
    """What the other end sees, or this node where it is delivered."""
    destination: Address | None = None
    interface: str | None = None
    gateway: Address | None = None
    service: ServiceRef | None = None
    decided: Step | None = None
    """The rule that made the verdict, if one did."""
    owner: str | None = None
    reason: str = ""
    steps: tuple[Step, ...] = ()
    flow: Flow | None = None
    """The connection that the packet is part of: nat is not asked."""
    others: tuple[Flow, ...] = ()
    """Where no source port is given: the connections of the pod to the same destination that are there already."""
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Rules and matches that cannot be judged, each with the reason."""


def judge(packet: Packet, reading: Reading, facts: Facts, flows: Sequence[Flow] = ()) -> Judgement:
    """What becomes of a packet now.

    `flows`: the connections between its ends that conntrack has. Raises KvctlError when the kernel does not answer.
    """
    ours = [flow for flow in flows if _may_be_of(flow, packet)]
    # Without both ports it is one of a connection of its own, as each ping is.
    whole = packet.source_port is not None and packet.destination_port is not None
    flow = ours[0] if whole and ours else None
    start = packet if flow is None else later_packet(packet, flow)
    others = () if flow is not None else tuple(ours)
    try:
        passage = pass_through(start, reading, facts)
    except TooMany:
        unknown = ("too many matches that cannot be judged lead to too many different ways",)
        return Judgement(packet, flow=flow, others=others, unknown=unknown)
    judged = _Judge(packet, reading, facts, flow)
    results = [judged.one(passed) for passed in passage.ends]
    notes = tuple(dict.fromkeys(map(_may_drop, passage.may_drop)))
    return _common(results, flow=flow, others=others, notes=notes)


def _may_be_of(flow: Flow, packet: Packet) -> bool:
    """Whether the packet is of this connection, in one direction or the other, as far as its ports are given."""
    if flow.zone or flow.protocol != packet.protocol:
        return False
    if flow.original.source == packet.source:
        ends = flow.original
    elif flow.reply.source == packet.source:
        ends = flow.reply
    else:
        return False
    if ends.destination != packet.destination:
        return False
    return packet.source_port in (None, ends.source_port) and packet.destination_port in (
        None,
        ends.destination_port,
    )


def _may_drop(way: Way) -> str:
    last, doubt = way.steps[-1], way.doubts[-1]
    return f"it may be dropped before, in {last.place.table} {last.chain}: it cannot be judged: {doubt.doubt}"


def _common(
    results: Sequence[Judgement], *, flow: Flow | None, others: tuple[Flow, ...], notes: tuple[str, ...]
) -> Judgement:
    first = results[0]
    unknown = list(dict.fromkeys(text for each in results for text in each.unknown))
    if not unknown and len({_outcome(each) for each in results}) > 1:
        doubts = (step for each in results for step in each.steps if step.doubt is not None)
        unknown = list(dict.fromkeys(f"{_named(step)}: {step.doubt}" for step in doubts))
        unknown = unknown or [
            "both back ends have rules for it, and which of them are asked first cannot be read"
        ]
    if unknown:
        return Judgement(
            first.packet, flow=flow, others=others, notes=notes, unknown=tuple(unknown), steps=first.steps
        )
    if len({each.destination for each in results}) > 1:
        notes = (
            *notes,
            "where it goes is one of several, by a match that cannot be judged; the verdict is the same",
        )
    return Judgement(
        packet=first.packet,
        verdict=first.verdict,
        source=first.source,
        destination=first.destination,
        interface=first.interface,
        gateway=first.gateway,
        service=first.service,
        decided=first.decided,
        owner=first.owner,
        reason=first.reason,
        steps=first.steps,
        flow=flow,
        others=others,
        notes=notes,
    )


def _outcome(judgement: Judgement) -> tuple[object, ...]:
    return judgement.verdict, judgement.source, judgement.interface


def _named(step: Step) -> str:
    return f"{step.place.table} {spelled(step, whole=False)}"


class _Decision(NamedTuple):
    verdict: Verdict
    reason: str
    step: Step | None = None
    service: ServiceRef | None = None


class _Judge:
    def __init__(self, packet: Packet, reading: Reading, facts: Facts, flow: Flow | None) -> None:
        self._packet = packet
        self._facts = facts
        self._flow = flow
        self._tables = [
            saved.tables for (_, family), saved in reading.tables.items() if family is packet.family
        ]

    def one(self, passed: Passed) -> Judgement:
        """What one way ends as."""
        way, route = passed
        packet = way.packet
        if way.end is End.UNKNOWN:
            return Judgement(
                self._packet, steps=way.steps, unknown=(f"{_named(way.steps[-1])}: {way.reason}",)
            )
        if packet.sources:
            among = ", ".join(map(str, packet.sources))
            text = f"{_named(way.steps[-1])}: the kernel chooses one of {among}"
            return Judgement(self._packet, steps=way.steps, unknown=(text,))
        if route is not None and (route.several or route.kind not in ("unicast", "local", "refused")):
            what = "has several next hops" if route.several else f"is of type {route.kind}"
            text = f"the route to {packet.destination} {what}"
            return Judgement(self._packet, steps=way.steps, unknown=(text,))
        decision = self._decide(passed)
        leaves = decision.verdict in (Verdict.REWRITTEN, Verdict.TRANSLATED, Verdict.UNCHANGED)
        step = decision.step
        return Judgement(
            packet=self._packet,
            verdict=decision.verdict,
            source=packet.source if leaves or decision.verdict is Verdict.DELIVERED else None,
            destination=packet.destination,
            interface=packet.out_interface if leaves else None,
            gateway=route.gateway if route is not None and leaves else None,
            service=decision.service or (service_of(step) if step is not None else None),
            decided=step,
            owner=owner_of(step) if step is not None else None,
            reason=decision.reason,
            steps=way.steps,
        )

    def _decide(self, passed: Passed) -> _Decision:
        way, route = passed
        if way.end is End.DROPPED:
            return _Decision(Verdict.DROPPED, "", way.steps[-1])
        if route is not None and route.kind == "refused":
            return _Decision(Verdict.UNROUTABLE, route.reason or "there is no route")
        if route is not None and route.kind == "local":
            return _Decision(Verdict.DELIVERED, f"{way.packet.destination} is an address of this node")
        if way.packet.connection.tracking is Tracking.UNTRACKED:
            step = next(step for step in reversed(way.steps) if _exempts(step))
            reason = f"{_named(step)} ({owner_of(step)}) exempts it from conntrack, and nat is not asked"
            return _Decision(Verdict.UNCHANGED, reason, step)
        if self._flow is not None:
            return self._by_flow(way.packet)
        if not way.packet.source_chosen:
            spared = self._spared(way)
            return _Decision(Verdict.UNCHANGED, spared.reason, spared.step, spared.service)
        last = next(step for step in reversed(way.steps) if _in_postrouting(step))
        if own_rule(last) is not None:
            return _Decision(Verdict.REWRITTEN, "", last)
        if self._has_rules() and not _was_entered(way.steps):
            return _Decision(Verdict.TRANSLATED, "its rule is asked before kvctl's", last)
        spared = self._spared(way)
        return _Decision(Verdict.TRANSLATED, spared.reason, last, spared.service)

    def _by_flow(self, packet: Packet) -> _Decision:
        if not packet.source_chosen:
            return _Decision(Verdict.UNCHANGED, "")
        service = self._service_with(packet.source)
        if service is not None and not packet.connection.answers:
            return _Decision(Verdict.REWRITTEN, "", None, service)
        return _Decision(Verdict.TRANSLATED, "")

    def _service_with(self, vip: Address) -> ServiceRef | None:
        """A Service whose rules rewrite to this address."""
        for step in self._rewriting():
            rule = own_rule(step)
            if rule is not None and rule.target.address == vip:
                return service_of(step)
        return None

    def _rewriting(self) -> Iterable[Step]:
        for tables in self._tables:
            nat = tables.get("nat")
            for chain, rules in nat.chains.items() if nat is not None else ():
                if chain.startswith(("KVCTL-SVC-", "KVCTL-OUT-")):
                    for _, text in rules:
                        yield Step(Place("POSTROUTING", "", "nat"), chain, parse_any(text))

    def _has_rules(self) -> bool:
        return any("nat" in tables and EGRESS_CHAIN in tables["nat"].chains for tables in self._tables)

    def _spared(self, way: Way) -> Spared:
        spared = why_spared(way.steps, has_rules=self._has_rules(), source=self._packet.source)
        if spared.service is None or spared.step is None:
            return spared
        if spared.step.chain == spared.step.place.hook or own_rule(spared.step) is None:
            return spared
        its = [step for step in self._rewriting() if service_of(step) == spared.service]
        if any(self._lacks_heartbeats(step, way) for step in its):
            return spared._replace(reason=f"the heartbeats of {spared.service} have stopped")
        pod_jump = own_rule(spared.step)
        if pod_jump is not None and pod_jump.target.verb is Verb.JUMP:
            what = what_is_rewritten(rule for step in its if (rule := own_rule(step)) is not None)
            return spared._replace(reason=f"{spared.service} rewrites {what}")
        return spared

    def _lacks_heartbeats(self, step: Step, way: Way) -> bool:
        """Whether a rule would rewrite but for its fence."""
        rule = step.rule
        if rule is None or "--to-source" not in rule.text:
            return False
        without = rule._replace(matches=tuple(m for m in rule.matches if m.module != "recent"))
        would = without != rule and matches(without, way.packet, self._facts) is True
        return would and matches(rule, way.packet, self._facts) is False


def _exempts(step: Step) -> bool:
    target = step.rule.target if step.rule is not None else None
    return (
        step.place.table == "raw" and step.taken and target is not None and target.name in ("NOTRACK", "CT")
    )


def _in_postrouting(step: Step) -> bool:
    return (step.place.hook, step.place.table) == ("POSTROUTING", "nat") and step.taken


def _was_entered(steps: Sequence[Step]) -> bool:
    return any(
        _in_postrouting(step)
        and step.rule is not None
        and step.rule.target is not None
        and step.rule.target.name == EGRESS_CHAIN
        for step in steps
    )
