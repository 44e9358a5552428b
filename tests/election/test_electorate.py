"""Electorates against an API server that behaves, and one that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apiserver import ApiServer, serving
from tests.election.rig import KEY, Node, nodes, record
from tests.waiting import until

Make = Callable[..., Node]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server; nothing that it complains about may be sent to it."""
    with serving() as it:
        yield it


@pytest.fixture
def make(server: ApiServer, tmp_path: Path) -> Iterator[Make]:
    """Makes nodes."""
    with nodes(server, tmp_path) as make:
        yield make


def test_a_lease_that_nobody_has_is_made_and_held(server: ApiServer, make: Make) -> None:
    node = make()
    node.want()
    until(node.holds)
    assert record(server)["holderIdentity"] == "kvctl/worker"
    until(lambda: len(node.renewals) > 2)
    node.unwant()
    assert not node.holds()
    assert node.why() == "no longer wanted here"
    assert record(server)["holderIdentity"] == "kvctl/worker"
    node.tear_down()
    assert node.electorate.released(patience=5)
    assert record(server)["holderIdentity"] == ""
    assert node.electorate.states() == {}
    assert KEY not in node.electorate.leaving()
