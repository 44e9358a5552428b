"""Asking an echo again and again from one address, each time by a connection of its own, and what came of it.

A connection of its own, because nat is asked of the first packet only; none waits for another, so that the rate is what
it was told to be also where every answer is lost.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from kvctl.echo.wire import new_nonce, question, read_answer
from kvctl.errors import NetlinkError
from kvctl.model.net import Address
from kvctl.node.lookup import Sought, look_up

LEAST_INTERVAL = 0.01
"""Seconds: nobody loads a network by a typo."""
_RECEIVED = 2048
_LONGEST_ANSWER = 4096
# The end of a connection that leaves nothing behind: neither here, nor in the node's table of connections.
_AT_ONCE = struct.pack("ii", 1, 0)


class Loss(StrEnum):
    """Why there is no answer."""

    SILENCE = "no answer"
    MUTE = "connected, but no answer"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    BROKEN = "broken off"
    UNSENT = "not sent"
    STAYED = "stays in the pod"
    """The destination is an address of the namespace itself: whoever answers there is no echo outside."""


_LOSSES = {
    errno.ECONNREFUSED: Loss.REFUSED,
    errno.ECONNRESET: Loss.BROKEN,
    errno.EPIPE: Loss.BROKEN,
    errno.EHOSTUNREACH: Loss.UNREACHABLE,
    errno.ENETUNREACH: Loss.UNREACHABLE,
    errno.EACCES: Loss.UNREACHABLE,
    errno.ETIMEDOUT: Loss.SILENCE,
    # By the sender's own rules: nobody outside can cause it.
    errno.EPERM: Loss.UNSENT,
}


class Job(NamedTuple):
    """What is to be asked."""

    source: Address
    destination: Address
    port: int
    protocols: tuple[str, ...]
    times: int | None
    """Questions by each protocol; None: until it is stopped."""
    interval: float
    """Seconds between two questions of a protocol."""
    timeout: float
    """Seconds that an answer may take: one that comes later does not count."""
    may_stay: bool = False
    """Whether what ends in the namespace that it is sent from counts, too."""


class Outcome(NamedTuple):
    """What came of one question."""

    protocol: str
    source: Address | None = None
    """What the echo saw; None: `loss` says why that is not known."""
    loss: Loss | None = None


@dataclass(slots=True)
class _Attempt:
    socket: socket.socket
    protocol: str
    nonce: bytes
    until: float
    sent: bool = False
    text: bytes = b""


class Sender:
    """Does one job in the network namespace of the thread that calls `run`; `report` is told each outcome."""

    def __init__(
        self, job: Job, report: Callable[[Outcome], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._report = report
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        # All wait equally long: the first is the one whose time is up first.
        self._open: dict[socket.socket, _Attempt] = {}

    def run(self) -> None:
        """Until every question has its outcome."""
        asked, next_at = 0, self._clock()
        try:
            while self._open or self._job.times is None or asked < self._job.times:
                now = self._clock()
                more = self._job.times is None or asked < self._job.times
                if more and now >= next_at:
                    for protocol in self._job.protocols:
                        self._begin(protocol)
                    asked += 1
                    # What was late is not made up for.
                    next_at = now + self._job.interval
                self._wait(next_at if more else None)
                self._give_up()
        finally:
            for attempt in list(self._open.values()):
                self._close(attempt)
            self._selector.close()

    def _begin(self, protocol: str) -> None:
        job = self._job
        family = socket.AF_INET if job.source.version == 4 else socket.AF_INET6
        attempt = None
        try:
            own = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
            attempt = _Attempt(own, protocol, new_nonce(), self._clock() + job.timeout)
            self._open[own] = attempt
            own.setblocking(False)
            own.bind((str(job.source), 0))
            if not job.may_stay and self._stays(own, protocol):
                self._end(attempt, Outcome(protocol, loss=Loss.STAYED))
                return
            with contextlib.suppress(BlockingIOError):
                own.connect((str(job.destination), job.port))
            self._selector.register(own, selectors.EVENT_WRITE)
        except OSError as error:
            outcome = Outcome(protocol, loss=_LOSSES.get(error.errno or 0, Loss.UNSENT))
            if attempt is None:
                self._report(outcome)
            else:
                self._end(attempt, outcome)

    def _stays(self, own: socket.socket, protocol: str) -> bool:
        """Whether the packet would not leave this namespace; asked each time, for a route may come at any."""
        job = self._job
        sought = Sought(
            job.destination,
            source=job.source,
            protocol=protocol,
            source_port=own.getsockname()[1],
            destination_port=job.port,
        )
        try:
            return look_up(sought).kind == "local"
        except NetlinkError as error:
            raise OSError(errno.EIO, error.message) from error

    def _wait(self, next_at: float | None) -> None:
        times = [attempt.until for attempt in list(self._open.values())[:1]]
        times += [next_at] if next_at is not None else []
        if not times:
            return
        for key, _ in self._selector.select(max(min(times) - self._clock(), 0)):
            assert isinstance(key.fileobj, socket.socket)
            attempt = self._open[key.fileobj]
            try:
                self._read(attempt) if attempt.sent else self._send(attempt)
            except BlockingIOError:
                continue
            except OSError as error:
                loss = _LOSSES.get(error.errno or 0, Loss.BROKEN)
                self._end(attempt, Outcome(attempt.protocol, loss=loss))

    def _send(self, attempt: _Attempt) -> None:
        attempt.socket.send(question(attempt.nonce))
        attempt.sent = True
        self._selector.modify(attempt.socket, selectors.EVENT_READ)

    def _read(self, attempt: _Attempt) -> None:
        received = attempt.socket.recv(_RECEIVED)
        is_tcp = attempt.protocol == "tcp"
        attempt.text = attempt.text + received if is_tcp else received
        for line in attempt.text.splitlines(keepends=True):
            # Another nonce is another question's, or forged: it is not what is waited for.
            found = read_answer(line, nonce=attempt.nonce)
            if found is not None:
                self._end(attempt, Outcome(attempt.protocol, source=found.source))
                return
        if is_tcp and (not received or len(attempt.text) > _LONGEST_ANSWER):
            self._end(attempt, Outcome(attempt.protocol, loss=Loss.BROKEN))

    def _give_up(self) -> None:
        now = self._clock()
        while self._open and (oldest := next(iter(self._open.values()))).until <= now:
            is_connected = oldest.protocol == "tcp" and oldest.sent
            self._end(oldest, Outcome(oldest.protocol, loss=Loss.MUTE if is_connected else Loss.SILENCE))

    def _end(self, attempt: _Attempt, outcome: Outcome) -> None:
        self._close(attempt)
        self._report(outcome)

    def _close(self, attempt: _Attempt) -> None:
        del self._open[attempt.socket]
        with contextlib.suppress(KeyError):
            self._selector.unregister(attempt.socket)
        with contextlib.suppress(OSError):
            attempt.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        attempt.socket.close()
