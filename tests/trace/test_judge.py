"""The verdict, and that there is none where it would be a guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvctl.model.flows import Flow, Tuple
from kvctl.model.net import Family, parse_address
from kvctl.node.lookup import Answer
from kvctl.trace import walk
from kvctl.trace.judge import judge
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.packet import Packet
from kvctl.trace.story import sentence
from kvctl.trace.walk import Place, Step, Way
from tests.trace.packets import FACTS, nat, packet, reading

SNAT = "-j SNAT --to-source 192.0.2.245"
HOOK = '-m comment --comment "kvctl:aaaaaaaaaaaaaaaa egress" -j KVCTL-EGRESS'
OURS = """:KVCTL-EGRESS - [0:0]
:KVCTL-SVC-X - [0:0]
-A KVCTL-EGRESS -d 10.0.0.0/16 -m comment --comment "kvctl:aaaaaaaaaaaaaaaa exclude pod-cidr" -j RETURN
-A KVCTL-EGRESS -s 10.0.0.1/32 -m comment --comment "kvctl:aaaaaaaaaaaaaaaa 11700000000 sip/client a-0" -j KVCTL-SVC-X
-A KVCTL-SVC-X -p udp -m udp --dport 5060 -m comment --comment "kvctl:aaaaaaaaaaaaaaaa sip/client" \
-j SNAT --to-source 192.0.2.245"""


def told(
    text: str = "", *, which: Packet | None = None, legacy: str = "", flows: tuple[Flow, ...] = ()
) -> Judgement:
    return judge(which or packet(), reading(text, legacy), FACTS, flows)


def flow(*, source: str = "10.0.0.1", seen: str = "192.0.2.245", protocol: str = "udp") -> Flow:
    here, there, vip = (parse_address(each) for each in (source, "192.0.2.1", seen))
    return Flow(
        family=Family.IPV4,
        protocol=protocol,
        original=Tuple(here, there, 40_000, 5060),
        reply=Tuple(there, vip, 5060, 40_000),
        replied=True,
    )


def test_our_rule_rewrites_and_its_service_is_named() -> None:
    judged = told(nat(HOOK, "-j MASQUERADE", chains=OURS))
    assert (judged.verdict, str(judged.source), str(judged.service)) == (
        Verdict.REWRITTEN,
        "192.0.2.245",
        "sip/client",
    )
    assert sentence(judged) == (
        "udp from 10.0.0.1:40000 to 192.0.2.1:5060: leaves by eth0 with 192.0.2.245, the VIP of sip/client"
    )


def test_what_is_not_rewritten_has_its_reason() -> None:
    text = nat(HOOK, "-j MASQUERADE", chains=OURS)
    assert "because sip/client rewrites only udp:5060" in sentence(told(text, which=packet(port=53)))
    assert "10.0.0.0/16, which is never rewritten to (pod-cidr)" in sentence(
        told(text, which=packet("10.0.9.9"))
    )
    elsewhere = nat(HOOK, "-j MASQUERADE", chains=OURS.replace("-s 10.0.0.1/32", "-s 10.0.0.2/32"))
    assert "because no Service's rules name the pod 10.0.0.1" in sentence(told(elsewhere))
    assert "because kvctl has no rules in the kernel" in sentence(told())


def test_a_chain_that_somebody_has_flushed_is_why_nothing_is_rewritten() -> None:
    flushed = OURS[: OURS.index("-A KVCTL-SVC-X ")].rstrip()
    why = "because KVCTL-SVC-X is empty, somebody has flushed it: kvctl egress apply mends it"
    judged = told(nat(HOOK, "-j MASQUERADE", chains=flushed))
    assert (judged.verdict, str(judged.service)) == (Verdict.TRANSLATED, "sip/client")
    assert sentence(judged).endswith(why)
    assert sentence(told(nat(HOOK, chains=flushed))).endswith(f"with its own address, {why}")
    root = nat(HOOK, "-j MASQUERADE", chains=":KVCTL-EGRESS - [0:0]\n:KVCTL-SVC-X - [0:0]")
    assert sentence(told(root)).endswith(why.replace("SVC-X", "EGRESS"))
    # An exclusion is asked first, whatever comes behind it.
    assert "never rewritten to" in sentence(told(nat(HOOK, chains=flushed), which=packet("10.0.9.9")))


DROPS = """*mangle
:POSTROUTING ACCEPT [0:0]
:KVCTL-DROP - [0:0]
{}
-A KVCTL-DROP -s 10.0.0.2/32 -j DROP
COMMIT
"""
DROP_HOOK = '-A POSTROUTING -m comment --comment "kvctl:aaaaaaaaaaaaaaaa drop" -j KVCTL-DROP'


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (
            f"-A POSTROUTING -s 10.0.0.0/16 -j ACCEPT\n{DROP_HOOK}",
            (
                "mangle -A POSTROUTING -s 10.0.0.0/16 -j ACCEPT (another program's) ends the walk before kvctl's "
                "rules, which drop, are asked"
            ),
        ),
        (DROP_HOOK, "kvctl has only rules that drop, and none of them takes it: kvctl egress list"),
        ("-A POSTROUTING -j LOG", "kvctl's rules are there, but no jump leads to them"),
    ],
)
def test_rules_that_only_drop_are_rules_too(rules: str, why: str) -> None:
    assert f"because {why}" in sentence(told(DROPS.format(rules)))


def test_a_masquerade_above_our_jump_is_told() -> None:
    judged = told(nat("-s 10.0.0.0/16 -j MASQUERADE", HOOK, chains=OURS))
    assert (judged.verdict, str(judged.source)) == (Verdict.TRANSLATED, "172.16.0.2")
    assert "by MASQUERADE (another program's), because its rule is asked before kvctl's" in sentence(judged)


def test_a_rule_that_returns_before_our_jump_is_told() -> None:
    judged = told(nat("-d 192.0.2.0/24 -j RETURN", HOOK, chains=OURS))
    assert judged.verdict is Verdict.UNCHANGED
    assert "ends the walk before kvctl's rules are asked" in judged.reason


def test_an_unknown_match_is_no_obstacle_where_it_changes_nothing() -> None:
    judged = told(nat("-m set --match-set a dst -j LOG", f"-m statistic --probability 0.5 {SNAT}", SNAT))
    assert (judged.verdict, str(judged.source)) == (Verdict.TRANSLATED, "192.0.2.245")


def test_an_unknown_match_that_changes_the_source_is_named() -> None:
    judged = told(nat("-m set --match-set a dst -j RETURN", SNAT))
    assert judged.verdict is None
    (unknown,) = judged.unknown
    assert unknown.startswith("nat -A POSTROUTING -m set --match-set a dst -j RETURN: ")
    assert unknown.endswith("members of ipsets are not read")


@pytest.mark.parametrize(
    "target", ["-j NFQUEUE --queue-num 1", "-j TPROXY --on-port 1", "-j SNAT --to-source 192.0.2.1-192.0.2.9"]
)
def test_a_target_that_is_not_known_gives_no_verdict(target: str) -> None:
    judged = told(nat(target))
    assert judged.verdict is None
    assert target.split(" ")[1] in sentence(judged)


def test_two_back_ends_that_disagree_give_no_verdict_and_two_that_agree_do() -> None:
    other = nat("-j SNAT --to-source 192.0.2.9")
    assert told(nat(SNAT), legacy=nat("-s 10.0.9.9/32 -j MASQUERADE")).verdict is Verdict.TRANSLATED
    assert told(nat(SNAT), legacy=nat(SNAT)).verdict is Verdict.TRANSLATED
    judged = told(nat(SNAT), legacy=other)
    assert judged.verdict is None
    assert "both back ends" in sentence(judged)


def test_the_policy_of_a_chain_drops() -> None:
    text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n"
    assert told(text).verdict is Verdict.DROPPED
    assert "by the policy of the chain" in sentence(told(text))
    assert told(text, which=packet(protocol="tcp")).verdict is Verdict.UNCHANGED


def test_what_may_be_dropped_on_the_way_is_a_note() -> None:
    judged = told(
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad dst -j DROP\nCOMMIT\n" + nat(SNAT)
    )
    assert judged.verdict is Verdict.TRANSLATED
    assert len(judged.notes) == 1
    assert "may be dropped" in judged.notes[0]


RAW = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.0.0.0/8 -j {}\nCOMMIT\n"


@pytest.mark.parametrize("target", ["NOTRACK", "CT --notrack"])
def test_what_is_not_tracked_leaves_as_it_is_whatever_nat_says(target: str) -> None:
    judged = told(RAW.format(target) + nat(SNAT))
    assert (judged.verdict, str(judged.source)) == (Verdict.UNCHANGED, "10.0.0.1")
    assert sentence(judged).endswith(
        f"with its own address, because raw -A PREROUTING -s 10.0.0.0/8 -j {target} (another program's) "
        "exempts it from conntrack, and nat is not asked"
    )
    assert told(RAW.format(target) + nat(SNAT), flows=(flow(),)).verdict is Verdict.UNCHANGED


def test_connections_are_not_said_to_go_on_where_nothing_is_tracked() -> None:
    which = packet(source_port=None)
    assert "is there already goes on with 192.0.2.245" in sentence(told(which=which, flows=(flow(),)))
    exempt = told(RAW.format("NOTRACK"), which=which, flows=(flow(),))
    assert "already" not in sentence(exempt)


@pytest.mark.parametrize(
    ("target", "judged"),
    [("--ttl-set 65", True), ("--ttl-inc 1", True), ("--ttl-set 1", False), ("--ttl-dec 1", False)],
)
def test_what_may_leave_a_packet_no_hop_gives_no_verdict(target: str, *, judged: bool) -> None:
    text = f"*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j TTL {target}\nCOMMIT\n"
    assert (told(text).verdict is not None) is judged


def test_a_target_with_an_option_that_is_not_understood_gives_no_verdict() -> None:
    text = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CONNMARK --set-xmark 0x1/0xff{}\nCOMMIT\n"
    assert told(text.format("")).verdict is Verdict.UNCHANGED
    judged = told(text.format(" --left-shift-mark 4"))
    assert judged.verdict is None
    assert "what one of its options does is not known here" in sentence(judged)


def test_a_chain_with_the_name_of_a_target_is_not_taken_for_it() -> None:
    text = "*filter\n:FORWARD ACCEPT [0:0]\n:LOG - [0:0]\n-A FORWARD -j LOG\n-A LOG -j DROP\nCOMMIT\n"
    judged = told(text)
    assert judged.verdict is None
    assert "a chain has the name of the target LOG" in sentence(judged)


def test_another_conntrack_zone_gives_no_verdict() -> None:
    assert "what this target does is not known here" in sentence(told(RAW.format("CT --zone 1") + nat(SNAT)))


def test_a_mark_set_before_the_routing_decides_the_interface() -> None:
    text = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.0.0.1/32 -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
    assert told(text).interface == "eth1"
    assert told().interface == "eth0"


@pytest.mark.parametrize("kind", ["unicast", "refused", "local"])
def test_a_rule_of_routing_that_may_lead_elsewhere_gives_no_verdict(kind: str) -> None:
    way = Answer(kind=kind, interface="eth0", open_rule="100: sport lookup 77")
    judged = judge(packet(), reading(nat(SNAT)), FACTS._replace(way=lambda packet: way))
    assert judged.verdict is None
    assert "the ip rule 100: sport lookup 77 may lead it elsewhere" in sentence(judged)


def test_a_connection_that_is_there_counts_and_nat_is_not_asked() -> None:
    judged = told(nat("-j SNAT --to-source 192.0.2.9"), flows=(flow(),))
    assert (judged.verdict, str(judged.source)) == (Verdict.TRANSLATED, "192.0.2.245")
    assert "as the connection that it is part of began" in sentence(judged)
    assert not [step for step in judged.steps if step.place.table == "nat"]


@pytest.mark.parametrize(("state", "counts"), [("ESTABLISHED", True), ("TIME_WAIT", False), ("CLOSE", False)])
def test_a_connection_that_has_ended_is_none(state: str, *, counts: bool) -> None:
    there = replace(flow(protocol="tcp"), state=state)
    text = nat("-j SNAT --to-source 192.0.2.9")
    judged = told(text, which=packet(protocol="tcp"), flows=(there,))
    assert (judged.flow is not None, str(judged.source)) == (counts, "192.0.2.245" if counts else "192.0.2.9")
    later = told(text, which=packet(protocol="tcp", source_port=None), flows=(there,))
    assert bool(later.others) is counts


def test_a_connection_that_may_be_masqueraded_and_leaves_by_another_interface_gives_no_verdict() -> None:
    there = flow(seen="172.16.0.2")
    assert told(flows=(there,)).verdict is Verdict.TRANSLATED
    marked = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
    judged = told(marked, flows=(there,))
    assert judged.verdict is None
    assert "an address of eth0, and now leaves by eth1" in sentence(judged)
    assert told(marked, flows=(flow(),)).interface == "eth1"


def test_the_answer_in_a_connection_from_outside_leaves_with_the_address_that_was_asked() -> None:
    client, vip, pod = (parse_address(each) for each in ("192.0.2.1", "192.0.2.245", "10.0.0.1"))
    inward = Flow(
        family=Family.IPV4,
        protocol="udp",
        original=Tuple(client, vip, 5060, 40_000),
        reply=Tuple(pod, client, 40_000, 5060),
        replied=True,
    )
    judged = told(nat("-j MASQUERADE"), flows=(inward,))
    assert (judged.verdict, judged.source) == (Verdict.TRANSLATED, vip)


def test_without_a_source_port_connections_are_only_told_of() -> None:
    judged = told(
        nat("-j SNAT --to-source 192.0.2.9"),
        which=packet(source_port=None),
        flows=(flow(), flow(protocol="tcp")),
    )
    assert str(judged.source) == "192.0.2.9"
    assert judged.others == (flow(),)
    nowhere = told(which=packet(port=None), flows=(flow(),))
    assert (nowhere.flow, nowhere.others) == (None, (flow(),))


def test_chains_that_lead_into_each_other_come_to_an_end() -> None:
    judged = told(nat("-j A", chains=":A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j A"))
    assert judged.verdict is None
    assert "lead into each other" in judged.unknown[0]


def test_a_return_from_a_chain_that_was_gone_to_goes_back_to_where_that_was_left_from() -> None:
    chains = ":A - [0:0]\n:B - [0:0]\n-A A -g B\n-A A -j SNAT --to-source 192.0.2.8\n-A B -j RETURN"
    assert str(told(nat("-j A", SNAT, chains=chains)).source) == "192.0.2.245"


def test_a_service_of_many_back_ends_has_one_verdict_for_all_of_them() -> None:
    jumps = "\n".join(
        f"-A PREROUTING -m statistic --mode random --probability 0.1 -j EP-{n}" for n in range(200)
    )
    ends = "\n".join(f":EP-{n} - [0:0]\n-A EP-{n} -j DNAT --to-destination 10.1.0.{n}:80" for n in range(200))
    judged = told(nat("-d 10.1.0.0/16 -j RETURN", SNAT, chains=f"{ends}\n{jumps}\n-A PREROUTING -j EP-0"))
    assert (judged.verdict, str(judged.source)) == (Verdict.UNCHANGED, "10.0.0.1")
    assert "one of several" in judged.notes[0]
    assert told(nat("-d 10.1.0.7/32 -j RETURN", SNAT, chains=f"{ends}\n{jumps}")).verdict is None


def test_matches_that_lead_to_too_many_ways_give_no_verdict() -> None:
    marks = [f"-m statistic --probability 0.5 -j MARK --set-xmark {1 << n:#x}/{1 << n:#x}" for n in range(20)]
    judged = told(nat(*marks, SNAT))
    assert judged.verdict is None
    assert "too many" in judged.unknown[0]


def test_a_long_table_is_followed_and_ways_that_are_long_together_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walk, "MOST_RULES", 20_000)
    taken = [f"-s 10.0.0.0/16 -m comment --comment {n}" for n in range(8000)]
    assert str(told(nat(*taken, SNAT)).source) == "192.0.2.245"
    forks = [f"-m statistic --probability 0.5 -j MARK --set-xmark {1 << n:#x}/{1 << n:#x}" for n in range(9)]
    doubtful = "-m statistic --probability 0.5 -j MARK --set-xmark 0x1/0x1"
    judged = told(nat(*forks, *[doubtful] * 100, SNAT))
    assert judged.verdict is None
    assert "given up" in judged.unknown[0]


def test_ways_that_part_late_share_what_came_before() -> None:
    step = Step(Place("FORWARD", "nft", "filter"), "FORWARD", None)
    before = Way(packet()).by(step)
    left, right = before.by(step), before.by(step._replace(taken=False))
    assert left.trail is not None
    assert right.trail is not None
    assert left.trail.before is right.trail.before is before.trail
    assert left.steps == (step, step)


RECENT = "-m recent {}--rcheck --seconds 10 --name {} --mask 0.0.0.0 --rsource -m comment"
GUARDS = """*mangle
:POSTROUTING ACCEPT [0:0]
:KVCTL-DROP - [0:0]
:KVCTL-GRD-X - [0:0]
-A POSTROUTING -m conntrack --ctdir ORIGINAL -m comment --comment "kvctl:aaaaaaaaaaaaaaaa drop" -j KVCTL-DROP
-A KVCTL-DROP -s 10.0.0.1/32 -m comment --comment "kvctl:aaaaaaaaaaaaaaaa guard 11700000000 sip/client a-0" \
-j KVCTL-GRD-X
-A KVCTL-GRD-X -m conntrack --ctrepldst 192.0.2.245 {} --comment "kvctl:aaaaaaaaaaaaaaaa guard sip/client" -j DROP
COMMIT
"""


@pytest.mark.parametrize(
    ("beat", "comes"), [("kvctl-aaaaaaaaaaaaaaaa", True), ("kvctl-bbbbbbbbbbbbbbbb", False)]
)
def test_a_fence_without_heartbeats_is_the_reason(beat: str, comes: bool) -> None:
    fenced = OURS.replace("--dport 5060 -m comment", f"--dport 5060 {RECENT.format('', beat)}")
    text = nat(HOOK, "-j MASQUERADE", chains=fenced) + GUARDS.format(RECENT.format("! ", beat))
    judged, later = told(text), told(text, flows=(flow(),))
    if comes:
        assert (judged.verdict, later.verdict) == (Verdict.REWRITTEN, Verdict.REWRITTEN)
        assert str(later.service) == "sip/client"
        return
    assert judged.verdict is Verdict.TRANSLATED
    assert judged.reason == "the heartbeats of sip/client have stopped"
    assert later.verdict is Verdict.DROPPED
    assert "the heartbeats of sip/client have stopped, and its VIP may be elsewhere" in sentence(later)
