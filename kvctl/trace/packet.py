"""The packet that is followed, and what conntrack knows of its connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family, family_of

WITH_PORTS = ("tcp", "udp", "sctp")


class Question(NamedTuple):
    """The packet somebody asks about."""

    source: Address
    destination: Address
    protocol: str
    """`tcp`, `udp`, `sctp`, `icmp` or `icmpv6`."""
    source_port: int | None = None
    """None: any, or there are none."""
    destination_port: int | None = None
    in_interface: str | None = None
    """By which it comes in; None: by that of the route to its source."""


class Tracking(StrEnum):
    """Whether conntrack knows of a packet."""

    NOT_YET = "not yet"
    """It is in the raw table, which comes before conntrack."""
    TRACKED = "tracked"
    UNTRACKED = "untracked"
    """A rule of raw has exempted it: it has no connection, and nat is not asked of it."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What matches may ask of a packet's connection: new, or one that conntrack has already."""

    original_source: Address
    original_destination: Address
    original_port: int | None
    reply_source: Address
    reply_destination: Address
    new: bool = True
    """nat is asked only of the first packet of a connection."""
    answers: bool = False
    """The packet goes against the direction in which the connection was begun."""
    replied: bool = False
    mark: int = 0
    source_after: Address | None = None
    """Of a connection that is there: what its translation makes of the source; None: it is new."""
    destination_after: Address | None = None
    port_after: int | None = None
    tracking: Tracking = Tracking.TRACKED


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet on its way through the node, as it is at one moment."""

    source: Address
    destination: Address
    protocol: str
    """`tcp`, `udp`, `sctp`, `icmp` or `icmpv6`."""
    connection: Connection
    source_port: int | None = None
    """None: any, or there are none."""
    destination_port: int | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    next_hop: Address | None = None
    mark: int = 0
    source_chosen: bool = False
    """A rule of nat has set the source."""
    destination_chosen: bool = False
    """A rule of nat has set the destination."""
    sources: tuple[Address, ...] = ()
    """Where the kernel chooses among several: what the source may become."""

    def __hash__(self) -> int:
        # Of what ways differ in: hashing all of it, address by address, is most of the work of a long walk.
        its, connection = (int(self.source), int(self.destination), self.destination_port), self.connection
        return hash((its, self.mark, connection.mark, self.source_chosen, self.destination_chosen))

    @property
    def family(self) -> Family:
        """The address family."""
        return family_of(self.source)


def first_packet(question: Question) -> Packet:
    """The first packet of a new connection."""
    return Packet(
        source=question.source,
        destination=question.destination,
        protocol=question.protocol,
        connection=Connection(
            original_source=question.source,
            original_destination=question.destination,
            original_port=question.destination_port,
            reply_source=question.destination,
            reply_destination=question.source,
        ),
        source_port=question.source_port,
        destination_port=question.destination_port,
        in_interface=question.in_interface,
    )


def later_packet(packet: Packet, flow: Flow) -> Packet:
    """The same as a packet of a connection that conntrack has, in the direction that the packet goes."""
    original, reply = flow.original, flow.reply
    answers = original.source != packet.source
    into = original if answers else reply
    connection = Connection(
        original_source=original.source,
        original_destination=original.destination,
        original_port=original.destination_port or None,
        reply_source=reply.source,
        reply_destination=reply.destination,
        new=False,
        answers=answers,
        replied=flow.replied,
        mark=flow.mark,
        source_after=into.destination,
        destination_after=into.source,
        port_after=into.source_port or None,
    )
    return replace(packet, connection=connection)
