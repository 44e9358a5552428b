"""Asking a link who has an address, before this host takes it."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from array import array
from collections.abc import Collection, Container, Mapping
from contextlib import ExitStack, suppress
from ipaddress import IPv6Address
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.net import Address, within
from kvctl.node.announce import Announced
from kvctl.node.ethernet import Wire, Wires, open_frames
from kvctl.node.frames import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    mac_text,
    probe,
    read_claim,
    solicited_node,
)

_PROBES = 3
_FRAME_BYTES = 2048
# Frames heard at one go: the time is looked at in between also when they come faster than they are read.
_FRAMES = 200
_PACKET_OTHERHOST = 3
_WHAT = "cannot ask the network who has an address"

# linux/filter.h: of the IPv6 of a busy node only what can be a claim. Offsets in an Ethernet frame: 20 is the
# next header (58 ICMPv6), 54 the ICMPv6 type.
_LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x30, 0x15, 0x06
_NEIGHBOUR_FILTER = (
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_EQUAL, 0, 4, 58),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_EQUAL, 1, 0, 135),
    (_JUMP_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, _FRAME_BYTES),
    (_RETURN, 0, 0, 0),
)
_SO_ATTACH_FILTER = 26


class Probed(NamedTuple):
    """What asking has shown. What is in neither, nobody has."""

    claims: Mapping[Address, str]
    """Who has, announces or probes for an address: its hardware address."""
    unasked: Mapping[Announced, str]
    """What could not be asked for, and why: nothing is known of it."""

    def obstacles(self, wanted: Collection[Announced]) -> dict[Address, str]:
        """What keeps this host from taking each of these, as the rest of a sentence."""
        found: dict[Address, str] = {}
        for each in wanted:
            if (mac := self.claims.get(each.address)) is not None:
                found[each.address] = f"{mac} answers for it on the network already"
            elif (why := self.unasked.get(each)) is not None:
                found[each.address] = f"nobody can be asked on interface {each.interface} who has it: {why}"
        return found


def and_where_it_belongs(wanted: Collection[Announced], host: Host) -> set[Announced]:
    """With the links that the main table reaches these addresses on, whatever interface they are wanted for.

    A tenant names the interface: a host of another link is not to be cut off from this one by its address.
    """
    links = {
        Announced(each.address, route.interface)
        for each in wanted
        for route in host.routes
        if route.interface is not None
        and route.gateway is None
        and 0 < route.network.prefixlen < route.network.max_prefixlen
        and within(each.address, (route.network,))
    }
    return links | set(wanted)


def answered(addresses: Collection[Announced], *, seconds: float = 0.6) -> Probed:
    """Who on the links of these interfaces has these addresses.

    Asks three times within `seconds` and returns then, or as soon as each address has an answer. What this
    host's own interfaces say does not count, whatever link it came by. In the network namespace of the
    calling thread. Of two hosts that ask at the same moment at least the one that began earlier
    hears of the other. Raises KvctlError where the kernel allows no such sockets.

    RFC 5227 and 4862 wait longer, a second and more a probe, for hosts that have just been plugged in;
    here the network is up, and each second is one without the address.
    """
    begun = time.monotonic()
    found: dict[Address, str] = {}
    unasked: dict[Announced, str] = {}
    with ExitStack() as stack:
        interfaces = stack.enter_context(Wires())
        own = interfaces.macs()
        ears = _ears(addresses, interfaces=interfaces, stack=stack, unasked=unasked)
        for probes in range(1, _PROBES + 1):
            for ear in ears:
                ear.ask(besides=found)
            _listen(ears, until=begun + seconds * probes / _PROBES, own=own, found=found)
        for ear in ears:
            if ear.failure is not None:
                unasked |= {Announced(address, ear.interface): ear.failure for address in ear.unanswered}
    return Probed(found, unasked)


class _Ear:
    """Asks and hears one interface in one family."""

    def __init__(
        self, interface: str, wire: Wire, addresses: Collection[Address], *, frames: socket.socket
    ) -> None:
        self.interface = interface
        self.failure: str | None = None
        """Why the latest probes did not go out."""
        self.unanswered = set(addresses)
        self._probes = {address: probe(address, mac=wire.mac) for address in addresses}
        self._frames = frames

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._frames.fileno()

    def ask(self, *, besides: Container[Address]) -> None:
        """Send a probe for each address but some."""
        self.failure = None
        for address, frame in self._probes.items():
            if address not in besides:
                try:
                    self._frames.sendto(frame, (self.interface, 0))
                except OSError as error:
                    self.failure = _reason(error)
                    return

    def hear(self, *, own: Container[bytes], found: dict[Address, str]) -> None:
        """Add to `found` what the frames that wait claim."""
        for _ in range(_FRAMES):
            try:
                frame, origin = self._frames.recvfrom(_FRAME_BYTES)
            except OSError:  # nothing waits; or the interface went down, which the next probe will tell
                return
            # To another host: heard for lack of a VLAN interface, or because someone else listens to all.
            claim = read_claim(frame) if origin[2] != _PACKET_OTHERHOST else None
            if claim is not None and claim.address in self.unanswered and claim.mac not in own:
                found[claim.address] = mac_text(claim.mac)
                self.unanswered.discard(claim.address)


def _ears(
    addresses: Collection[Announced],
    *,
    interfaces: Wires,
    stack: ExitStack,
    unasked: dict[Announced, str],
) -> list[_Ear]:
    """One for each interface and family that can be asked; the rest in `unasked`. What they open ends with `stack`."""
    ears = []
    for name in sorted({each.interface for each in addresses}):
        wire = interfaces.find(name)
        if isinstance(wire, str):
            unasked |= {each: wire for each in addresses if each.interface == name}
            continue
        there = [each.address for each in addresses if each.interface == name]
        for version, kind in ((4, ETHERTYPE_ARP), (6, ETHERTYPE_IPV6)):
            asked = {address for address in there if address.version == version}
            if not asked:
                continue
            frames = stack.enter_context(open_frames(what=_WHAT))
            try:
                _hear_only(frames, kind=kind, interface=name)
            except OSError as error:
                unasked |= {Announced(address, name): _reason(error) for address in asked}
                continue
            _join(asked, wire=wire, stack=stack)
            ears.append(_Ear(name, wire, asked, frames=frames))
    return ears


def _hear_only(frames: socket.socket, *, kind: int, interface: str) -> None:
    """Let a socket hear frames of one EtherType that come in by one interface."""
    if kind == ETHERTYPE_IPV6:
        program = array("B", b"".join(struct.pack("=HBBI", *step) for step in _NEIGHBOUR_FILTER))
        place, _ = program.buffer_info()
        # struct sock_fprog; the kernel copies the program.
        filters = struct.pack("@HP", len(_NEIGHBOUR_FILTER), place)
        frames.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filters)
    frames.bind((interface, kind))


def _join(addresses: Collection[Address], *, wire: Wire, stack: ExitStack) -> None:
    """Ask switches and the interface itself to pass on what is sent to the groups of IPv6 addresses.

    Another host's probes go there. Answers go to all nodes, so that one who cannot join still hears those.
    """
    groups = {solicited_node(each) for each in addresses if isinstance(each, IPv6Address)}
    if not groups:
        return
    with suppress(
        OSError
    ):  # IPv6 is off on this host or interface: then no such address will be bound either
        member = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        for group in groups:
            request = group.packed + struct.pack("@I", wire.number)
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _listen(
    ears: Collection[_Ear], *, until: float, own: Container[bytes], found: dict[Address, str]
) -> None:
    """Hear until the time, of time.monotonic(), has come or each address has its answer."""
    poller = select.poll()
    by_descriptor = {ear.fileno(): ear for ear in ears}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    while any(ear.unanswered for ear in ears):
        left = until - time.monotonic()
        if left <= 0:
            return
        for descriptor, _ in poller.poll(left * 1000):
            by_descriptor[descriptor].hear(own=own, found=found)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()
