"""What is marked for the routes of its interface: just what is rewritten, by the mark of the Service that takes it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.net import Family
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, Fence, PortMatch
from kvctl.model.rules import Hook, Mark, Ruleset, Table, table_of
from kvctl.netfilter.diff import diff
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import compile_ruleset, entries_of
from kvctl.policy.decode import decode
from kvctl.policy.layout import fence_name
from kvctl.policy.prefixes import MAX_LEAF
from kvctl.reconcile.steps import rulesets
from tests.builders import ref
from tests.policy.strategies import Packet, exclusions, packets, pod_address, policies
from tests.policy.tables import first_of, saved, saved_as_meant, target_of
from tests.policy.walker import Moment, mark_of, rules_met, source_after

EXAMPLES = settings(max_examples=25, deadline=None)
families = st.sampled_from(Family)
MARKS = (Mark(4, 0x3C), Mark(8, 0x3C))
FENCE = Fence(fence_name(pod_address(Family.IPV4, 1)), 10)


@st.composite
def marked(draw: st.DrawFn, family: Family, *, pods: int = 12) -> list[EgressPolicy]:
    """Policies, each with a VIP of its own, so that it tells which one took a packet."""
    return [
        policy._replace(
            vip=pod_address(family, 3000 + number),
            mark=draw(st.sampled_from((None, *MARKS))),
            fence=draw(st.sampled_from((None, FENCE))),
        )
        for number, policy in enumerate(draw(policies(family, services=3, pods=pods)))
    ]


def compiled(its: list[EgressPolicy], family: Family, excluded: tuple[Exclusion, ...]) -> Ruleset:
    return compile_ruleset(family=family, policies=its, exclusions=excluded)


def expected(its: list[EgressPolicy], nat: Ruleset, packet: Packet, moment: Moment) -> int:
    source = source_after(nat, packet, moment)
    taker = next((policy for policy in its if policy.vip == source), None)
    return taker.mark.value if taker is not None and taker.mark is not None else 0


@EXAMPLES
@given(data=st.data(), family=families)
def test_a_packet_has_the_mark_of_the_service_that_rewrites_it(data: st.DataObject, family: Family) -> None:
    its, excluded = data.draw(marked(family)), data.draw(exclusions(family))
    ruleset = compiled(its, family, excluded)
    for packet in data.draw(st.lists(packets(family, pods=12), min_size=10, max_size=20)):
        if packet.destination != packet.aimed_at:
            continue
        moment = Moment(late=frozenset((FENCE.name,)) if data.draw(st.booleans()) else frozenset())
        assert mark_of(ruleset, packet, moment) == expected(its, ruleset, packet, moment), packet


@EXAMPLES
@given(data=st.data(), family=families)
def test_the_text_read_back_is_the_rules_and_the_policies(data: st.DataObject, family: Family) -> None:
    its, excluded = data.draw(marked(family)), data.draw(exclusions(family))
    ruleset = compiled(its, family, excluded)
    found = saved_as_meant(ruleset)
    installed = decode(found)
    assert all(service.intact for service in installed.services.values())
    assert {it: service.policy.mark for it, service in installed.services.items() if service.policy} == {
        it.ref: it.mark for it in its
    }
    with_mark = {(item.address, item.rank) for policy in its if policy.mark for item in entries_of(policy)}
    assert {(item.address, item.rank) for item, _ in installed.marks} == with_mark
    again = rulesets(target_of(family, its, excluded), installed, found, retire=True)
    assert not diff(again.first, found)
    assert again.final == ruleset


@EXAMPLES
@given(data=st.data(), family=families)
def test_while_rules_change_what_is_marked_before_and_after_is_marked_between(
    data: st.DataObject, family: Family
) -> None:
    excluded = data.draw(exclusions(family))
    before, after = data.draw(marked(family, pods=6)), data.draw(marked(family, pods=6))
    old = compiled(before, family, excluded)
    found = saved(old)
    target = target_of(family, after, excluded)
    steps = rulesets(target, decode(found), found, retire=True)
    assert steps.final == compiled(after, family, excluded)
    first = first_of(steps, old)
    for packet in data.draw(st.lists(packets(family, pods=6), min_size=10, max_size=20)):
        seen = [mark_of(each, packet) for each in (old, first, steps.final)]
        # Whatever leaves by another interface does so until its connection has been dropped.
        assert not seen[0] or seen[1], packet
        assert not seen[2] or seen[1], packet
    halfway = saved(first)
    assert rulesets(target, decode(halfway), halfway, retire=True).final == steps.final


def one(*, pods: int = 1, mark: Mark | None = MARKS[0]) -> EgressPolicy:
    return EgressPolicy(
        ref=ref("a/b"),
        family=Family.IPV4,
        vip=pod_address(Family.IPV4, 4000),
        pods=tuple(EgressPod(pod_address(Family.IPV4, number)) for number in range(pods)),
        mark=mark,
    )


def test_without_a_mark_nothing_is_hooked_in_before_the_routing() -> None:
    ruleset = compiled([one(mark=None)], Family.IPV4, ())
    assert set(ruleset.hooks) == {Hook.EGRESS}
    assert {table_of(chain) for chain in ruleset.chains} == {Table.NAT}


def test_answers_are_left_alone_and_packets_of_marked_connections_begin_with_its_mark() -> None:
    ruleset = compiled([one()], Family.IPV4, ())
    assert render(ruleset.hooks[Hook.MARK]).startswith("-m conntrack --ctdir ORIGINAL ")
    restore = ruleset.chains[Hook.MARK.root][0]
    assert render(restore).endswith("-j CONNMARK --restore-mark --nfmask 0x3c --ctmask 0x3c")


def test_a_bystander_meets_one_rule_more_than_for_rewriting() -> None:
    it = one(pods=200)
    ruleset = compiled([it], Family.IPV4, ())
    packet = Packet(pod_address(it.family, 300), it.vip, it.vip, "tcp", 80)
    assert rules_met(ruleset, packet, Hook.MARK) == rules_met(ruleset, packet) + 1
    assert len(ruleset.chains[Hook.MARK.root]) <= 1 + MAX_LEAF


def test_services_with_one_mark_need_nothing_between_them() -> None:
    both = [one(), one()._replace(ref=ref("a/c"), ports=(PortMatch("udp", 1, 9),))]
    ruleset = compiled(both, Family.IPV4, ())
    assert not any(chain.startswith("KVCTL-DPASS-") for chain in ruleset.chains)
