"""The agent of a node: one loop that keeps the rules right, and tells everybody what it did.

Threads that watch the cluster, the host's addresses and the kernel's rules only mark what is to be looked
at; the loop drains the marks, computes, and writes once for all that came in meanwhile.
Nothing is removed before the first full picture of the cluster is in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from kvctl.agent.account import failed_round, round_of
from kvctl.agent.health import Health
from kvctl.agent.inbox import Inbox
from kvctl.agent.keeper import Keeper, Kept
from kvctl.agent.round import Cause, Round
from kvctl.errors import KvctlError
from kvctl.model.objects import Objects
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import witnessed
from kvctl.reconcile.converge import Outcome

if TYPE_CHECKING:
    from kvctl.agent.tenure import Tenure

FULL_COMPARISON = 60.0
"""Seconds after which the kernel is read in full though nothing is known to have changed."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 60.0
"""Seconds before a round that failed is tried again, and the most they become by doubling."""
# The longest that a round may take before the loop counts as hanging: a lock (10 s), and the binaries' time-outs.
_ROUND_SECONDS = 180.0
# kubelet kills 30 s after SIGTERM unless told otherwise.
_HAND_OVER_SECONDS = 15.0
_HAND_OVER_TICK = 0.5


class Cluster(Protocol):
    """What the cluster says, kept current by watches."""

    @property
    def synced(self) -> bool:
        """Whether the first full picture of every kind is in."""

    def objects(self) -> Objects:
        """The picture; the same value while nothing has changed."""


class Output(Protocol):
    """Somebody who is told of each round."""

    def round(self, done: Round) -> None:
        """Take note; never blocks for long, never raises KvctlError."""


class RuleWatch(Protocol):
    """A thread that marks when others change rules."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, at once."""

    def own_writes(self) -> AbstractContextManager[None]:
        """What is written in this block is not marked."""


@dataclass
class _Due:
    """When the loop acts without a mark; monotonic seconds."""

    full: float = 0.0
    retry: float | None = None
    failures: int = 0

    def next(self) -> float:
        return self.full if self.retry is None else min(self.full, self.retry)


class Agent:
    """Runs until `inbox.stop()`. `watch_rules`: makes the thread that sees others' changes of a back end."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        keeper: Keeper,
        inbox: Inbox,
        health: Health,
        outputs: Sequence[Output],
        watch_rules: Callable[[Backend], RuleWatch] | None = None,
        tenure: Tenure | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._keeper = keeper
        self._inbox = inbox
        self._health = health
        self._outputs = outputs
        self._watch_rules = watch_rules
        self._tenure = tenure
        self._clock = clock
        self._now = now
        self._chance = chance
        self._due = _Due()
        self._rules: tuple[Backend, RuleWatch] | None = None
        self._seen: Objects | None = None
        self._unread = False
        self.last: Round | None = None

    def run(self) -> None:
        """The loop."""
        self._health.lacks("the first full picture of the cluster is not in yet")
        try:
            while not self._inbox.stopped:
                self.step(self._drain())
            self._hand_over()
        finally:
            if self._rules is not None:
                self._rules[1].stop()

    def _hand_over(self) -> None:
        """At the end: what is held goes to others in order, if it is to."""
        if self._tenure is None or self._seen is None or not self._tenure.ends(self._seen):
            return
        end = self._clock() + _HAND_OVER_SECONDS
        while self._clock() < end:
            done = self._round({Cause.ELECTION}, self._clock())
            if done is not None:
                self._after(done)
            if self._tenure.is_free(patience=_HAND_OVER_TICK):
                return

    def _drain(self) -> dict[Cause, float]:
        """The marks to act on, each with the time it was made; waits for some."""
        timeout = max(0.0, self._due.next() - self._clock()) if self._seen is not None else FULL_COMPARISON
        self._health.promise(seconds=timeout + _ROUND_SECONDS, doing="waiting for something to change")
        marks = self._inbox.wait(timeout=timeout)
        now = self._clock()
        if self._seen is not None and now >= self._due.next():
            marks.setdefault(Cause.TIMER, now)
        return marks

    def step(self, marks: dict[Cause, float]) -> Round | None:
        """One round for these marks; None: there was nothing to do."""
        if not marks or self._inbox.stopped or not self._cluster.synced:
            return None
        begun = min(marks.values())
        causes = set(marks)
        if self._seen is None:
            causes.add(Cause.START)
        self._health.promise(seconds=_ROUND_SECONDS, doing="comparing the rules")
        done = self._round(causes, begun)
        if done is not None:
            self._after(done)
        return done

    def _round(self, causes: set[Cause], begun: float) -> Round | None:
        try:
            objects = self._cluster.objects()
            causes = self._worth(causes, objects)
            if not causes:
                return None
            read_kernel = self._unread or bool(causes & {Cause.START, Cause.KERNEL, Cause.TIMER})
            asked = bool(causes & {Cause.START, Cause.OBJECTS, Cause.ADDRESSES, Cause.ELECTION})
            self._unread = True
            with self._rules[1].own_writes() if self._rules is not None else nullcontext():
                kept = self._keep(objects, read_kernel=read_kernel, asked=asked)
        except Exception as error:
            # A node without an agent is worse than an agent with a fault: it is told, and the round tried again.
            return failed_round(
                _as_error(error),
                previous=self.last,
                causes=causes,
                duration=self._clock() - begun,
                ended=self._now(),
            )
        self._unread = False
        if read_kernel:
            self._due.full = self._clock() + FULL_COMPARISON * (0.9 + 0.2 * self._chance())
        done = round_of(
            kept.applied,
            kept.wish,
            objects=objects,
            previous=self.last,
            causes=causes,
            duration=self._clock() - begun,
            ended=self._now(),
            contested=kept.contested,
        )
        unplaced = self._tenure.unplaced() if self._tenure is not None else {}
        return replace(
            done,
            errors=(*done.errors, *kept.routing_errors),
            warnings=(*done.warnings, *kept.routing_warnings),
            unplaced=unplaced,
        )

    def _keep(self, objects: Objects, *, read_kernel: bool, asked: bool) -> Kept:
        """The run of the keeper, between what is bound before it and what is given up after it."""
        tenure = self._tenure
        if tenure is None:
            return self._keeper.keep(objects, read_kernel=read_kernel, asked=asked)
        host = tenure.plan(objects, self._keeper.host, reread=self._keeper.reread)

        def follow(outcomes: Sequence[Outcome]) -> None:
            tenure.follow(host, clean=not any(outcome.errors for outcome in outcomes))

        with witnessed(lambda write: tenure.beat(write.family)):
            return self._keeper.keep(objects, read_kernel=read_kernel, asked=asked, host=host, written=follow)

    def _worth(self, causes: set[Cause], objects: Objects) -> set[Cause]:
        """The causes that are more than noise: what they announce is not what it was."""
        left = set(causes)
        if objects is self._seen:
            left.discard(Cause.OBJECTS)
        if left & {Cause.ADDRESSES, Cause.TIMER, Cause.START} and not self._keeper.host_changed():
            left.discard(Cause.ADDRESSES)
        elif left & {Cause.TIMER}:
            left.add(Cause.ADDRESSES)
        if left == {Cause.ELECTION} and self._tenure is not None and not self._tenure.has_work():
            left.clear()
        self._seen = objects
        return left

    def _after(self, done: Round) -> None:
        self.last = done
        if done.failed:
            pause = min(FIRST_RETRY * 2**self._due.failures, LONGEST_RETRY)
            self._due.retry = self._clock() + pause * (0.5 + self._chance())
            self._due.failures = min(self._due.failures + 1, 16)
        else:
            self._due.retry, self._due.failures = None, 0
        if done.complete and not done.restore_failures:
            self._health.complete()
        left = self._keeper.pushback.seconds_left(now=self._clock()) if done.contested else 0.0
        if left:
            self._due.retry = self._clock() + left
        self._follow_rules()
        for output in self._outputs:
            output.round(done)

    def _follow_rules(self) -> None:
        """Watch the rules of the back end that is in use by now."""
        backend = self._keeper.backend
        if self._watch_rules is None or backend is None:
            return
        if self._rules is not None:
            if self._rules[0] is backend:
                return
            self._rules[1].stop()
        watch = self._watch_rules(backend)
        watch.start()
        self._rules = (backend, watch)
        # What happened between the last look and now is seen by one more look.
        self._inbox.mark(Cause.KERNEL)


def _as_error(error: Exception) -> KvctlError:
    if isinstance(error, KvctlError):
        return error
    return KvctlError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a fault of kvctl: please report it, with the lines of the log before it",
    )
