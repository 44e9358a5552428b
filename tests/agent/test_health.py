"""Alive is who keeps his promises; ready is who has done it once."""

from __future__ import annotations

from kvctl.agent.health import Health


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_before_its_first_promise_the_loop_is_alive_and_not_ready() -> None:
    health = Health(clock=Clock())
    assert health.alive() == (True, "starting")
    assert health.ready() == (False, "the agent has just started")


def test_a_loop_that_waits_as_long_as_it_said_is_alive() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.promise(seconds=60, doing="waiting for changes")
    clock.now += 60
    assert health.alive() == (True, "waiting for changes")
    clock.now += 5
    assert health.alive() == (False, "the loop should have been heard of 5 s ago: waiting for changes")
    health.promise(seconds=120, doing="writing rules")
    assert health.alive() == (True, "writing rules")


def test_ready_is_what_is_complete_and_lacks_nothing() -> None:
    health = Health(clock=Clock())
    health.lacks("Pods have not been listed yet")
    assert health.ready() == (False, "Pods have not been listed yet")
    health.complete()
    assert health.ready().good


def test_what_another_says_is_missing_is_missing_each_time_it_is_asked() -> None:
    health = Health(clock=Clock())
    said: list[str | None] = ["no Lease could be read", None]
    health.asks(lambda: said.pop(0))
    health.complete()
    assert health.ready() == (False, "no Lease could be read")
    assert health.ready() == (True, "the rules are in the kernel")
