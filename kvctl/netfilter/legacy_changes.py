"""Noticing that somebody changes the legacy back end's rules, and that nobody does while kvctl writes.

The kernel tells nothing, and a replacement of a table can undo another one unseen (xtables-legacy(8), LIMITATIONS). So
the chains that concern kvctl are read over getsockopt(2) and compared, counters apart: every 4 s, before and after each
look, and after each write; for 1,000 Services that takes 20 ms of CPU, where a look takes 50. What another program does
is noticed whenever it is done:

- before a look, and in it: nothing has to be noticed;
- during a look, so that it may be in it or not: what is read before and after it is not the same. It is told, and the
  next write is followed by a look;
- between a look and a restore: what is there after the restore is not what the look's rules become by it, and another
  look follows; unless it was in a chain that the restore wrote anew, which is as written now;
- during a restore: it is undone by it, or the kernel refuses the restore, or it comes after it;
- after a restore, and before the contents are read: they are not what the restore makes of the rules. An older table
  that is put back shows in chains that are as they were before;
- after that: the contents are not those that have been dealt with, and that is told.

What has been undone before the next comparison, byte for byte, is not noticed, and a rule that is exchanged right
after it was written for one with the same comment: the comparison that the agent makes each minute finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.ledger import Ledger
from kvctl.netfilter.legacy_effect import carried_out
from kvctl.netfilter.legacy_tables import Contents, LegacyTables

_SECONDS = 4.0
# A comparison that fell into a write of ours is made later.
_POSTPONED_SECONDS = 0.5
_JOIN_SECONDS = 5.0


class LegacyChanges(Ledger):
    """Compares every few seconds, and with each look and write of the block that `hold` begins."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._held = False
        self._stopping = threading.Event()
        self._tables = LegacyTables()
        self._settled: dict[Family, Contents | None] = {}
        """What has been told or looked at; None: not known, which is told."""
        self._seen: dict[Family, Contents | None] = dict.fromkeys(Family)
        """What the rules look like that the block goes by; None: it has to look before that is known."""
        for family in Family:
            self._settled[family] = self._tables.read(family)
        self._thread = threading.Thread(target=self._run, name="rule-changes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():
            self._tables.close()

    def hold(self) -> None:
        """Do not compare until `release`."""
        with self._lock:
            self._held = True

    def release(self) -> bool:
        """The end of `hold`. What others wrote meanwhile is seen at the next comparison."""
        with self._lock:
            self._held = False
        return False

    def looks(self, backend: Backend, family: Family) -> Callable[[], None]:
        """As Ledger. What is the same before and after the look has been dealt with."""
        before = self._read(family)

        def looked() -> None:
            after = self._read(family)
            with self._lock:
                self._seen[family] = self._settled[family] = after if after == before else None

        return looked

    def writes(self, backend: Backend, family: Family, text: str) -> Callable[[], bool]:
        """As Ledger. What is there after it has been dealt with: if it was not alone, another look follows."""
        before = self._seen[family]

        def wrote() -> bool:
            after = self._read(family)
            alone = before is not None and after is not None and carried_out(text, before, after)
            with self._lock:
                self._settled[family] = after
                self._seen[family] = after if alone else None
            return alone

        return wrote

    def _run(self) -> None:
        seconds = _SECONDS
        while not self._stopping.wait(seconds):
            with self._lock:
                seconds = _POSTPONED_SECONDS if self._held else _SECONDS
                changed = [] if self._held else [self._compare(family) for family in Family]
            if any(changed):
                self._notify()

    def _compare(self, family: Family) -> bool:
        """Whether the contents have changed; they are dealt with then."""
        found = self._read(family)
        before, self._settled[family] = self._settled[family], found
        return found is None or found != before

    def _read(self, family: Family) -> Contents | None:
        try:
            return self._tables.read(family)
        except KvctlError:
            return None  # the agent's own look says why
