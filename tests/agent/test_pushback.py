"""Patience with a program that undoes our rules: a few repairs at once, then fewer and fewer."""

from __future__ import annotations

from kvctl.agent.pushback import FIRST_PAUSE, LONGEST_PAUSE, PATIENCE, WINDOW, Pushback


def test_the_first_repairs_are_made_at_once() -> None:
    pushback = Pushback()
    for moment in range(PATIENCE):
        assert pushback.seconds_left(now=moment) == 0
        pushback.repaired(now=moment)
    assert not pushback.is_fight
    assert pushback.seconds_left(now=PATIENCE) == 0


def test_then_each_one_waits_twice_as_long_as_the_one_before_up_to_a_bound() -> None:
    pushback, now, pauses = Pushback(), 0.0, []
    for _ in range(PATIENCE + 10):
        pushback.repaired(now=now)
        left = pushback.seconds_left(now=now)
        pauses.append(left)
        now += left
    assert pauses[:PATIENCE] == [0] * PATIENCE
    assert pauses[PATIENCE : PATIENCE + 3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert pushback.is_fight


def test_repairs_that_lie_far_apart_are_never_put_off() -> None:
    pushback = Pushback()
    for number in range(20):
        now = number * (WINDOW + 1)
        assert pushback.seconds_left(now=now) == 0
        pushback.repaired(now=now)
    assert not pushback.is_fight


def test_after_a_while_of_quiet_all_is_forgotten() -> None:
    pushback = Pushback()
    for _ in range(PATIENCE + 1):
        pushback.repaired(now=0)
    pushback.quiet(now=WINDOW)
    assert pushback.is_fight
    pushback.quiet(now=WINDOW + 1)
    assert not pushback.is_fight
    assert pushback.seconds_left(now=WINDOW + 1) == 0
