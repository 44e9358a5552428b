"""Packets made by hand and sent from pods, seen where they leave the worker or end there: no answer is waited for."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Collection
from contextlib import ExitStack
from ipaddress import ip_address
from itertools import count
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from kvctl.trace.packet import Packet

VETHS = {"pod": "veth0", "peer": "veth1"}
"""By pod, the worker's end of its cable."""
# linux/if_ether.h, linux/if_packet.h
_ETH_P_ALL, _OUTGOING = 0x0003, 4
_ETHER_TYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
_ECHO_REQUESTS = {1: 8, 58: 128}
_SYN = 0x02
_MAGIC = b"kvctl-trace-"
_LONGEST = 2048


class Arrived(NamedTuple):
    """Where a packet went from the worker, and how it looked then."""

    interface: str | None
    """None: to the worker itself."""
    source: str
    destination: str


class Wire:
    """Sends packets of the lab's pods, and knows each again by a number in it; a context manager."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._numbers = count(1)
        self._arrived: dict[int, Arrived] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        worker = self._lab["worker"]
        self._tap = self._keep(worker.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)))
        self._local = [
            self._keep(worker.socket(family, socket.SOCK_RAW, number))
            for family, numbers in ((socket.AF_INET, (1, 6, 17)), (socket.AF_INET6, (58, 6, 17)))
            for number in numbers
        ]
        self._cables = {
            name: (
                self._keep(self._lab[name].socket(socket.AF_PACKET, socket.SOCK_DGRAM)),
                hardware_address(self._lab, "worker", veth),
            )
            for name, veth in VETHS.items()
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def send(self, name: str, packet: Packet) -> int:
        """Send it from this pod; the number by which `seen` knows it."""
        number = next(self._numbers)
        pod, hardware = self._cables[name]
        pod.sendto(_datagram(packet, number), ("eth0", _ETHER_TYPES[packet.family], 0, 0, hardware))
        return number

    def seen(self, numbers: Collection[int], *, patience: float) -> dict[int, Arrived]:
        """Where packets have arrived, once all of `numbers` have, or after `patience` seconds."""
        end = time.monotonic() + patience
        self._look()
        while time.monotonic() < end and not self._arrived.keys() >= set(numbers):
            time.sleep(0.002)
            self._look()
        return self._arrived

    def _keep(self, opened: socket.socket) -> socket.socket:
        opened.setblocking(False)
        return self._open.enter_context(opened)

    def _look(self) -> None:
        for data, address in _received(self._tap):
            if address[2] == _OUTGOING and (found := _numbered(data)) is not None:
                number, source, destination = found
                self._arrived.setdefault(number, Arrived(address[0], source, destination))
        for each in self._local:
            for data, address in _received(each):
                whole = data
                if each.family == socket.AF_INET6:
                    # Such a socket gives no IPv6 header; where it was sent to is known by its number alone.
                    sender = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
                    whole = _ipv6_header(len(data), each.proto) + sender + bytes(16) + data
                if (found := _numbered(whole)) is not None:
                    self._arrived.setdefault(found[0], Arrived(None, found[1], found[2]))


def hardware_address(lab: Lab, name: str, interface: str) -> bytes:
    """Of an interface in one of the lab's namespaces."""
    with lab[name].socket(socket.AF_PACKET, socket.SOCK_DGRAM) as opened:
        opened.bind((interface, 0))
        found: bytes = opened.getsockname()[4]
        return found


def know_neighbours(lab: Lab) -> None:
    """Let the worker know the others for good: rules that drop everything also drop how IPv6 finds them."""
    for who in STANDARD.values():
        for name, address, interface, its in (
            ("outside", who.outside_eth0, "eth0", "eth0"),
            ("outside", who.outside_eth1, "eth1", "eth1"),
            ("server", who.server, "eth0", "eth0"),
            ("pod", who.pod, "eth0", VETHS["pod"]),
            ("peer", who.peer, "eth0", VETHS["peer"]),
        ):
            hardware = hardware_address(lab, name, interface).hex(":")
            lab["worker"].batch([f"neigh replace {address} lladdr {hardware} nud permanent dev {its}"])


def _received(opened: socket.socket) -> list[tuple[bytes, tuple[str, int, int]]]:
    found = []
    while True:
        try:
            found.append(opened.recvfrom(_LONGEST))
        except BlockingIOError:
            return found


def _datagram(packet: Packet, number: int) -> bytes:
    source, destination = packet.source.packed, packet.destination.packed
    protocol = _NUMBERS[packet.protocol]
    data = _MAGIC + number.to_bytes(4, "big")
    ports = struct.pack("!HH", packet.source_port or 0, packet.destination_port or 0)
    if packet.protocol == "udp":
        body, place = ports + struct.pack("!HH", 8 + len(data), 0) + data, 6
    elif packet.protocol == "tcp":
        body, place = ports + struct.pack("!IIBBHHH", number, 0, 5 << 4, _SYN, 64240, 0, 0), 16
    else:
        # Each ping is a connection of its own: its identifier is that of no other.
        body, place = struct.pack("!BBHHH", _ECHO_REQUESTS[protocol], 0, 0, number & 0xFFFF, 1) + data, 2
    covered = body if protocol == 1 else source + destination + struct.pack("!II", len(body), protocol) + body
    body = body[:place] + struct.pack("!H", _checksum(covered)) + body[place + 2 :]
    if packet.family is Family.IPV6:
        return _ipv6_header(len(body), protocol) + source + destination + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number & 0xFFFF, 0, 64, protocol, 0)
    header += source + destination
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def _ipv6_header(length: int, protocol: int) -> bytes:
    """All of it but the addresses."""
    return struct.pack("!IHBB", 6 << 28, length, protocol, 64)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _numbered(data: bytes) -> tuple[int, str, str] | None:
    """Number, source and destination of a packet of ours."""
    if len(data) < 40:
        return None
    if data[0] >> 4 == 4:
        protocol, ends, body = data[9], data[12:20], data[(data[0] & 15) * 4 :]
    else:
        protocol, ends, body = data[6], data[8:40], data[40:]
    half = len(ends) // 2
    named = str(ip_address(ends[:half])), str(ip_address(ends[half:]))
    if protocol == _NUMBERS["tcp"]:
        ours = len(body) == 20 and body[13] == _SYN
        return (int.from_bytes(body[4:8], "big"), *named) if ours else None
    ours = len(body) == 8 + len(_MAGIC) + 4 and body[8:].startswith(_MAGIC)
    ours = ours and body[0] == _ECHO_REQUESTS.get(protocol, body[0])
    return (int.from_bytes(body[-4:], "big"), *named) if ours else None
