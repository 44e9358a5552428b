"""Marks that wait for the loop."""

from __future__ import annotations

import threading
import time

from kvctl.agent.inbox import Inbox
from kvctl.agent.round import Cause

DEADLINE = 10.0


def test_marks_made_while_nobody_waits_are_all_there_with_the_time_of_the_first() -> None:
    times = iter([1.0, 2.0, 3.0])
    inbox = Inbox(clock=lambda: next(times, 4.0))
    inbox.mark(Cause.OBJECTS)
    inbox.mark(Cause.OBJECTS)
    inbox.mark(Cause.KERNEL)
    assert inbox.wait(timeout=0) == {Cause.OBJECTS: 1.0, Cause.KERNEL: 3.0}
    assert inbox.wait(timeout=0) == {}


def test_a_mark_wakes_who_waits() -> None:
    inbox = Inbox()
    marker = inbox.marker(Cause.ADDRESSES)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(inbox.wait(timeout=DEADLINE)))
    begun = time.monotonic()
    waiting.start()
    marker()
    waiting.join(DEADLINE)
    assert list(found[0]) == [Cause.ADDRESSES]  # type: ignore[call-overload]
    assert time.monotonic() - begun < DEADLINE


def test_a_stop_wakes_who_waits_and_stays() -> None:
    inbox = Inbox()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(inbox.wait(timeout=DEADLINE)))
    waiting.start()
    inbox.stop()
    waiting.join(DEADLINE)
    assert found == [{}]
    assert inbox.stopped
    assert inbox.wait(timeout=DEADLINE) == {}


def test_a_burst_is_one_round_or_a_few() -> None:
    inbox = Inbox()
    rounds = 0

    def burst() -> None:
        for _ in range(500):
            inbox.mark(Cause.OBJECTS)

    marking = threading.Thread(target=burst)
    marking.start()
    while marking.is_alive() or rounds == 0:
        rounds += bool(inbox.wait(timeout=0.05))
    assert 1 <= rounds <= 50
