"""Which foreign rules above the hook keep a pod's packet from it."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family, parse_network
from kvctl.model.rules import DROP_CHAIN, EGRESS_CHAIN, Hook, Table
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.position import is_hook, referrers, rule_in_the_way
from kvctl.netfilter.savetext import parse_tables, snapshot_of
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import DROP_HOOK, HOOK

PODS = (parse_network("10.0.0.1/32"), parse_network("10.0.1.7/32"))


def _snapshot(*rules: str, hook: bool = True) -> Snapshot:
    """A nat table of these rules, each as after `-A`, with our hook last in POSTROUTING."""
    chains = dict.fromkeys(["POSTROUTING", EGRESS_CHAIN, *(rule.split()[0] for rule in rules)])
    lines = [f":{chain} - [0:0]" for chain in chains]
    lines += [f"-A {rule}" for rule in rules]
    if hook:
        lines.append(f"-A POSTROUTING {render(HOOK)}")
    return snapshot_of(parse_tables("\n".join(["*nat", *lines, "COMMIT"])), Family.IPV4)


HARMLESS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "no target": ("POSTROUTING -s 10.0.0.1/32",),
    "LOG": ('POSTROUTING -j LOG --log-prefix "-j MASQUERADE"',),
    "NFLOG": ("POSTROUTING -j NFLOG --nflog-group 5",),
    "MARK": ("POSTROUTING -j MARK --set-xmark 0x1/0x1",),
    "CONNMARK": ("POSTROUTING -j CONNMARK --save-mark",),
    "other sources": ("POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",),
    "all but a wider network": ("POSTROUTING ! -s 10.0.0.0/16 -d 1.2.3.0/24 -j MASQUERADE",),
    "chain that returns": ("POSTROUTING -j A", "A -j RETURN", "A -s 172.17.0.0/16 -j MASQUERADE"),
    "empty chain": ("POSTROUTING -j A", "A -j LOG"),
    "jump for other sources": ("POSTROUTING -s 172.17.0.0/16 -j A", "A -j MASQUERADE"),
    "chain of chains": ("POSTROUTING -j A", "A -j B", "B -g C", "C -j MARK --set-xmark 0x1/0x1"),
    "comment that looks like a target": ('POSTROUTING -m comment --comment "-j MASQUERADE" -j LOG',),
    "kube-proxy": (
        'POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        "KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ),
}

IN_THE_WAY: dict[str, tuple[str, ...]] = {
    "MASQUERADE": ("POSTROUTING -j MASQUERADE",),
    "MASQUERADE of the pods": ("POSTROUTING -s 10.0.0.0/16 ! -d 10.0.0.0/16 -j MASQUERADE",),
    "of one pod": ("POSTROUTING -s 10.0.1.0/24 -j MASQUERADE",),
    "SNAT": ("POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1",),
    "NETMAP": ("POSTROUTING -j NETMAP --to 192.0.2.0/24",),
    "ACCEPT": ("POSTROUTING -p udp -j ACCEPT",),
    "RETURN": ("POSTROUTING -d 192.0.2.0/24 -j RETURN",),
    "all but some others": ("POSTROUTING ! -s 172.17.0.0/16 -j MASQUERADE",),
    "all but one of the pods": ("POSTROUTING ! -s 10.0.0.1/32 -j MASQUERADE",),
    "comment that looks like a source": (
        'POSTROUTING -m comment --comment "-s 172.17.0.0/16" -j MASQUERADE',
    ),
    "unknown target": ("POSTROUTING -j SOMETHINGNEW",),
    "source that cannot be read": ("POSTROUTING -s 10.0.0.0/255.0.255.0 -j MASQUERADE",),
    "jump": ("POSTROUTING -j A", "A -j MASQUERADE"),
    "jump far": ("POSTROUTING -j A", "A -j B", "B -j C", "C -s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1"),
    "goto": ("POSTROUTING -g A", "A -j MASQUERADE"),
    "goto into what ends there": ("POSTROUTING -g A", "A -j LOG"),
    "goto within": ("POSTROUTING -j A", "A -g B", "B -j ACCEPT"),
    "loop": ("POSTROUTING -j A", "A -j B", "B -j A"),
    "our chain without our tag": (f"POSTROUTING -j {EGRESS_CHAIN}",),
    "kube-proxy without its return": (
        "POSTROUTING -j KUBE-POSTROUTING",
        "KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        "KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ),
    "kube-proxy with its return too late": (
        "POSTROUTING -j KUBE-POSTROUTING",
        "KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    ),
    "kube-proxy with another mark": (
        "POSTROUTING -j KUBE-POSTROUTING",
        "KUBE-POSTROUTING -m mark ! --mark 0x8000/0x8000 -j RETURN",
        "KUBE-POSTROUTING -j MASQUERADE",
    ),
    "goto kube-proxy": (
        "POSTROUTING -g KUBE-POSTROUTING",
        "KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    ),
}


@pytest.mark.parametrize("rules", HARMLESS.values(), ids=HARMLESS)
def test_a_rule_that_takes_no_packet_of_a_pod_is_tolerated(rules: tuple[str, ...]) -> None:
    assert rule_in_the_way(_snapshot(*rules), PODS) is None


@pytest.mark.parametrize("rules", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_rule_that_may_take_a_packet_is_in_the_way(rules: tuple[str, ...]) -> None:
    assert rule_in_the_way(_snapshot(*rules), PODS) == rules[0].removeprefix("POSTROUTING ")


def test_the_first_of_several_is_named() -> None:
    found = _snapshot("POSTROUTING -j LOG", "POSTROUTING -j ACCEPT", "POSTROUTING -j MASQUERADE")
    assert rule_in_the_way(found, PODS) == "-j ACCEPT"


def test_what_comes_after_the_hook_is_not_in_the_way() -> None:
    below = _snapshot()
    masquerade = FoundRule(text="-j MASQUERADE", rule=None)
    beside = below.beside(Table.NAT)
    around = {
        Table.NAT: beside._replace(hook_chains={"POSTROUTING": (*below.hook_chain(Hook.EGRESS), masquerade)})
    }
    found = Snapshot(family=Family.IPV4, chains=below.chains, around=around)
    assert rule_in_the_way(found, PODS) is None


def test_a_hook_is_one_whatever_its_tag_and_matches() -> None:
    assert is_hook(FoundRule(text="", rule=HOOK), Hook.EGRESS)
    for text in (
        f'-m comment --comment "kvctl:another version" -j {EGRESS_CHAIN}',
        f'-s 10.0.0.0/8 -m comment --comment "kvctl:x" -j {EGRESS_CHAIN}',
    ):
        found = _snapshot(f"POSTROUTING {text}", hook=False)
        assert [is_hook(each, Hook.EGRESS) for each in found.hook_chain(Hook.EGRESS)] == [True]
    for text in (f"-j {EGRESS_CHAIN}", '-m comment --comment "kvctl:x" -j OTHER', "-j MASQUERADE"):
        found = _snapshot(f"POSTROUTING {text}", hook=False)
        assert [is_hook(each, Hook.EGRESS) for each in found.hook_chain(Hook.EGRESS)] == [False]


class TestReferrers:
    def test_foreign_rules_that_lead_to_chains_of_ours_are_found(self) -> None:
        found = _snapshot(
            "A -p tcp -j KVCTL-SVC-ONE",
            'A -m comment --comment "-j KVCTL-SVC-TWO" -j RETURN',
            f"PREROUTING -g {EGRESS_CHAIN}",
            "KVCTL-SVC-ONE -j RETURN",
            "KVCTL-SVC-TWO -j KVCTL-SVC-THREE",
            "KVCTL-SVC-THREE -j RETURN",
            "A -j KVCTL-SVC-GONE",
        )
        assert referrers(found) == {
            "KVCTL-SVC-ONE": "-A A -p tcp -j KVCTL-SVC-ONE",
            EGRESS_CHAIN: f"-A PREROUTING -g {EGRESS_CHAIN}",
        }

    def test_our_hook_is_none_and_an_untagged_jump_beside_it_is(self) -> None:
        assert referrers(_snapshot()) == {}
        found = _snapshot(f"POSTROUTING -j {EGRESS_CHAIN}")
        assert referrers(found) == {EGRESS_CHAIN: f"-A POSTROUTING -j {EGRESS_CHAIN}"}

    def test_chains_of_ours_count_only_where_they_stay_as_they_are(self) -> None:
        found = _snapshot("KVCTL-SVC-ONE -j KVCTL-SVC-TWO", "KVCTL-SVC-TWO -j RETURN")
        assert referrers(found) == {}
        assert referrers(found, staying=["KVCTL-SVC-ONE", "KVCTL-SVC-ABSENT"]) == {
            "KVCTL-SVC-TWO": "-A KVCTL-SVC-ONE -j KVCTL-SVC-TWO"
        }


def _mangle(*rules: str) -> Snapshot:
    chains = dict.fromkeys(["POSTROUTING", DROP_CHAIN, *(rule.split()[0] for rule in rules)])
    lines = [f":{chain} - [0:0]" for chain in chains]
    lines += [f"-A {rule}" for rule in (*rules, f"POSTROUTING {render(DROP_HOOK)}")]
    return snapshot_of(parse_tables("\n".join(["*mangle", *lines, "COMMIT"])), Family.IPV4)


@pytest.mark.parametrize(
    "rule",
    [
        "POSTROUTING -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill",
        "POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "POSTROUTING -j TTL --ttl-set 64",
        "POSTROUTING -j DSCP --set-dscp 0x08",
        "POSTROUTING -m conntrack --ctstate INVALID -j DROP",
        "POSTROUTING -s 172.17.0.0/16 -j ACCEPT",
    ],
)
def test_what_no_pod_gets_out_by_is_tolerated_in_mangle(rule: str) -> None:
    assert rule_in_the_way(_mangle(rule), PODS, Hook.DROP) is None


@pytest.mark.parametrize(
    "rules",
    [
        ("POSTROUTING -p udp -j ACCEPT",),
        ("POSTROUTING -d 192.0.2.0/24 -j RETURN",),
        ("POSTROUTING -j NFQUEUE --queue-num 0",),
        ("POSTROUTING -j A", "A -m mark --mark 0x1 -j ACCEPT"),
        ("POSTROUTING -j SOMETHINGNEW",),
    ],
)
def test_what_a_pod_may_get_out_by_is_in_the_way_in_mangle(rules: tuple[str, ...]) -> None:
    found = _mangle(*rules)
    assert rule_in_the_way(found, PODS, Hook.DROP) == rules[0].removeprefix("POSTROUTING ")
    assert rule_in_the_way(found, PODS) is None
