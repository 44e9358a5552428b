"""The verdict on a packet, way by way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from kvctl.model.flows import Flow
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import CHAIN_PREFIX, DROP_CHAIN, EGRESS_CHAIN, Verb
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.savetext import SavedTable
from kvctl.trace.agreement import agreed, named
from kvctl.trace.facts import Facts
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.matching import matches
from kvctl.trace.packet import Packet, Tracking, later_packet
from kvctl.trace.passage import Passed, pass_through
from kvctl.trace.ruleset import parse_any
from kvctl.trace.said import Spared, own_rule, owner_of, service_of, what_is_rewritten, why_spared
from kvctl.trace.targets import End
from kvctl.trace.walk import MOST_RULES, MOST_WAYS, Place, Step, TooMany, Way

# Of a connection in one of these a new SYN makes another, which is translated anew (nf_conntrack_tcp_packet in Linux).
_ENDED = ("TIME_WAIT", "CLOSE")


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
        unknown = (
            f"too many rules, or matches that cannot be judged: given up ({MOST_WAYS} ways, {MOST_RULES} rules)",
        )
        return Judgement(packet, flow=flow, others=others, unknown=unknown)
    judged = _Judge(packet, reading, facts, flow)
    results = [judged.one(passed) for passed in passage.ends]
    notes = tuple(dict.fromkeys(map(_may_drop, passage.may_drop)))
    return agreed(results, flow=flow, others=others, notes=notes)


def _may_be_of(flow: Flow, packet: Packet) -> bool:
    """Whether the packet is of this connection, in one direction or the other, as far as its ports are given."""
    if flow.zone or flow.protocol != packet.protocol or flow.state in _ENDED:
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
        unknown = self._why_unknown(passed)
        if unknown is not None:
            return Judgement(self._packet, steps=way.steps, unknown=(unknown,))
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

    def _why_unknown(self, passed: Passed) -> str | None:
        way, route = passed
        packet = way.packet
        if way.end is End.UNKNOWN:
            return f"{named(way.steps[-1])}: {way.reason}"
        if packet.sources:
            among = ", ".join(map(str, packet.sources))
            return f"{named(way.steps[-1])}: the kernel chooses one of {among}"
        if route is not None and route.open_rule is not None:
            open_rule = f"the ip rule {route.open_rule} may lead it elsewhere"
            return (
                f"{open_rule}, by its ports, protocol or type of service, as far as they are not given here"
            )
        if route is not None and (route.several or route.kind not in ("unicast", "local", "refused")):
            what = "has several next hops" if route.several else f"is of type {route.kind}"
            return f"the route to {packet.destination} {what}"
        return self._masqueraded_elsewhere(packet) if self._flow is not None else None

    def _masqueraded_elsewhere(self, packet: Packet) -> str | None:
        """Why it may be dropped: MASQUERADE binds a connection to its interface (nf_nat_oif_changed in Linux)."""
        if packet.out_interface is None or not packet.source_chosen or packet.connection.answers:
            return None
        where = self._facts.masqueraded_on(packet.source)
        if not where or packet.out_interface in where:
            return None
        return (
            f"its connection began with {packet.source}, an address of {where[0]}, and now leaves by "
            f"{packet.out_interface}: the kernel drops it if MASQUERADE chose that address, which is not read"
        )

    def _decide(self, passed: Passed) -> _Decision:
        way, route = passed
        if way.end is End.DROPPED:
            return _Decision(Verdict.DROPPED, "", way.steps[-1])
        if route is not None and route.kind == "refused":
            return _no_route(way, route.reason or "there is no route")
        if route is not None and route.kind == "local":
            return _Decision(Verdict.DELIVERED, f"{way.packet.destination} is an address of this node")
        if way.packet.connection.tracking is Tracking.UNTRACKED:
            step = next(step for step in reversed(way.steps) if _exempts(step))
            reason = f"{named(step)} ({owner_of(step)}) exempts it from conntrack, and nat is not asked"
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
        rules = ((ref, own_rule(step)) for ref, its in self._rewriting.items() for step in its)
        return next((ref for ref, rule in rules if rule is not None and rule.target.address == vip), None)

    @cached_property
    def _rewriting(self) -> Mapping[ServiceRef | None, Sequence[Step]]:
        """The rules of each Service's chains; read once for all ways."""
        found: dict[ServiceRef | None, list[Step]] = {}
        for tables in self._tables:
            for chain, rules in _nat_chains(tables):
                if chain.startswith(("KVCTL-SVC-", "KVCTL-OUT-")):
                    for _, text in rules:
                        step = Step(Place("POSTROUTING", "", "nat"), chain, parse_any(text))
                        found.setdefault(service_of(step), []).append(step)
        return found

    def _has_rules(self) -> bool:
        return any("nat" in tables and EGRESS_CHAIN in tables["nat"].chains for tables in self._tables)

    def _drops(self) -> bool:
        return any("mangle" in tables and DROP_CHAIN in tables["mangle"].chains for tables in self._tables)

    def _flushed(self, way: Way) -> str | None:
        """The chain of ours on its way that holds nothing: kvctl writes none such."""
        chains = {chain: rules for tables in self._tables for chain, rules in _nat_chains(tables)}
        targets = (step.rule.target for step in way.steps if _in_postrouting(step) and step.rule is not None)
        names = (target.name for target in targets if target is not None)
        return next((n for n in names if n.startswith(CHAIN_PREFIX) and not chains.get(n, ("?",))), None)

    def _spared(self, way: Way) -> Spared:
        spared = why_spared(
            way.steps, has_rules=self._has_rules(), drops=self._drops(), source=self._packet.source
        )
        flushed = self._flushed(way) if spared.service is not None or spared.step is None else None
        if flushed is not None:
            why = f"{flushed} is empty, somebody has flushed it: kvctl egress apply mends it"
            return spared._replace(reason=why)
        if spared.service is None or spared.step is None:
            return spared
        if spared.step.chain == spared.step.place.hook or own_rule(spared.step) is None:
            return spared
        its = self._rewriting.get(spared.service, ())
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


def _nat_chains(tables: Mapping[str, SavedTable]) -> Iterable[tuple[str, Sequence[tuple[int | None, str]]]]:
    nat = tables.get("nat")
    return nat.chains.items() if nat is not None else ()


def _no_route(way: Way, reason: str) -> _Decision:
    """Nothing leads it on; where a rule of ours has marked it, it is not the main table that says so."""
    marks = (step for step in reversed(way.steps) if step.taken and way.packet.mark)
    for step in marks:
        rule = own_rule(step)
        if rule is not None and rule.target.verb is Verb.MARK and service_of(step) is not None:
            told = f"{service_of(step)} marks it ({way.packet.mark:#x}) for an interface that leads nowhere"
            return _Decision(Verdict.UNROUTABLE, f"{told} ({reason})", step)
    return _Decision(Verdict.UNROUTABLE, reason)


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
