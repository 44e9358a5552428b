"""Reading and changing the rules and tables that lead marked packets out by another interface.

What they are: routing_plan. Over rtnetlink, rtnetlink(7), in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Sequence

from kvctl.errors import KvctlError, NetlinkError
from kvctl.model.net import Family
from kvctl.model.way import DEFAULT_SPACE, MarkSpace
from kvctl.netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_EXCL, Netlink, open_netlink
from kvctl.node.routing_messages import (
    PolicyRule,
    SeenRoute,
    SeenRule,
    TableRoute,
    read_routes,
    read_rule,
    route_payload,
    route_query,
    rule_payload,
    rule_query,
)
from kvctl.node.routing_plan import AddedRoute, Found, RoutingPlan
from kvctl.node.rtnetlink import MARK

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_NLM_F_APPEND = 0x800

# local, main and default: never written to here, so never swept
_TABLES_OF_OTHERS = (253, 254, 255)
# No policy routing, or not this family, in this kernel; ENOENT: nothing has been put into that table yet.
_ABSENT = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT)


def read_routing(space: MarkSpace = DEFAULT_SPACE) -> Found:
    """What the kernel says now; raises NetlinkError. Needs no privilege."""
    tables = frozenset(space.table(mark) for mark in space.marks)
    rules, routes = _read(tables)
    in_the_way = (
        *_rules_in_the_way((seen.rule for seen in rules if seen.protocol != MARK), space=space),
        *_routes_in_the_way((seen.route for seen in routes if not _is_ours(seen)), space=space),
    )
    return _found(rules, routes)._replace(in_the_way=in_the_way)


def read_own_routing() -> Found:
    """The same of ours alone: whether others are in the way takes a question for each table."""
    return _found(*_read(frozenset()))


def _read(tables: Collection[int]) -> tuple[list[SeenRule], set[SeenRoute]]:
    what = "cannot read the routing rules of this host"
    with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        rules = [seen for family in Family for seen in _rules(netlink, family=family, what=what)]
        routes = {seen for family in Family for seen in _routes(netlink, family, tables=tables, what=what)}
    return rules, routes


def _found(rules: Collection[SeenRule], routes: Iterable[SeenRoute]) -> Found:
    return Found(
        rules=tuple(seen for seen in rules if seen.protocol == MARK),
        routes=tuple(sorted((_named(seen.route) for seen in routes if _is_ours(seen)), key=str)),
        tells_protocol=not rules or any(seen.protocol is not None for seen in rules),
    )


def carry_out(plan: RoutingPlan) -> list[KvctlError]:
    """Do it, as far as it can be done; what could not be, in words, empty when all is as planned.

    Cut off anywhere, or after an error, it is right to read and plan again. Where exclusions cannot be
    put in place, no mark is led anywhere; as long as a mark is led to a table, the table stays. Takes
    CAP_NET_ADMIN. Raises NetlinkError only when the kernel cannot be asked at all.
    """
    if not plan:
        return []
    with open_netlink(protocol=NETLINK_ROUTE, what="cannot change the routing rules") as netlink:
        errors = _add_routes(netlink, plan.add_routes)
        unguarded = _add_rules(netlink, plan.add_guards)
        errors += unguarded
        if not unguarded:
            errors += _add_rules(netlink, plan.add_leads)
        led = _remove_rules(netlink, plan.remove_leads)
        errors += led
        if not led and not unguarded:
            errors += _remove_rules(netlink, plan.remove_guards)
            errors += _remove_routes(netlink, plan.remove_routes)
    return errors


def _rules(netlink: Netlink, *, family: Family, what: str) -> list[SeenRule]:
    try:
        return netlink.dump(kind=_RTM_GETRULE, payload=rule_query(family), read=read_rule, what=what)
    except NetlinkError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _routes(netlink: Netlink, family: Family, *, tables: Collection[int], what: str) -> list[SeenRoute]:
    """All routes of ours, and of anybody in `tables`."""
    queries = [route_query(family, protocol=MARK)]
    queries += [route_query(family, table=table) for table in sorted(tables)]
    found: list[SeenRoute] = []
    for query in queries:
        try:
            routes = netlink.dump(kind=_RTM_GETROUTE, payload=query, read=read_routes, what=what)
        except NetlinkError as error:
            if error.errno in _ABSENT:
                continue
            raise
        found += (seen for group in routes for seen in group if _is_ours(seen) or seen.route.table in tables)
    return found


def _is_ours(seen: SeenRoute) -> bool:
    return seen.protocol == MARK and seen.route.table not in _TABLES_OF_OTHERS


def _named(route: TableRoute) -> TableRoute:
    """With the interface's name instead of its index."""
    if not isinstance(route.interface, int):
        return route
    import socket  # 4 ms

    try:
        return route._replace(interface=socket.if_indextoname(route.interface))
    except OSError:
        return route


def _rules_in_the_way(rules: Iterable[PolicyRule], *, space: MarkSpace) -> list[str]:
    said = []
    for rule in rules:
        words = f"the {rule.family} routing rule `{rule}` of another program"
        if rule.mark & rule.mask & space.mask:
            said.append(
                f"{words} uses bits of kvctl's mask {space.mask:#x}: set egress_fwmark_mask to others"
            )
        elif space.priority <= rule.priority <= space.end_priority:
            said.append(f"{words} has a priority of kvctl's: set egress_rule_priority to another")
    return said


def _routes_in_the_way(routes: Iterable[TableRoute], *, space: MarkSpace) -> list[str]:
    return sorted(
        f"the route `{_named(route)}` of another program is in a table of kvctl's: set egress_route_table to another"
        for route in routes
    )


def _add_routes(netlink: Netlink, routes: Sequence[AddedRoute]) -> list[KvctlError]:
    """Appended: where a route changes its gateway, both are there for a moment instead of none."""
    errors: list[KvctlError] = []
    payloads, names = [], []
    for route, onlink in routes:
        try:
            index = _index(route)
        except OSError as error:
            errors.append(_failure("add", f"route `{route}`", NetlinkError(str(error), errno=errno.ENODEV)))
            continue
        payloads.append(route_payload(route, index=index, onlink=onlink, deletes=False))
        names.append(f"route `{route}`")
    flags = NLM_F_CREATE | _NLM_F_APPEND
    return errors + _request(
        netlink, kind=_RTM_NEWROUTE, flags=flags, payloads=payloads, names=names, fine=(errno.EEXIST,)
    )


def _remove_routes(netlink: Netlink, routes: Sequence[TableRoute]) -> list[KvctlError]:
    """A route goes with its interface, so one without it has gone."""
    payloads, names = [], []
    for route in routes:
        try:
            index = _index(route)
        except OSError:
            continue
        payloads.append(route_payload(route, index=index, onlink=False, deletes=True))
        names.append(f"route `{route}`")
    fine = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
    return _request(netlink, kind=_RTM_DELROUTE, payloads=payloads, names=names, fine=fine)


def _add_rules(netlink: Netlink, rules: Sequence[PolicyRule]) -> list[KvctlError]:
    return _request(
        netlink,
        kind=_RTM_NEWRULE,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        payloads=[rule_payload(rule) for rule in rules],
        names=[f"{rule.family} routing rule `{rule}`" for rule in rules],
        fine=(errno.EEXIST,),
    )


def _remove_rules(netlink: Netlink, rules: Sequence[SeenRule]) -> list[KvctlError]:
    return _request(
        netlink,
        kind=_RTM_DELRULE,
        payloads=[seen.payload for seen in rules],
        names=[f"{seen.rule.family} routing rule `{seen.rule}`" for seen in rules],
        fine=(errno.ENOENT,),
    )


def _request(
    netlink: Netlink,
    *,
    kind: int,
    flags: int = 0,
    payloads: Sequence[bytes],
    names: Sequence[str],
    fine: tuple[int, ...],
) -> list[KvctlError]:
    """Send them all; the refusals but for those that say that it is done already."""
    answers = netlink.request_each(kind=kind, flags=flags, payloads=payloads, what=_WHAT)
    verb = "add" if kind in (_RTM_NEWROUTE, _RTM_NEWRULE) else "remove"
    return [
        _failure(verb, name, answer)
        for name, answer in zip(names, answers, strict=True)
        if answer is not None and answer.errno not in fine
    ]


_WHAT = "rtnetlink"
_HINTS = {
    errno.EPERM: "this takes CAP_NET_ADMIN in the host's network namespace",
    errno.ENETDOWN: "bring the interface up",
    errno.ENODEV: "the interface has gone: name another, or bring it back",
    errno.ENETUNREACH: "name a gateway that is a neighbour on the interface (kvctl.io/gateway)",
    errno.EHOSTUNREACH: "name a gateway that is a neighbour on the interface (kvctl.io/gateway)",
    errno.EINVAL: "name a gateway that is a neighbour on the interface (kvctl.io/gateway)",
    errno.EOPNOTSUPP: "this kernel has no policy routing: CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES",
    errno.EAFNOSUPPORT: "this kernel has no IPv6, or no policy routing for it (CONFIG_IPV6_MULTIPLE_TABLES)",
}


def _failure(verb: str, name: str, error: NetlinkError) -> NetlinkError:
    reason = error.message.removeprefix(f"{_WHAT}: ")
    hint = _HINTS.get(error.errno)
    return NetlinkError(f"cannot {verb} the {name}: {reason}", errno=error.errno, hint=hint)


def _index(route: TableRoute) -> int | None:
    """The index of a route's interface; raises OSError when there is none."""
    import socket

    return socket.if_nametoindex(route.interface) if isinstance(route.interface, str) else route.interface
