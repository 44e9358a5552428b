"""Reading the legacy back end's tables without a process: what of them concerns kvctl, as one comparable value.

By getsockopt(2) as iptables-legacy itself does; structures are those of linux/netfilter/x_tables.h,
linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h on 64-bit machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, Hook

Contents = Mapping[tuple[str, str], tuple[bytes, ...]]
"""By table and chain: what makes up each rule, of the chains that concern kvctl; compares by value.

The last of a chain of the kernel's own (POSTROUTING) is its policy.
"""

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
_RETURN_TARGET_BYTES = 40
# A chain begins with an entry without matches whose target is this, with the chain's name as data, and ends with one
# whose target is RETURN.
_HEAD_TARGET_BYTES = 64
_HEAD_TARGET = re.compile(
    re.escape(Struct("=H6s").pack(_HEAD_TARGET_BYTES, b"ERROR\0")) + rb".{24}([^\0]*)", re.DOTALL
)
_MATCH_NAME = b"comment\0"
# struct xt_entry_match: size, name[29], revision, data; struct xt_comment_info: comment[256]
_MATCH_DATA, _COMMENT_BYTES = 30, 256
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
            return {}
        try:
            tables = [name for name in _names(_LAYOUTS[family].names) if name in _TABLES]
            return {(name, chain): rules for name in tables for chain, rules in self._chains(family, name)}
        except OSError as error:
            raise NetfilterUnavailableError(
                f"cannot watch the {family} rules: {error}", hint="run as root, or with CAP_NET_ADMIN"
            ) from error

    def _chains(self, family: Family, name: str) -> Iterator[tuple[str, tuple[bytes, ...]]]:
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
            return _chains(bytes(memoryview(answer)[_ENTRIES.size :]), _LAYOUTS[family], ends)
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


def comment_of(rule: bytes) -> str | None:
    """What `-m comment` says in a rule of Contents; None: it has none."""
    match = rule.find(_MATCH_NAME)
    if match < 0:
        return None
    data = match + _MATCH_DATA
    return rule[data : data + _COMMENT_BYTES].partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _chains(
    table: bytes, layout: _Layout, ends: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """The chains of `ends`, each from its first entry to its policy's, and the rules of kvctl's chains."""
    heads = list(_heads(table, layout))
    head_bytes, return_bytes = layout.rest + _HEAD_TARGET_BYTES, layout.rest + _RETURN_TARGET_BYTES
    # A jump names the place of the chain's first rule, which moves when any other chain grows.
    starts = {place + head_bytes: name for place, name in heads}
    for chain, (first, last) in ends.items():
        yield chain, _rules(table, layout, first, last + return_bytes, starts)
    for (place, name), (end, _) in pairwise(heads):
        if name.startswith(_OURS):
            rules = _rules(table, layout, place + head_bytes, end - return_bytes, starts)
            yield name.decode("utf-8", "backslashreplace"), rules


def _heads(table: bytes, layout: _Layout) -> Iterator[tuple[int, bytes]]:
    """Place and name of the entry at the head of each chain, and of the one behind all of them.

    Found by what they look like: to walk over ten thousand rules of others takes Python 10 ms.
    """
    like = (layout.rest, layout.rest + _HEAD_TARGET_BYTES)
    for found in _HEAD_TARGET.finditer(table):
        place = found.start() - layout.rest
        if place >= 0 and _OFFSETS.unpack_from(table, place + layout.offsets) == like:
            yield place, found[1]


def _rules(
    table: bytes, layout: _Layout, place: int, end: int, starts: Mapping[int, bytes]
) -> tuple[bytes, ...]:
    """What makes up each rule: all of its entry but counters and what depends on other chains."""
    rules = []
    offsets, known, rest = layout.offsets, layout.offsets + _OFFSETS.size, layout.rest
    while place < end:
        target, following = _OFFSETS.unpack_from(table, place + offsets)
        if table[place + target + _TARGET_NAME]:
            rules.append(table[place : place + known] + table[place + rest : place + following])
        else:  # the standard target has no name
            data = place + target + _TARGET_DATA
            (verdict,) = _VERDICT.unpack_from(table, data)
            falls_through = verdict == place + following
            leads_to = b"" if falls_through else starts.get(verdict) or b"%d" % verdict
            rules.append(table[place : place + known] + table[place + rest : data] + leads_to)
        place += following
    return tuple(rules)
