"""Sets of numbers as spans: what many networks or ports cover together, in time linear in their count."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]
"""First and last number, both included."""

Spans = tuple[Span, ...]
"""In order, without overlaps, and with a gap between any two."""


def merged(spans: Iterable[Span]) -> Spans:
    """The same numbers as `spans`, which may come in any order and overlap."""
    result: list[Span] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def without(spans: Spans, holes: Spans) -> Spans:
    """The numbers of `spans` that are in none of `holes`."""
    result: list[Span] = []
    at = 0
    for first, last in spans:
        start = first
        while at < len(holes) and holes[at][1] < start:
            at += 1
        # The last hole that is looked at may reach into the next span, too.
        here = at
        while here < len(holes) and holes[here][0] <= last:
            if holes[here][0] > start:
                result.append((start, holes[here][0] - 1))
            start = holes[here][1] + 1
            here += 1
        if start <= last:
            result.append((start, last))
        at = max(at, here - 1)
    return tuple(result)


def meet(one: Spans, other: Spans) -> bool:
    """Whether a number is in both."""
    i = j = 0
    while i < len(one) and j < len(other):
        if one[i][1] < other[j][0]:
            i += 1
        elif other[j][1] < one[i][0]:
            j += 1
        else:
            return True
    return False


def inside(inner: Spans, outer: Spans) -> bool:
    """Whether every number of `inner` is in `outer`."""
    at = 0
    for first, last in inner:
        while at < len(outer) and outer[at][1] < first:
            at += 1
        if at == len(outer) or first < outer[at][0] or outer[at][1] < last:
            return False
    return True
