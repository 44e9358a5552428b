"""Spans against plain sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.policy.spans import Spans, inside, meet, merged, without

PAIRS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda it: (it[0], it[0] + it[1])), max_size=8
)
QUICK = settings(deadline=None, max_examples=300)


def numbers(spans: Spans) -> set[int]:
    return {number for first, last in spans for number in range(first, last + 1)}


@QUICK
@given(PAIRS)
def test_merging_keeps_the_numbers_and_leaves_gaps(pairs: list[tuple[int, int]]) -> None:
    found = merged(pairs)
    assert numbers(found) == numbers(tuple(pairs))
    assert all(a[1] + 1 < b[0] for a, b in pairwise(found))


@QUICK
@given(PAIRS, PAIRS)
def test_two_sets_compare_as_sets_do(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    a, b = merged(one), merged(other)
    assert numbers(without(a, b)) == numbers(a) - numbers(b)
    assert without(a, b) == merged(without(a, b))
    assert meet(a, b) == bool(numbers(a) & numbers(b))
    assert inside(a, b) == (numbers(a) <= numbers(b))
