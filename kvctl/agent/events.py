"""Kubernetes Events on Services: told when something changes, counted when it comes again, never a flood."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kvctl.agent.notes import Note, Reason, disputes_of, incidents_of, state_of
from kvctl.agent.outbox import Limits, Outbox
from kvctl.agent.round import Round, Subject
from kvctl.cluster.events import Sender, ServiceEvent, count_event, create_event
from kvctl.model.ref import ServiceRef

WHAT = "events"
COUNT_SECONDS = 300.0
"""The same Event is counted on at most so often."""
BURST, REFILL_SECONDS = 10, 60.0
"""New Events of one Service: so many at once, then one each so many seconds."""
_MOST_REMEMBERED = 4096


class _Letter(NamedTuple):
    event: ServiceEvent
    times: int
    is_state: bool
    """It says how things stand, not what happened: told once, it need not be told again by a restarted agent."""

    @property
    def namespace(self) -> str:
        return self.event.ref.namespace


@dataclass
class _Told:
    letter: _Letter
    at: float
    more: int = 0
    """How often it came again since it was last sent."""


@dataclass
class _Allowance:
    left: float
    at: float

    def refill(self, now: float) -> None:
        self.left = min(BURST, self.left + (now - self.at) / REFILL_SECONDS)
        self.at = now


class Events:
    """Tells each round's news; `complain` and `count` as for `Outbox`. `node`: the name of this one."""

    def __init__(
        self,
        connection: Sender,
        *,
        node: str,
        complain: Callable[[str], None],
        count: Callable[[str, str], None] = lambda what, result: None,
        limits: Limits = Limits(),  # noqa: B008 (a value)
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._clock = clock
        self._count = count
        self._states: dict[Subject, Note] = {}
        self._disputes: dict[tuple[ServiceRef, Reason], Note] = {}
        self._told: dict[str, _Told] = {}
        self._allowances: dict[ServiceRef, _Allowance] = {}
        self._teller = _Teller(connection, node=node, now=now)
        self._outbox: Outbox[_Letter] = Outbox(
            self._teller.tell, what=WHAT, complain=complain, count=count, limits=limits, clock=clock
        )

    def start(self) -> None:
        """Begin to send."""
        self._outbox.start()

    def stop(self, *, patience: float = 0.0) -> None:
        """End; what waits gets `patience` seconds."""
        self._outbox.stop(patience=patience)

    def round(self, done: Round) -> None:
        """Tell what is new. What could not be looked at is no news."""
        if not done.complete:
            return
        self._tell_states(done)
        for turn in done.turns:
            for note in incidents_of(turn, done, node=self._node):
                self._tell(note, done, is_state=False)
                if note.reason is Reason.REMOVED:
                    self._states.pop(Subject(note.ref, turn.item.family), None)
        disputes = {(note.ref, note.reason): note for note in disputes_of(done, node=self._node)}
        for what, note in disputes.items():
            if self._disputes.get(what) != note:
                self._tell(note, done, is_state=True)
        self._disputes = disputes
        self._count_on()
        self._forget(done)

    def _tell_states(self, done: Round) -> None:
        """A state that is none of this node's for a while (its pods restart) is no news when it comes back."""
        for item in done.items:
            note = state_of(item, done, node=self._node)
            if item.ref is None or note is None:
                continue
            subject = Subject(item.ref, item.family)
            if self._states.get(subject) != note:
                self._states[subject] = note
                self._tell(note, done, is_state=True)

    def _tell(self, note: Note, done: Round, *, is_state: bool) -> None:
        service = done.services.get(note.ref)
        if service is None:  # it has gone, or cannot be read: nobody would find the Event
            return
        event = ServiceEvent(
            ref=note.ref,
            uid=service.uid,
            type=note.type,
            reason=note.reason,
            message=note.message,
            node=self._node if note.about_node else None,
        )
        told = self._told.get(event.name)
        if told is not None:
            told.more += 1
        elif not self._may(note.ref):
            self._count(WHAT, "dropped")
        else:
            self._send(event.name, _Letter(event, 1, is_state))

    def _count_on(self) -> None:
        now = self._clock()
        for name, told in list(self._told.items()):
            if told.more and now - told.at >= COUNT_SECONDS:
                self._send(name, told.letter._replace(times=told.more, is_state=False))

    def _send(self, name: str, letter: _Letter) -> None:
        self._told.pop(name, None)
        if len(self._told) >= _MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        if self._outbox.put(name, letter):
            self._told[name] = _Told(letter, self._clock())

    def _may(self, ref: ServiceRef) -> bool:
        """Whether this Service has an Event left: a tenant who flaps is told less."""
        now = self._clock()
        allowance = self._allowances.setdefault(ref, _Allowance(BURST, now))
        allowance.refill(now)
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    def _forget(self, done: Round) -> None:
        """Of Services that are no more nothing is kept, but what a Service has spent that may come again."""
        for subject in [s for s in self._states if s.ref not in done.services]:
            del self._states[subject]
        for ref in self._allowances.keys() - done.services.keys():
            self._allowances[ref].refill(self._clock())
            if self._allowances[ref].left == BURST or len(self._allowances) > _MOST_REMEMBERED:
                del self._allowances[ref]


class _Teller:
    """Spells Events to the API; for the thread of the outbox alone."""

    def __init__(self, connection: Sender, *, node: str, now: Callable[[], float]) -> None:
        self._connection = connection
        self._node = node
        self._now = now
        self._counts: dict[str, int] = {}

    def tell(self, letter: _Letter) -> None:
        """Create the Event, or count it on. Raises ClusterError."""
        name, at = letter.event.name, self._now()
        known = self._counts.pop(name, None)
        if known is None and self._create(letter, at):
            self._remember(name, letter.times)
            return
        if known is None:
            if letter.is_state:
                return
            known = count_event(self._connection, letter.event, count=None, at=at)
        count = (
            count_event(self._connection, letter.event, count=known + letter.times, at=at)
            if known is not None
            else None
        )
        if count is None:
            self._create(letter, at)
            count = letter.times
        self._remember(name, count)

    def _create(self, letter: _Letter, at: float) -> bool:
        return create_event(self._connection, letter.event, teller=self._node, count=letter.times, at=at)

    def _remember(self, name: str, count: int) -> None:
        if len(self._counts) >= _MOST_REMEMBERED:
            del self._counts[next(iter(self._counts))]
        self._counts[name] = count
