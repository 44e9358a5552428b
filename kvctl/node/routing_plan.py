"""What leads marked packets out by another interface, and what has to change for it: pure.

    7500: fwmark 0/0x3c goto 7502          what is not marked passes all of this by
    7500: to 10.0.0.0/16 goto 7502         nor may a mark lead traffic into the cluster astray: one rule an exclusion
    7501: fwmark 0x4/0x3c lookup 7500      one an interface
    7502: nop

    table 7500: the networks of eth1, default via its gateway, and last `unreachable default`

The exclusions go on as if there were no mark, instead of looking into the main table at once: AWS, Calico and Cilium
reach pods by rules and tables of their own. The last route is there even with a gateway: routes go with their
interface, and an empty table would let the main one send packets with the VIP as source by another. Its metric is a
number of the way's name: so the table is known as that way's while it holds nothing else, and of several by one
interface, each with a next hop of its own, it is known which is which.

Everything has protocol 75, and only what has it is ever removed; the state is the kernel's.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.net import Family, Network, collapse, family_of, parse_network, within
from kvctl.model.rules import Mark
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, Way, is_interface_name
from kvctl.node.routing_messages import (
    GOTO,
    LOOKUP,
    NOP,
    UNICAST,
    UNREACHABLE,
    PolicyRule,
    SeenRule,
    TableRoute,
)

_EVERYTHING = {Family.IPV4: parse_network("0.0.0.0/0"), Family.IPV6: parse_network("::/0")}
# What the kernel takes where nothing is said: ip6_route_add, fib_table_insert.
_METRIC = {Family.IPV4: 0, Family.IPV6: 1024}
_LAST_METRIC = 4_000_000_000
# What may be added to it: a metric has 32 bits.
_NAME_NUMBERS = 1 << 28


class Found(NamedTuple):
    """What the kernel has of ours, whatever its settings were, and of others in our way."""

    rules: tuple[SeenRule, ...] = ()
    routes: tuple[TableRoute, ...] = ()
    in_the_way: tuple[str, ...] = ()
    """Rules and routes of others with our bits, priorities or tables: a sentence each, with its mend."""
    tells_protocol: bool = True
    """Whether this kernel remembers who made a rule (since 4.17)."""

    def marks(self, space: MarkSpace, *, names: Iterable[str] = ()) -> dict[str, int]:
        """The mark of each interface that has a way, or of each way in `names` that is not called as its interface is.

        Where a way is shut, or its interface is down or gone, only those in `names` are known again.
        """
        tables = {
            seen.rule.to: seen.rule.mark
            for seen in self.rules
            if seen.rule.action == LOOKUP and seen.rule.mask == space.mask and seen.rule.mark in space.marks
        }
        routes = [r for r in self.routes if r.table in tables and space.table(tables[r.table]) == r.table]
        last = {r.metric: tables[r.table] for r in routes if r.kind == UNREACHABLE}
        known = {name: last[metric] for name in names if (metric := _last_metric(name)) in last}
        # A renamed interface has its routes, and so the mark.
        by_key = {name: mark for name, mark in known.items() if not is_interface_name(name)}
        open_ways = {
            r.interface: tables[r.table]
            for r in routes
            if isinstance(r.interface, str) and tables[r.table] not in by_key.values()
        }
        taken = frozenset(open_ways.values())
        return {name: mark for name, mark in known.items() if mark not in taken} | open_ways

    def broken(self, mark: Mark, family: Family, space: MarkSpace) -> str | None:
        """What keeps marked packets from their way, as a sentence with its mend; None: they are led."""
        table = space.table(mark.value)
        mend = "kvctl egress apply puts it right"
        led = any(
            (s.rule.family, s.rule.action, s.rule.to, s.rule.mark, s.rule.mask)
            == (family, LOOKUP, table, mark.value, mark.mask)
            for s in self.rules
        )
        if not led:
            return (
                f"no routing rule leads the mark {mark} to table {table}: it leaves by the main table; {mend}"
            )
        kinds = {r.kind for r in self.routes if r.table == table and family_of(r.network) is family}
        if not kinds:
            return (
                f"the routing table {table} is empty: what is marked {mark} leaves by the main table; {mend}"
            )
        if kinds == {UNREACHABLE}:
            return f"the routing table {table} leads nowhere: nothing that is marked {mark} leaves"
        return None


class AddedRoute(NamedTuple):
    """A route to add; with `onlink` the kernel takes the gateway for a neighbour, as the main table does."""

    route: TableRoute
    onlink: bool = False


class RoutingPlan(NamedTuple):
    """What to add and to remove, each in its order; false when there is nothing to do."""

    add_routes: tuple[AddedRoute, ...] = ()
    add_guards: tuple[PolicyRule, ...] = ()
    """The rules that keep traffic out of our tables: in place before those that lead to them."""
    add_leads: tuple[PolicyRule, ...] = ()
    remove_leads: tuple[SeenRule, ...] = ()
    remove_guards: tuple[SeenRule, ...] = ()
    remove_routes: tuple[TableRoute, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any(self[:])

    def lines(self) -> tuple[str, ...]:
        """What it does, a line each in order, as ip(8) words rules and routes."""
        return (
            *(f"+ {_ip(family_of(a.route.network))} route {a.route}" for a in self.add_routes),
            *(f"+ {_ip(rule.family)} rule {rule}" for rule in (*self.add_guards, *self.add_leads)),
            *(f"- {_ip(s.rule.family)} rule {s.rule}" for s in (*self.remove_leads, *self.remove_guards)),
            *(f"- {_ip(family_of(route.network))} route {route}" for route in self.remove_routes),
        )


def _ip(family: Family) -> str:
    return "ip" if family is Family.IPV4 else "ip -6"


def plan(
    wanted: Collection[Way],
    found: Found,
    *,
    exclusions: Mapping[Family, Collection[Network]],
    space: MarkSpace = DEFAULT_SPACE,
) -> RoutingPlan:
    """What makes `found` as wanted: pure. Nothing wanted removes all that is ours.

    Of two ways for one family and table the first counts. Raises KvctlError where the kernel could
    not tell our rules from those of others.
    """
    if wanted and not found.tells_protocol:
        raise KvctlError(
            "cannot lead traffic out by another interface: this kernel does not remember who made a routing rule",
            hint="run Linux 4.17 or newer, or take kube-vip.io/serviceInterface from the Services",
        )
    ways = {(way.family, way.table): way for way in reversed(tuple(wanted))}
    families = {family: exclusions.get(family, ()) for family in Family if any(w is family for w, _ in ways)}
    leads = [_lead(way, space=space) for way in ways.values()]
    guards = [r for family, networks in families.items() for r in _guards(family, networks, space=space)]
    routes = [r for way in ways.values() for r in _table(way, exclusions=families[way.family])]
    there, rules_to_go = _split(found.rules, {*leads, *guards})
    kept = {added.route for added in routes}
    return RoutingPlan(
        add_routes=tuple(added for added in routes if added.route not in found.routes),
        add_guards=tuple(rule for rule in guards if rule not in there),
        add_leads=tuple(rule for rule in leads if rule not in there),
        remove_leads=tuple(seen for seen in rules_to_go if seen.rule.action == LOOKUP),
        remove_guards=tuple(seen for seen in rules_to_go if seen.rule.action != LOOKUP),
        remove_routes=tuple(route for route in found.routes if route not in kept),
    )


def _lead(way: Way, *, space: MarkSpace) -> PolicyRule:
    return PolicyRule(
        family=way.family,
        priority=space.way_priority,
        action=LOOKUP,
        to=way.table,
        mark=way.mark,
        mask=space.mask,
    )


def _guards(family: Family, exclusions: Iterable[Network], *, space: MarkSpace) -> list[PolicyRule]:
    """The end first: a `goto` without its target is passed over by the kernel."""
    end = PolicyRule(family=family, priority=space.end_priority, action=NOP)
    away = PolicyRule(family=family, priority=space.priority, action=GOTO, to=space.end_priority)
    networks = collapse(n for n in exclusions if family_of(n) is family)
    return [
        end,
        away._replace(mask=space.mask),
        *(away._replace(destination=n if n.prefixlen else None) for n in networks),
    ]


def _last_metric(name: str) -> int:
    """That of the last route in the table of the way of this name."""
    return _LAST_METRIC + crc32(name.encode("utf-8", "surrogateescape")) % _NAME_NUMBERS


def _table(way: Way, *, exclusions: Collection[Network]) -> list[AddedRoute]:
    """The routes of a way; neighbours before what is behind them. Excluded networks never get here."""
    metric, everything = _METRIC[way.family], _EVERYTHING[way.family]
    last = _last_metric(way.name)
    away = TableRoute(table=way.table, network=everything, kind=UNREACHABLE, metric=last)
    on_link = TableRoute(way.table, everything, UNICAST, metric, interface=way.interface)
    networks = [n for n in way.networks if not within(n, exclusions)]
    hops = [(n, hop) for n, hop in way.via if not within(n, exclusions)]
    if way.gateway is not None:
        hops.append((everything, way.gateway))
    return [
        AddedRoute(away),
        *(AddedRoute(on_link._replace(network=network)) for network in networks),
        *(
            AddedRoute(
                on_link._replace(network=network, gateway=hop),
                onlink=not way._replace(networks=tuple(networks)).is_on_link(hop),
            )
            for network, hop in hops
        ),
    ]


def _split(
    seen: Iterable[SeenRule], wanted: Collection[PolicyRule]
) -> tuple[set[PolicyRule], list[SeenRule]]:
    """The wanted rules that are there, and what is there beside or once too often."""
    there: set[PolicyRule] = set()
    to_go: list[SeenRule] = []
    for each in seen:
        if each.rule in wanted and each.rule not in there:
            there.add(each.rule)
        else:
            to_go.append(each)
    return there, to_go
