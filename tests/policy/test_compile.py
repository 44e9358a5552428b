"""From policies to rules: their text, their shape, and what they do with packets."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.net import Address, Family, parse_address
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, ExclusionKind
from kvctl.model.rules import EGRESS_CHAIN, Rule, Ruleset, Verb
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.netfilter.savetext import parse_tables, snapshot_of
from kvctl.netfilter.syntax import parse, render
from kvctl.policy import comments, layout
from kvctl.policy.annotations import ALLOWED, DENIED, PORTS, read_annotations
from kvctl.policy.cidrs import ALWAYS
from kvctl.policy.compile import compile_ruleset
from kvctl.policy.decode import Installed, decode
from kvctl.policy.prefixes import MAX_BEHIND, MAX_LEAF, MAX_LEVELS
from tests.builders import networks, pod, ref, service
from tests.policy.answers import Thing, resolved
from tests.policy.strategies import (
    Packet,
    exclusions,
    expected_source,
    packets,
    pod_address,
    policies,
)
from tests.policy.walker import met_by, rules_met, source_after

EXAMPLES = settings(max_examples=1000 if os.environ.get("KVCTL_LONG") else 60, deadline=None)
families = st.sampled_from(list(Family))
EXCLUDED = tuple(Exclusion(network, ExclusionKind.POD) for network in networks("10.0.0.0/16", "fd00:10::/48"))
VIPS = {Family.IPV4: parse_address("192.168.0.245"), Family.IPV6: parse_address("2001:db8::245")}


def excluded_in(family: Family) -> tuple[Exclusion, ...]:
    return tuple(e for e in EXCLUDED if e.network.version == (4 if family is Family.IPV4 else 6))


def policy(
    family: Family = Family.IPV4,
    name: str = "sip/sip-client",
    *,
    pods: list[Address] | None = None,
    ports: str = "",
    allowed: str = "",
    denied: str = "",
) -> EgressPolicy:
    read = read_annotations({PORTS: ports, ALLOWED: allowed, DENIED: denied})
    assert read.problems == ()
    return EgressPolicy(
        ref=ref(name),
        family=family,
        vip=VIPS[family],
        pods=tuple(
            EgressPod.named(it, name=f"p-{n}") for n, it in enumerate(pods or [pod_address(family, 1)])
        ),
        ports=read.ports,
        allowed=read.allowed or (),
        denied=read.denied,
        created=1_700_000_000,
    )


def compiled(*wanted: EgressPolicy, excluded: tuple[Exclusion, ...] | None = None) -> Ruleset:
    family = wanted[0].family
    return compile_ruleset(
        family=family, policies=wanted, exclusions=excluded_in(family) if excluded is None else excluded
    )


def own_chains(ruleset: Ruleset, name: str = "sip/sip-client") -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    its_ref = ref(name)
    return (
        ruleset.chains[layout.service_chain(its_ref)],
        ruleset.chains.get(layout.out_chain(its_ref), ()),
    )


def save_text(ruleset: Ruleset) -> str:
    """What `iptables-save` prints of a kernel that holds these rules and no others."""
    lines = restore_text(diff(ruleset, Snapshot(family=ruleset.family))).splitlines()
    body = [line.replace("-I POSTROUTING 1 ", "-A POSTROUTING ") for line in lines[1:]]
    return "\n".join([lines[0], ":POSTROUTING ACCEPT [0:0]", *body]) + "\n"


def read_back(ruleset: Ruleset) -> Installed:
    return decode(snapshot_of(parse_tables(save_text(ruleset)), ruleset.family))


def test_the_rules_of_a_small_example_word_by_word() -> None:
    it = policy(
        name="a/b",
        ports="udp:5060,tcp:90-91,tcp:80",
        denied="192.168.9.0/24",
        pods=[parse_address("10.0.0.1")],
    )
    ipv4 = tuple(e for e in ALWAYS if e.network.version == 4)
    text = restore_text(diff(compiled(it, excluded=(*EXCLUDED[:1], *ipv4)), Snapshot(family=Family.IPV4)))
    assert text.count("KVCTL-TO-0.0.0.0-0") == 8
    text = text.replace("KVCTL-TO-0.0.0.0-0", "TO")
    chain = layout.service_chain(ref("a/b"))
    tags = {line.split('"')[1].split(" ")[0] for line in text.splitlines() if '"' in line}
    for tag in tags:
        prefix, _, digest = tag.partition(":")
        assert prefix == "kvctl"
        assert len(digest) == 16
        text = text.replace(tag, "kvctl:T")
    assert (
        text
        == f"""\
*nat
:{chain} - [0:0]
:KVCTL-EGRESS - [0:0]
:TO - [0:0]
-I POSTROUTING 1 -m comment --comment "kvctl:T egress" -j KVCTL-EGRESS
-A {chain} -d 192.168.9.0/24 -m comment --comment "kvctl:T a/b" -j RETURN
-A {chain} -p tcp -m multiport --dports 80,90:91 -m comment --comment "kvctl:T a/b" -j SNAT --to-source 192.168.0.245
-A {chain} -p udp -m udp --dport 5060 -m comment --comment "kvctl:T a/b" -j SNAT --to-source 192.168.0.245
-A KVCTL-EGRESS -s 10.0.0.1/32 -m comment --comment "kvctl:T branch 10.0.0.1/32" -g TO
-A TO -d 10.0.0.0/16 -m comment --comment "kvctl:T exclude pod-cidr" -j RETURN
-A TO -m conntrack --ctorigdst 10.0.0.0/16 -m comment --comment "kvctl:T exclude pod-cidr" -j RETURN
-A TO -d 169.254.0.0/16 -m comment --comment "kvctl:T exclude link-local" -j RETURN
-A TO -m conntrack --ctorigdst 169.254.0.0/16 -m comment --comment "kvctl:T exclude link-local" -j RETURN
-A TO -d 224.0.0.0/4 -m comment --comment "kvctl:T exclude multicast" -j RETURN
-A TO -s 10.0.0.1/32 -m comment --comment "kvctl:T 11700000000 a/b p-0" -j {chain}
COMMIT
"""
    )


def test_without_policies_there_is_nothing_at_all() -> None:
    ruleset = compile_ruleset(family=Family.IPV4, policies=[], exclusions=EXCLUDED)
    assert (dict(ruleset.hooks), dict(ruleset.chains)) == ({}, {})


def test_a_catch_all_service_is_one_rule() -> None:
    chain, out = own_chains(compiled(policy()))
    assert [render(rule).partition('" ')[2] for rule in chain] == ["-j SNAT --to-source 192.168.0.245"]
    assert out == ()


def gates_and_rest(ruleset: Ruleset) -> tuple[dict[str, tuple[Rule, ...]], dict[str, tuple[Rule, ...]]]:
    """The chains up to the gates, and those behind them that lead to the Services."""
    dispatch = {name: rules for name, rules in ruleset.chains.items() if layout.is_dispatch_chain(name)}
    behind = {name: rules for name, rules in dispatch.items() if name.startswith(layout.REWRITING.gated)}
    return {name: rules for name, rules in dispatch.items() if name not in behind}, behind


def spread(family: Family, count: int, step: int) -> list[Address]:
    """So many addresses, `step` from one to the next."""
    start = parse_address("10.0.0.0" if family is Family.IPV4 else "fd00:10::")
    return [type(start)(int(start) + n * step) for n in range(1, count + 1)]


class TestTree:
    """Many source addresses split by their next bits; behind a gate for each, what its packets alone meet."""

    @pytest.mark.parametrize("count", [1, 8, 9, 1000, 5000])
    def test_every_address_is_reached_and_no_leaf_has_more_than_eight(
        self, family: Family, count: int
    ) -> None:
        addresses = spread(family, count, 3)
        ruleset = compiled(policy(family, pods=addresses))
        before, behind = gates_and_rest(ruleset)
        for rules in before.values():
            gates = rules[0].target.chain in behind
            assert len(rules) <= (MAX_LEAF if gates else 16)
            assert {rule.target.verb for rule in rules} == {Verb.GOTO}
            assert len({rule.source.prefixlen for rule in rules if rule.source is not None}) == 1
            if rules[0].target.chain in before:
                assert len(rules) >= 2, "a level with one child is left out"
            else:
                assert {rule.target.chain for rule in rules} <= behind.keys()
        for rules in behind.values():
            heads, jumps = (
                rules[: 2 * len(excluded_in(family))],
                rules[2 * len(excluded_in(family)) :],
            )
            assert {rule.target.verb for rule in heads} == {Verb.RETURN}
            assert {rule.target.verb for rule in jumps} == {Verb.JUMP}
            assert 1 <= len(jumps) <= MAX_BEHIND
        outside = VIPS[family]
        for address in (addresses[0], addresses[count // 2], addresses[-1]):
            packet = Packet(address, outside, outside, "tcp", 80)
            assert source_after(ruleset, packet) == VIPS[family]
            assert rules_met(ruleset, packet) < 80
        assert sum(r.target.verb is Verb.JUMP for rules in behind.values() for r in rules) == count

    @pytest.mark.parametrize("step", [1, 3, 101, 3000])
    @pytest.mark.parametrize(("count", "most"), [(1000, 36), (5000, 45)])
    def test_a_bystander_meets_few_rules_and_no_excluded_network(
        self, family: Family, count: int, most: int, step: int
    ) -> None:
        addresses = spread(family, count, step)
        ruleset = compiled(policy(family, pods=addresses))
        make, pods, outside = type(addresses[0]), set(addresses), VIPS[family]
        near = {make(int(each) + by) for each in addresses[:: count // 100] for by in (-1, 1, step // 2)}
        far = {make(int(addresses[-1]) + 1), make(int(addresses[-1]) + 4096), outside}
        for bystander in (near | far) - pods:
            packet = Packet(bystander, outside, outside, "tcp", 80)
            rules = met_by(ruleset, packet)
            assert len(rules) <= most
            assert {rule.target.verb for rule in rules} == {Verb.GOTO}

    @pytest.mark.parametrize("step", [1, 3, 13, 101, 1009, 3000])
    def test_no_branch_has_24_bits(self, family: Family, step: int) -> None:
        """Of 24 bits nft loads three octets, for which it has no fast way."""
        for count in (9, 100, 400):
            ruleset = compiled(policy(family, pods=spread(family, count, step)))
            sources = {r.source.prefixlen for rules in ruleset.chains.values() for r in rules if r.source}
            assert 24 not in sources
            first, bits = (1, 4) if family is Family.IPV4 else (2, 3)
            assert {(length - first) % bits for length in sources - {family.bits}} == {0}

    def test_eight_addresses_are_one_flat_chain_before_the_gate_and_one_behind(self, family: Family) -> None:
        ruleset = compiled(policy(family, pods=spread(family, 8, 1)))
        before, behind = gates_and_rest(ruleset)
        assert (list(before), len(behind)) == ([EGRESS_CHAIN], 1)

    def test_a_single_address_with_many_services_never_splits(self) -> None:
        several = [policy(name=f"a/s{n}", ports=f"tcp:{n}") for n in range(1, 21)]
        before, behind = gates_and_rest(compiled(*several))
        assert [(name, len(rules)) for name, rules in before.items()] == [(EGRESS_CHAIN, 1)]
        assert list(behind) == ["KVCTL-TO-0.0.0.0-0"]
        assert sum(r.target.verb is Verb.JUMP for rules in behind.values() for r in rules) == 20

    def test_addresses_chosen_against_the_tree_go_no_deeper_than_allowed(self, family: Family) -> None:
        addresses = against_the_tree(family)
        ruleset = compiled(policy(family, pods=addresses))
        before, behind = gates_and_rest(ruleset)
        assert deepest(ruleset, EGRESS_CHAIN) == MAX_LEVELS + 1
        assert max(map(len, before.values())) > MAX_LEAF
        outside = VIPS[family]
        for address in addresses:
            assert source_after(ruleset, Packet(address, outside, outside, "tcp", 80)) == VIPS[family]
        jumps = [rule for rules in behind.values() for rule in rules if rule.target.verb is Verb.JUMP]
        assert len(jumps) == len(addresses)

    def test_ipv4_chains_are_named_by_their_prefix_and_ipv6_ones_by_a_hash(self) -> None:
        for family in Family:
            ruleset = compiled(policy(family, pods=spread(family, 40, 1)))
            branches = ruleset.chains[EGRESS_CHAIN]
            names = [rule.target.chain or "" for rule in branches]
            behind = [ruleset.chains[name][0].target.chain or "" for name in names]
            if family is Family.IPV4:
                prefixes = [f"10.0.0.{start}-29" for start in range(0, 48, 8)]
                assert names == [f"KVCTL-IN-{prefix}" for prefix in prefixes]
                assert behind == [f"KVCTL-TO-{prefix}" for prefix in prefixes]
            else:
                assert all(len(name) <= 28 and ":" not in name for name in (*names, *behind))
                assert branches[0].comment.endswith(" branch fd00:10::/125")

    def test_one_pod_more_changes_one_leaf_and_what_is_behind_its_gates(self) -> None:
        addresses = spread(Family.IPV4, 600, 3)
        before = compiled(policy(pods=addresses))
        it = policy(pods=[*addresses, parse_address("10.0.3.1")])
        after = compiled(it._replace(pods=tuple(sorted(it.pods, key=lambda p: int(p.address)))))
        changed = [name for name, rules in after.chains.items() if before.chains.get(name) != rules]
        assert changed == ["KVCTL-IN-10.0.3.0-29", "KVCTL-TO-10.0.3.0-29"]

    @pytest.mark.parametrize(("count", "chains"), [(16, 1), (17, 3)])
    def test_leaves_of_a_prefix_with_few_pods_share_what_is_behind_their_gates(
        self, family: Family, count: int, chains: int
    ) -> None:
        """It begins with all the networks, which are most of the rules where there is much of it."""
        before, behind = gates_and_rest(compiled(policy(family, pods=spread(family, count, 1))))
        assert (len(before), len(behind)) == (1 + 3, chains)

    def test_rules_of_a_tree_without_gates_are_read(self, family: Family) -> None:
        """As kvctl wrote them before it had any."""
        several = [policy(family, pods=spread(family, 3, 5)), policy(family, "sip/b", ports="tcp:1")]
        ruleset = compiled(*several)
        behind = next(iter(gates_and_rest(ruleset)[1]))
        chains = {name: rules for name, rules in ruleset.chains.items() if name != behind}
        flat = ruleset._replace(chains={**chains, EGRESS_CHAIN: ruleset.chains[behind]})
        old, new = read_back(flat), read_back(ruleset)
        assert old.entries == new.entries
        assert old.exclusions == new.exclusions
        assert {ref: it.policy for ref, it in old.services.items()} == {p.ref: p for p in several}


def against_the_tree(family: Family) -> list[Address]:
    """Addresses that make a chain of branches, each of which has one address beside the next branch; 9 in the end."""
    start = parse_address("10.0.0.0" if family is Family.IPV4 else "fd00:10::")
    bits = range(30, 0, -4) if family is Family.IPV4 else range(118, 0, -3)
    beside = [int(start) + (1 << bit) for bit in bits]
    return sorted({type(start)(each) for each in (*beside, *(int(start) + n for n in range(1, 10)))}, key=int)


def deepest(ruleset: Ruleset, chain: str) -> int:
    """How many dispatch chains there are, one behind the other, after this one."""
    below = {r.target.chain for r in ruleset.chains[chain] if r.target.chain}
    dispatch = [name for name in below if layout.is_dispatch_chain(name)]
    return 1 + max((deepest(ruleset, name) for name in dispatch), default=-1)


class TestNetworksAndPorts:
    """What a Service's own chains hold."""

    def test_networks_times_ports_do_not_multiply(self) -> None:
        allowed = ",".join(f"192.168.{n}.0/24" for n in range(0, 256, 2))
        ports = ",".join(f"tcp:{n * 2}" for n in range(1, 65))
        chain, out = own_chains(compiled(policy(allowed=allowed, ports=ports, denied="172.16.0.0/12")))
        assert (len(chain), len(out)) == (1 + 128, 5)
        assert {rule.target.chain for rule in chain[1:]} == {layout.out_chain(ref("sip/sip-client"))}
        assert {rule.target.verb for rule in out} == {Verb.SNAT}

    def test_denied_networks_come_first(self) -> None:
        chain, _ = own_chains(compiled(policy(allowed="192.168.0.0/16", denied="192.168.9.0/24")))
        assert [rule.target.verb for rule in chain] == [Verb.RETURN, Verb.SNAT]

    @pytest.mark.parametrize(
        ("ports", "slots"),
        [
            (",".join(f"tcp:{n * 2}" for n in range(1, 16)), [15]),
            (",".join(f"tcp:{n * 2}" for n in range(1, 17)), [15, 1]),
            (",".join(f"tcp:{n * 10}-{n * 10 + 5}" for n in range(1, 8)), [14]),
            (",".join(f"tcp:{n * 10}-{n * 10 + 5}" for n in range(1, 9)), [14, 2]),
            ("tcp:1," + ",".join(f"tcp:{n * 10}-{n * 10 + 5}" for n in range(1, 9)), [15, 2]),
            ("udp:1,tcp:1,sctp:1", [1, 1, 1]),
        ],
    )
    def test_a_multiport_match_has_fifteen_slots_and_a_range_takes_two(
        self, ports: str, slots: list[int]
    ) -> None:
        chain, _ = own_chains(compiled(policy(ports=ports)))
        assert [sum(1 if a == b else 2 for a, b in rule.ports) for rule in chain] == slots

    def test_all_65535_ports_are_one_plain_range(self) -> None:
        chain, _ = own_chains(compiled(policy(ports="tcp:1-65535")))
        assert "-p tcp -m tcp --dport 1:65535" in render(chain[0])


class TestComments:
    """The kernel cuts a comment at 255 bytes and a chain name at 28, in silence."""

    def test_the_longest_names_fit(self, family: Family) -> None:
        its_ref = f"{'n' * 63}/{'s' * 63}"
        it = policy(family, its_ref)._replace(
            pods=(EgressPod.named(pod_address(family, 1), name="p" * 253),),
            interface="i" * 15,
            created=253_402_300_799,
        )
        ruleset = compiled(it)
        longest = max(len(rule.comment) for rules in ruleset.chains.values() for rule in rules)
        assert longest <= 255
        assert max(map(len, ruleset.chains)) <= 28
        back = read_back(ruleset).services[ref(its_ref)]
        assert back.intact
        assert back.policy is not None
        assert back.policy.created == it.created
        assert back.policy.pods[0].label.endswith("~")
        assert back.policy.pods[0].name is None
        mark = comments.retiring_rule(ref(its_ref), parse_address("2001:db8:1111:2222:3333:4444:5555:6666"))
        assert len(mark.comment) <= 255
        assert comments.read_retiring(mark) is not None

    def test_a_change_of_anything_in_a_service_changes_its_tag(self) -> None:
        base = policy(ports="tcp:80", allowed="192.168.0.0/16", denied="192.168.9.0/24")
        other = (
            base._replace(vip=parse_address("192.168.0.246")),
            base._replace(ports=()),
            base._replace(allowed=networks("192.168.0.0/17")),
            base._replace(denied=()),
            base._replace(allowed=base.denied, denied=base.allowed),
            base._replace(interface="eth1"),
        )
        tags = {own_chains(compiled(it))[0][0].comment for it in (base, *other)}
        assert len(tags) == 1 + len(other)

    def test_a_comment_that_could_break_out_of_its_quotes_is_never_rendered(self) -> None:
        rule = own_chains(compiled(policy()))[0][0]
        for text in ('kvctl:x "', "kvctl:x\n-A", "kvctl:\\", "kvctl:ü", ""):
            with pytest.raises(ValueError, match="characters"):
                render(rule._replace(comment=text))


@EXAMPLES
@given(data=st.data(), family=families)
def test_any_order_of_policies_gives_the_same_rules(data: st.DataObject, family: Family) -> None:
    wanted = data.draw(policies(family))
    shuffled = data.draw(st.permutations(wanted))
    excluded = data.draw(exclusions(family))
    one = compile_ruleset(family=family, policies=wanted, exclusions=excluded)
    other = compile_ruleset(family=family, policies=shuffled, exclusions=excluded)
    assert one == other


@EXAMPLES
@given(data=st.data(), family=families)
def test_the_text_read_back_is_the_rules_and_the_policies(data: st.DataObject, family: Family) -> None:
    wanted = data.draw(policies(family))
    excluded = data.draw(exclusions(family))
    ruleset = compile_ruleset(family=family, policies=wanted, exclusions=excluded)
    for rule in (*ruleset.hooks.values(), *(rule for rules in ruleset.chains.values() for rule in rules)):
        assert rule is not None
        assert parse(render(rule)) == rule
        assert len(rule.comment) <= 255
    assert max(map(len, ruleset.chains)) <= 28
    assert not diff(ruleset, snapshot_of(parse_tables(save_text(ruleset)), family))
    found = read_back(ruleset)
    assert found.exclusions == excluded
    assert found.retiring == ()
    assert {it.ref: it.policy for it in found.services.values()} == {it.ref: _bare(it) for it in wanted}
    assert all(it.intact for it in found.services.values())


def _bare(it: EgressPolicy) -> EgressPolicy:
    """What a rule can carry of a policy: labels, no nodes."""
    return it._replace(pods=tuple(EgressPod.labelled(p.address, label=p.label) for p in it.pods))


@EXAMPLES
@given(data=st.data(), family=families)
def test_the_rules_do_with_a_packet_what_the_contract_says(data: st.DataObject, family: Family) -> None:
    wanted = data.draw(policies(family))
    excluded = data.draw(exclusions(family))
    ruleset = compile_ruleset(family=family, policies=wanted, exclusions=excluded)
    for packet in data.draw(st.lists(packets(family), min_size=20, max_size=40)):
        assert source_after(ruleset, packet) == expected_source(packet, wanted, excluded), packet


@EXAMPLES
@given(data=st.data(), family=families)
def test_a_service_said_to_be_wholly_shadowed_takes_no_packet(data: st.DataObject, family: Family) -> None:
    """And one of which nothing is said loses none."""
    from kvctl.policy.shadow import find_shadows

    wanted = data.draw(policies(family, pods=3))
    shadows = find_shadows(wanted)
    alone = {it.ref: it._replace(vip=VIPS[family]) for it in wanted}
    for packet in data.draw(st.lists(packets(family, pods=3), min_size=20, max_size=40)):
        for it in wanted:
            marked = [alone[it.ref] if other is it else other for other in wanted]
            taken = expected_source(packet, marked, ()) == VIPS[family]
            would = expected_source(packet, [alone[it.ref]], ()) == VIPS[family]
            shadow = shadows.get((it.ref, family))
            if shadow is None:
                assert taken == would
            elif shadow.whole:
                assert not taken


@EXAMPLES
@given(data=st.data())
def test_any_order_of_objects_gives_the_same_answer(data: st.DataObject) -> None:
    services = [
        service(
            f"{namespace}/{name}", vip=f"192.168.0.{vip}", ports=ports, created=created, selector={"app": app}
        )
        for namespace, name, vip, ports, created, app in data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from("ab"),
                    st.sampled_from("xyz"),
                    st.integers(1, 3),
                    st.sampled_from((None, "tcp:80", "udp:0")),
                    st.integers(0, 2),
                    st.sampled_from(("p", "q")),
                ),
                max_size=6,
                unique_by=lambda it: it[:2],
            )
        )
    ]
    pods = [
        pod(f"{namespace}/{app}-{n}", f"10.0.0.{address}", created=created, deleting=deleting, app=app)
        for n, (namespace, app, address, created, deleting) in enumerate(
            data.draw(
                st.lists(
                    st.tuples(
                        st.sampled_from("ab"),
                        st.sampled_from(("p", "q")),
                        st.integers(1, 4),
                        st.integers(0, 2),
                        st.booleans(),
                    ),
                    max_size=8,
                )
            )
        )
    ]
    one = resolved(*services, *pods)
    shuffled: list[Thing] = data.draw(st.permutations([*services, *pods]))
    other = resolved(*shuffled)
    assert sorted(map(repr, one.wanted)) == sorted(map(repr, other.wanted))
    assert sorted(map(repr, one.skipped)) == sorted(map(repr, other.skipped))
