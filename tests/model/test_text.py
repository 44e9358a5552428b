"""What a tenant wrote, made fit for root's terminal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.text import plural, quote


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


def test_counts_read_well() -> None:
    assert (plural(1, "pod"), plural(2, "pod"), plural(0, "address", many="addresses")) == (
        "1 pod",
        "2 pods",
        "0 addresses",
    )
