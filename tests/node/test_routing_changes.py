"""That our routing rules and routes have been taken away is noticed, on the real kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvctl.lab.netns import Namespace
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.node import routing_changes
from kvctl.node.routing_changes import RoutingChanges
from tests.marks import Marks

OURS = [
    "rule add priority 7501 fwmark 0x4/0x3c lookup 7500 protocol 75",
    "route add 10.1.0.0/16 dev eth0 table 7500 proto 75",
    "route add 2001:db8:5::/64 dev eth0 table 7500 proto 75",
]
THEIRS = [line.removesuffix("75") + "99" for line in OURS]


@pytest.fixture
def node(namespace: Namespace) -> Namespace:
    namespace.batch(["link add eth0 type veth peer name far0", "link set eth0 up", "link set far0 up"])
    return namespace


@pytest.fixture
def ear(node: Namespace) -> Iterator[Netlink]:
    """What is multicast in the namespace, heard without a thread."""
    groups = routing_changes._GROUPS
    with (
        node.entered(),
        open_netlink(protocol=NETLINK_ROUTE, what="x", timeout=0, groups=groups) as netlink,
    ):
        yield netlink


def gaps(ear: Netlink) -> list[float]:
    """The gaps asked for by all messages since the last call."""
    judge = routing_changes._Judge()
    found: list[float | None] = []
    ear.hear(lambda *message: found.append(judge.hear(*message)), most=1000, what="x")
    return [gap for gap in found if gap is not None]


@pytest.mark.parametrize("ours", OURS)
def test_that_ours_have_gone_is_told(ear: Netlink, node: Namespace, ours: str) -> None:
    node.batch([ours])
    assert gaps(ear) == []
    node.batch([ours.replace("add", "del", 1)])
    assert gaps(ear) == [0.1]


def test_a_rule_for_ipv6_counts_too(ear: Netlink, node: Namespace) -> None:
    for verb, expected in (("add", []), ("del", [0.1])):
        done = node.run(["ip", "-6", "rule", verb, "priority", "7502", "nop", "protocol", "75"])
        assert done.status == 0, done.stderr
        assert gaps(ear) == expected


@pytest.mark.parametrize("theirs", THEIRS)
def test_what_others_do_with_theirs_is_not_told(ear: Netlink, node: Namespace, theirs: str) -> None:
    node.batch([theirs, theirs.replace("add", "del", 1)])
    assert gaps(ear) == []


def test_a_thread_tells_it_and_ends(node: Namespace) -> None:
    marks = Marks()
    node.batch(OURS)
    with node.entered():
        changes = RoutingChanges(marks)
    changes.start()
    node.batch([OURS[0].replace("add", "del", 1)])
    assert marks.wait()
    changes.stop()
    changes.stop()
