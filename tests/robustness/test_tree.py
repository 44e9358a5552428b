"""What is told of Services when the tree that leads to them changes: of each its own changes, and no more."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kvctl.model.net import Family, parse_address
from kvctl.model.objects import Objects
from kvctl.policy.prefixes import MAX_LEAF
from kvctl.reconcile.changed import Action, action_on, changed_items
from kvctl.reconcile.run import Applied
from tests.builders import objects, pod, service
from tests.conftest import MakeNamespace
from tests.robustness.node import Node

VIPS = {Family.IPV4: "192.168.0.245", Family.IPV6: "2001:db8:1::245"}
STARTS = {Family.IPV4: "10.0.0.1", Family.IPV6: "fd00:10::1"}


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    return Node(make_namespace(), backend=backend)


def address(family: Family, number: int) -> str:
    start = parse_address(STARTS[family])
    return str(type(start)(int(start) + number * 5))


def services(family: Family, numbers: Iterable[int]) -> Objects:
    """A Service for each number, of one pod."""
    numbers = list(numbers)
    return objects(
        *(service(f"a/s{n}", vip=VIPS[family], ports=f"udp:{5000 + n}") for n in numbers),
        *(pod(f"a/s{n}-0", address(family, n)) for n in numbers),
    )


def told(applied: Applied) -> dict[str, Action]:
    """What apply says that it did."""
    actions = {str(item.ref): action_on(item, applied) for item in changed_items(applied)}
    return {name: action for name, action in actions.items() if action is not None}


@pytest.fixture
def full(node: Node, family: Family) -> Node:
    """As many pods as one leaf may have."""
    node.apply(services(family, range(MAX_LEAF)))
    assert "KVCTL-IN-" not in node.save(family=family)
    return node


def test_a_pod_more_than_a_leaf_holds_is_no_change_of_the_others(full: Node, family: Family) -> None:
    applied = full.apply(services(family, range(MAX_LEAF + 1)))
    assert "KVCTL-IN-" in full.save(family=family)
    assert told(applied) == {f"a/s{MAX_LEAF}": Action.ADDED}


def test_a_pod_less_joins_leaves_and_is_no_change_of_the_others(full: Node, family: Family) -> None:
    full.apply(services(family, range(MAX_LEAF + 1)))
    applied = full.apply(services(family, range(1, MAX_LEAF + 1)), prune=True)
    assert "KVCTL-IN-" not in full.save(family=family)
    assert told(applied) == {"a/s0": Action.REMOVED}


def test_a_pod_that_a_service_loses_with_its_leaf_is_its_change(full: Node, family: Family) -> None:
    many = services(family, range(MAX_LEAF + 1))
    full.apply(many)
    bare = tuple(each for each in many.pods if each.name != "s0-0")
    more = pod("a/s1-1", address(family, 40))
    full.apply(Objects(services=many.services, pods=(*bare, more)))
    applied = full.apply(Objects(services=many.services, pods=bare))
    assert told(applied) == {"a/s1": Action.UPDATED}


def test_a_second_service_of_a_pod_needs_no_gate_of_its_own(full: Node, family: Family) -> None:
    many = services(family, range(MAX_LEAF))
    second = service("a/second", vip=VIPS[family], ports="tcp:1", selector={"app": "s0"})
    wanted = Objects(services=(*many.services, second), pods=many.pods)
    before = full.save(family=family).count("KVCTL-EGRESS -s")
    assert told(full.apply(wanted)) == {"a/second": Action.ADDED}
    assert full.save(family=family).count("KVCTL-EGRESS -s") == before


def test_a_gate_that_is_missing_is_a_change_of_the_services_of_its_pod_alone(
    full: Node, family: Family
) -> None:
    many = services(family, range(MAX_LEAF + 1))
    second = service("a/second", vip=VIPS[family], ports="tcp:1", selector={"app": "s0"})
    wanted = Objects(services=(*many.services, second), pods=many.pods)
    full.apply(wanted)
    # The first leaf has no other pod's gate than this, or this and others': each is to be known.
    (chain,) = [
        line.split()[1]
        for line in full.save(family=family).splitlines()
        if f"-s {address(family, 0)}/" in line and " -g " in line
    ]
    full.iptables("-D", chain, "1", family=family)
    for items in (full.items(), full.diff(wanted).items):
        differing = {str(item.ref) for item in items if item.changes}
        assert differing == {"a/s0", "a/second"}
        assert {str(item.ref) for item in items if item.status == "drifted"} == differing
    assert told(full.apply(wanted)) == {"a/s0": Action.UPDATED, "a/second": Action.UPDATED}
    assert full.statuses() == {"applied"}


def test_the_only_gate_of_a_leaf_is_known_by_what_is_behind_it(full: Node, family: Family) -> None:
    far = 4096
    wanted = services(family, (*range(MAX_LEAF), far))
    full.apply(wanted)
    (chain,) = [
        line.split()[1]
        for line in full.save(family=family).splitlines()
        if f"-s {address(family, far)}/" in line and " -g " in line
    ]
    assert chain != "KVCTL-EGRESS"
    full.iptables("-F", chain, family=family)
    drifted = {str(item.ref): item for item in full.items() if item.status == "drifted"}
    assert set(drifted) == {f"a/s{far}"}
    assert [str(each.address) for each in drifted[f"a/s{far}"].pods] == [address(family, far)]
    assert told(full.apply(wanted)) == {f"a/s{far}": Action.UPDATED}
