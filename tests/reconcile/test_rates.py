"""What goes on per second, of counters that a test makes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kvctl.model.flows import Flow, Tuple, Volume
from kvctl.model.net import Family, parse_address
from kvctl.model.policy import EgressPod
from kvctl.reconcile.rates import Rate, Sight, rates, sight, subject_of
from kvctl.reconcile.report import Item, Status

VIP, POD = parse_address("192.0.2.245"), parse_address("10.0.0.1")
ITEM = Item("sip", "sip-client", Family.IPV4, VIP, Status.APPLIED, pods=(EgressPod(POD),), connections=10)
SUBJECT = subject_of(ITEM)


def flow(id: int, *, packets: int, octets: int, pod: str = str(POD), vip: str = str(VIP)) -> Flow:  # noqa: A002
    """A connection that has sent and received as much."""
    target, volume = parse_address("198.51.100.7"), Volume(packets, octets)
    return Flow(
        family=Family.IPV4,
        protocol="udp",
        original=Tuple(parse_address(pod), target, 4000, 5060),
        reply=Tuple(target, parse_address(vip), 5060, 4000),
        id=id,
        sent=volume,
        received=volume,
    )


def look(at: float, *, connections: int = 10, flows: Iterable[Flow] | None = ()) -> Sight:
    return sight([ITEM._replace(connections=connections)], flows, at=at)


def test_of_the_first_look_nothing_is_known() -> None:
    assert rates(None, look(1.0)) == {}


def test_new_connections_are_counted_per_second() -> None:
    assert rates(look(1.0), look(3.0, connections=15))[SUBJECT].connections == 2.5


def test_a_counter_that_began_anew_counts_from_nothing() -> None:
    assert rates(look(1.0), look(2.0, connections=3))[SUBJECT].connections == 3


def test_packets_and_bytes_are_of_both_directions_also_of_what_has_just_begun() -> None:
    before = look(1.0, flows=[flow(1, packets=10, octets=1000)])
    after = look(2.0, flows=[flow(1, packets=15, octets=1500), flow(2, packets=1, octets=60)])
    assert rates(before, after)[SUBJECT] == Rate(0.0, 2 * 6, 2 * 560)


def test_where_a_connection_has_ended_there_was_more() -> None:
    before = look(1.0, flows=[flow(1, packets=10, octets=1000), flow(2, packets=1, octets=60)])
    after = look(2.0, flows=[flow(2, packets=2, octets=120)])
    assert rates(before, after)[SUBJECT] == Rate(0.0, 2, 120, is_least=True)


def test_what_ended_is_counted_where_its_end_was_heard_and_once_only() -> None:
    before = look(1.0, flows=[flow(1, packets=10, octets=1000)])
    item = ITEM._replace(connections=10)
    ended = [flow(1, packets=12, octets=1200), flow(2, packets=3, octets=300)]
    after = sight([item], [], at=2.0, ended=ended)
    assert rates(before, after)[SUBJECT] == Rate(0.0, 2 * (2 + 3), 2 * (200 + 300))
    assert rates(after, look(3.0))[SUBJECT] == Rate(0.0, 0, 0)


def test_what_ended_just_after_the_table_was_read_is_taken_at_its_last_word() -> None:
    before = look(1.0, flows=[flow(1, packets=10, octets=1000)])
    after = sight(
        [ITEM], [flow(1, packets=11, octets=1100)], at=2.0, ended=[flow(1, packets=12, octets=1200)]
    )
    assert rates(before, after)[SUBJECT] == Rate(0.0, 4, 400)
    assert rates(after, look(3.0))[SUBJECT] == Rate(0.0, 0, 0)


def test_where_ends_were_missed_there_was_more() -> None:
    after = sight([ITEM], [], at=2.0, lost=True)
    assert rates(look(1.0), after)[SUBJECT].is_least


@pytest.mark.parametrize("counted", [(None, ()), ((), None), (None, None)])
def test_what_the_kernel_does_not_count_is_not_known(
    counted: tuple[Iterable[Flow] | None, Iterable[Flow] | None],
) -> None:
    first, second = counted
    assert rates(look(1.0, flows=first), look(2.0, flows=second))[SUBJECT] == Rate(0.0)


def test_other_pods_and_other_addresses_are_nobodys() -> None:
    before = look(1.0)
    flows = [flow(1, packets=1, octets=1, pod="10.0.0.2"), flow(2, packets=1, octets=1, vip="192.0.2.9")]
    assert rates(before, look(2.0, flows=flows))[SUBJECT] == Rate(0.0, 0, 0)


def test_a_service_that_has_just_come_has_no_rate_yet() -> None:
    assert rates(sight([], (), at=1.0), look(2.0))[SUBJECT] == Rate()
