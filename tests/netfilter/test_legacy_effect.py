"""What counts as carried out, and what has to be looked at. On real tables: tests/netfilter/test_watching.py."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family, parse_network
from kvctl.model.rules import RETURN, Hook, Rule
from kvctl.netfilter.diff import ChainWrite, Plan, restore_text
from kvctl.netfilter.legacy_effect import carried_out
from kvctl.netfilter.legacy_tables import Contents, comment_of
from kvctl.netfilter.syntax import render
from kvctl.policy.compile import HOOK

A, B, NEW = ("nat", "KVCTL-SVC-A"), ("nat", "KVCTL-SVC-B"), ("nat", "KVCTL-SVC-NEW")
POSTROUTING = ("nat", "POSTROUTING")


def rule(number: int) -> Rule:
    return Rule(comment=f"kvctl:x {number}", target=RETURN, source=parse_network(f"10.0.0.{number}/32"))


def entry(written: Rule, *, target: bytes = b"RETURN") -> bytes:
    """As it might be in a table: addresses, the match `comment` (size, name, revision, text) and the target."""
    said = b"\x20\x01" + b"comment".ljust(29, b"\0") + b"\0" + written.comment.encode().ljust(256, b"\0")
    return str(written.source).encode() + said + target


def entries(*numbers: int) -> tuple[bytes, ...]:
    return tuple(entry(rule(number)) for number in numbers)


JUMP, THEIRS, POLICY = entry(HOOK, target=b"KVCTL-EGRESS"), b"MASQUERADE", b"-2"
BEFORE: Contents = {A: entries(1, 2, 3), B: entries(4), POSTROUTING: (JUMP, THEIRS, POLICY)}
PLAN = Plan(family=Family.IPV4)


def written(chain: tuple[str, str], *numbers: int) -> str:
    return restore_text(PLAN._replace(writes=(ChainWrite(chain[1], tuple(map(rule, numbers)), None),)))


def test_a_comment_is_read_from_a_rule() -> None:
    assert comment_of(entry(rule(1))) == "kvctl:x 1"
    assert comment_of(THEIRS) is None


@pytest.mark.parametrize("numbers", [(1, 2), (2, 3, 1), (5,), (1, 2, 3, 5), ()])
def test_a_chain_that_is_written_anew_has_its_rules_in_their_order(numbers: tuple[int, ...]) -> None:
    text = written(A, *numbers)
    assert carried_out(text, BEFORE, {**BEFORE, A: entries(*numbers)})
    for found in [(3, 2, 1), (1, 2, 3), (1,), (1, 2, 9), (9,), (1, 2, 3, 9), (4,)]:
        assert not carried_out(text, BEFORE, {**BEFORE, A: entries(*found)}), found
    assert not carried_out(text, BEFORE, {key: BEFORE[key] for key in (B, POSTROUTING)})


def test_chains_come_and_go() -> None:
    assert carried_out(written(NEW, 7), BEFORE, {**BEFORE, NEW: entries(7)})
    assert carried_out(written(NEW), BEFORE, {**BEFORE, NEW: ()})
    assert not carried_out(written(NEW, 7), BEFORE, BEFORE)
    gone = restore_text(PLAN._replace(deletes=(B[1],)))
    assert carried_out(gone, BEFORE, {A: BEFORE[A], POSTROUTING: BEFORE[POSTROUTING]})
    assert not carried_out(gone, BEFORE, BEFORE)
    emptied = restore_text(PLAN._replace(flushes=(B[1],)))
    assert carried_out(emptied, BEFORE, {**BEFORE, B: ()})
    assert not carried_out(emptied, BEFORE, BEFORE)


def test_what_is_not_named_is_byte_for_byte_the_same() -> None:
    text, after = written(B, 5), {**BEFORE, B: entries(5)}
    assert carried_out(text, BEFORE, after)
    assert not carried_out(text, BEFORE, {**after, A: (entry(rule(1), target=b"DROP"), *entries(2, 3))})
    assert not carried_out(text, BEFORE, {**after, POSTROUTING: (THEIRS, JUMP, POLICY)})
    assert not carried_out(text, BEFORE, {**after, POSTROUTING: (JUMP, THEIRS, b"-1")})
    assert not carried_out(text, BEFORE, {**after, NEW: ()})
    assert not carried_out(text, BEFORE, {**after, ("mangle", "POSTROUTING"): (POLICY,)}), "a table is new"


def test_rules_that_stay_in_a_chain_that_is_written_anew_are_the_same_too() -> None:
    other = entry(rule(2), target=b"DROP")
    assert not carried_out(written(A, 1, 2), BEFORE, {**BEFORE, A: (entries(1)[0], other)})
    mended = {**BEFORE, A: (entries(1)[0], other, *entries(3))}
    assert not carried_out(written(A, 1, 2, 3), mended, mended), "an older table was put back"
    assert not carried_out(written(A, 1, 2, 3), mended, BEFORE), "that can only be told by a look"


def test_one_rule_goes_and_the_others_stay() -> None:
    text = restore_text(PLAN._replace(trims=((A[1], render(rule(2))),)))
    assert carried_out(text, BEFORE, {**BEFORE, A: entries(1, 3)})
    for found in [(1, 2, 3), (1, 2), (2, 3), (1, 3, 9), (3, 1)]:
        assert not carried_out(text, BEFORE, {**BEFORE, A: entries(*found)}), found


def test_of_two_rules_with_one_comment_nobody_can_tell_which_goes() -> None:
    text = restore_text(PLAN._replace(trims=((A[1], render(rule(2))),)))
    twice = {**BEFORE, A: entries(2, 1, 2)}
    assert carried_out(text, twice, {**BEFORE, A: entries(1, 2)}), "they are the same"
    unlike = {**BEFORE, A: (*entries(2, 1), entry(rule(2), target=b"DROP"))}
    assert not carried_out(text, unlike, {**BEFORE, A: unlike[A][1:]})


def test_our_jump_comes_goes_and_moves_and_their_rules_stay() -> None:
    inserted, deleted = ((Hook.EGRESS, HOOK),), ((Hook.EGRESS, render(HOOK)),)
    without = {**BEFORE, POSTROUTING: (THEIRS, POLICY)}
    assert carried_out(restore_text(PLAN._replace(hooks_inserted=inserted)), without, BEFORE)
    assert carried_out(restore_text(PLAN._replace(hooks_deleted=deleted)), BEFORE, without)
    low = {**BEFORE, POSTROUTING: (THEIRS, JUMP, POLICY)}
    moved = restore_text(PLAN._replace(hooks_deleted=deleted, hooks_inserted=inserted))
    assert carried_out(moved, low, BEFORE)
    assert not carried_out(moved, low, low)
    assert not carried_out(moved, low, {**BEFORE, POSTROUTING: (JUMP, POLICY)})
    assert not carried_out(moved, low, {**BEFORE, POSTROUTING: (JUMP, THEIRS, THEIRS, POLICY)})
    assert not carried_out(moved, low, {**BEFORE, POSTROUTING: (JUMP, b"ACCEPT", POLICY)})


@pytest.mark.parametrize(
    "line",
    [
        "-A KVCTL-SVC-A -j RETURN",
        '-A KVCTL-SVC-A -m comment --comment "kvctl:a \\"b" -j RETURN',
        '-A POSTROUTING -m comment --comment "kvctl:x" -j RETURN',
        '-A KVCTL-SVC-NONE -m comment --comment "kvctl:x" -j RETURN',
        '-I KVCTL-SVC-A 2 -m comment --comment "kvctl:x" -j RETURN',
        '-D KVCTL-SVC-A -m comment --comment "kvctl:none" -j RETURN',
        '-R KVCTL-SVC-A 1 -m comment --comment "kvctl:x" -j RETURN',
        "-F KVCTL-SVC-A",
        "# a remark",
    ],
)
def test_what_kvctl_does_not_write_can_only_be_looked_at(line: str) -> None:
    text = written(B, 5).replace("COMMIT", f"{line}\nCOMMIT")
    after = {**BEFORE, B: entries(5)}
    for found in (BEFORE[A], entries(2, 3), (), (*BEFORE[A], b"RETURN")):
        assert not carried_out(text, BEFORE, {**after, A: found})


def test_each_table_has_chains_of_its_own() -> None:
    drop = ("mangle", "KVCTL-DROP-A")
    before = {**BEFORE, drop: ()}
    plan = PLAN._replace(writes=(ChainWrite(drop[1], (rule(1),), ()), ChainWrite(B[1], (rule(5),), ())))
    after = {**before, drop: entries(1), B: entries(5)}
    assert carried_out(restore_text(plan), before, after)
    assert not carried_out(restore_text(plan), before, {**after, drop: ()})
    assert not carried_out(restore_text(plan), before, {**after, B: BEFORE[B]})
