"""Telling the hosts of a link that addresses are on this host, for as long as they are."""

from __future__ import annotations

import errno
import math
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.node.ethernet import Wire, Wires, open_frames
from kvctl.node.frames import announcement

# Seconds between two looks at the interfaces: a cable that is plugged in elsewhere, or another hardware
# address, is announced this much later at most.
_LOOK_GAP = 1.0
# Seconds until an address is tried again whose frames the kernel had no room for, or whose time was over.
_RETRY_GAP = 0.2
_JOIN_SECONDS = 5.0
_OVER = "the time is over for which it may be announced"


class Announced(NamedTuple):
    """An address that is bound to an interface of this host."""

    address: Address
    interface: str


Until = Callable[[Announced], float]
"""Until when an address may be announced: seconds of the announcer's clock."""


def _for_ever(each: Announced) -> float:
    return math.inf


class AnnounceState(NamedTuple):
    """How the announcing of one address goes."""

    frames: int
    """Sent so far, while it has been announced without a pause."""
    last: float | None
    """When the latest was sent, on the announcer's clock; None: not yet."""
    error: str | None
    """Why none could be sent at the latest attempt, in words."""


class Schedule(NamedTuple):
    """When an address is announced: at once, after each of the gaps of the burst, then for ever. In seconds.

    The gaps of the default exceed the second for which a Linux peer that has just changed its entry
    ignores those answers that are no gratuitous ones (arp(7), locktime).
    """

    burst: tuple[float, ...] = (1.1, 1.1, 1.1, 1.1, 5.0)
    every: float = 45.0
    jitter: float = 0.1
    """The part of `every` by which a gap may be longer or shorter, so that nodes do not announce in step."""

    def gap(self, place: int, *, chance: float) -> float:
        """The time from announcement `place`, counted from 0, to the next; `chance` is from 0 to 1."""
        if place < len(self.burst):
            return self.burst[place]
        return self.every * (1 + self.jitter * (2 * chance - 1))


SCHEDULE = Schedule()


class Announcer:
    """Announces the addresses it was told last, in a thread of its own.

    Frames go into the network namespace that the constructor was called in, which raises KvctlError
    where the kernel allows no such sockets. Whatever keeps an interface from sending is told to
    `complain`, once until it has worked again, from the announcer's thread, which must not be held up;
    the addresses on it get a new burst then, as they do when its hardware address changes. The other
    methods may be called from any thread, and wait at most for the frames of one moment.
    """

    def __init__(
        self,
        *,
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        schedule: Schedule = SCHEDULE,
    ) -> None:
        self._complain = complain
        self._clock = clock
        self._chance = chance
        self._schedule = schedule
        self._changed = threading.Condition()
        self._turns: dict[Announced, _Turn] = {}
        self._until: Until = _for_ever
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        # Only the thread looks at what follows.
        self._wires: dict[str, Wire | str] = {}
        self._troubled: set[str] = set()
        self._look_due = float("-inf")
        with ExitStack() as undo:
            self._socket = undo.enter_context(open_frames(what="cannot announce addresses"))
            self._interfaces = undo.enter_context(Wires())
            undo.pop_all()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End: no frame is sent after this has returned. Calling it again does nothing."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._turns = {}
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else it is still in `complain`, and would meet others' descriptors
            self._socket.close()
            self._interfaces.close()

    def announce(self, wanted: Collection[Announced], *, until: Until = _for_ever) -> None:
        """Announce these and no others.

        One that is new begins its burst at once. Of one that is no longer among them no frame is sent
        after this has returned. `until` is asked right before each frame, from the announcer's thread, and
        must not wait: what has had its time is not sent, whoever was to say so may have been stopped.
        """
        with self._changed:
            if not self._stopping:
                self._until = until
                self._turns = {each: self._turns.get(each) or _Turn() for each in wanted}
                self._changed.notify()

    def burst(self, addresses: Iterable[Announced]) -> None:
        """Begin the burst anew for those of `addresses` that are announced."""
        with self._changed:
            for each in addresses:
                if each in self._turns:
                    self._turns[each].begin_anew()
            self._changed.notify()

    def states(self) -> Mapping[Announced, AnnounceState]:
        """How it goes for each address that is announced."""
        with self._changed:
            return {each: turn.state() for each, turn in self._turns.items()}

    def _run(self) -> None:
        while (names := self._wait()) is not None:
            # Without the lock: the kernel may let this wait while others change interfaces.
            wires = {name: self._interfaces.find(name) for name in names}
            for complaint in self._tick(wires):
                self._complain(complaint)

    def _wait(self) -> set[str] | None:
        """The interfaces in use, as soon as there is something to do; None: the end."""
        with self._changed:
            while not self._stopping:
                due = min((turn.due for turn in self._turns.values()), default=float("inf"))
                wait = min(due, self._look_due) - self._clock() if self._turns else None
                if wait is not None and wait <= 0:
                    return {each.interface for each in self._turns}
                self._changed.wait(wait)
        return None

    def _tick(self, wires: dict[str, Wire | str]) -> list[str]:
        """Send what is due; the complaints about interfaces that worked so far."""
        now = self._clock()
        self._look_due = now + _LOOK_GAP
        failures = {name: wire for name, wire in wires.items() if isinstance(wire, str)}
        worked = set()
        with self._changed:
            for each, turn in self._turns.items():
                name, wire = each.interface, wires.get(each.interface)
                if isinstance(wire, str):
                    turn.error, turn.due = wire, float("inf")  # until the interface is seen to be back
                    continue
                if self._wires.get(name, wire) != wire:
                    turn.begin_anew()
                if wire is None or turn.due > now:  # None: it was added while the kernel was asked
                    continue
                failure = failures.get(name) or self._send(each, turn, wire=wire)
                if failure is None:
                    worked.add(name)
                    self._advance(turn, now=now)
                elif failure is _OVER:  # that is not the interface's fault
                    turn.error, turn.due = failure, now + _RETRY_GAP
                else:
                    failures[name] = failure
                    turn.error, turn.due = failure, now + _RETRY_GAP
        self._wires = wires
        complaints = [_complaint(*each) for each in failures.items() if each[0] not in self._troubled]
        self._troubled = (self._troubled & wires.keys() - worked) | failures.keys()
        return complaints

    def _advance(self, turn: _Turn, *, now: float) -> None:
        turn.error, turn.last = None, now
        turn.due = now + self._schedule.gap(turn.place, chance=self._chance())
        turn.place += 1

    def _send(self, each: Announced, turn: _Turn, *, wire: Wire) -> str | None:
        """Send the frames of one announcement; what kept one from being sent, in words."""
        try:
            for frame in announcement(each.address, mac=wire.mac):
                # What is between these two lines is the time in which a stopped process may lose the right.
                if self._until(each) <= self._clock():
                    return _OVER
                self._socket.sendto(frame, (each.interface, 0))
                turn.frames += 1
        except OSError as error:  # full queues (ENOBUFS, EAGAIN), or the interface has just gone
            return os.strerror(error.errno or errno.EIO).lower()
        return None


@dataclass(slots=True)
class _Turn:
    """When an address is announced next, and what became of it so far."""

    due: float = float("-inf")
    place: int = 0
    frames: int = 0
    last: float | None = None
    error: str | None = None

    def begin_anew(self) -> None:
        """Back to the beginning of the schedule, now."""
        self.due, self.place = float("-inf"), 0

    def state(self) -> AnnounceState:
        return AnnounceState(frames=self.frames, last=self.last, error=self.error)


def _complaint(interface: str, reason: str) -> str:
    return f"cannot announce addresses on interface {interface}: {reason}; trying on"
