"""What a plan makes of what was found. That the kernel agrees is tested by tests/robustness/test_histories.py."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family, parse_network
from kvctl.model.rules import RETURN, Hook, Rule, Table
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.diff import ChainWrite, Plan
from kvctl.netfilter.effect import written
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import HOOK


def rule(number: int) -> Rule:
    return Rule(comment=f"kvctl:x {number}", target=RETURN, source=parse_network(f"10.0.0.{number}/32"))


def found(*rules: Rule) -> tuple[FoundRule, ...]:
    return tuple(FoundRule(render(each), each, 7, 700) for each in rules)


THEIRS = FoundRule("-j MASQUERADE", None, 3, 300)
BEFORE = Snapshot(
    family=Family.IPV4,
    chains={"KVCTL-SVC-A": found(rule(1), rule(2), rule(1)), "KVCTL-SVC-B": found(rule(3))},
    around={
        Table.NAT: Surroundings(
            hook_chains={"POSTROUTING": (*found(HOOK), THEIRS)},
            foreign={"POSTROUTING": (render(HOOK), THEIRS.text), "OTHERS": ("-j RETURN",)},
        )
    },
)
PLAN = Plan(family=Family.IPV4)


def test_a_chain_that_is_written_holds_its_rules_and_has_counted_nothing() -> None:
    after = written(BEFORE, PLAN._replace(writes=(ChainWrite("KVCTL-SVC-B", (rule(4),), None),)))
    assert after is not None
    assert after.chains["KVCTL-SVC-B"] == (FoundRule(render(rule(4)), rule(4), 0, 0),)
    assert after.chains["KVCTL-SVC-A"] is BEFORE.chains["KVCTL-SVC-A"]
    assert after.around == BEFORE.around


def test_of_two_rules_alike_the_first_is_trimmed_as_iptables_does() -> None:
    after = written(BEFORE, PLAN._replace(trims=(("KVCTL-SVC-A", render(rule(1))),)))
    assert after is not None
    assert [each.rule for each in after.chains["KVCTL-SVC-A"]] == [rule(2), rule(1)]


def test_chains_go_or_are_emptied() -> None:
    after = written(BEFORE, PLAN._replace(deletes=("KVCTL-SVC-A",), flushes=("KVCTL-SVC-B",)))
    assert after is not None
    assert after.chains == {"KVCTL-SVC-B": ()}


def test_a_jump_that_goes_is_no_foreign_rule_either() -> None:
    gone = written(BEFORE, PLAN._replace(hooks_deleted=((Hook.EGRESS, render(HOOK)),)))
    assert gone is not None
    assert gone.hook_chain(Hook.EGRESS) == (THEIRS,)
    assert gone.beside(Table.NAT).foreign == {"POSTROUTING": (THEIRS.text,), "OTHERS": ("-j RETURN",)}
    back = written(gone, PLAN._replace(hooks_inserted=((Hook.EGRESS, HOOK),)))
    assert back is not None
    assert [each.text for each in back.hook_chain(Hook.EGRESS)] == [render(HOOK), THEIRS.text]
    assert back.beside(Table.NAT).foreign == BEFORE.beside(Table.NAT).foreign


@pytest.mark.parametrize(
    "before",
    [
        BEFORE._replace(around={}),
        BEFORE._replace(around={Table.NAT: BEFORE.beside(Table.NAT)._replace(position_known=False)}),
    ],
)
def test_a_table_that_comes_into_being_or_hides_a_chain_has_to_be_looked_at(before: Snapshot) -> None:
    assert written(before, PLAN._replace(writes=(ChainWrite("KVCTL-SVC-B", (rule(4),), None),))) is None
    assert written(before, PLAN) == before
