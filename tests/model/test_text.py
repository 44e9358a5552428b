"""What a tenant wrote, made fit for root's terminal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.text import one_line, plural, quote


def test_plain_text_stays_as_it_is() -> None:
    assert quote("udp:5060") == '"udp:5060"'


def test_control_characters_quotes_and_other_scripts_are_escaped() -> None:
    assert quote('a"\n\x1b\u202e٣\\') == r'"a\"\n\x1b\u202e\u0663\\"'


def test_long_text_is_cut_where_it_shows() -> None:
    assert quote("x" * 80) == f'"{"x" * 80}"'
    assert quote("x" * 81) == f'"{"x" * 77}..."'
    assert len(quote("," * 10**6)) == 82


@settings(deadline=None)
@given(st.text(st.characters()))
def test_whatever_it_was_it_is_short_and_plain(text: str) -> None:
    shown = quote(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 82


def test_a_sentence_becomes_one_line() -> None:
    assert one_line("it failed: 100 %") == "it failed: 100 %"
    assert one_line("a\nb\x1b[31m\x7fé\u202e") == r"a\nb\x1b[31m\x7f\xe9\u202e"
    assert one_line("x" * 50, longest=20) == "x" * 17 + "..."


@settings(deadline=None)
@given(st.text(st.characters()), st.integers(3, 40))
def test_a_line_is_plain_and_has_an_end(text: str, longest: int) -> None:
    shown = one_line(text, longest=longest)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= longest


def test_counts_read_well() -> None:
    assert (plural(1, "pod"), plural(2, "pod"), plural(0, "address", many="addresses")) == (
        "1 pod",
        "2 pods",
        "0 addresses",
    )
