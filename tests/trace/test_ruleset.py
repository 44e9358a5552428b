"""Rules of anybody, taken apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvctl.netfilter.syntax import tokenize
from kvctl.trace.ruleset import ForeignTarget, Match, parse_any


def test_matches_know_their_module_and_their_negation() -> None:
    rule = parse_any("! -s 10.0.0.0/16 -p udp -m udp ! --dport 53 -m mark --mark 0x40/0x40 -j RETURN")
    assert rule.matches == (
        Match(None, "-s", ("10.0.0.0/16",), negated=True),
        Match(None, "-p", ("udp",)),
        Match("udp", "--dport", ("53",), negated=True),
        Match("mark", "--mark", ("0x40/0x40",)),
    )
    assert rule.target == ForeignTarget("RETURN")


def test_the_options_of_a_target_are_the_targets() -> None:
    rule = parse_any("-s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1 --persistent")
    assert rule.target is not None
    assert rule.target.option("--to-source") == "192.0.2.1"
    assert rule.target.options == (("--to-source", ("192.0.2.1",)), ("--persistent", ()))
    assert parse_any("-g THERE").target == ForeignTarget("THERE", goto=True)


def test_a_target_that_is_given_several_addresses_has_no_single_one() -> None:
    target = parse_any("-j SNAT --to-source 192.0.2.1 --to-source 192.0.2.2").target
    assert target is not None
    assert target.option("--to-source") is None


def test_a_rule_may_have_neither_match_nor_target() -> None:
    assert parse_any("").matches == ()
    assert parse_any("").target is None
    assert parse_any("-s 10.0.0.1/32").target is None


def test_a_module_without_options_is_a_match_all_the_same() -> None:
    assert parse_any("-m rpfilter -m mark --mark 0x1 -j DROP").matches[0] == Match("rpfilter", "", ())
    assert parse_any("-m socket -j DROP").matches == (Match("socket", "", ()),)


def test_words_that_people_choose_are_no_options() -> None:
    rule = parse_any("-m comment --comment -j -m comment --comment ! -j ACCEPT")
    assert rule.target == ForeignTarget("ACCEPT")
    assert rule.matches == ()
    text = parse_any('-m string --string "-j DROP" --algo bm -j LOG --log-prefix "-j ACCEPT "')
    assert text.target == ForeignTarget("LOG", options=(("--log-prefix", ("-j ACCEPT ",)),))


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=40))
def test_a_comment_never_changes_what_a_rule_is(comment: str) -> None:
    escaped = comment.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    rule = parse_any(f'-s 10.0.0.1/32 -m comment --comment "{escaped}" -j DROP')
    assert rule.comment == comment
    assert (rule.matches, rule.target) == ((Match(None, "-s", ("10.0.0.1/32",)),), ForeignTarget("DROP"))


@given(st.lists(st.sampled_from(("-s", "!", "-m", "-j", "x", "--dport", "-g", "--comment", "1")), max_size=8))
def test_no_order_of_words_is_a_reason_to_fail(words: list[str]) -> None:
    rule = parse_any(" ".join(words))
    assert rule.text == " ".join(words)
    assert tokenize(rule.text) == words
