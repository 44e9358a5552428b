"""What is dropped where the VIP is not: by the ranks and matches of rewriting, and at no moment less than either."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.net import Address, Family, parse_network
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, PortMatch
from kvctl.model.rules import Hook, Ruleset
from kvctl.netfilter.syntax import render
from kvctl.policy import layout
from kvctl.policy.compile import compile_ruleset, entries_of
from kvctl.policy.decode import decode
from kvctl.reconcile.steps import rulesets
from tests.builders import ref
from tests.policy.strategies import Packet, exclusions, expected_source, packets, pod_address, policies
from tests.policy.tables import bare, first_of, joined, outcome, saved, saved_as_meant, target_of
from tests.policy.walker import rules_met

EXAMPLES = settings(max_examples=25, deadline=None)
families = st.sampled_from(Family)


class Split(NamedTuple):
    """Policies of a node: those whose VIP is there, and those whose traffic is dropped."""

    here: list[EgressPolicy]
    dropped: list[EgressPolicy]


@st.composite
def splits(draw: st.DrawFn, family: Family, *, pods: int = 20) -> Split:
    drawn = draw(policies(family, services=4, pods=pods))
    return split(drawn, [draw(st.booleans()) for _ in drawn])


def split(drawn: list[EgressPolicy], here: list[bool]) -> Split:
    return Split(
        here=[policy for policy, is_here in zip(drawn, here, strict=True) if is_here],
        dropped=[policy for policy, is_here in zip(drawn, here, strict=True) if not is_here],
    )


def compiled(both: Split, family: Family, excluded: tuple[Exclusion, ...]) -> Ruleset:
    return compile_ruleset(family=family, policies=both.here, dropped=both.dropped, exclusions=excluded)


def expected(packet: Packet, both: Split, excluded: tuple[Exclusion, ...]) -> Address | str | None:
    """The contract, read naively."""
    source = expected_source(packet, [*both.here, *both.dropped], excluded)
    if source is None:
        return None
    taker = next(
        policy
        for policy in sorted([*both.here, *both.dropped], key=lambda p: p.rank)
        if expected_source(packet, [policy], excluded) is not None
    )
    return "dropped" if taker in both.dropped else source


@EXAMPLES
@given(data=st.data(), family=families)
def test_a_packet_is_rewritten_dropped_or_left_alone_as_the_contract_says(
    data: st.DataObject, family: Family
) -> None:
    both = data.draw(splits(family))
    excluded = data.draw(exclusions(family))
    ruleset = compiled(both, family, excluded)
    for packet in data.draw(st.lists(packets(family, pods=20), min_size=10, max_size=20)):
        assert outcome(ruleset, ruleset, packet) == expected(packet, both, excluded), packet


@EXAMPLES
@given(data=st.data(), family=families)
def test_the_text_read_back_is_the_rules_and_the_policies(data: st.DataObject, family: Family) -> None:
    both = data.draw(splits(family))
    excluded = data.draw(exclusions(family))
    ruleset = compiled(both, family, excluded)
    found = saved_as_meant(ruleset)
    installed = decode(found)
    for part, wanted in ((installed, both.here), (installed.drops, both.dropped)):
        assert {ref: bare(it.policy) for ref, it in part.services.items()} == {
            it.ref: bare(it) for it in wanted
        }
        assert all(it.intact for it in part.services.values())
        assert sorted(part.entries) == sorted(item for it in wanted for item in entries_of(it))
    assert installed.exclusions == excluded


@EXAMPLES
@given(data=st.data(), family=families)
def test_between_two_sections_nothing_leaks_that_leaks_neither_before_nor_after(
    data: st.DataObject, family: Family
) -> None:
    """Whatever is rewritten or dropped before a change, and is after it, is so at each moment between."""
    excluded = data.draw(exclusions(family))
    drawn = data.draw(policies(family, services=3, pods=8))
    before = split(drawn, [data.draw(st.booleans()) for _ in drawn])
    again = data.draw(policies(family, services=3, pods=8)) if data.draw(st.booleans()) else drawn
    after = split(again, [data.draw(st.booleans()) for _ in again])
    old = compiled(before, family, excluded)
    found = saved(old)
    installed = decode(found)
    target = target_of(family, after.here, excluded, dropped=after.dropped)
    steps = rulesets(target, installed, found, retire=True)
    assert steps.final == compiled(after, family, excluded)
    first = first_of(steps, old)
    moments = ((old, old), (old, first), (first, first), (steps.final, first), (steps.final, steps.final))
    for packet in data.draw(st.lists(packets(family, pods=8), min_size=10, max_size=20)):
        seen = [outcome(nat, mangle, packet) for nat, mangle in moments]
        if seen[0] is not None and seen[-1] is not None:
            assert None not in seen, (packet, seen)
    # And a run that was killed after any of these sections comes to the same end.
    for nat, mangle in moments[1:]:
        halfway = saved(joined(nat, mangle))
        assert rulesets(target, decode(halfway), halfway, retire=True).final == steps.final


def test_what_is_dropped_passes_to_a_service_above_it_only_when_that_rewrites_it() -> None:
    family = Family.IPV4
    pods = (EgressPod(pod_address(family, 1)),)
    vip = pod_address(family, 4000)
    below = EgressPolicy(ref=ref("a/below"), family=family, vip=vip, pods=pods)
    above = below._replace(ref=ref("a/above"), ports=(PortMatch("udp", 5060, 5060),))
    packet = Packet(pods[0].address, vip, vip, "udp", 5060)
    old = compiled(Split([], [below]), family, ())
    found = saved(old)
    steps = rulesets(target_of(family, [above], dropped=[below]), decode(found), found, retire=True)
    assert outcome(old, old, packet) == outcome(old, steps.first, packet) == "dropped"
    assert outcome(steps.final, steps.final, packet) == vip
    found = saved(steps.final)
    steps = rulesets(target_of(family, [], dropped=[below]), decode(found), found, retire=True)
    assert outcome(steps.final, steps.first, packet) == "dropped"


@pytest.mark.parametrize("family", Family, ids=str)
def test_networks_by_ports_do_not_multiply_where_others_come_first(family: Family) -> None:
    """64 ports and 256 networks of a Service that is passed, before one that is dropped."""

    vip = pod_address(family, 4000)
    form = "198.18.{}.0/24" if family is Family.IPV4 else "2001:db8:{:x}::/48"
    networks = [form.format(n) for n in range(256)]
    wide = EgressPolicy(
        ref=ref("a/wide"),
        family=family,
        vip=vip,
        pods=(EgressPod(pod_address(family, 1)),),
        ports=tuple(PortMatch("tcp", port, port) for port in range(1, 128, 2)),
        allowed=tuple(map(parse_network, networks[:128])),
        denied=tuple(map(parse_network, networks[128:])),
    )
    ruleset = compiled(
        Split([wide], [wide._replace(ref=ref("b/all"), ports=(), allowed=(), denied=())]), family, ()
    )
    in_mangle = [
        rule for name, rules in ruleset.chains.items() if name.startswith("KVCTL-D") for rule in rules
    ]
    assert len(in_mangle) < 128 + 128 + 64
    assert render(ruleset.hooks[Hook.DROP]).startswith("-m conntrack --ctdir ORIGINAL ")


def test_a_bystander_meets_no_more_rules_than_for_rewriting() -> None:

    family = Family.IPV4
    pods = tuple(EgressPod(pod_address(family, number)) for number in range(200))
    it = EgressPolicy(ref=ref("a/b"), family=family, vip=pod_address(family, 4000), pods=pods)
    rewritten = compile_ruleset(family=family, policies=[it], exclusions=())
    dropped = compile_ruleset(family=family, policies=[], dropped=[it], exclusions=())
    packet = Packet(pod_address(family, 300), it.vip, it.vip, "tcp", 80)
    assert rules_met(dropped, packet, Hook.DROP) == rules_met(rewritten, packet)
    assert set(dropped.hooks) == {Hook.DROP}
    assert all(
        layout.DROPPING.is_dispatch(name) or layout.DROPPING.is_service(name) for name in dropped.chains
    )
