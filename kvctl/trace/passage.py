"""The hooks that a pod's packet passes, in their order, with the routing between them.

Order and meaning of the hooks: linux/netfilter_ipv4.h (enum nf_ip_hook_priorities). The tables of both back ends
are hooked at the same priorities, and who was registered last comes first: that cannot be read, so both orders are
tried where both have rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.savetext import SavedTable
from kvctl.node.lookup import Answer
from kvctl.trace.facts import Facts
from kvctl.trace.packet import Packet, Tracking
from kvctl.trace.targets import End
from kvctl.trace.walk import MOST_WAYS, Budget, Place, Step, TooMany, Walk, Way

_BEFORE = (("PREROUTING", "raw"), ("PREROUTING", "mangle"), ("PREROUTING", "nat"))
_AFTER = (
    ("FORWARD", "mangle"),
    ("FORWARD", "filter"),
    ("FORWARD", "security"),
    ("POSTROUTING", "mangle"),
    ("POSTROUTING", "nat"),
)


class Passed(NamedTuple):
    """A way through all hooks: to its end, or up to the interface that it leaves by."""

    way: Way
    route: Answer | None = None
    """None: it was dropped before the routing."""


class Passage(NamedTuple):
    """Everything that may become of a packet."""

    ends: tuple[Passed, ...]
    may_drop: tuple[Way, ...] = ()
    """Ways that end at a rule which drops, if a match says yes of which nothing is known; the rest holds if not."""


def pass_through(packet: Packet, reading: Reading, facts: Facts) -> Passage:
    """All ways of a packet; raises TooMany."""
    node = _Node(packet.family, reading, facts)
    ways = node.through(_BEFORE, [Way(packet)])
    ended = [Passed(way) for way in ways if way.end is not End.PASSED]
    going = [way for way in ways if way.end is End.PASSED]
    forwarded: list[tuple[Way, Answer]] = []
    for way in going:
        route = facts.way(way.packet)
        sure = not route.several and route.open_rule is None
        if route.kind == "unicast" and sure and route.interface is not None:
            next_hop = route.gateway
            if next_hop is None or next_hop.version != way.packet.destination.version:
                next_hop = way.packet.destination
            its = replace(way.packet, out_interface=route.interface, next_hop=next_hop)
            forwarded.append((replace(way, packet=its), route))
        else:
            ended.append(Passed(way, route))
    for way, route in forwarded:
        ended += [Passed(each, route) for each in node.through(_AFTER, [way])]
        if len(ended) > MOST_WAYS:
            raise TooMany
    return Passage(ends=tuple(ended), may_drop=tuple(node.may_drop))


class _Node:
    def __init__(self, family: Family, reading: Reading, facts: Facts) -> None:
        self._tables = {
            backend: reading.tables[backend, family].tables
            for backend in Backend
            if (backend, family) in reading.tables
        }
        self._facts = facts
        self._budget = Budget()
        self.may_drop: list[Way] = []

    def through(self, stages: Sequence[tuple[str, str]], ways: Iterable[Way]) -> list[Way]:
        """All that becomes of the ways in these tables of these hooks."""
        going, ended = list(ways), []
        for hook, table in stages:
            if table == "raw":
                going = [_tracking(way, to=Tracking.NOT_YET) for way in going]
            found = _merged(each for way in going for each in self._stage(hook, table, way))
            if table == "raw":
                found = [_tracking(way, to=Tracking.TRACKED) for way in found]
            going = [way for way in found if way.end is End.PASSED]
            ended += [way for way in found if way.end is not End.PASSED]
            if hook != "POSTROUTING":
                going, ended = self._set_aside(going, ended)
        return [*ended, *going]

    def _set_aside(self, going: list[Way], ended: list[Way]) -> tuple[list[Way], list[Way]]:
        """Ways that are dropped only if a match says yes of which nothing is known: if some other way goes on."""
        doubted = [way for way in ended if way.end is End.DROPPED and way.doubts]
        if not going or not doubted:
            return going, ended
        self.may_drop += doubted
        return going, [way for way in ended if way not in doubted]

    def _stage(self, hook: str, table: str, way: Way) -> list[Way]:
        connection = way.packet.connection
        if table == "nat" and connection.tracking is Tracking.UNTRACKED:
            return [way]
        if table == "nat" and not connection.new:
            return [replace(way, packet=_as_before(hook, way.packet))]
        walks = [
            Walk(
                Place(hook, str(backend), table),
                its.chains,
                its.policies,
                facts=self._facts,
                budget=self._budget,
            )
            for backend, tables in self._tables.items()
            if (its := tables.get(table)) is not None and _says_something(its, hook)
        ]
        if not walks:
            return [way]
        done = _done(hook) if table == "nat" else _never
        return _merged(each for order in permutations(walks) for each in _in_order(order, way, done))


def _tracking(way: Way, *, to: Tracking) -> Way:
    """Conntrack comes between raw and mangle; what raw has exempted stays so."""
    connection = way.packet.connection
    if connection.tracking is Tracking.UNTRACKED:
        return way
    return replace(way, packet=replace(way.packet, connection=replace(connection, tracking=to)))


def _as_before(hook: str, packet: Packet) -> Packet:
    """What nat does with a packet of a connection that is there: what it did with the first, and asks no rule."""
    its = packet.connection
    if hook == "POSTROUTING":
        source = its.source_after or packet.source
        return replace(packet, source=source, source_chosen=source != packet.source)
    return replace(
        packet,
        destination=its.destination_after or packet.destination,
        destination_port=its.port_after or packet.destination_port,
    )


def _says_something(table: SavedTable, hook: str) -> bool:
    return bool(table.chains.get(hook)) or table.policies.get(hook, "ACCEPT") != "ACCEPT"


def _done(hook: str) -> Callable[[Packet], bool]:
    """What has been translated is not asked of the other back end again (nf_nat_inet_fn in Linux)."""
    if hook == "POSTROUTING":
        return lambda packet: packet.source_chosen
    return lambda packet: packet.destination_chosen


def _never(packet: Packet) -> bool:
    return False


def _in_order(order: Sequence[Walk], way: Way, done: Callable[[Packet], bool]) -> list[Way]:
    ways = [way]
    for walk in order:
        ways = _merged(
            after
            for each in ways
            for after in (walk.lead(each) if each.end is End.PASSED and not done(each.packet) else [each])
        )
    return ways


def _merged(ways: Iterable[Way]) -> list[Way]:
    """Of ways that end alike the first."""
    found: dict[tuple[Packet, End, Step | None], Way] = {}
    for way in ways:
        found.setdefault((way.packet, way.end, way.decided), way)
        if len(found) > MOST_WAYS:
            raise TooMany
    return list(found.values())
