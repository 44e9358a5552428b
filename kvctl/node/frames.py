"""The Ethernet frames by which hosts of one link say and ask who has an address.

IPv4: ARP (RFC 826), used as RFC 5227 says. IPv6: neighbour solicitations and advertisements (RFC 4861),
used as RFC 4862 says. Bytes in, bytes out; what is sent is without a VLAN tag.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from kvctl.model.net import Address

ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

_ETHERNET = Struct("!6s6sH")
_BROADCAST = b"\xff" * 6

_ARP = Struct("!HHBBH6s4s6s4s")
_ARP_FORM = (1, 0x0800, 6, 4)
"""Ethernet, IPv4, and the lengths of their addresses."""
_REQUEST, _REPLY = 1, 2
_NO_MAC = bytes(6)
_NO_IPV4 = bytes(4)

_IPV6 = Struct("!IHBB16s16s")
_VERSION = 6 << 28
_HEADERS = _ETHERNET.size + _IPV6.size
_ICMPV6 = 58
_HOP_LIMIT = 255
_NO_IPV6 = bytes(16)
_ALL_NODES = IPv6Address("ff02::1").packed
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]

_NEIGHBOUR = Struct("!BBHI16s")
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OVERRIDE = 0x20000000
_TARGET_MAC = 2
_OPTION_UNIT = 8
"""Options count their length in units of so many bytes."""


class Claim(NamedTuple):
    """Who has an address, or is about to take it."""

    address: Address
    mac: bytes


def announcement(address: Address, *, mac: bytes) -> tuple[bytes, ...]:
    """The frames that make the hosts of a link send to `mac` what is for `address`, in the order to send them.

    IPv4: a gratuitous request, which Linux obeys whenever it has an entry, then a gratuitous reply for
    those that heed only replies; its target hardware address is the sender's, else Linux ignores it for
    a second after the entry changed (arp_is_garp in net/ipv4/arp.c, 6.18). IPv6: an unsolicited
    advertisement with the Override flag to all nodes (RFC 4861, 7.2.6). A router that heeds RFC 9131
    makes an entry of it also where it has none.
    """
    if isinstance(address, IPv6Address):
        return (_advertisement(address, mac=mac),)
    vip = address.packed
    return (
        _arp(_REQUEST, mac=mac, sender=vip, target_mac=_NO_MAC, target=vip),
        _arp(_REPLY, mac=mac, sender=vip, target_mac=mac, target=vip),
    )


def probe(address: Address, *, mac: bytes) -> bytes:
    """The frame that asks whether anybody has `address`, without claiming it.

    IPv4: a request from 0.0.0.0 (RFC 5227, 2.1.1), which leaves others' entries alone. IPv6: a
    solicitation from `::` (RFC 4862, 5.4.2), whose answer goes to all nodes.
    """
    if isinstance(address, IPv4Address):
        return _arp(_REQUEST, mac=mac, sender=_NO_IPV4, target_mac=_NO_MAC, target=address.packed)
    to = solicited_node(address)
    body = _NEIGHBOUR.pack(_SOLICITATION, 0, 0, 0, address.packed)
    return _icmpv6(body, mac=mac, source=_NO_IPV6, to=to.packed)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The multicast group to which solicitations for `address` go (RFC 4291, 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE + address.packed[13:])


def read_claim(frame: bytes) -> Claim | None:
    """Who claims which address by an Ethernet frame; None for one that claims nothing, or is malformed.

    A probe claims what it asks for: two hosts that probe at once both have to hear of it.
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    if kind == ETHERTYPE_ARP:
        return _read_arp(frame)
    return _read_neighbour(frame, source=source) if kind == ETHERTYPE_IPV6 else None


def mac_text(mac: bytes) -> str:
    """A hardware address as people write it."""
    return mac.hex(":")


def _arp(operation: int, *, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    header = _ETHERNET.pack(_BROADCAST, mac, ETHERTYPE_ARP)
    return header + _ARP.pack(*_ARP_FORM, operation, mac, sender, target_mac, target)


def _advertisement(address: IPv6Address, *, mac: bytes) -> bytes:
    option = bytes((_TARGET_MAC, (2 + len(mac)) // _OPTION_UNIT)) + mac
    body = _NEIGHBOUR.pack(_ADVERTISEMENT, 0, 0, _OVERRIDE, address.packed) + option
    return _icmpv6(body, mac=mac, source=address.packed, to=_ALL_NODES)


def _icmpv6(body: bytes, *, mac: bytes, source: bytes, to: bytes) -> bytes:
    """A whole frame to a multicast group, whose hardware address ends as the group does (RFC 2464, 7)."""
    checksum = _checksum(body, source=source, to=to)
    return b"".join(
        (
            _ETHERNET.pack(b"\x33\x33" + to[12:], mac, ETHERTYPE_IPV6),
            _IPV6.pack(_VERSION, len(body), _ICMPV6, _HOP_LIMIT, source, to),
            body[:2],
            checksum.to_bytes(2, "big"),
            body[4:],
        )
    )


def _checksum(body: bytes, *, source: bytes, to: bytes) -> int:
    """RFC 8200, 8.1; 0 for a body that carries its own and is intact."""
    # A number of 16-bit digits is, modulo 0xffff, the sum of its digits: the sum in one's complement.
    text = source + to + len(body).to_bytes(4, "big") + _ICMPV6.to_bytes(4, "big") + body
    total = int.from_bytes(text + bytes(len(text) % 2), "big") % 0xFFFF
    return (0xFFFF - total) % 0xFFFF


def _read_arp(frame: bytes) -> Claim | None:
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    *form, operation, mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(form) != _ARP_FORM or operation not in (_REQUEST, _REPLY):
        return None
    if sender != _NO_IPV4:
        return Claim(IPv4Address(sender), mac)
    return Claim(IPv4Address(target), mac) if operation == _REQUEST else None


def _read_neighbour(frame: bytes, *, source: bytes) -> Claim | None:
    """What RFC 4861, 7.1, has to be checked of a message is: else anybody off the link could send it."""
    if len(frame) < _HEADERS + _NEIGHBOUR.size:
        return None
    version, length, next_header, hop_limit, sender, to = _IPV6.unpack_from(frame, _ETHERNET.size)
    body = frame[_HEADERS : _HEADERS + length]
    if version >> 28 != 6 or next_header != _ICMPV6 or hop_limit != _HOP_LIMIT:
        return None
    if length < _NEIGHBOUR.size or len(body) < length or _checksum(body, source=sender, to=to):
        return None
    kind, code, _, _, target = _NEIGHBOUR.unpack_from(body)
    if code != 0:
        return None
    if kind == _ADVERTISEMENT:
        return Claim(IPv6Address(target), _target_mac(body) or source)
    if kind == _SOLICITATION:
        return Claim(IPv6Address(target if sender == _NO_IPV6 else sender), source)
    return None


def _target_mac(body: bytes) -> bytes | None:
    """What an advertisement gives as the hardware address, which may be another than the frame's."""
    place = _NEIGHBOUR.size
    while place + _OPTION_UNIT <= len(body):
        kind, units = body[place], body[place + 1]
        if units == 0:
            return None
        if kind == _TARGET_MAC and units == 1:
            return body[place + 2 : place + 8]
        place += units * _OPTION_UNIT
    return None
