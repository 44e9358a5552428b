"""A host's addresses and routes, and what follows from them: is the VIP here, which way does it go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from kvctl.model.net import Address, Network, contains

_LOOPBACK = IPv4Network("127.0.0.0/8")
_LIMITED_BROADCAST = IPv4Address("255.255.255.255")


class HostAddress(NamedTuple):
    """An address on an interface of this host."""

    address: Address
    prefix_length: int
    interface: str
    kind: str | None = None
    """The interface's type as `ip -d link` names it (`dummy`, `veth`, ...); None: hardware or loopback."""
    up: bool = True
    """Whether the interface is up, as set by the admin."""
    tentative: bool = False
    """IPv6: duplicate address detection has not finished."""
    duplicate: bool = False
    """IPv6: duplicate address detection failed, so another host on the link has the address."""

    secondary: bool = False
    """IPv4: another address of the same network came first, and is the one that this host sends from."""
    deprecated: bool = False
    """IPv6: not to be chosen as a source."""
    ours: bool = False
    """kvctl put it there: it carries the mark."""

    @property
    def serves(self) -> bool:
        """Whether others on the link reach this host by it.

        Not so on `lo`, nor where kube-proxy in IPVS mode (`kube-ipvs0`) or a routing daemon (a dummy)
        parks the address of every Service on every node.
        """
        return self.interface not in ("lo", "kube-ipvs0") and self.kind != "dummy" and not self.duplicate


class Route(NamedTuple):
    """A way out of the main table; a route of several next hops is several values."""

    network: Network
    interface: str | None
    """None: the route refuses (blackhole, unreachable, prohibit)."""
    gateway: Address | None = None
    metric: int = 0


class _Seen(NamedTuple):
    addresses: tuple[HostAddress, ...]
    routes: tuple[Route, ...]
    interfaces: tuple[str, ...] = ()
    down: frozenset[str] = frozenset()
    """Those of `interfaces` that are down, as set by the admin."""
    unplugged: frozenset[str] = frozenset()
    """Those that are up and have no carrier: nothing is at the other end."""


class Host(_Seen):
    """The addresses, main-table routes and interfaces of this host at one moment."""

    def fault_of(self, interface: str) -> str | None:
        """Why nothing leaves or comes by an interface, as a sentence; None: nothing is known to be wrong with it."""
        if interface in self.down:
            return f"the interface {interface} is down"
        return f"the interface {interface} has no carrier" if interface in self.unplugged else None

    def holds(self, address: Address) -> str | None:
        """The interface that makes this host the holder of `address`, or None if it is not here."""
        return next((a.interface for a in self._by_address.get(address, ()) if a.serves), None)

    def having(self, address: Address) -> Sequence[HostAddress]:
        """The entries of `address`: one for each interface that has it."""
        return self._by_address.get(address, ())

    def present_elsewhere(self, address: Address) -> str | None:
        """The interface that has `address` without making this host its holder: `lo`, a dummy, ..."""
        return next((a.interface for a in self._by_address.get(address, ()) if not a.serves), None)

    def local_addresses(self) -> frozenset[Address]:
        """Every address of this host, those of `lo` and of dummies, too."""
        return frozenset(self._by_address)

    def is_local(self, address: Address) -> bool:
        """Whether packets to `address` end at this host; all of 127.0.0.0/8 does.

        IPv4 makes the whole network of an address on `lo` local (fib_add_ifaddr in Linux).
        """
        return (
            address in self._by_address
            or address in self._broadcasts
            or any(contains(n, address) for n in self._local_networks)
        )

    def network_that_ends_at(self, address: Address) -> Network | None:
        """The IPv4 network of this host whose own or broadcast address that is (RFC 1122, 3.2.1.3); None: no one's."""
        for held in self.addresses:
            if held.address.version == address.version == 4 and held.prefix_length < 31:
                network = IPv4Network((int(held.address), held.prefix_length), strict=False)
                if address in (network.network_address, network.broadcast_address):
                    return network
        return None

    def may_masquerade_as(self, address: Address) -> bool:
        """Whether this host itself may choose `address` as the source of what it sends or masquerades.

        In IPv4 the first address of an interface and the first of a network are chosen (inet_select_addr in
        Linux), so a /32 beside others never is; in IPv6 any that is not deprecated may be.
        """
        for held in self._by_address.get(address, ()):
            if address.version == 6:
                if not held.deprecated:
                    return True
                continue
            first = next(
                a for a in self.addresses if a.interface == held.interface and a.address.version == 4
            )
            if first == held or (held.prefix_length < 32 and not held.secondary):
                return True
        return False

    def interface_for(self, address: Address) -> str | None:
        """The interface of the longest main-table route to `address`, lowest metric first.

        None if there is none, or if that route refuses.
        """
        for length, routes in self._routes_by_length.get(address.version, ()):
            route = routes.get(int(address) >> (address.max_prefixlen - length))
            if route is not None:
                return route.interface
        return None

    @cached_property
    def _routes_by_length(self) -> dict[int, list[tuple[int, dict[int, Route]]]]:
        """By IP version and prefix length, the longest first: of each network, by its bits, the route that counts."""
        found: dict[int, dict[int, dict[int, Route]]] = {}
        for route in self.routes:
            network, length = route.network, route.network.prefixlen
            bits = int(network.network_address) >> (network.max_prefixlen - length)
            same = found.setdefault(network.version, {}).setdefault(length, {})
            if bits not in same or route.metric < same[bits].metric:
                same[bits] = route
        return {version: [(n, its[n]) for n in sorted(its, reverse=True)] for version, its in found.items()}

    @cached_property
    def _by_address(self) -> dict[Address, list[HostAddress]]:
        found: dict[Address, list[HostAddress]] = {}
        for entry in self.addresses:
            found.setdefault(entry.address, []).append(entry)
        return found

    @cached_property
    def _broadcasts(self) -> frozenset[IPv4Address]:
        """The broadcast addresses: of each network this host is in, and the limited one (RFC 919)."""
        networks = (
            IPv4Network((a.address, a.prefix_length), strict=False)
            for a in self.addresses
            if isinstance(a.address, IPv4Address) and a.prefix_length < 31
        )
        return frozenset((_LIMITED_BROADCAST, *(network.broadcast_address for network in networks)))

    @cached_property
    def _local_networks(self) -> tuple[IPv4Network, ...]:
        return (
            _LOOPBACK,
            *(
                IPv4Network((a.address, a.prefix_length), strict=False)
                for a in self.addresses
                if a.interface == "lo" and a.up and isinstance(a.address, IPv4Address)
            ),
        )
