"""Whether a Service's traffic has to be led to the interface that it names, and by which table and next hop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence

from kvctl.errors import InputError, KvctlError
from kvctl.model.host import Host, Route
from kvctl.model.net import Address, Family, Network, family_of, parse_network, within
from kvctl.model.way import DEAD_END, DEFAULT_SPACE, MarkSpace, Way, is_interface_name, way_name

_EVERYTHING = {Family.IPV4: parse_network("0.0.0.0/0"), Family.IPV6: parse_network("::/0")}
# Never routed, so no table needs them (RFC 3927, RFC 4291, RFC 5771).
_UNROUTED = tuple(map(parse_network, ("169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8")))
# Copied into a way's table, and kept like the main table's.
_MOST_ROUTES = 1000


class GatewayError(InputError):
    """A Service names a next hop (`kvctl.io/gateway`) that cannot be one; `why`: as the rest of a sentence about it."""

    def __init__(self, gateway: Address, why: str, *, hint: str) -> None:
        super().__init__(f"the gateway {gateway} (kvctl.io/gateway) {why}", hint=hint)
        self.why = why


def way_of(
    interface: str,
    family: Family,
    *,
    host: Host,
    gateway: Address | None,
    used: Mapping[str, int],
    space: MarkSpace = DEFAULT_SPACE,
) -> Way | KvctlError:
    """The way out by `interface`, or what keeps there from being one, with the next step.

    It is a GatewayError where `gateway` does.

    The next hop is that of the interface's own default route in the main table, else `gateway`
    (`kvctl.io/gateway`: a tenant's word, so it comes second and has to be a neighbour), else the only next
    hop of its other routes; more than a thousand of those (BGP) are left to the default gateway. `used` has
    the mark values of interfaces, so that each keeps its own: begin with what the kernel has (`Found.marks`), add
    each new one.
    """
    routes = _routes_of(interface, family, host=host)
    problem = _unusable(interface, family, host=host, routes=routes)
    if problem is not None:
        return problem
    name = way_name(interface, gateway)
    mark = used.get(name) or _free_mark(used, space=space)
    if mark is None:
        return _no_mark_left(interface, used=used, space=space)
    way = Way(
        key="" if is_interface_name(name) else name,
        interface=interface,
        family=family,
        mark=mark,
        table=space.table(mark),
        gateway=None,
        networks=tuple(r.network for r in routes if r.gateway is None),
        via=tuple((r.network, r.gateway) for r in routes if r.gateway is not None and r.network.prefixlen),
    )
    default = next((r for r in routes if r.network == _EVERYTHING[family]), None)
    if default is not None and default.gateway is not None:
        return way._replace(gateway=default.gateway, via=way.via if len(way.via) <= _MOST_ROUTES else ())
    if len(way.via) > _MOST_ROUTES:
        return _too_many_routes(interface)
    if default is not None:
        return way
    if gateway is not None:
        return _with_gateway(way, gateway, host=host)
    hops = {hop for _, hop in way.via}
    return way._replace(gateway=hops.pop() if len(hops) == 1 else None)


def shut_way(
    interface: str,
    family: Family,
    *,
    used: Mapping[str, int],
    gateway: Address | None = None,
    space: MarkSpace = DEFAULT_SPACE,
) -> Way:
    """What to want instead of a way that cannot be: it leads nowhere, so that what is marked for it leaves by no other.

    Where no mark is left for it, it is that of all such ways.
    """
    name = way_name(interface, gateway)
    mark = used.get(name) or _free_mark(used, space=space)
    if mark is None:
        name, mark = DEAD_END, space.marks[-1]
    return Way(
        key="" if is_interface_name(name) else name,
        interface=interface,
        family=family,
        mark=mark,
        table=space.table(mark),
        gateway=None,
        networks=(),
    )


def needs_way(
    interface: str,
    family: Family,
    destinations: Collection[Network],
    *,
    host: Host,
    exclusions: Collection[Network] = (),
) -> bool:
    """Whether the main table would send traffic to `destinations` by another interface, or not at all.

    `destinations` are the allowed networks of the Service, none meaning everything. Of everything only the default
    route counts: a node's other networks (its second LAN, a bridge of containers) do not make a way needed.
    Of a named network every route into it counts, but not those into `exclusions`.
    """
    if not destinations:
        return host.interface_for(_EVERYTHING[family].network_address) != interface
    elsewhere = _led_elsewhere(interface, family, host=host, exclusions=exclusions)
    return any(
        host.interface_for(network.network_address) != interface or _reaches_into(elsewhere, network)
        for network in destinations
        if family_of(network) is family
    )


def _led_elsewhere(
    interface: str, family: Family, *, host: Host, exclusions: Collection[Network]
) -> list[tuple[int, int]]:
    """The networks that the main table reaches by other interfaces, as numbers (address, prefix length), in order.

    A route that refuses leads nowhere, and somebody put it there on purpose.
    """
    best: dict[Network, Route] = {}
    for route in host.routes:
        other = best.get(route.network)
        if family_of(route.network) is family and (other is None or route.metric < other.metric):
            best[route.network] = route
    return sorted(
        (int(network.network_address), network.prefixlen)
        for network, route in best.items()
        if route.interface not in (interface, None) and not within(network, exclusions)
    )


def _reaches_into(networks: Sequence[tuple[int, int]], outer: Network) -> bool:
    """Whether one of `networks`, in order, lies in `outer`: there may be as many as BGP knows."""
    first = int(outer.network_address)
    place = bisect_left(networks, (first, outer.prefixlen))
    return place < len(networks) and networks[place][0] <= int(outer.broadcast_address)


def _routes_of(interface: str, family: Family, *, host: Host) -> list[Route]:
    """Of each network that the main table reaches by `interface` the best route, widest network first."""
    best: dict[Network, Route] = {}
    its_own = [r for r in host.routes if r.interface == interface and family_of(r.network) is family]
    for route in sorted(its_own, key=lambda r: (r.metric, str(r.gateway or ""))):
        best.setdefault(route.network, route)
    kept = (
        r for r in best.values() if not _is_own(r.network, host=host) and not within(r.network, _UNROUTED)
    )
    return sorted(kept, key=lambda r: (r.network.prefixlen, int(r.network.network_address)))


def _is_own(network: Network, *, host: Host) -> bool:
    """Whether it is one address of this host: IPv6 puts a route to each of them into the main table."""
    return network.prefixlen == network.max_prefixlen and host.is_local(network.network_address)


def _unusable(interface: str, family: Family, *, host: Host, routes: Collection[Route]) -> KvctlError | None:
    if interface not in host.interfaces:
        known = ", ".join(name for name in host.interfaces if name != "lo")
        return InputError(
            f"this host has no interface {interface} (kube-vip.io/serviceInterface)",
            hint=f"name one of {known}" if known else "name one that every node has",
        )
    if interface in host.down:
        return InputError(f"the interface {interface} is down", hint=f"ip link set {interface} up")
    if routes:
        return None
    words = "IPv4" if family is Family.IPV4 else "IPv6"
    return InputError(
        f"the interface {interface} has no {words} route, so nothing says what is reached by it",
        hint=f"see that {interface} is up and has an address with its network's prefix length, or a route",
    )


def _with_gateway(way: Way, gateway: Address, *, host: Host) -> Way | KvctlError:
    """The way with the next hop that a Service names, which has to be another host on the link."""
    if gateway.version != _EVERYTHING[way.family].version:
        return GatewayError(gateway, f"is no {way.family} address", hint="give one address a family")
    if host.is_local(gateway):
        return GatewayError(gateway, "is an address of this host", hint="name the router on that network")
    if way.is_on_link(gateway):
        return way._replace(gateway=gateway)
    on_link = _words(way.networks)
    return GatewayError(
        gateway,
        f"is on no network of {way.interface}, which has {on_link}",
        hint="name the router on that network, or give the interface a default route",
    )


def _free_mark(used: Mapping[str, int], *, space: MarkSpace) -> int | None:
    """The last one is kept for the dead end."""
    taken = frozenset(used.values())
    return next((mark for mark in space.marks[:-1] if mark not in taken), None)


def _no_mark_left(interface: str, *, used: Mapping[str, int], space: MarkSpace) -> KvctlError:
    return InputError(
        f"no mark is left for the interface {interface}: {len(used)} ways out have all {space.capacity - 1}"
        f" values of the mask {space.mask:#x} that can be given",
        hint="let Services share interface and kvctl.io/gateway, or give the interface a default route",
    )


def _too_many_routes(interface: str) -> KvctlError:
    return InputError(
        f"the interface {interface} has more than {_MOST_ROUTES} routes by gateways and no default one",
        hint=f"give it one: ip route add default via GATEWAY dev {interface} metric 500",
    )


def _words(networks: Iterable[Network]) -> str:
    texts = [str(network) for network in networks]
    return ", ".join(texts[:3]) + (" and others" if len(texts) > 3 else "") if texts else "none"
