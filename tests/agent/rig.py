"""An agent in process, inside a lab's worker or a bare namespace, fed by hand instead of by a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvctl.agent.agent import Agent
from kvctl.agent.health import Health
from kvctl.agent.inbox import Inbox
from kvctl.agent.keeper import Keeper
from kvctl.agent.round import Cause, Round
from kvctl.lab.netns import Namespace
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.netfilter.watching import RuleChanges
from kvctl.node.changes import HostChanges
from tests.builders import Thing, objects

DEADLINE = 30.0
"""Seconds for what should take one; nothing waits so long unless it fails."""


class HandFed:
    """A cluster that says what a test makes it say."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._objects = Objects()
        self.synced = False

    def objects(self) -> Objects:
        """As last said."""
        return self._objects

    def say(self, *things: Thing, **changes: object) -> None:
        """The cluster is now these things, and in sync."""
        self._objects = objects(*things, from_api=True)._replace(**changes)  # type: ignore[arg-type]
        self.synced = True
        self._inbox.mark(Cause.OBJECTS)


@dataclass
class Rig:
    """A running agent and what it said."""

    cluster: HandFed
    agent: Agent
    keeper: Keeper
    inbox: Inbox
    health: Health
    rounds: list[Round] = field(default_factory=list)

    def round(self, done: Round) -> None:
        """Take note, as outputs do."""
        self.rounds.append(done)

    def wait_for(self, what: Callable[[Round], bool], *, after: int = 0) -> Round:
        """The first round, of those after the first `after`, for which this is true."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            for done in self.rounds[after:]:
                if what(done):
                    return done
            time.sleep(0.005)
        raise AssertionError(f"no such round; there were {[_shown(r) for r in self.rounds]}")

    def say(self, *things: Thing, **changes: object) -> Round:
        """The cluster is now these things; the round that follows."""
        after = len(self.rounds)
        self.cluster.say(*things, **changes)
        said = self.cluster.objects()
        return self.wait_for(lambda done: done.objects is said, after=after)


def _shown(done: Round) -> str:
    items = ", ".join(f"{item.ref} {item.status}" for item in done.items)
    return f"{sorted(done.causes)}: {items or 'no item'} {[str(e) for e in done.errors]}"


@contextmanager
def running(
    namespace: Namespace,
    *,
    settings: Settings,
    told: bool | None = None,
    watches: bool = True,
) -> Iterator[Rig]:
    """An agent in a thread of its own inside `namespace`; `watches`: it sees others' changes as in a cluster."""
    inbox = Inbox()
    health = Health()
    keeper = Keeper(
        settings=settings, told=told, keep_connections=False, clock=time.monotonic, lock_timeout=30.0
    )
    cluster = HandFed(inbox)
    outputs: list[Rig] = []
    failures: list[BaseException] = []

    def run() -> None:
        with namespace.entered():
            host = HostChanges(inbox.marker(Cause.ADDRESSES)) if watches else None
            if host is not None:
                host.start()
            try:
                agent.run()
            except BaseException as error:
                failures.append(error)
                raise
            finally:
                if host is not None:
                    host.stop()

    agent = Agent(
        cluster=cluster,
        keeper=keeper,
        inbox=inbox,
        health=health,
        outputs=outputs,
        watch_rules=(lambda backend: RuleChanges(backend, inbox.marker(Cause.KERNEL))) if watches else None,
    )
    rig = Rig(cluster=cluster, agent=agent, keeper=keeper, inbox=inbox, health=health)
    outputs.append(rig)
    thread = threading.Thread(target=run, name="agent")
    thread.start()
    try:
        yield rig
    finally:
        inbox.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the agent does not stop"
    assert not failures
