"""A thread that hears what the kernel multicasts, and tells when something of interest was in it."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol

from kvctl.errors import NetlinkError
from kvctl.netlink import Netlink

# While messages keep coming the thread wakes this often (seconds), not once a message.
_NAP = 0.02
# Datagrams heard at one go: what is due is told in between also when they come faster than they are read.
_DATAGRAMS = 2000
_JOIN_SECONDS = 5.0
# Seconds between two notifications when messages are lost, or cannot be read.
_LOST_GAP, _FAILED_GAP = 0.1, 1.0


class Judge(Protocol):
    """Who knows which messages are of interest; called from the thread alone."""

    def hear(self, kind: int, buffer: bytearray, start: int, end: int) -> float | None:
        """Judge one message; None: of no interest.

        Else how many seconds at least have to lie between the last call of `notify` and the one for this.
        """

    def lost(self) -> None:
        """Messages were lost: what was known from earlier ones may be wrong."""


class News:
    """Calls `notify` after messages that `judge` finds of interest, once for all that came in meanwhile.

    The first message is told at once; the last one is never lost: what comes while `notify` may not be
    called yet is told when it may. Messages that the kernel dropped or that cannot be read count as of
    interest. `notify` is called in the thread and must not block. Hears the network namespace in which
    `netlink` was opened, which it closes at its end.
    """

    def __init__(
        self, netlink: Netlink, *, judge: Judge, notify: Callable[[], None], name: str, what: str
    ) -> None:
        self._netlink = netlink
        self._judge = judge
        self._notify = notify
        self._what = what
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._gap: float | None = None
        self._closed = False

    def start(self) -> None:
        """Begin; what was multicast since the socket was opened is heard, too."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the socket; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._stop, 1)
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else it is still in `notify`, and would meet others' descriptors
            self._netlink.close()
            os.close(self._stop)

    def _run(self) -> None:
        news, end = select.poll(), select.poll()
        for poller in (news, end):
            poller.register(self._stop, select.POLLIN)
        news.register(self._netlink.fileno(), select.POLLIN)
        last, due = float("-inf"), float("inf")
        while True:
            wait = due - time.monotonic()
            ready = news.poll(None if wait == float("inf") else max(0.0, wait * 1000))
            if any(descriptor == self._stop for descriptor, _ in ready):
                return
            gap = self._hear()
            if gap is not None:
                due = min(due, last + gap)
            now = time.monotonic()
            if now >= due:
                last, due = now, float("inf")
                self._notify()
            if end.poll(_NAP * 1000):
                return

    def _hear(self) -> float | None:
        """Judge what waits: the shortest gap that was asked for."""
        self._gap = None
        try:
            self._netlink.hear(self._tell, most=_DATAGRAMS, what=self._what)
        except (NetlinkError, struct.error) as error:
            self._judge.lost()
            # ENOBUFS: the socket's queue was full. Anything else may last, and must not make the thread end.
            full = isinstance(error, NetlinkError) and error.errno == errno.ENOBUFS
            return _LOST_GAP if full else _FAILED_GAP
        return self._gap

    def _tell(self, kind: int, buffer: bytearray, start: int, end: int) -> None:
        gap = self._judge.hear(kind, buffer, start, end)
        if gap is not None and (self._gap is None or gap < self._gap):
            self._gap = gap
