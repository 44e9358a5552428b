"""What is rewritten only while heartbeats come: who stops, what becomes of the traffic, and what stays as it was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, Fence, PortMatch
from kvctl.model.rules import Hook, Ruleset
from kvctl.netfilter.diff import diff
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import compile_ruleset, entries_of
from kvctl.policy.decode import decode
from kvctl.policy.layout import fence_name
from kvctl.reconcile.steps import rulesets
from kvctl.reconcile.target import Target
from tests.builders import ref
from tests.policy.strategies import Packet, exclusions, expected_source, packets, pod_address, policies
from tests.policy.tables import bare, first_of, joined, outcome, saved, saved_as_meant, target_of
from tests.policy.walker import Moment, is_dropped, rules_met

EXAMPLES = settings(max_examples=25, deadline=None)
families = st.sampled_from(Family)
FENCES = tuple(
    Fence(fence_name(pod_address(Family.IPV4, number)), seconds)
    for number, seconds in ((1, 2), (1, 10), (2, 10))
)
NAMES = sorted({fence.name for fence in FENCES})


class Node:
    """The policies of a node: `here` are rewritten, some of them fenced, the others are dropped."""

    def __init__(
        self, here: list[EgressPolicy], dropped: list[EgressPolicy], excluded: tuple[Exclusion, ...]
    ) -> None:
        self.here, self.dropped, self.excluded = here, dropped, excluded

    def compiled(self, family: Family) -> Ruleset:
        return compile_ruleset(
            family=family, policies=self.here, dropped=self.dropped, exclusions=self.excluded
        )

    def target(self, family: Family) -> Target:
        return target_of(family, self.here, self.excluded, dropped=self.dropped)

    def expected(self, packet: Packet, late: frozenset[str]) -> Address | str | None:
        """The contract for the first packet of a connection, read naively."""
        for policy in sorted([*self.here, *self.dropped], key=lambda p: p.rank):
            if expected_source(packet, [policy], self.excluded) is None:
                continue
            if policy in self.dropped:
                return "dropped"
            if policy.fence is None or policy.fence.name not in late:
                return policy.vip
            if policy.drops_without_vip:
                return "dropped"
        return None


@st.composite
def nodes(draw: st.DrawFn, family: Family, excluded: tuple[Exclusion, ...], *, pods: int = 12) -> Node:
    here, dropped = [], []
    for policy in draw(policies(family, services=3, pods=pods)):
        fence = draw(st.sampled_from((None, *FENCES)))
        fenced = policy._replace(fence=fence, drops_without_vip=fence is not None and draw(st.booleans()))
        if draw(st.integers(0, 3)):
            here.append(fenced)
        else:
            dropped.append(fenced._replace(drops_without_vip=fence is not None))
    return Node(here, dropped, excluded)


def moments() -> st.SearchStrategy[Moment]:
    return st.sets(st.sampled_from(NAMES)).map(lambda names: Moment(late=frozenset(names)))


@EXAMPLES
@given(data=st.data(), family=families)
def test_a_packet_is_rewritten_dropped_or_left_alone_as_the_heartbeats_say(
    data: st.DataObject, family: Family
) -> None:
    node = data.draw(nodes(family, data.draw(exclusions(family))))
    ruleset = node.compiled(family)
    for packet in data.draw(st.lists(packets(family, pods=12), min_size=10, max_size=20)):
        moment = data.draw(moments())
        assert outcome(ruleset, ruleset, packet, moment) == node.expected(packet, moment.late), packet


@EXAMPLES
@given(data=st.data(), family=families)
def test_a_connection_with_the_vip_goes_on_only_while_its_heartbeat_comes(
    data: st.DataObject, family: Family
) -> None:
    node = data.draw(nodes(family, data.draw(exclusions(family))))
    ruleset = node.compiled(family)
    everything = Moment(late=frozenset(NAMES))
    for packet in data.draw(st.lists(packets(family, pods=12), min_size=10, max_size=20)):
        source = outcome(ruleset, ruleset, packet, Moment())
        if source is None or isinstance(source, str):
            continue
        taker = next(p for p in sorted(node.here, key=lambda p: p.rank) if expected_source(packet, [p], ()))
        assert not is_dropped(ruleset, packet, Moment(seen_as=source))
        if taker.fence is not None:
            assert is_dropped(ruleset, packet, everything._replace(seen_as=source))
            # By its own fence alone, and whatever else its pod belongs to.
            own = Moment(late=frozenset((taker.fence.name,)), seen_as=source)
            assert is_dropped(ruleset, packet, own)


@EXAMPLES
@given(data=st.data(), family=families)
def test_the_text_read_back_is_the_rules_and_the_policies(data: st.DataObject, family: Family) -> None:
    node = data.draw(nodes(family, data.draw(exclusions(family))))
    ruleset = node.compiled(family)
    found = saved_as_meant(ruleset)
    installed = decode(found)
    for part, wanted in ((installed, node.here), (installed.drops, node.dropped)):
        assert {it: bare(service.policy) for it, service in part.services.items()} == {
            it.ref: bare(it) for it in wanted
        }
        assert all(it.intact for it in part.services.values())
        assert sorted(part.entries) == sorted(item for it in wanted for item in entries_of(it))
    guarded = {(item.address, item.rank) for item, _ in installed.guards}
    fenced = {
        (item.address, item.rank) for policy in node.here if policy.fence for item in entries_of(policy)
    }
    assert guarded == fenced
    assert installed.exclusions == node.excluded
    again = rulesets(node.target(family), installed, found, retire=True)
    assert not diff(again.first, found)
    assert again.final == ruleset


@EXAMPLES
@given(data=st.data(), family=families)
def test_while_rules_change_nothing_leaks_and_no_connection_loses_its_guard(
    data: st.DataObject, family: Family
) -> None:
    """Whatever is rewritten or dropped before a change, and is after it, is so at each moment between."""
    excluded = data.draw(exclusions(family))
    before, after = data.draw(nodes(family, excluded, pods=6)), data.draw(nodes(family, excluded, pods=6))
    old = before.compiled(family)
    found = saved(old)
    target = after.target(family)
    steps = rulesets(target, decode(found), found, retire=True)
    assert steps.final == after.compiled(family)
    first = first_of(steps, old)
    moments_between = ((old, old), (old, first), (first, first), (steps.final, first), (steps.final,) * 2)
    everything = Moment(late=frozenset(NAMES))
    for packet in data.draw(st.lists(packets(family, pods=6), min_size=10, max_size=20)):
        moment = data.draw(moments())
        seen = [outcome(nat, mangle, packet, moment) for nat, mangle in moments_between]
        if seen[0] is not None and seen[-1] is not None:
            assert None not in seen, (packet, seen)
        source = outcome(old, old, packet, Moment())
        if source is not None and not isinstance(source, str):
            stopped = everything._replace(seen_as=source)
            silent = [is_dropped(mangle, packet, stopped) for _, mangle in moments_between[:-1]]
            assert not silent[0] or all(silent)
    # And a run that was killed after any of these sections comes to the same end.
    for nat, mangle in moments_between[1:]:
        halfway = saved(joined(nat, mangle))
        assert rulesets(target, decode(halfway), halfway, retire=True).final == steps.final


def fenced_service(family: Family, *, pods: int = 1, drops: bool = False) -> EgressPolicy:
    return EgressPolicy(
        ref=ref("a/b"),
        family=family,
        vip=pod_address(family, 4000),
        pods=tuple(EgressPod(pod_address(family, number)) for number in range(pods)),
        fence=FENCES[0],
        drops_without_vip=drops,
    )


@pytest.mark.parametrize("drops", [False, True])
def test_another_fence_leaves_the_old_guard_until_connections_are_dropped(drops: bool) -> None:
    it = fenced_service(Family.IPV4, drops=drops)
    old = compile_ruleset(family=it.family, policies=[it], exclusions=())
    found = saved(old)
    moved = it._replace(vip=pod_address(it.family, 4001), fence=FENCES[2])
    steps = rulesets(Node([moved], [], ()).target(it.family), decode(found), found, retire=True)
    guards = {name for name in old.chains if name.startswith("KVCTL-GRD-")}
    assert guards
    assert guards <= steps.first.untouched
    assert not guards & {*steps.final.chains, *steps.final.untouched}


def test_what_is_not_fenced_is_written_as_ever() -> None:
    it = fenced_service(Family.IPV6)._replace(fence=None, drops_without_vip=True)
    ruleset = compile_ruleset(family=it.family, policies=[it], exclusions=())
    assert ruleset == compile_ruleset(
        family=it.family, policies=[it._replace(drops_without_vip=False)], exclusions=()
    )
    assert set(ruleset.hooks) == {Hook.EGRESS}
    assert not any("recent" in render(rule) for rules in ruleset.chains.values() for rule in rules)


def test_a_bystander_meets_no_more_rules_in_mangle_than_in_nat() -> None:
    for drops in (False, True):
        it = fenced_service(Family.IPV4, pods=200, drops=drops)
        ruleset = compile_ruleset(family=it.family, policies=[it], exclusions=())
        packet = Packet(pod_address(it.family, 300), it.vip, it.vip, "tcp", 80)
        assert rules_met(ruleset, packet, Hook.DROP) == rules_met(ruleset, packet)


def test_pods_that_come_and_go_leave_the_chains_of_the_guard_alone() -> None:
    one, two = fenced_service(Family.IPV4), fenced_service(Family.IPV4, pods=2)
    chains = [
        {
            name: rules
            for name, rules in compile_ruleset(family=it.family, policies=[it], exclusions=()).chains.items()
            if name.startswith("KVCTL-GRD-")
        }
        for it in (one, two, two._replace(created=9, interface="eth1", ports=(PortMatch("udp", 1, 1),)))
    ]
    assert chains[0] == chains[1] == chains[2]
    assert len(chains[0]) == 1


def test_the_lists_of_two_vips_have_different_names() -> None:
    names = {fence_name(pod_address(family, number)) for family in Family for number in (1, 2, 3)}
    assert len(names) == 6
    assert all(len(name) <= 22 and name.startswith("kvctl-") for name in names)
