"""What can be told of a packet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvctl.model.flows import Flow
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef
from kvctl.trace.packet import Packet
from kvctl.trace.walk import Step


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
    trouble: str = ""
    """What keeps it from leaving all the same, or answers to it from coming back."""
    unknown: tuple[str, ...] = ()
    """Rules and matches that cannot be judged, each with the reason."""

    @property
    def leaves(self) -> bool:
        """Whether it goes out by an interface."""
        return self.verdict in (Verdict.REWRITTEN, Verdict.TRANSLATED, Verdict.UNCHANGED)
