"""All elections in which this node takes part: a few threads that send, and one that minds the deadlines.

What `held` says is compared with the clock at the moment of asking, so it is right even in a process that was stopped
meanwhile; the thread of the deadlines only tells that something changed, whatever the others are waiting for.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from kvctl.cluster.leases import micro_time
from kvctl.election.asks import Purpose
from kvctl.election.complaints import Complaints
from kvctl.election.drains import Drains
from kvctl.election.elector import Candidacy, Elector, Holding
from kvctl.election.exchange import Exchange, LeaseStore
from kvctl.election.schedule import Schedule
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey

__all__ = ["Candidacy", "Electorate", "Holding", "LeaseState", "LeaseStore"]

HANDED_OVER = "handed over to other nodes"
_SHORTEST = 0.001
"""Seconds that the deadlines are slept for at least."""


class LeaseState(NamedTuple):
    """How one election is going."""

    key: LeaseKey
    holder: str | None
    """By the record; empty: nobody; None: unknown."""
    held: bool
    leaving: str | None
    """Why it has to be torn down."""
    transitions: int
    last_error: str | None
    releasing: bool = False
    """Torn down, but the server has not been told yet."""


class Electorate:
    """Contends for Leases as `kvctl/<node>`. All methods may be called from any thread, and none waits for a request.

    `notify` is called when what `held` or `leaving` says has changed; `renewed` right after each good acquisition or
    renewal, from the thread that sent it, and while it runs its Lease is neither torn down nor released; `complain`
    hears what somebody has to mend.
    """

    def __init__(
        self,
        leases: LeaseStore,
        *,
        node: str,
        terms: Terms,
        notify: Callable[[], None],
        renewed: Callable[[Holding], None],
        complain: Callable[[str], None],
        workers: int = 4,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._terms = terms
        self._notify = notify
        self._renewed = renewed
        self._clock = clock
        self._chance = chance
        self._wall = wall
        self._electors: dict[LeaseKey, Elector] = {}
        self._shown: dict[LeaseKey, tuple[bool, str | None]] = {}
        """What `held` and `leaving` say of each; absent: nothing."""
        self._news = False
        """They say something new, and `notify` was not called yet."""
        self._telling: set[LeaseKey] = set()
        """Those for which `renewed` is being called."""
        self._complaints = Complaints(complain, clock=clock)
        self._retired = False
        self._stopped = False
        self._schedule = Schedule(workers=workers)
        self._drains = Drains()
        self._lock = threading.Lock()
        self._exchange = Exchange(leases, lock=self._lock, clock=clock, complaints=self._complaints)
        self._work = threading.Condition(self._lock)
        self._timing = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._lookout = math.inf
        """Until when the one worker sleeps that minds the time for all of them; inf: there is none."""
        # A thread that waits for an answer cannot be woken; it must not keep the process.
        self._threads = [
            threading.Thread(target=self._send_all, name=f"election-{number}", daemon=True)
            for number in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._mind, name="election-deadlines", daemon=True))

    # For the agent.

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, patience: float = 1.0) -> None:
        """End the threads; nothing is released, and requests under way get `patience` seconds in all."""
        with self._lock:
            self._stopped = True
            for condition in (self._work, self._timing, self._settled):
                condition.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))

    def contend(self, wanted: Mapping[LeaseKey, Candidacy]) -> None:
        """Take part in these elections, and in no others."""
        with self._lock:
            now = self._clock()
            for key in wanted.keys() - self._electors.keys():
                self._electors[key] = Elector(key, node=self._node, terms=self._terms, chance=self._chance)
            for key, elector in list(self._electors.items()):
                elector.want(wanted.get(key), now=now)
                if self._retired and key in wanted:
                    elector.give_up(HANDED_OVER, now=now)
                self._plan(elector, now)
            changed = self._take_news()
        self._tell(changed=changed)

    def wake(self, key: LeaseKey) -> None:
        """Look now: somebody heard that it may be free."""
        with self._lock:
            elector = self._electors.get(key)
            if elector is not None:
                elector.wake(now=self._clock())
                self._plan(elector, self._clock())

    def hand_over(self, keys: Collection[LeaseKey] | None = None) -> None:
        """Give up these, until they were unwanted once; None: all, for good. `leaving` has what is bound here."""
        with self._lock:
            now = self._clock()
            self._retired |= keys is None
            for key in list(self._electors) if keys is None else keys:
                if (elector := self._electors.get(key)) is not None:
                    elector.give_up(HANDED_OVER, now=now)
                    self._plan(elector, now)
            changed = self._take_news()
        self._tell(changed=changed)

    def held(self) -> Mapping[LeaseKey, Holding]:
        """What may be used now."""
        with self._lock:
            now = self._clock()
            found = (elector.holding(now=now) for elector in self._electors.values())
            return {holding.key: holding for holding in found if holding is not None}

    def leaving(self) -> Mapping[LeaseKey, str]:
        """What is bound to this node and has to be torn down, and why; then `torn_down` has to be called."""
        with self._lock:
            now = self._clock()
            for elector in self._electors.values():
                elector.tick(now=now)
            found = ((key, self._leaving(elector, now)) for key, elector in self._electors.items())
            return {key: why for key, why in found if why is not None}

    def torn_down(self, key: LeaseKey) -> None:
        """Nothing here uses it any more: it is released, if it is this node's still."""
        with self._lock:
            elector = self._electors.get(key)
            if elector is not None:
                elector.torn_down(now=self._clock())
                self._plan(elector, self._clock())
            changed = self._take_news()
        self._tell(changed=changed)

    def released(self, *, patience: float) -> bool:
        """Whether nothing is left to tear down or to release, within `patience` seconds."""
        end = self._clock() + patience
        with self._lock:
            while not self._stopped and any(e.giving_up for e in self._electors.values()):
                if (left := end - self._clock()) <= 0:
                    return False
                self._settled.wait(left)
            return not any(e.giving_up for e in self._electors.values())

    def states(self) -> Mapping[LeaseKey, LeaseState]:
        """How each election is going."""
        with self._lock:
            now = self._clock()
            return {key: _state(elector, now) for key, elector in self._electors.items()}

    # Under the lock.

    def _follow_drain(self, elector: Elector, before: str | None) -> None:
        """Whether its holder freed it, and may be about to free the others that it has."""
        if not before or elector.holder != "":
            return
        now = self._clock()
        for other in self._drains.freed(before, self._electors.values(), now=now):
            self._plan(other, now)

    def _leaving(self, elector: Elector, now: float) -> str | None:
        # `renewed` would bring back at this moment what is torn down; past the deadline it brings back nothing.
        if elector.key in self._telling and now < elector.ends:
            return None
        return elector.leaving

    def _plan(self, elector: Elector, now: float) -> None:
        """After anything that happened to it: what is to be told, when its next turn is, or its end."""
        self._look_at(elector, now)
        if not elector.giving_up:
            self._settled.notify_all()
        if elector.done and not self._schedule.is_taken(elector.key):
            self._electors.pop(elector.key, None)
            self._schedule.put(elector.key, due=math.inf, urgent=False)
            return
        due = elector.due
        self._schedule.put(elector.key, due=due, urgent=elector.pressing)
        if due < self._lookout:
            self._work.notify_all()

    def _look_at(self, elector: Elector, now: float) -> None:
        """Whether `held` or `leaving` says something new of it."""
        held = elector.holding(now=now) is not None
        shown = (held, self._leaving(elector, now))
        if shown == self._shown.get(elector.key, (False, None)):
            return
        self._news = True
        if shown == (False, None):
            del self._shown[elector.key]
        else:
            self._shown[elector.key] = shown
        if held:
            self._timing.notify()

    def _take_news(self) -> bool:
        news, self._news = self._news, False
        return news

    def _tell(self, *, changed: bool) -> None:
        if changed:
            self._complaints.guard(self._notify)

    # The threads.

    def _mind(self) -> None:
        """End what is past its deadline, in time."""
        while True:
            with self._lock:
                if self._stopped:
                    return
                now = self._clock()
                for elector in self._electors.values():
                    self._look_at(elector, now)
                changed = self._take_news()
                if not changed:
                    left = self._next_deadline(now) - now
                    self._timing.wait(None if left == math.inf else max(_SHORTEST, left))
            self._tell(changed=changed)

    def _next_deadline(self, now: float) -> float:
        told = (self._electors[key].ends for key in self._telling)
        deadlines = [elector.deadline for elector in self._electors.values()]
        return min((*deadlines, *(end for end in told if end > now)), default=math.inf)

    def _send_all(self) -> None:
        while (elector := self._take()) is not None:
            try:
                self._serve(elector)
            except Exception as error:
                self._complaints.fault(error)
                with self._lock:
                    elector.failed("a fault of kvctl", now=self._clock())
            finally:
                with self._lock:
                    self._telling.discard(elector.key)
                    self._schedule.done(elector.key)
                    self._plan(elector, self._clock())
                    changed = self._take_news()
                self._tell(changed=changed)

    def _take(self) -> Elector | None:
        """The next one whose turn it is; None: stopped."""
        with self._lock:
            while not self._stopped:
                key = self._schedule.take(now=self._clock())
                if key is not None:
                    # Another one minds the time while this one is away.
                    self._work.notify()
                    return self._electors[key]
                self._rest()
        return None

    def _rest(self) -> None:
        """One worker sleeps until the next turn, the others until they are needed."""
        if self._lookout < math.inf:
            self._work.wait()
            return
        self._lookout = self._schedule.next_due()
        left = self._lookout - self._clock()
        self._work.wait(None if left == math.inf else max(0.0, left))
        self._lookout = math.inf

    def _serve(self, elector: Elector) -> None:
        with self._lock:
            ask = elector.next(now=self._clock(), wall=micro_time(self._wall()))
            before = elector.holder
        if ask is None:
            return
        granted = self._exchange.run(elector, ask)
        with self._lock:
            if ask.purpose is Purpose.LOOK:
                self._follow_drain(elector, before)
            if not granted:
                return
            holding = elector.holding(now=self._clock())
            if holding is None or self._stopped:
                return
            self._telling.add(elector.key)
        self._complaints.guard(lambda: self._renewed(holding))


def _state(elector: Elector, now: float) -> LeaseState:
    held = elector.holding(now=now) is not None
    return LeaseState(
        key=elector.key,
        holder=elector.holder,
        held=held,
        leaving=elector.leaving,
        transitions=elector.transitions,
        last_error=elector.last_error,
        releasing=elector.releasing,
    )
