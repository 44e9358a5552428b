"""The terms of an election as the environment gives them."""

from __future__ import annotations

import pytest

from kvctl.election.terms import Terms, read_terms
from kvctl.errors import UsageError


def environ(duration: str = "", deadline: str = "", retry: str = "") -> dict[str, str]:
    return {"vip_leaseduration": duration, "vip_renewdeadline": deadline, "vip_retryperiod": retry}


def test_unset_and_empty_are_the_defaults() -> None:
    assert read_terms({}) == read_terms(environ()) == Terms(15, 10, 2)


def test_what_is_set_counts() -> None:
    assert read_terms(environ("3", " 2 ", "1")) == Terms(3, 2, 1)


def test_what_is_written_is_whole_and_never_too_short() -> None:
    assert [Terms(duration=seconds).written for seconds in (15.0, 2.5, 0.4)] == [15, 3, 1]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "2s", "3601", "nan", "٣", "9" * 5000])
def test_only_whole_seconds_are_accepted(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"vip_retryperiod is .*, not a whole number of seconds from 1 to 3600"
    ):
        read_terms(environ(retry=text))


@pytest.mark.parametrize(
    ("terms", "at_fault"),
    [
        (("15", "10", "9"), "vip_renewdeadline .* is not more than 1.2 times vip_retryperiod"),
        (("15", "6", "5"), "vip_renewdeadline .* is not more than 1.2 times vip_retryperiod"),
        (("10", "10", "2"), r"vip_leaseduration \(10 s\) is no longer than vip_renewdeadline \(10 s\)"),
        (("5", "10", "2"), r"vip_leaseduration \(5 s\) is shorter than vip_renewdeadline \(10 s\)"),
        (("60", "55", "2"), "leaves 5 s after vip_renewdeadline .*: it takes 6 s"),
    ],
)
def test_unsound_terms_are_refused_by_name(terms: tuple[str, str, str], at_fault: str) -> None:
    with pytest.raises(UsageError, match=at_fault):
        read_terms(environ(*terms))


@pytest.mark.parametrize(("deadline", "hint"), [("10", "to 12 at least"), ("2", "to 3 at least")])
def test_the_hint_is_sound_itself(deadline: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_terms(environ(deadline, deadline, "1"))
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    read_terms(environ(hint.split()[1], deadline, "1"))
