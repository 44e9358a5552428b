"""Marks that wait for the loop."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

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


def test_a_signal_between_any_two_lines_of_waiting_ends_it() -> None:
    """A handler runs in the thread that waits, also between its last look and its sleep."""

    def stopped_at(line: int) -> bool:
        """Whether waiting came to its `line`-th line, where it is told to stop; it has ended when this returns."""
        inbox, lines, came = Inbox(), itertools.count(), threading.Event()

        def trace(frame: FrameType, event: str, value: object) -> Callable[..., Any]:
            if event == "line" and next(lines) == line:
                inbox.stop()
                came.set()
            return trace

        def wait() -> None:
            sys.settrace(trace)
            inbox.wait(timeout=6 * DEADLINE)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        reached = came.wait(0.5)
        if not reached:
            inbox.stop()
        waiting.join(DEADLINE)
        assert not waiting.is_alive(), f"stopped at line {line}, it waits on"
        return reached

    assert sum(itertools.takewhile(bool, map(stopped_at, itertools.count()))) > 1


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
