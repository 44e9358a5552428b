"""Which connections have the wrong source: exactly those that the rules would give another one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.flows import Flow, Tuple
from kvctl.model.net import Address, Family, parse_address, within
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, ExclusionKind
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.netfilter.savetext import parse_tables, snapshot_of
from kvctl.policy.annotations import PORTS, read_annotations
from kvctl.policy.compile import compile_ruleset
from kvctl.policy.connections import ConnectionJudge, judge_of
from kvctl.policy.decode import Installed, decode
from tests.builders import networks, ref
from tests.policy.strategies import Packet, exclusions, packets, policies
from tests.policy.walker import source_after

EXAMPLES = settings(max_examples=1000 if os.environ.get("KVCTL_LONG") else 50, deadline=None)
POD, OTHER, OUTSIDE = map(parse_address, ("10.0.0.1", "10.0.0.2", "198.51.100.9"))
NODE, VIP, NEXT_VIP = map(parse_address, ("172.16.0.2", "192.168.0.245", "192.168.0.246"))
PODS = Exclusion(networks("10.0.0.0/16")[0], ExclusionKind.POD)


def installed(wanted: Sequence[EgressPolicy], excluded: Sequence[Exclusion], family: Family) -> Installed:
    """As the kernel would have it after `apply`."""
    ruleset = compile_ruleset(family=family, policies=wanted, exclusions=excluded)
    lines = restore_text(diff(ruleset, Snapshot(family=family)))
    return decode(snapshot_of(parse_tables(lines.replace("-I POSTROUTING 1 ", "-A POSTROUTING ")), family))


def policy(vip: Address = VIP, *, pods: Sequence[Address] = (POD,), ports: str = "") -> EgressPolicy:
    return EgressPolicy(
        ref=ref("sip/client"),
        family=Family.IPV4,
        vip=vip,
        pods=tuple(EgressPod.named(it, name="p") for it in pods),
        ports=read_annotations({PORTS: ports}).ports,
    )


def judge(*wanted: EgressPolicy, before: Sequence[EgressPolicy] = ()) -> ConnectionJudge:
    return judge_of(
        installed(wanted, (PODS,), Family.IPV4),
        before=[installed(before, (PODS,), Family.IPV4)],
        is_local=lambda address: address == NODE,
        pod_networks=[PODS.network],
    )


def flow(
    seen_as: Address,
    *,
    source: Address = POD,
    to: Address = OUTSIDE,
    aimed_at: Address | None = None,
    protocol: str = "udp",
    port: int = 5060,
) -> Flow:
    """A connection from `source` to `to`, which the other end sees as coming from `seen_as`."""
    return Flow(
        family=Family.IPV4 if source.version == 4 else Family.IPV6,
        protocol=protocol,
        original=Tuple(source, aimed_at or to, 40000, port),
        reply=Tuple(to, seen_as, port, 40000),
    )


def test_a_connection_with_the_nodes_source_is_wrong_once_there_are_rules() -> None:
    assert judge(policy()).is_wrong(flow(NODE))
    assert judge(policy()).is_wrong(flow(POD))
    assert not judge(policy()).is_wrong(flow(VIP))


def test_after_a_change_of_the_vip_the_old_one_is_wrong() -> None:
    it = judge(policy(NEXT_VIP), before=[policy(VIP)])
    assert it.is_wrong(flow(VIP))
    assert not it.is_wrong(flow(NEXT_VIP))


def test_a_port_that_is_no_longer_listed_goes_back_but_what_never_had_the_vip_stays() -> None:
    it = judge(policy(ports="udp:5061"), before=[policy(ports="udp:5060-5061")])
    assert it.is_wrong(flow(VIP, port=5060))
    assert not it.is_wrong(flow(NODE, port=5060))
    assert not it.is_wrong(flow(VIP, port=5061))
    assert it.is_wrong(flow(NODE, port=5061))


def test_in_another_zone_only_what_carries_a_vip_of_ours_can_be_wrong() -> None:
    it = judge(policy(NEXT_VIP), before=[policy(VIP)])
    assert not it.is_wrong(replace(flow(POD), zone=65520))
    assert it.is_wrong(replace(flow(VIP), zone=65520))
    assert not it.is_wrong(replace(flow(NEXT_VIP), zone=65520))


def test_after_the_last_rule_has_gone_no_connection_keeps_the_vip() -> None:
    it = judge(before=[policy()])
    assert it.is_wrong(flow(VIP))
    assert not it.is_wrong(flow(NODE))
    assert not it.is_wrong(flow(VIP, source=parse_address("192.168.7.7")))


def test_a_pod_that_has_gone_is_found_by_the_pod_network_and_the_vip() -> None:
    it = judge(policy(pods=[OTHER]))
    assert it.is_wrong(flow(VIP, source=POD))
    assert not it.is_wrong(flow(NODE, source=POD))


@pytest.mark.parametrize(
    ("to", "aimed_at"),
    [
        (OTHER, None),
        (NODE, None),
        (OTHER, OUTSIDE),
        (OUTSIDE, OTHER),
        (NODE, OUTSIDE),
        (OUTSIDE, NODE),
    ],
)
def test_what_stays_in_the_cluster_or_on_the_node_is_left_alone(
    to: Address, aimed_at: Address | None
) -> None:
    assert not judge(policy()).is_wrong(flow(POD, to=to, aimed_at=aimed_at))


def test_connections_of_others_are_left_alone() -> None:
    assert not judge(policy()).is_wrong(flow(NODE, source=OTHER))
    assert not judge(policy()).is_wrong(flow(NEXT_VIP, source=OTHER))


def test_rules_that_somebody_changed_judge_nothing() -> None:
    ruleset = compile_ruleset(family=Family.IPV4, policies=[policy(ports="udp:5060")], exclusions=[PODS])
    text = restore_text(diff(ruleset, Snapshot(family=Family.IPV4))).replace("--dport 5060", "--dport 5061")
    changed = decode(snapshot_of(parse_tables(text), Family.IPV4))
    assert not judge_of(changed, is_local=lambda _: False).is_wrong(flow(NODE))


@EXAMPLES
@given(data=st.data(), family=st.sampled_from(list(Family)))
def test_the_judge_and_the_rules_say_the_same_of_every_connection(
    data: st.DataObject, family: Family
) -> None:
    wanted = data.draw(policies(family, services=4, pods=6))
    excluded = data.draw(exclusions(family))
    ruleset = compile_ruleset(family=family, policies=wanted, exclusions=excluded)
    it = judge_of(installed(wanted, excluded, family), is_local=lambda _: False)
    vips = {policy.vip for policy in wanted}
    with_rules = {pod.address for policy in wanted for pod in policy.pods}
    for packet in data.draw(st.lists(packets(family, pods=6), min_size=10, max_size=20)):
        seen_as = data.draw(st.sampled_from([packet.source, *sorted(vips, key=int)]))
        connection = flow(
            seen_as,
            source=packet.source,
            to=packet.destination,
            aimed_at=packet.aimed_at,
            protocol=packet.protocol,
            port=packet.port,
        )
        ours = packet.source in with_rules or (within(packet.source, it.pod_networks) and seen_as in vips)
        if not ours or _excluded(packet, excluded):
            assert not it.is_wrong(connection)
        else:
            right = source_after(ruleset, packet)
            assert it.is_wrong(connection) == (seen_as in vips if right is None else seen_as != right)


def _excluded(packet: Packet, excluded: Sequence[Exclusion]) -> bool:
    return any(
        within(address, [e.network for e in excluded]) for address in (packet.destination, packet.aimed_at)
    )
