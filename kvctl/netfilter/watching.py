"""Noticing that somebody changes the kernel's rules, cheaply enough to do it all the time.

nft: the kernel multicasts every commit (linux/netfilter/nf_tables.h): a message for each object, then one
with the number of the commit, its generation. No process runs, nothing is polled. Of interest, in families ip,
ip6 and inet, are:

- rules and chains of ours (`KVCTL-…`) and POSTROUTING, in iptables' tables nat and mangle;
- base chains on the postrouting hook, new, changed or gone: they may take the traffic before iptables' do;
- tables, new or gone (`nft flush ruleset`).

What other programs do in chains of their own is passed over, because kube-proxy does it all day: a rule in a
chain to which POSTROUTING leads, and a base chain that was there before and goes, are found by the full
comparison that the agent makes each minute.

legacy: the kernel tells nothing; see legacy_changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from kvctl.errors import NetlinkError
from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, Hook
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.generation import GET_GENERATION, HEADER, own_commits, read_generation
from kvctl.netfilter.ledger import UNWATCHED, Ledger, commits_in, kept_by
from kvctl.netfilter.legacy_changes import LegacyChanges
from kvctl.netlink import NETLINK_NETFILTER, open_netlink
from kvctl.netlink.messages import read_attributes
from kvctl.netlink.news import News

# linux/netfilter/nfnetlink.h: the group NFNLGRP_NFTABLES, and the subsystem in the high byte of a type
_GROUP = 7
_NFTABLES = 10 << 8
_NEWTABLE, _DELTABLE = _NFTABLES | 0, _NFTABLES | 2
_NEWCHAIN, _DELCHAIN = _NFTABLES | 3, _NFTABLES | 5
_NEWRULE, _DELRULE = _NFTABLES | 6, _NFTABLES | 8
_NEWGEN = _NFTABLES | 15
_GENERIC_HEADER_BYTES = len(HEADER)
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE
_RULE_CHAIN = 2
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 3, 4, 7
_HOOK_NUMBER = 1
_POSTROUTING = 4

_FAMILIES = {2: Family.IPV4, 10: Family.IPV6}
_INET = 1
_IPTABLES = (b"nat\0", b"mangle\0")
_OURS = CHAIN_PREFIX.encode("ascii")
_HOOKED = {(f"{hook.table}\0".encode("ascii"), f"{hook.chain}\0".encode("ascii")) for hook in Hook}

_GAP = 0.1
"""Seconds between two notifications."""
_MOST_OWN, _MOST_HEARD = 64, 64
_WHAT = "cannot hear of changes of the rules"


class RuleChanges(Ledger):
    """Calls `notify` when another program has changed rules of the back end that concern kvctl.

    At once and at most each 0.1 s with nft, within about 4 s with legacy. What is written in a block of
    `own_writes` is not told, what others write meanwhile is. To be made and started by a thread in the
    network namespace that is watched. Raises NetlinkError, NetfilterUnavailableError.
    """

    def __init__(self, backend: Backend, notify: Callable[[], None]) -> None:
        make = _NftChanges if backend is Backend.NFT else LegacyChanges
        self._backend = backend
        self._notify = notify
        self._changes: _NftChanges | LegacyChanges = make(notify)

    def start(self) -> None:
        """Begin, in a thread; changes since this was made are told, too."""
        self._changes.start()

    def stop(self) -> None:
        """End the thread."""
        self._changes.stop()

    @contextmanager
    def own_writes(self) -> Iterator[None]:
        """The block looks at the kernel, writes by `Kernel.write` and reads again after each write that was not alone.

        Of a write that was alone nothing is told. Before the block reads again after any other, the generation
        (legacy: the contents) is noted: a change by others that is older is in what is read then, a later one is told.
        Nothing is told while the block runs. Where the last read shows that something is still wrong, or fails, the
        caller has to try again by itself. For one thread at a time.
        """
        self._changes.hold()
        try:
            with kept_by(self):
                yield
        finally:
            if self._changes.release():
                self._notify()

    def looks(self, backend: Backend, family: Family) -> Callable[[], None]:
        """As Ledger."""
        watched = self._changes if backend is self._backend else UNWATCHED
        return watched.looks(backend, family)

    def writes(self, backend: Backend, family: Family, text: str) -> Callable[[], bool]:
        """As Ledger."""
        watched = self._changes if backend is self._backend else UNWATCHED
        return watched.writes(backend, family, text)


class _NftChanges(Ledger):
    """Hears commits; for each family the last one that concerns us, and the last one that has been dealt with."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._heard: dict[Family, list[int]] = {family: [] for family in Family}
        """Commits that concern us and that nobody has been told of; of very many the last."""
        self._settled: dict[Family, int] = {}
        self._own: set[int] = set()
        """Commits of the block that writes."""
        # Of the commit whose messages are coming in: told only with its generation.
        self._touched: set[Family] = set()
        self._structure = False
        self._bases: dict[tuple[int, bytes | None, bytes | None], tuple[bytes, ...]] = {}
        self._asking = open_netlink(protocol=NETLINK_NETFILTER, what=_WHAT)
        try:
            heard = open_netlink(protocol=NETLINK_NETFILTER, what=_WHAT, timeout=0, groups=(_GROUP,))
        except BaseException:
            self._asking.close()
            raise
        self._news = News(heard, judge=self, notify=notify, name="rule-changes", what=_WHAT)

    def start(self) -> None:
        self._news.start()

    def stop(self) -> None:
        self._news.stop()
        self._asking.close()

    def hold(self) -> None:
        """Tell nothing about families until `release`."""
        with self._lock:
            self._held = True

    def release(self) -> bool:
        """The end of `hold`; whether something has to be told."""
        with self._lock:
            self._held = False
            return self._take()

    def writes(self, backend: Backend, family: Family, text: str) -> Callable[[], bool]:
        """As Ledger. If it was not alone, what is committed at its end has been dealt with in the family."""
        ended = own_commits(commits_in(text))

        def wrote() -> bool:
            own = ended()
            if own:
                with self._lock:
                    # Their messages may come later than this.
                    self._own = set(sorted(self._own)[-_MOST_OWN:]).union(own)
            else:
                self._settle(family)
            return bool(own)

        return wrote

    def _settle(self, family: Family) -> None:
        # Where the kernel does not say, our own write is told as if it were another's.
        with suppress(NetlinkError):
            now = self._asking.ask(kind=GET_GENERATION, payload=HEADER, read=read_generation, what=_WHAT)
            with self._lock:
                self._settled[family] = now

    def hear(self, kind: int, buffer: bytearray, start: int, end: int) -> float | None:
        """As Judge."""
        if kind == _NEWGEN:
            return self._commit(read_generation(buffer, start, end))
        number = buffer[start]
        if number not in _FAMILIES and number != _INET:
            return None
        if kind in (_NEWRULE, _DELRULE):
            parts = read_attributes(buffer, start + _GENERIC_HEADER_BYTES, end)
            if _is_ours(number, parts.get(_TABLE), parts.get(_RULE_CHAIN)):
                self._touched.add(_FAMILIES[number])
        elif kind in (_NEWCHAIN, _DELCHAIN):
            parts = read_attributes(buffer, start + _GENERIC_HEADER_BYTES, end)
            self._hear_chain(number, parts, gone=kind == _DELCHAIN)
        elif kind in (_NEWTABLE, _DELTABLE):
            table = read_attributes(buffer, start + _GENERIC_HEADER_BYTES, end).get(_TABLE)
            self._bases = {key: value for key, value in self._bases.items() if key[:2] != (number, table)}
            self._touch(number, table)
        return None

    def _hear_chain(self, number: int, parts: dict[int, bytes], *, gone: bool) -> None:
        table, name = parts.get(_TABLE), parts.get(_CHAIN_NAME)
        if _is_ours(number, table, name):
            self._touched.add(_FAMILIES[number])
            return
        # A message about a chain that goes does not say whether it was a base chain (kernel 6.18).
        key = (number, table, name)
        known = self._bases.pop(key, None)
        hook = parts.get(_CHAIN_HOOK)
        if gone or hook is None:
            self._structure |= known is not None
        elif _hook_number(hook) == _POSTROUTING:
            # An `add chain` of one that is there is multicast again, and kube-proxy's nftables mode does that.
            self._bases[key] = (hook, parts.get(_CHAIN_TYPE, b""))
            self._structure |= known != self._bases[key]

    def lost(self) -> None:
        """As Judge."""
        self._touched.clear()
        self._structure = False
        self._bases.clear()

    def _touch(self, number: int, table: bytes | None) -> None:
        if number in _FAMILIES and table in _IPTABLES:
            self._touched.add(_FAMILIES[number])
        else:
            self._structure = True

    def _commit(self, generation: int) -> float | None:
        touched, structure = self._touched, self._structure
        self._touched, self._structure = set(), False
        with self._lock:
            for family in touched:
                self._heard[family] = [*self._heard[family][-_MOST_HEARD:], generation]
            # Other programs' base chains are not read again after a write: those are always told.
            tell = (not self._held and self._take()) or structure
        return _GAP if tell else None

    def _take(self) -> bool:
        """Whether a family has a commit that is not dealt with; it is then."""
        fresh = [
            family
            for family, heard in self._heard.items()
            if any(each not in self._own and _is_later(each, self._settled.get(family)) for each in heard)
        ]
        for family in fresh:
            self._settled[family] = self._heard[family][-1]
        self._heard = {family: [] for family in Family}
        return bool(fresh)


def _is_ours(number: int, table: bytes | None, chain: bytes | None) -> bool:
    if number not in _FAMILIES or table not in _IPTABLES or chain is None:
        return False
    return chain.startswith(_OURS) or (table, chain) in _HOOKED


def _hook_number(hook: bytes) -> int:
    return int.from_bytes(read_attributes(hook).get(_HOOK_NUMBER, b""), "big")


def _is_later(generation: int, other: int | None) -> bool:
    """Generations are counted in 32 bits, round and round."""
    return other is None or 0 < (generation - other) & 0xFFFFFFFF < 0x80000000
