"""Addresses and networks are read strictly."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.net import (
    Family,
    collapse,
    contains,
    host_network,
    overlap,
    parse_address,
    parse_network,
    within,
)
from tests.builders import networks


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2.3", "01.2.3.4", "1.2.3.4/32", "1.2.3.4 ", "１.2.3.4", "fe80::1%eth0", "::g", "0x1.2.3.4"],
)
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/٨",
        "::/129",
        "10/8",
        "a/8",
        "/8",
    ],
)
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)


_TYPED = st.text(alphabet="0123456789abcfF.:x/%- ", max_size=45)
_ADDRESSES = st.ip_addresses().map(str)
_CHANGED = st.builds(
    lambda text, at, typed: text[:at] + typed + text[at + 1 :], _ADDRESSES, st.integers(0, 40), _TYPED
)


def _or_none(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except ValueError:
        return None


@given(_TYPED | _ADDRESSES | _CHANGED)
def test_an_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    assert _or_none(parse_address, text) == (None if "%" in text else _or_none(ip_address, text))


@given(
    _TYPED | st.builds(lambda text, length: f"{text}/{length}", _ADDRESSES | _CHANGED, st.integers(0, 130))
)
def test_a_network_is_what_ipaddress_takes_for_one(text: str) -> None:
    mask = text.partition("/")[2]
    strict = "%" not in text and ("/" not in text or mask.isdecimal())
    assert _or_none(parse_network, text) == (_or_none(ip_network, text) if strict else None)


def test_a_bare_address_is_the_network_of_itself() -> None:
    assert parse_network("10.0.0.1") == host_network(parse_address("10.0.0.1"))
    assert parse_network("fd00::1").prefixlen == Family.IPV6.bits


def test_families_contain_nothing_of_each_other() -> None:
    everything4, everything6 = networks("0.0.0.0/0", "::/0")
    assert not contains(everything4, parse_address("::1"))
    assert not contains(everything6, everything4)
    assert not overlap(everything4, everything6)


def test_overlap_works_both_ways() -> None:
    wide, narrow = networks("10.0.0.0/8", "10.1.0.0/16")
    assert overlap(wide, narrow)
    assert overlap(narrow, wide)
    assert contains(wide, narrow)
    assert not contains(narrow, wide)
    assert within(parse_address("10.1.0.1"), [narrow])


def test_collapsing_keeps_the_families_apart() -> None:
    found = collapse(networks("fd00::/65", "10.0.1.0/24", "fd00:0:0:0:8000::/65", "10.0.0.0/24"))
    assert found == networks("10.0.0.0/23", "fd00::/64")
