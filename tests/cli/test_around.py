"""What `show` tells of a VIP besides rules, of values that a test makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvctl.agent.sign import Agent, Election
from kvctl.cli.around import Around
from kvctl.cli.ways_out import WaysOut
from kvctl.model.host import Host, HostAddress
from kvctl.model.net import Family, parse_address
from kvctl.model.way import DEFAULT_SPACE
from kvctl.netfilter import fence
from kvctl.node.addresses import Bound
from kvctl.node.routing_plan import Found
from kvctl.node.rtnetlink import Mark
from kvctl.reconcile.detail import Beat, Detail
from kvctl.reconcile.report import Item, Status

VIP = parse_address("192.168.0.245")
ELECTED = Bound(VIP, "eth1", 7, Mark.PROTO)
DETAIL = Detail(Item("sip", "sip-client", Family.IPV4, VIP, Status.APPLIED), interface="eth1")
ELECTING = Agent(12, "worker", "1", Election(10))


def facts(*, agent: Agent | None, placed: Bound | None = ELECTED, beat: Beat | None = None) -> dict[str, str]:
    """Title -> text, on a host that has the VIP."""
    here = Host(
        addresses=(HostAddress(VIP, 32, "eth1", ours=placed is not None),), routes=(), interfaces=("eth1",)
    )
    its = {} if placed is None else {VIP: placed}
    ways = WaysOut(placed=its, agent=agent, routing=Found(), space=DEFAULT_SPACE)
    around = Around(host=here, node="worker", ways=ways)
    return dict(around.facts(around.judged(replace(DETAIL, beat=beat))))


def test_an_electing_agent_announces_and_one_that_follows_does_not() -> None:
    assert (
        facts(agent=ELECTING)["announced"] == "by the agent of this node (process 12, node worker, version 1)"
    )
    for agent in (None, ELECTING._replace(election=None)):
        assert facts(agent=agent)["announced"].startswith("by nobody any more: its agent has ended")


def test_a_heartbeat_is_told_with_its_age_and_its_lack_where_an_agent_elects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beating = Beat(seconds=10, age=2.2, drops_without_vip=False)
    assert (
        facts(agent=ELECTING, beat=beating)["fence"]
        == "the last heartbeat came 2 s ago, and it counts for 10 s"
    )
    monkeypatch.setattr(fence, "obstacle", lambda: "this kernel has no xt_recent")
    assert facts(agent=ELECTING)["fence"] == "of the address alone: this kernel has no xt_recent"
    # By hand there is none, and none is missed.
    assert "fence" not in facts(agent=None, placed=ELECTED._replace(lifetime=None))
    assert "fence" not in facts(agent=None, placed=None)


@pytest.mark.parametrize(("age", "late"), [(None, True), (0.0, False), (10.0, False), (10.5, True)])
def test_a_heartbeat_is_late_after_the_seconds_it_counts(age: float | None, late: bool) -> None:
    beat = Beat(seconds=10, age=age, drops_without_vip=True)
    assert beat.is_late is late
    assert beat.consequence.endswith("its pods' traffic is dropped until the agent renews")
