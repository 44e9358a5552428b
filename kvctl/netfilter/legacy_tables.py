"""Reading the legacy back end's tables without a process: what of them concerns kvctl, as one comparable value.

By getsockopt(2) as iptables-legacy itself does; structures are those of linux/netfilter/x_tables.h,
linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h on 64-bit machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, Hook

Contents = frozenset[tuple[str, bytes, tuple[bytes, ...]]]
"""Table, chain and what makes up its rules, of the chains that concern kvctl; compares by value."""

_TABLES = ("nat", "mangle")
_GET_INFO, _GET_ENTRIES = 64, 65
# struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
_INFO = Struct("=32sI5I5III")
# struct ipt_get_entries: name, size, then the entries, aligned to 8 bytes
_ENTRIES = Struct("=32sI4x")
# enum nf_inet_hooks
_HOOK_NUMBERS = {"PREROUTING": 0, "POSTROUTING": 4}
_HOOKS = 5
_OFFSETS = Struct("=HH")
_VERDICT = Struct("=i")
# struct xt_entry_target: size, name[29], revision, data
_TARGET_NAME, _TARGET_DATA = 2, 32
_STANDARD = b"\0"
# A chain begins with an entry without matches whose target is this, with the chain's name as data.
_HEAD_TARGET_BYTES = 64
_HEAD_TARGET = Struct("=H6s").pack(_HEAD_TARGET_BYTES, b"ERROR\0")
_OURS = CHAIN_PREFIX.encode("ascii")
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
        """The chains of kvctl's hooks, and its own, of the tables that exist, without counters.

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

    def _read_table(self, family: Family, name: str) -> list[tuple[bytes, tuple[bytes, ...]]]:
        for _ in range(_ATTEMPTS):
            info = bytearray(_INFO.pack(name.encode("ascii"), *[0] * 13))
            self._getsockopt(family, _GET_INFO, info)
            _, _, *places, _, size = _INFO.unpack(info)
            answer = bytearray(_ENTRIES.size + size)
            _ENTRIES.pack_into(answer, 0, name.encode("ascii"), size)
            try:
                self._getsockopt(family, _GET_ENTRIES, answer)
            except BlockingIOError:
                continue  # it was replaced by one of another size in between
            numbers = {hook.chain: _HOOK_NUMBERS[hook.chain] for hook in Hook if hook.table == name}
            ends = {chain: (places[n], places[_HOOKS + n]) for chain, n in numbers.items()}
            return list(_chains(answer, _LAYOUTS[family], ends))
        raise BlockingIOError(errno.EAGAIN, "the table keeps changing")

    def _getsockopt(self, family: Family, option: int, data: bytearray) -> None:
        """Fill `data`, at whose beginning is what the kernel has to know."""
        # Not socket.getsockopt: it hands the kernel an empty buffer, and these options want the table's name in it.
        buffer = (ctypes.c_char * len(data)).from_buffer(data)
        length = ctypes.c_uint(len(data))
        descriptor, level = self._sockets[family].fileno(), _LAYOUTS[family].level
        if self._libc.getsockopt(descriptor, level, option, buffer, ctypes.byref(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _names(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as names:
            return names.read().split()
    except FileNotFoundError:  # the module has never been loaded
        return []


def _chains(
    table: bytearray, layout: _Layout, ends: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
    """The chains of `ends`, each from its first entry to its policy's, and kvctl's chains.

    `table`: the answer, in which every place counts from the first entry.
    """
    heads = list(_heads(table, layout))
    size = layout.rest + _HEAD_TARGET_BYTES
    # A jump names the place of the chain's first rule, which moves when any other chain grows.
    starts = {place + size: name for place, name in heads}
    for chain, (first, last) in ends.items():
        policy_bytes = _OFFSETS.unpack_from(table, _ENTRIES.size + last + layout.offsets)[1]
        yield chain.encode("ascii"), tuple(_rules(table, layout, first, last + policy_bytes, starts))
    for (place, name), (end, _) in pairwise(heads):
        if name.startswith(_OURS):
            yield name, tuple(_rules(table, layout, place, end, starts))


def _heads(table: bytearray, layout: _Layout) -> Iterator[tuple[int, bytes]]:
    """Place and name of the entry at the head of each chain, and of the one behind all of them.

    Found by what they look like: to walk over ten thousand rules of others takes Python 20 ms.
    """
    size = layout.rest + _HEAD_TARGET_BYTES
    found = table.find(_HEAD_TARGET)
    while found >= 0:
        start = found - layout.rest
        if start >= 0 and _OFFSETS.unpack_from(table, start + layout.offsets) == (layout.rest, size):
            name = bytes(table[found + _TARGET_DATA : start + size])
            yield start - _ENTRIES.size, name.partition(b"\0")[0]
        found = table.find(_HEAD_TARGET, found + 1)


def _rules(
    table: bytearray, layout: _Layout, place: int, end: int, starts: dict[int, bytes]
) -> Iterator[bytes]:
    """What makes up each rule: all of its entry but counters and what depends on other chains."""
    while place < end:
        entry = _ENTRIES.size + place
        target, following = _OFFSETS.unpack_from(table, entry + layout.offsets)
        data = entry + target + _TARGET_DATA
        yield bytes(table[entry : entry + layout.offsets + _OFFSETS.size])
        if table.startswith(_STANDARD, entry + target + _TARGET_NAME):
            (verdict,) = _VERDICT.unpack_from(table, data)
            yield bytes(table[entry + layout.rest : data])
            falls_through = verdict == place + following
            yield b"" if falls_through else starts.get(verdict, b"%d" % verdict)
        else:
            yield bytes(table[entry + layout.rest : entry + following])
        place += following
