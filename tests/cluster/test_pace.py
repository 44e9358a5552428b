"""Patience: delays that double, jitter, and when the first delay comes again."""

from __future__ import annotations

import pytest

from kvctl.cluster.pace import BackOff, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace(clock: Clock, *, chance: float = 0.0) -> Pace:
    return Pace(now=lambda: clock.now, chance=lambda: chance)


def test_delays_double_from_four_fifths_of_a_second_to_half_a_minute(clock: Clock) -> None:
    back_off = BackOff(pace(clock))
    delays = [back_off.failed() for _ in range(8)]
    assert delays == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_chance_adds_up_to_as_much_again(clock: Clock) -> None:
    assert BackOff(pace(clock, chance=0.5)).failed() == pytest.approx(1.2)


def test_two_healthy_minutes_bring_the_first_delay_back(clock: Clock) -> None:
    back_off = BackOff(pace(clock))
    for _ in range(5):
        back_off.failed()
    back_off.contact()
    clock.now += 119
    back_off.contact()
    assert back_off.failed() == pytest.approx(25.6)
    back_off.contact()
    clock.now += 120
    assert back_off.failed() == pytest.approx(0.8)


def test_time_without_contact_is_not_healthy(clock: Clock) -> None:
    back_off = BackOff(pace(clock))
    for _ in range(5):
        back_off.failed()
    clock.now += 10_000
    assert back_off.failed() == pytest.approx(25.6)


def test_the_server_may_ask_for_more_but_not_for_less(clock: Clock) -> None:
    back_off = BackOff(pace(clock))
    assert back_off.failed(retry_after=7) == 7
    assert back_off.failed(retry_after=0) == pytest.approx(1.6)
    assert back_off.failed(retry_after=86400) == 60


def test_a_server_that_is_away_for_weeks_overflows_nothing(clock: Clock) -> None:
    back_off = BackOff(pace(clock))
    assert [back_off.failed() for _ in range(5000)][-1] == 30.0


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 300), (0.5, 450), (0.999, 599)])
def test_watches_of_many_nodes_end_at_different_times(clock: Clock, chance: float, seconds: int) -> None:
    assert pace(clock, chance=chance).watch_seconds() == seconds
