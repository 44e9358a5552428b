"""Reading the legacy back end's tables without a process: what of them concerns kvctl, as one comparable value.

By getsockopt(2) as iptables-legacy itself does; structures are those of linux/netfilter/x_tables.h,
linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h on 64-bit machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, HOOK_CHAIN

Contents = frozenset[tuple[str, str, tuple[bytes, ...]]]
"""Table, chain and what makes up its rules, of the chains that concern kvctl; compares by value."""

_TABLES = ("nat", "mangle")
_GET_INFO, _GET_ENTRIES = 64, 65
# struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
_INFO = Struct("=32sI5I5III")
# struct ipt_get_entries: name, size, then the entries, aligned to 8 bytes
_ENTRIES = Struct("=32sI4x")
_POSTROUTING = 4
_OFFSETS = Struct("=HH")
_VERDICT = Struct("=i")
# struct xt_entry_target: size, name[29], revision, data
_TARGET_NAME, _TARGET_DATA = 2, 32
_STANDARD, _CHAIN_HEAD = b"\0", b"ERROR\0"
_ATTEMPTS = 10


class _Layout(NamedTuple):
    """Where things are in a family's struct ipt_entry."""

    socket_family: int
    level: int
    names: str
    offsets: int
    """target_offset and next_offset; what the kernel keeps for itself and the counters lie behind."""
    rest: int
    """The size of the structure: matches and target follow."""


_LAYOUTS = {
    Family.IPV4: _Layout(socket.AF_INET, 0, "/proc/thread-self/net/ip_tables_names", 88, 112),
    Family.IPV6: _Layout(socket.AF_INET6, 41, "/proc/thread-self/net/ip6_tables_names", 140, 168),
}


class LegacyTables:
    """The legacy tables of the network namespace of the thread that makes it. Creates none of them.

    Raises NetfilterUnavailableError where a socket cannot be had for another reason than a missing family.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sockets: dict[Family, socket.socket] = {}
        for family, layout in _LAYOUTS.items():
            try:
                self._sockets[family] = socket.socket(layout.socket_family, socket.SOCK_DGRAM)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    self.close()
                    raise NetfilterUnavailableError(f"cannot watch the {family} rules: {error}") from error

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets.values():
            each.close()

    def read(self, family: Family) -> Contents:
        """POSTROUTING and kvctl's chains of the tables that exist, without counters.

        A table that does not exist has no chains. Raises NetfilterUnavailableError when the kernel refuses.
        """
        if family not in self._sockets:
            return frozenset()
        try:
            tables = [name for name in _names(_LAYOUTS[family].names) if name in _TABLES]
            found = [(name, self._read_table(family, name)) for name in tables]
        except OSError as error:
            raise NetfilterUnavailableError(
                f"cannot watch the {family} rules: {error}", hint="run as root, or with CAP_NET_ADMIN"
            ) from error
        return frozenset((name, *chain) for name, chains in found for chain in chains)

    def _read_table(self, family: Family, name: str) -> list[tuple[str, tuple[bytes, ...]]]:
        for _ in range(_ATTEMPTS):
            info = _INFO.pack(name.encode("ascii"), *[0] * 13)
            info = self._getsockopt(family, _GET_INFO, info)
            _, _, *places, _, size = _INFO.unpack(info)
            request = _ENTRIES.pack(name.encode("ascii"), size) + bytes(size)
            try:
                answer = self._getsockopt(family, _GET_ENTRIES, request)
            except BlockingIOError:
                continue  # it was replaced by one of another size in between
            first, last = places[_POSTROUTING], places[5 + _POSTROUTING]
            return list(_chains(answer[_ENTRIES.size :], _LAYOUTS[family], first=first, last=last))
        raise BlockingIOError(errno.EAGAIN, "the table keeps changing")

    def _getsockopt(self, family: Family, option: int, request: bytes) -> bytes:
        # Not socket.getsockopt: it hands the kernel an empty buffer, and these options want the table's name in it.
        buffer = ctypes.create_string_buffer(request, len(request))
        length = ctypes.c_uint(len(request))
        descriptor, level = self._sockets[family].fileno(), _LAYOUTS[family].level
        if self._libc.getsockopt(descriptor, level, option, buffer, ctypes.byref(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return buffer.raw


def _names(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as names:
            return names.read().split()
    except FileNotFoundError:  # the module has never been loaded
        return []


def _chains(
    blob: bytes, layout: _Layout, *, first: int, last: int
) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """POSTROUTING, from the entry at `first` to its policy's at `last`, and kvctl's chains."""
    heads: list[tuple[int, str]] = []
    starts: dict[int, str] = {}
    place, offsets, unpack = 0, layout.offsets, _OFFSETS.unpack_from
    while place < len(blob):
        target, following = unpack(blob, place + offsets)
        name = place + target + _TARGET_NAME
        if blob.startswith(_CHAIN_HEAD, name):
            text = blob[place + target + _TARGET_DATA : place + following]
            heads.append((place, text.partition(b"\0")[0].decode("utf-8", "backslashreplace")))
            starts[place + following] = heads[-1][1]
        place += following
    # A jump names the place of the chain's first rule, which moves when any other chain grows.
    policy_end = last + unpack(blob, last + offsets)[1]
    yield HOOK_CHAIN, tuple(_rules(blob, layout, first, policy_end, starts))
    for (head, chain), (end, _) in pairwise(heads):
        if chain.startswith(CHAIN_PREFIX):
            yield chain, tuple(_rules(blob, layout, head, end, starts))


def _rules(blob: bytes, layout: _Layout, place: int, end: int, starts: dict[int, str]) -> Iterator[bytes]:
    """What makes up each rule: all of its entry but counters and what depends on other chains."""
    while place < end:
        target, following = _OFFSETS.unpack_from(blob, place + layout.offsets)
        data = place + target + _TARGET_DATA
        yield blob[place : place + layout.offsets + _OFFSETS.size]
        if blob.startswith(_STANDARD, place + target + _TARGET_NAME):
            (verdict,) = _VERDICT.unpack_from(blob, data)
            yield blob[place + layout.rest : data]
            falls_through = verdict == place + following
            yield (b"" if falls_through else starts.get(verdict, str(verdict)).encode("utf-8"))
        else:
            yield blob[place + layout.rest : place + following]
        place += following
