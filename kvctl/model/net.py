"""Addresses, networks and families, with the parsing that is used hundreds of times remembered."""

from __future__ import annotations

# Not socket: it takes 3 ms to load. And ipaddress takes four times as long to read an address.
from _socket import AF_INET, AF_INET6, inet_pton
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Family(StrEnum):
    """An address family; each has its own binaries, tables and rules."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.IPV4 else 128


@lru_cache(maxsize=65536)
def parse_address(text: str) -> Address:
    """`text` as an address, strictly (ASCII, no zone, no leading zeros); raises ValueError."""
    if not text.isascii() or "%" in text:
        raise ValueError(f"{text!r} is not an IP address")
    is_v6 = ":" in text
    try:
        number = int.from_bytes(inet_pton(AF_INET6 if is_v6 else AF_INET, text))
    except (OSError, ValueError):
        return ip_address(text)  # which tells what is wrong with it
    return IPv6Address(number) if is_v6 else IPv4Address(number)


@lru_cache(maxsize=65536)
def parse_network(text: str) -> Network:
    """`text` as a network; a bare address is a single-address network; raises ValueError if host bits are set."""
    if not text.isascii() or "%" in text:
        raise ValueError(f"{text!r} is not a network")
    address, slash, mask = text.partition("/")
    if mask and not mask.isdecimal():
        raise ValueError(f"{text!r} is not a network in CIDR notation")
    try:
        return _network(parse_address(address), int(mask) if slash else None)
    except ValueError:
        return ip_network(text)  # which tells what is wrong with it


def _network(address: Address, length: int | None) -> Network:
    if length is None or length == address.max_prefixlen:
        return host_network(address)
    # By its number: of an address ipaddress makes a text, to take that apart again.
    number = int(address)
    return IPv4Network((number, length)) if address.version == 4 else IPv6Network((number, length))


def family_of(value: Address | Network) -> Family:
    """The family of an address or a network."""
    return Family.IPV4 if value.version == 4 else Family.IPV6


@lru_cache(maxsize=65536)
def host_network(address: Address) -> Network:
    """The network that holds just this address."""
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


def contains(outer: Network, inner: Network | Address) -> bool:
    """Whether `inner` lies in `outer`; networks of different families contain nothing of each other."""
    if isinstance(outer, IPv4Network):
        if isinstance(inner, IPv4Network):
            return inner.subnet_of(outer)
        return isinstance(inner, IPv4Address) and inner in outer
    if isinstance(inner, IPv6Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Address) and inner in outer


def overlap(one: Network, other: Network) -> bool:
    """Whether two networks share an address."""
    return contains(one, other) or contains(other, one)


def within(address: Address | Network, networks: Iterable[Network]) -> bool:
    """Whether `address` lies in one of `networks`."""
    return any(contains(network, address) for network in networks)


def collapse(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The fewest networks that cover the same addresses, IPv4 first, in order."""
    all_of_them = list(networks)
    v4 = [n for n in all_of_them if isinstance(n, IPv4Network)]
    v6 = [n for n in all_of_them if isinstance(n, IPv6Network)]
    return (*collapse_addresses(v4), *collapse_addresses(v6))
