"""Whether addresses are free: asked in a thread, many at once, and an answer serves once."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping

import pytest

from kvctl.agent.prober import AGAIN, FRESH, SPACING, Prober
from kvctl.errors import KvctlError
from kvctl.model.net import Address, parse_address
from kvctl.node.announce import Announced
from tests.waiting import until

ONE, OTHER, THIRD = (Announced(parse_address(f"192.168.0.{n}"), "eth1") for n in (1, 2, 3))
MAC = "02:00:00:00:00:01"


class Network:
    """Who answers, and what a prober made of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[set[Announced]] = []
        self.answers: dict[Address, str] = {}
        self.raises: Exception | None = None
        self.silent = threading.Event()
        """Cleared: a probe takes until it is set."""
        self.silent.set()
        self.notified = 0
        self.complaints: list[str] = []
        self.prober = Prober(
            self._ask, notify=self._notify, complain=self.complaints.append, clock=lambda: self.now
        )
        self.prober.start()

    def _ask(self, addresses: Collection[Announced]) -> Mapping[Address, str]:
        self.asked.append(set(addresses))
        assert self.silent.wait(10)
        if self.raises is not None:
            raise self.raises
        return {
            each.address: self.answers[each.address] for each in addresses if each.address in self.answers
        }

    def _notify(self) -> None:
        self.notified += 1

    def probe(self, *addresses: Announced) -> None:
        """Ask, and wait for the answers."""
        before = self.notified
        self.now += SPACING
        self.prober.want(addresses)
        until(lambda: self.notified > before)


@pytest.fixture
def network() -> Iterator[Network]:
    """Nobody answers."""
    made = Network()
    yield made
    made.silent.set()
    made.prober.stop()


def test_what_nobody_answers_for_is_free_once(network: Network) -> None:
    network.probe(ONE)
    assert network.prober.take([ONE]) == {ONE}
    network.silent.clear()
    assert network.prober.take([ONE]) == set()


def test_what_was_not_asked_for_yet_is_asked_for_when_it_is_to_be_taken(network: Network) -> None:
    assert network.prober.take([ONE]) == set()
    until(lambda: network.notified == 1)
    network.now += SPACING
    assert network.prober.take([ONE, OTHER]) == {ONE}
    until(lambda: network.notified == 2)
    assert network.asked == [{ONE}, {OTHER}]


def test_what_comes_just_after_a_probe_began_is_asked_for_together_and_nothing_twice(
    network: Network,
) -> None:
    network.silent.clear()
    network.prober.want([ONE])
    until(lambda: network.asked)
    network.prober.want([ONE, OTHER])
    assert network.prober.take([ONE, OTHER, THIRD]) == set()
    # The first still runs: nobody waits for it to end.
    network.now += SPACING
    network.prober.want([ONE])
    until(lambda: len(network.asked) == 2)
    assert network.asked == [{ONE}, {OTHER, THIRD}]
    network.silent.set()
    until(lambda: network.notified == 2)
    network.prober.want([ONE, OTHER])
    assert network.prober.take([ONE, OTHER, THIRD]) == {ONE, OTHER, THIRD}
    assert len(network.asked) == 2


def test_it_says_whether_there_is_or_will_be_news(network: Network) -> None:
    assert not network.prober.has_news()
    network.silent.clear()
    network.prober.want([ONE])
    assert network.prober.is_asking([ONE, OTHER])
    assert not network.prober.is_asking([OTHER])
    network.silent.set()
    until(lambda: network.notified == 1)
    assert network.prober.has_news()
    assert not network.prober.is_asking([ONE])
    network.prober.take([ONE])
    assert not network.prober.has_news()


def test_an_answer_that_is_old_does_not_count(network: Network) -> None:
    network.probe(ONE)
    network.now += FRESH
    assert network.prober.take([ONE]) == set()
    until(lambda: network.notified == 2)
    assert network.prober.take([ONE]) == {ONE}


def test_what_is_not_free_is_asked_for_again_soon_then_later_and_told_if_that_was_not_enough(
    network: Network,
) -> None:
    network.answers = {ONE.address: "somebody has it"}
    network.probe(ONE, OTHER)
    assert network.prober.take([ONE, OTHER]) == {OTHER}
    assert network.complaints == []
    for pause in (*AGAIN, AGAIN[-1]):
        network.now += pause / 2
        network.prober.want([ONE])
        assert len(network.asked) == 1
        network.now += pause / 2
        network.probe(ONE)
        assert network.asked.pop() == {ONE}
    assert network.prober.obstacle(ONE.address) == "somebody has it"
    assert network.prober.obstacle(OTHER.address) is None
    assert set(network.complaints) == {
        "the VIP 192.168.0.1 is not bound: somebody has it; find who it is, or give the Service another address"
    }
    network.answers = {}
    network.now += AGAIN[-1]
    network.probe(ONE)
    assert network.prober.take([ONE]) == {ONE}
    network.answers = {ONE.address: "somebody has it"}
    network.probe(ONE)
    network.now += AGAIN[0]
    network.asked.clear()
    network.probe(ONE)
    assert network.asked == [{ONE}]


def test_whoever_waits_for_an_address_that_was_taken_is_told_when_it_is_time_to_ask_again() -> None:
    network = Network()
    network.prober.stop()
    network.prober._taken = {ONE.address: network.now + AGAIN[0]}
    network.now += AGAIN[0]
    network.prober._stopped = False
    assert network.prober._next() == frozenset()
    assert network.prober._taken == {}


def test_where_it_cannot_ask_the_next_who_wants_an_answer_hears_why(network: Network) -> None:
    network.raises = KvctlError("no such right")
    network.probe(ONE)
    with pytest.raises(KvctlError, match="no such right"):
        network.prober.take([ONE])
    network.raises = None
    network.now += SPACING
    assert network.prober.take([ONE]) == set()
    until(lambda: network.notified == 2)
    assert network.prober.take([ONE]) == {ONE}
