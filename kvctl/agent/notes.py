"""What the Services' owners are told: a round in Kubernetes Events' words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from kvctl.agent.readiness import is_dropping
from kvctl.agent.round import Round, Turn
from kvctl.model.ref import ServiceRef
from kvctl.model.text import one_line
from kvctl.policy.faults import claim_lost
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Item, Status


class Reason(StrEnum):
    """The `reason` of an Event; README's table is made of this one."""

    PROGRAMMED = "Programmed"
    NOT_PROGRAMMED = "NotProgrammed"
    INVALID = "InvalidConfiguration"
    CONFLICT = "VIPConflict"
    ELSEWHERE = "VIPElsewhere"
    DROPPED = "TrafficDropped"
    REMOVED = "Removed"
    OVERRIDDEN = "Overridden"
    FAILED = "WriteFailed"
    REPAIRED = "DriftRepaired"
    CONTESTED = "RulesContested"
    DISAGREEMENT = "HolderDisputed"
    UNPLACED = "VIPNotPlaced"
    CONNECTIONS = "ConnectionsDropped"


class Meaning(NamedTuple):
    """What an Event's reason stands for."""

    type: str
    """`Normal` or `Warning`."""
    words: str


NORMAL, WARNING = "Normal", "Warning"

MEANINGS: dict[Reason, Meaning] = {
    Reason.PROGRAMMED: Meaning(NORMAL, "The rules are in the kernel of the node that holds the VIP."),
    Reason.NOT_PROGRAMMED: Meaning(
        WARNING, "The Service asks for egress and cannot have it; the message says why."
    ),
    Reason.INVALID: Meaning(
        WARNING, "An annotation is not accepted; rules written before it was, if any, stay as they are."
    ),
    Reason.CONFLICT: Meaning(WARNING, "A Service of another namespace has the VIP."),
    Reason.ELSEWHERE: Meaning(
        NORMAL, "Pods run on a node without the VIP and leave with that node's address."
    ),
    Reason.DROPPED: Meaning(
        NORMAL, "Pods run on a node without the VIP, and their traffic is dropped there."
    ),
    Reason.REMOVED: Meaning(NORMAL, "The rules were removed: the Service does not ask for egress any more."),
    Reason.OVERRIDDEN: Meaning(
        WARNING, "The rules are right, but another program takes the traffic before them."
    ),
    Reason.FAILED: Meaning(WARNING, "The rules could not be written; the log of the agent says why."),
    Reason.REPAIRED: Meaning(WARNING, "Another program had changed the rules; they are right again."),
    Reason.CONTESTED: Meaning(
        WARNING, "Another program keeps undoing the rules; the agent waits longer before each repair."
    ),
    Reason.DISAGREEMENT: Meaning(WARNING, "The evidence about which node holds the VIP contradicts itself."),
    Reason.UNPLACED: Meaning(
        WARNING, "A node that could have the VIP cannot put it where it belongs; the message says why."
    ),
    Reason.CONNECTIONS: Meaning(NORMAL, "Connections that had the wrong source were dropped."),
}


class Note(NamedTuple):
    """One Event to be told."""

    ref: ServiceRef
    reason: Reason
    message: str
    about_node: bool
    """False: it is the same whichever node says it."""

    @property
    def type(self) -> str:
        """`Normal` or `Warning`."""
        return MEANINGS[self.reason].type


def state_of(item: Item, done: Round, *, node: str) -> Note | None:
    """How a Service stands here; None: that is no concern of this node, or nothing to be told now."""
    if item.ref is None or done.resolution is None:
        return None
    family = f"{item.family}: " if item.family is not None else ""

    def note(reason: Reason, words: str, *, about_node: bool = True) -> Note:
        assert item.ref is not None
        where = f" (node {node})" if about_node else ""
        return Note(item.ref, reason, f"{family}{one_line(words, longest=800)}{where}", about_node)

    match item.status:
        case Status.APPLIED if done.faults(item.ref):
            return note(
                Reason.INVALID, "; ".join(item.warnings) or "the last good rules are kept", about_node=False
            )
        case Status.APPLIED:
            return note(Reason.PROGRAMMED, f"{_what(item)} leaves as {item.vip}")
        case Status.OVERRIDDEN:
            return note(Reason.OVERRIDDEN, item.reason or "another program takes the traffic first")
        case Status.ELSEWHERE:
            return note(Reason.DROPPED if is_dropping(item) else Reason.ELSEWHERE, item.reason or "")
        case Status.SKIPPED if done.concerns_this_node(item.ref) and done.asks(item.ref):
            words = "; ".join((item.reason or "", *_hints(item.ref, done)))
            return note(_why_skipped(item, done), words, about_node=False)
    return None


def incidents_of(turn: Turn, done: Round, *, node: str) -> Iterable[Note]:
    """What happened to a Service in a round; none of it depends on numbers, so that the same is the same."""
    ref = turn.item.ref
    if ref is None:
        return
    family = f"{turn.item.family}: " if turn.item.family is not None else ""
    if turn.action is Action.FAILED:
        yield Note(ref, Reason.FAILED, f"{family}the rules could not be written (node {node})", True)
    elif turn.repaired:
        found = turn.found or "they were gone"
        yield Note(
            ref,
            Reason.REPAIRED,
            f"{family}another program had changed the rules: {one_line(found, longest=500)} (node {node})",
            True,
        )
    elif turn.action is Action.REMOVED and ref in done.services and not done.asks(ref):
        yield Note(
            ref, Reason.REMOVED, f"{family}{turn.item.reason or 'the rules are gone'} (node {node})", True
        )
    if done.contested is not None and (turn.repaired or turn.item.status is Status.DRIFTED):
        text = f"{family}another program keeps changing the rules; repairs are made less often (node {node})"
        yield Note(ref, Reason.CONTESTED, text, True)
    if turn.dropped:
        text = f"{family}connections with a source address that is wrong by now were dropped (node {node})"
        yield Note(ref, Reason.CONNECTIONS, text, True)


def disputes_of(done: Round, *, node: str) -> Iterable[Note]:
    """Where the evidence about the holder contradicts itself, and where a VIP cannot be placed."""
    for reason, sentences in (
        (Reason.DISAGREEMENT, done.disagreements),
        (Reason.UNPLACED, done.unplaced),
    ):
        for ref, sentence in sorted(sentences.items()):
            yield Note(ref, reason, f"{one_line(sentence, longest=800)} (node {node})", True)


def _what(item: Item) -> str:
    ports = ",".join(item.ports) or "all traffic"
    where = f" to {', '.join(map(str, item.allowed))}" if item.allowed else ""
    return f"{ports}{where}"


def _hints(ref: ServiceRef, done: Round) -> Iterable[str]:
    return dict.fromkeys(fault.hint for fault in done.faults(ref) if fault.hint)


def _why_skipped(item: Item, done: Round) -> Reason:
    assert item.ref is not None
    claims = done.resolution.claims if done.resolution is not None else {}
    if item.vip is not None and claim_lost(item.ref, item.vip, claims) is not None:
        return Reason.CONFLICT
    return Reason.INVALID if done.faults(item.ref) else Reason.NOT_PROGRAMMED
