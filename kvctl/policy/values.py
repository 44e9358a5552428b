"""How one entry of an annotation's list is read: a port, a network, an address; and what several come to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kvctl.model.net import Address, Network, contains, parse_address, parse_network
from kvctl.model.policy import PROTOCOLS, PortMatch

_PORT = re.compile(r"(?P<protocol>[a-z]+):(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?")
_TURNED_PORT = re.compile(r"(?P<ports>[0-9]{1,5}(?:-[0-9]{1,5})?)/(?P<protocol>[A-Za-z]+)")
_BARE_PORT = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?")


class UnacceptableError(Exception):
    """An entry that does not parse: why, and what to write instead."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


def read_port(entry: str) -> PortMatch:
    """`udp:5060` or `tcp:8000-8100`; raises UnacceptableError."""
    accepted = "is not PROTOCOL:PORT or PROTOCOL:FIRST-LAST with tcp, udp or sctp and ports 1 to 65535"
    if _BARE_PORT.fullmatch(entry):
        hint = _hint_if_good(f"tcp:{entry}")
        raise UnacceptableError("has no protocol" if hint else accepted, hint)
    match = _PORT.fullmatch(entry)
    if match is None and (turned := _TURNED_PORT.fullmatch(entry)) is not None:
        raise UnacceptableError(accepted, _hint_if_good(f"{turned['protocol'].lower()}:{turned['ports']}"))
    if match is None or match["protocol"] not in PROTOCOLS:
        lower = entry.lower()
        raise UnacceptableError(
            accepted, _hint_if_good(lower) if lower != entry and entry.isascii() else None
        )
    first = int(match["first"])
    last = int(match["last"] or first)
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise UnacceptableError(accepted)
    if last < first:
        raise UnacceptableError(
            "is a range that ends before it begins", f"write {match['protocol']}:{last}-{first}"
        )
    return PortMatch(match["protocol"], first, last)


def _hint_if_good(entry: str) -> str | None:
    """To write `entry`, provided that it would be accepted."""
    try:
        return f"write {read_port(entry)}"
    except UnacceptableError as error:
        return error.hint


def read_network(entry: str) -> Network:
    """A network in CIDR notation without host bits; raises UnacceptableError."""
    try:
        return parse_network(entry)
    except ValueError:
        pass
    address, _, length = entry.partition("/")
    hint = None
    if length.isascii() and length.isdecimal():
        try:
            bits = 32 if parse_address(address).version == 4 else 128
            if int(length) <= bits:
                hint = f"write {_masked(address, int(length))}"
        except ValueError:
            pass
    raise UnacceptableError("is not a network such as 192.168.0.0/24 or 2001:db8::/64", hint)


def _masked(address: str, length: int) -> Network:
    value = parse_address(address)
    low_bits = (32 if value.version == 4 else 128) - length
    return parse_network(f"{type(value)(int(value) >> low_bits << low_bits)}/{length}")


def read_address(entry: str) -> Address:
    """An address of either family; raises UnacceptableError."""
    try:
        return parse_address(entry)
    except ValueError:
        raise UnacceptableError("is not an IP address") from None


def read_gateway(entry: str) -> Address:
    """The address of a neighbour; raises UnacceptableError."""
    address = read_address(entry)
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise UnacceptableError("is not the address of a next hop")
    return address


def merge_ports(ports: Iterable[PortMatch]) -> tuple[PortMatch, ...]:
    """Sorted, with overlapping ranges made one: the fewest matches that say the same."""
    merged: list[PortMatch] = []
    for port in sorted(ports):
        before = merged[-1] if merged else None
        if before and before.protocol == port.protocol and port.first <= before.last:
            merged[-1] = PortMatch(port.protocol, before.first, max(before.last, port.last))
        else:
            merged.append(port)
    return tuple(merged)


def without_covered(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Sorted by family and address, without those that lie in another of the list."""
    kept: list[Network] = []
    for network in sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen)):
        if not (kept and contains(kept[-1], network)):
            kept.append(network)
    return tuple(kept)
