"""What one freed Lease says about the others of its holder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.cluster.leases import Lease
from kvctl.election.drains import PAUSE, Drains
from kvctl.election.elector import Candidacy, Elector
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey
from tests.apiserver import ApiServer, serving
from tests.election.rig import lease, nodes
from tests.waiting import until

TERMS = Terms(300.0, 200.0, 100.0)
"""Nobody looks again by itself while a test runs."""
KEYS = [LeaseKey("sip", f"kubevip-s{number}") for number in range(5)]


def candidate(key: LeaseKey, *, of: str) -> Elector:
    """One who has seen at 0.0 that another holds it."""
    one = Elector(key, node="here", terms=TERMS, chance=lambda: 0.5)
    one.want(Candidacy(ready=True), now=0.0)
    one.next(now=0.0, wall="")
    one.read(Lease(key, holder=of, duration=300, version="1"), now=0.0)
    return one


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server."""
    with serving() as it:
        yield it


def test_the_others_of_the_same_holder_are_looked_at_after_a_pause() -> None:
    ours, others = candidate(KEYS[0], of="kvctl/a"), candidate(KEYS[1], of="kvctl/b")
    assert Drains().freed("kvctl/a", [ours, others], now=1.0) == [ours]
    assert ours.due == 1.0 + PAUSE
    assert others.due > 50


def test_many_that_are_freed_together_mean_one_look_at_each_of_the_rest() -> None:
    drains, one = Drains(), candidate(KEYS[0], of="kvctl/a")
    assert drains.freed("kvctl/a", [one], now=1.0) == [one]
    assert drains.freed("kvctl/a", [one], now=1.1) == []
    one.next(now=1.0 + PAUSE, wall="")
    one.read(Lease(KEYS[0], holder="kvctl/a", duration=300, version="1"), now=1.5)
    assert drains.freed("kvctl/a", [one], now=1.5) == [one]


def test_one_that_is_to_be_looked_at_sooner_anyway_is_left_alone() -> None:
    one = candidate(KEYS[0], of="kvctl/a")
    one.wake(now=1.2)
    assert Drains().freed("kvctl/a", [one], now=1.0) == []
    assert one.due == 1.2


def test_a_candidate_that_hears_of_one_freed_lease_has_all_of_them_soon(
    server: ApiServer, tmp_path: Path
) -> None:
    def write(holder: str, seconds: int) -> None:
        for key in KEYS:
            server.put("leases", lease(key, holderIdentity=holder, leaseDurationSeconds=seconds))

    write("kvctl/other", 300)
    with nodes(server, tmp_path) as make:
        node = make(terms=TERMS)
        node.want(*KEYS)
        until(lambda: {s.holder for s in node.electorate.states().values()} == {"kvctl/other"})
        write("", 1)
        node.electorate.wake(KEYS[0])
        until(lambda: node.electorate.held().keys() == set(KEYS), seconds=10)
