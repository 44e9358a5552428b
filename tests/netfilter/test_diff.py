"""From wanted and found to the text that makes one of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.rules import RETURN, Hook, Rule, Ruleset, Table, Target, Verb
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.diff import changes, diff, restore_text
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import HOOK

HOOK_TEXT = render(HOOK)
SNAT = Target(verb=Verb.SNAT, address=parse_address("192.168.0.245"))


def _rule(number: int, target: Target = RETURN) -> Rule:
    return Rule(comment=f"kvctl:x {number}", target=target, source=parse_network(f"10.0.0.{number}/32"))


def _jump(chain: str) -> Rule:
    return Rule(comment="kvctl:x", target=Target(verb=Verb.JUMP, chain=chain))


ONE, TWO, THREE = _rule(1), _rule(2), _rule(3, SNAT)


def _found(
    chains: Mapping[str, Sequence[Rule | str]], *, hook_chain: Sequence[Rule | str] = (HOOK,), **foreign: str
) -> Snapshot:
    def value(rule: Rule | str) -> FoundRule:
        return FoundRule(rule, None, 0) if isinstance(rule, str) else FoundRule(render(rule), rule, 0)

    return Snapshot(
        family=Family.IPV4,
        chains={name: tuple(map(value, rules)) for name, rules in chains.items()},
        around={
            Table.NAT: Surroundings(
                hook_chains={"POSTROUTING": tuple(map(value, hook_chain))},
                foreign={
                    "POSTROUTING": tuple(value(rule).text for rule in hook_chain),
                    **{name: (text,) for name, text in foreign.items()},
                },
            )
        },
    )


def _wanted(
    chains: Mapping[str, Sequence[Rule]], *, hook: bool = True, untouched: Sequence[str] = ()
) -> Ruleset:
    return Ruleset(
        family=Family.IPV4,
        hooks={Hook.EGRESS: HOOK} if hook else {},
        chains={name: tuple(rules) for name, rules in chains.items()},
        untouched=frozenset(untouched),
    )


def test_nothing_to_do_is_false_and_has_no_changes() -> None:
    plan = diff(_wanted({"KVCTL-A": [ONE, TWO]}), _found({"KVCTL-A": [ONE, TWO]}))
    assert not plan
    assert changes(plan) == []


def test_the_first_time_chains_and_hook_come_in_one_transaction() -> None:
    plan = diff(
        _wanted({"KVCTL-EGRESS": [ONE, TWO], "KVCTL-SVC-A": [THREE]}), _found({}, hook_chain=["-j LOG"])
    )
    assert restore_text(plan) == (
        "*nat\n"
        ":KVCTL-EGRESS - [0:0]\n"
        ":KVCTL-SVC-A - [0:0]\n"
        f"-I POSTROUTING 1 {HOOK_TEXT}\n"
        '-A KVCTL-EGRESS -s 10.0.0.1/32 -m comment --comment "kvctl:x 1" -j RETURN\n'
        '-A KVCTL-EGRESS -s 10.0.0.2/32 -m comment --comment "kvctl:x 2" -j RETURN\n'
        '-A KVCTL-SVC-A -s 10.0.0.3/32 -m comment --comment "kvctl:x 3" -j SNAT --to-source 192.168.0.245\n'
        "COMMIT\n"
    )
    assert [(each.chain, each.op, each.new_chain) for each in changes(plan)] == [
        ("POSTROUTING", "insert", False),
        ("KVCTL-EGRESS", "add", True),
        ("KVCTL-EGRESS", "add", True),
        ("KVCTL-SVC-A", "add", True),
    ]


def test_a_chain_that_differs_is_replaced_whole_and_the_others_are_not_mentioned() -> None:
    plan = diff(
        _wanted({"KVCTL-A": [ONE, TWO], "KVCTL-B": [THREE]}),
        _found({"KVCTL-A": [ONE, THREE], "KVCTL-B": [THREE]}),
    )
    assert restore_text(plan) == (
        f"*nat\n:KVCTL-A - [0:0]\n-A KVCTL-A {render(ONE)}\n-A KVCTL-A {render(TWO)}\nCOMMIT\n"
    )
    assert [(each.op, each.rule) for each in changes(plan)] == [
        ("remove", render(THREE)),
        ("add", render(TWO)),
    ]


def test_an_order_that_is_wrong_is_a_change() -> None:
    plan = diff(_wanted({"KVCTL-A": [ONE, TWO]}), _found({"KVCTL-A": [TWO, ONE]}))
    assert restore_text(plan).count("-A KVCTL-A") == 2
    assert [each.op for each in changes(plan)] == ["remove", "remove", "add", "add"]


def test_a_surplus_at_the_end_goes_alone_so_that_the_others_keep_their_counters() -> None:
    plan = diff(_wanted({"KVCTL-A": [ONE]}), _found({"KVCTL-A": [ONE, TWO, THREE]}))
    assert restore_text(plan) == (f"*nat\n-D KVCTL-A {render(TWO)}\n-D KVCTL-A {render(THREE)}\nCOMMIT\n")
    assert [(each.op, each.rule) for each in changes(plan)] == [
        ("remove", render(TWO)),
        ("remove", render(THREE)),
    ]


def test_a_surplus_that_repeats_a_rule_is_not_deleted_by_its_text() -> None:
    plan = diff(_wanted({"KVCTL-A": [ONE, TWO]}), _found({"KVCTL-A": [ONE, TWO, ONE]}))
    assert "-D" not in restore_text(plan)
    assert restore_text(plan).count("-A KVCTL-A") == 2


def test_a_foreign_rule_in_a_chain_of_ours_makes_it_be_replaced() -> None:
    plan = diff(_wanted({"KVCTL-A": [ONE]}), _found({"KVCTL-A": [ONE, "-j ACCEPT"]}))
    assert restore_text(plan) == f"*nat\n:KVCTL-A - [0:0]\n-A KVCTL-A {render(ONE)}\nCOMMIT\n"
    assert [(each.op, each.rule) for each in changes(plan)] == [("remove", "-j ACCEPT")]


def test_a_chain_that_nobody_wants_goes_after_what_led_to_it() -> None:
    plan = diff(
        _wanted({}, hook=False), _found({"KVCTL-EGRESS": [_jump("KVCTL-SVC-A")], "KVCTL-SVC-A": [THREE]})
    )
    assert restore_text(plan) == (
        "*nat\n"
        ":KVCTL-EGRESS - [0:0]\n"
        ":KVCTL-SVC-A - [0:0]\n"
        f"-D POSTROUTING {HOOK_TEXT}\n"
        "-X KVCTL-EGRESS\n"
        "-X KVCTL-SVC-A\n"
        "COMMIT\n"
    )
    assert [each.op for each in changes(plan)] == ["remove", "delete-chain", "delete-chain"]


def test_chains_that_are_not_to_be_touched_stay_whatever_is_in_them() -> None:
    plan = diff(_wanted({}, untouched=["KVCTL-SVC-A"]), _found({"KVCTL-SVC-A": ["-j ACCEPT"]}))
    assert not plan


def test_a_chain_that_a_foreign_rule_leads_to_is_emptied_and_the_rule_named() -> None:
    found = _found({"KVCTL-A": [ONE], "KVCTL-B": []}, THEIRS="-j KVCTL-A", OTHERS="-g KVCTL-B")
    plan = diff(_wanted({}), found)
    assert restore_text(plan) == "*nat\n:KVCTL-A - [0:0]\nCOMMIT\n"
    assert plan.pinned == (("KVCTL-A", "-A THEIRS -j KVCTL-A"), ("KVCTL-B", "-A OTHERS -g KVCTL-B"))
    assert [(each.chain, each.op) for each in changes(plan)] == [("KVCTL-A", "flush-chain")]


def test_one_that_only_a_chain_of_ours_that_stays_leads_to_is_emptied_too() -> None:
    found = _found({"KVCTL-A": ["-j KVCTL-B"], "KVCTL-B": [ONE]})
    assert restore_text(diff(_wanted({}, untouched=["KVCTL-A"]), found)) == "*nat\n:KVCTL-B - [0:0]\nCOMMIT\n"
    assert "-X KVCTL-B" in restore_text(diff(_wanted({}), found))


class TestTheHook:
    def test_goes_back_to_the_head_where_another_rule_is_in_the_way(self) -> None:
        found = _found({}, hook_chain=["-j MASQUERADE", HOOK])
        plan = diff(_wanted({}), found, in_the_way={Hook.EGRESS: "-j MASQUERADE"})
        assert restore_text(plan) == (
            f"*nat\n-D POSTROUTING {HOOK_TEXT}\n-I POSTROUTING 1 {HOOK_TEXT}\nCOMMIT\n"
        )
        assert [each.op for each in changes(plan)] == ["remove", "insert"]

    def test_is_there_once(self) -> None:
        plan = diff(_wanted({}), _found({}, hook_chain=[HOOK, "-j LOG", HOOK]))
        assert restore_text(plan) == (
            f"*nat\n-D POSTROUTING {HOOK_TEXT}\n-D POSTROUTING {HOOK_TEXT}\n-I POSTROUTING 1 {HOOK_TEXT}\nCOMMIT\n"
        )

    def test_of_another_version_is_replaced(self) -> None:
        old = Rule(comment="kvctl:old", target=HOOK.target)
        plan = diff(_wanted({}), _found({}, hook_chain=[old]))
        assert restore_text(plan) == (
            f"*nat\n-D POSTROUTING {render(old)}\n-I POSTROUTING 1 {HOOK_TEXT}\nCOMMIT\n"
        )

    def test_goes_where_none_is_wanted(self) -> None:
        assert restore_text(diff(_wanted({}, hook=False), _found({}))) == (
            f"*nat\n-D POSTROUTING {HOOK_TEXT}\nCOMMIT\n"
        )
        assert not diff(_wanted({}, hook=False), _found({}, hook_chain=["-j MASQUERADE"]))
