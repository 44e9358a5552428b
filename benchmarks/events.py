"""Events one by one: each when the agent has come to rest after the one before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.commits import Heard
from benchmarks.rows import median
from benchmarks.watched import Agent, Node

APART = 37
"""Events go to pods that are no neighbours: every so many."""
_UNMEASURED = 2
# Seconds, so many times in a row, in which an agent at rest uses less CPU than that (the least it can be seen to
# use is a tick of its children's, 10 ms).
_LOOK, _LOOKS, _NEXT_TO_NOTHING = 0.1, 2, 0.005


class Pace(NamedTuple):
    """How long a window is."""

    events: int
    longest: float
    """Seconds, after which no further event comes."""


class Window(NamedTuple):
    """Events one after the other."""

    events: int
    cpu: float
    """Seconds."""
    seconds: float


class Driven:
    """An agent that gets events one by one, in windows; while another gets its own, this one is at rest."""

    def __init__(self, it: Node, agent: Agent, heard: Heard) -> None:
        """It has come to rest then, after some events that are not measured: what is done once is done."""
        self.node = it
        self.agent = agent
        self.taken: list[float] = []
        """Of each event, seconds until its rule was in the kernel."""
        self.programs: list[int] = []
        """Of each event, how many were run."""
        self.windows: list[Window] = []
        self.resting: list[float] = []
        """CPU seconds a second, in the windows of others."""
        self._heard = heard
        self._count = 0
        self._wait_for_rest()
        for _ in range(_UNMEASURED):
            self._drive_one()
        self.taken.clear()
        self.programs.clear()

    def drive(self, pace: Pace) -> Window:
        """A window."""
        before, begun, first = self.agent.cpu(), time.monotonic(), len(self.taken)
        while len(self.taken) < first + pace.events and time.monotonic() < begun + pace.longest:
            self._drive_one()
        used, passed = self.agent.cpu().since(before), time.monotonic() - begun
        self.windows.append(Window(len(self.taken) - first, used.whole, passed))
        return self.windows[-1]

    def _drive_one(self) -> None:
        self._count += 1
        change = self.node.change(self._count * APART)
        self.taken.append(self._heard.arrival(change.address) - change.at)
        self._wait_for_rest()
        self.programs.append(len(self._heard.runs(since=change.at)))

    def _wait_for_rest(self) -> None:
        looks = 0
        while looks < _LOOKS:
            before = self.agent.cpu()
            time.sleep(_LOOK)
            looks = looks + 1 if self.agent.cpu().since(before).whole < _NEXT_TO_NOTHING else 0

    def costs(self) -> list[float]:
        """Of each window, seconds of CPU an event."""
        at_rest = median(self.resting or [0.0])
        return [(each.cpu - at_rest * each.seconds) / each.events for each in self.windows]


def drive_in_turn(nodes: Sequence[Node], pace: Pace, *, windows: int) -> list[Driven]:
    """So many windows for the agent of each node, one agent after the other and that again and again."""
    with ExitStack() as stack:
        driven = []
        for it in nodes:
            agent = stack.enter_context(it.agent())
            driven.append(Driven(it, agent, stack.enter_context(it.hearing(agent))))
        for number in range(windows * len(driven)):
            busy = driven[number % len(driven)]
            others = [(each, each.agent.cpu()) for each in driven if each is not busy]
            window = busy.drive(pace)
            for each, before in others:
                each.resting.append(each.agent.cpu().since(before).whole / window.seconds)
        return driven
