"""One node's part in the election of one Lease: a state machine without threads, and without a clock of its own.

The goals, and how each is met:

1. Never two. A Lease is held from the answer to a write until `renew_deadline` after that write was *sent*; others
   leave it alone until `duration` after they saw it, which is later. Every write names the version it builds on, so of
   several at once one succeeds. What has been left once is not held again before it was torn down.
2. Release last. A Lease that is given up stays bound to this node until somebody says that nothing here uses it.
3. Hold on. Whatever fails is tried again, with growing patience, until the deadline; a restarted node finds its own
   name in the record, and a Lease deleted by hand is made anew.

One request at a time: `next` says what to send, then one of `granted`, `read`, `conflicted` and `failed` what became of
it. `due` is when to ask `next` again. All times are monotonic seconds, of one clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from kvctl.cluster.leases import Lease
from kvctl.election.asks import Ask, Purpose
from kvctl.election.observed import RELEASED, Observed
from kvctl.election.patience import Patience
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey
from kvctl.model.text import quote

NOT_WANTED = "no longer wanted here"
_MOST_TRANSITIONS = 2**31 - 1
_HOLD_BACK_FOR_A_MOVE = 3


class Candidacy(NamedTuple):
    """That this node wants a Lease."""

    ready: bool
    """This node's best pod of the Service is Ready; others go first if not."""


class Holding(NamedTuple):
    """A Lease that is held; times are monotonic seconds."""

    key: LeaseKey
    sent: float
    """When the last good renewal was sent."""
    deadline: float
    """From then on nothing here may use it."""
    until: float
    """Before then nobody else may take it."""


class Elector:
    """See the module. `chance` gives numbers from 0 up to 1; `node` is who asks."""

    def __init__(self, key: LeaseKey, *, node: str, terms: Terms, chance: Callable[[], float]) -> None:
        self.key = key
        self.leaving: str | None = None
        """Why it has to be torn down, from then until `torn_down`."""
        self.last_error: str | None = None
        """None: the last request was answered as it should be."""
        self._node = node
        self._identity = f"kvctl/{node}"
        self._terms = terms
        self._patience = Patience(terms=terms, chance=chance)
        self._candidacy: Candidacy | None = None
        self._observed = Observed(terms=terms)
        self._asked: Ask | None = None
        self._sent: float | None = None
        """Of the last good renewal, while it is held or being torn down."""
        self._until = -math.inf
        self._mine: Lease | None = None
        """As last written by this node."""
        self._retired = False
        self._lapsed = False
        self._releasing = False
        self._maybe_ours = False
        """A write of which no answer came."""
        self._stale = False
        self._woken = False
        self._due = -math.inf

    # What is the case.

    def holding(self, *, now: float) -> Holding | None:
        """What may be used now."""
        self.tick(now=now)
        if self._sent is None or self.leaving is not None:
            return None
        return Holding(
            self.key, self._sent, self._sent + self._terms.renew_deadline, self._sent + self._terms.duration
        )

    @property
    def deadline(self) -> float:
        """When `tick` has to be called; inf: nothing is held."""
        if self._sent is None or self.leaving is not None:
            return math.inf
        return self._sent + self._terms.renew_deadline

    @property
    def due(self) -> float:
        """When `next` has something to send; inf: not before something happens."""
        if self._asked is not None or not (self._releasing or self._contends):
            return math.inf
        return self._due

    @property
    def urgent(self) -> bool:
        """Whether the next request is about a Lease that is bound to this node."""
        return self._releasing or self._sent is not None or self._names_us

    @property
    def pressing(self) -> bool:
        """Whether it goes before others: it is urgent, or takes at once what its holder was seen to have freed."""
        lease = self._observed.lease
        freed = lease is not None and not lease.holder and lease.duration <= RELEASED
        return self.urgent or (freed and self._contends and not self._stale and self.last_error is None)

    @property
    def done(self) -> bool:
        """Nothing is wanted, bound to this node or under way: it can be forgotten."""
        return self._candidacy is None and self._asked is None and not (self._releasing or self.leaving)

    @property
    def releasing(self) -> bool:
        """It was torn down, and the server does not know it yet."""
        return self._releasing

    @property
    def giving_up(self) -> bool:
        """It has to be torn down or released, or may have to be when an answer comes."""
        under_way = self._asked is not None and not self._contends
        return under_way or self._releasing or self.leaving is not None

    @property
    def ends(self) -> float:
        """When the last good renewal ends; -inf: there is none to be torn down."""
        return -math.inf if self._sent is None else self._sent + self._terms.renew_deadline

    @property
    def holder(self) -> str | None:
        """Who holds it by the record; empty: nobody; None: not known."""
        lease = self._observed.lease
        return lease.holder if lease is not None else "" if self._observed.known else None

    @property
    def transitions(self) -> int:
        """How often it changed hands, by the record."""
        return self._observed.lease.transitions if self._observed.lease is not None else 0

    @property
    def _contends(self) -> bool:
        return self._candidacy is not None and not self._retired and self.leaving is None

    @property
    def _names_us(self) -> bool:
        return self._observed.lease is not None and self._observed.lease.holder == self._identity

    # What happens here.

    def want(self, candidacy: Candidacy | None, *, now: float) -> None:
        """Contend for it, or (None) no longer."""
        self.tick(now=now)
        if candidacy is None:
            self._candidacy, self._retired = None, False
            self._abandon(NOT_WANTED)
        elif candidacy != self._candidacy:
            self._candidacy = candidacy
            if self._sent is None:
                self._due = min(self._due, now)

    def give_up(self, why: str, *, now: float) -> None:
        """Leave it to others, until it was unwanted once."""
        self.tick(now=now)
        self._retired = True
        self._abandon(why)

    def wake(self, *, now: float) -> None:
        """Look now: it may be free."""
        if self._sent is None and not self._releasing:
            self._due, self._stale, self._woken = now, True, self._asked is not None

    def torn_down(self, *, now: float) -> None:
        """Nothing here uses it any more: from now on it is released, if it is still ours."""
        if self.leaving is None:
            return
        self.leaving, self._sent = None, None
        self._releasing, self._due = True, now
        self._patience.reset()
        self._settle()

    def tick(self, *, now: float) -> None:
        """Look at the time: leave what is past its deadline."""
        if now >= self.deadline:
            why = f": {self.last_error}" if self.last_error else ""
            self.leaving = f"not renewed within {self._terms.renew_deadline:g} s{why}"
            self._lapsed = True

    # Requests.

    def next(self, *, now: float, wall: str) -> Ask | None:
        """What to send now; `wall` is the time of day as the API writes it. None: nothing yet."""
        self.tick(now=now)
        if now < self.due:
            return None
        self._asked = self._releasing_ask(wall) if self._releasing else self._contending_ask(now, wall)
        return self._asked

    def granted(self, lease: Lease, *, sent: float, now: float) -> None:
        """The write was done, and `lease` is what it made; `sent` is a time before it was sent."""
        self._answered(lease, now=now)
        self._patience.reset()
        if self._names_us:
            self._mine, self._until = lease, sent + self._terms.duration
            self._hold(sent, now=now)
        self._follow(now)

    def read(self, lease: Lease | None, *, now: float) -> None:
        """What there is; None: no such Lease, which is an answer to an update as well."""
        self._answered(lease, now=now)
        self._due = now
        self._follow(now)

    def conflicted(self, *, now: float) -> None:
        """Another's write came first (409): what is there now has to be read."""
        self._asked, self._stale = None, True
        self._patience.answered()
        self.last_error = "another wrote the Lease in the same moment"
        self.tick(now=now)
        self._due = now + self._patience.after_conflict()
        self._abandon_if_unwanted()

    def failed(self, error: str, *, now: float, retry_after: float | None = None) -> None:
        """No answer, or a refusal; `retry_after`: how many seconds the server asks to wait."""
        ask, self._asked = self._asked, None
        if ask is not None and ask.purpose is Purpose.CLAIM:
            self._maybe_ours, self._until = True, max(self._until, now + self._terms.duration)
        self.last_error = error
        self.tick(now=now)
        pause = self._patience.after_failure(bound=self.urgent)
        # However long the server asks to wait: one more try is made while there is something to lose, and a candidate
        # does not sleep through a Lease that runs out.
        longest = max(pause, min(self.deadline - self._terms.retry_period - now, self._terms.duration))
        self._due = now + min(max(pause, retry_after or 0.0), longest)
        if self._releasing and now >= self._until:
            # Others take it by themselves by now, and what is known of it is of yesterday.
            self._releasing = self._maybe_ours = False
            self._observed = Observed(terms=self._terms)
        self._abandon_if_unwanted()

    # Inside.

    def _releasing_ask(self, wall: str) -> Ask:
        lease = self._observed.lease
        if self._stale or self._maybe_ours or lease is None:
            return self._look()
        freed = lease._replace(holder="", duration=RELEASED, renewed=wall)
        return Ask(Purpose.RELEASE, freed, self._patience.for_an_answer())

    def _contending_ask(self, now: float, wall: str) -> Ask:
        if self._stale or not (self._sent is not None or now >= self._start()):
            ask = self._look()
        else:
            ask = Ask(Purpose.CLAIM, self._claim(wall), self._patience.for_an_answer())
        return ask._replace(patience=min(ask.patience, self.deadline - now), not_after=self.deadline)

    def _look(self) -> Ask:
        return Ask(Purpose.LOOK, Lease(self.key), self._patience.for_an_answer())

    def _claim(self, wall: str) -> Lease:
        """The record with this node as its holder."""
        there = self._observed.lease or Lease(self.key)
        if self._sent is not None and self._mine is not None:
            acquired, transitions = self._mine.acquired, self._mine.transitions
        elif self._names_us:
            acquired, transitions = there.acquired, there.transitions
        else:
            # A new Lease has changed hands as little as none.
            acquired, transitions = wall, there.transitions + (1 if there.version else 0)
        return there._replace(
            holder=self._identity,
            duration=self._terms.written,
            transitions=min(transitions, _MOST_TRANSITIONS),
            acquired=acquired or wall,
            renewed=wall,
            move_to=None,
        )

    def _hold(self, sent: float, *, now: float) -> None:
        """It is ours by the record; whether it may be used is another question."""
        if not self._contends or self._releasing or now >= sent + self._terms.renew_deadline:
            return
        self._due = sent + self._patience.between_renewals(first=self._sent is None)
        self._sent, self._lapsed = sent, False

    def _follow(self, now: float) -> None:
        """What the new record means."""
        lease = self._observed.lease
        if self._sent is not None and self.leaving is None and lease is not None:
            if lease.holder not in ("", self._identity):
                self.leaving = f"taken by {quote(lease.holder)}"
            elif lease.move_to not in (None, self._node):
                self.leaving = f"asked to move to {quote(lease.move_to or '')}"
        self._settle()
        self._abandon_if_unwanted()
        if self._sent is None and not self._releasing and self._contends:
            self._due = self._next_look(now)

    def _settle(self) -> None:
        """End the release when there is nothing to release."""
        if self._releasing and not (self._names_us or self._stale or self._maybe_ours):
            self._releasing = False

    def _next_look(self, now: float) -> float:
        start = self._start()
        if self._woken or now >= start:
            self._stale, self._woken = self._woken, False
            return now
        self._patience.reset()
        return min(now + self._patience.between_looks(), start + self._patience.before_taking())

    def _start(self) -> float:
        """From when on this node may take it."""
        if self._names_us:
            return -math.inf
        lease, period = self._observed.lease, self._terms.retry_period
        if lease is not None and lease.anothers:
            return math.inf
        named = lease.move_to if lease is not None else None
        if named == self._node:
            return self._observed.free_at()
        if named is not None:
            return self._observed.free_at() + _HOLD_BACK_FOR_A_MOVE * period
        back = self._lapsed or (self._candidacy is not None and not self._candidacy.ready)
        return self._observed.free_at() + (period if back else 0.0)

    def _abandon(self, why: str) -> None:
        """Whatever binds it to this node has to be undone, first of all what uses it."""
        if self.leaving is not None or self._releasing:
            return
        if self._sent is not None or self._names_us or self._maybe_ours:
            self.leaving = why

    def _abandon_if_unwanted(self) -> None:
        if self._asked is None and (self._candidacy is None or self._retired):
            self._abandon(NOT_WANTED)

    def _answered(self, lease: Lease | None, *, now: float) -> None:
        self._asked, self._stale, self._maybe_ours, self.last_error = None, False, False, None
        self._patience.answered()
        self._observed.see(lease, now=now)
        self.tick(now=now)
