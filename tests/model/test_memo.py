"""What is remembered is what would be made anew, and only of the very same arguments."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.memo import ByKey, Last, is_same

# Each is one object for the whole run; some are equal to others and not the same.
THINGS = tuple((number // 2, "thing") for number in range(6))


def test_equal_is_not_the_same() -> None:
    assert THINGS[0] == THINGS[1]
    assert is_same((THINGS[0],), [THINGS[0]])
    assert not is_same((THINGS[0],), (THINGS[1],))
    assert not is_same((THINGS[0],), (THINGS[0], THINGS[0]))


@given(st.lists(st.tuples(st.sampled_from(THINGS), st.sampled_from(THINGS), st.booleans()), max_size=30))
def test_a_function_that_remembers_says_what_it_would_say_anew(
    asked: list[tuple[tuple[int, str], tuple[int, str], bool]],
) -> None:
    def whole(one: object, other: object, *, turned: bool) -> tuple[object, object]:
        return (other, one) if turned else (one, other)

    remembering = Last(whole, size=3)
    for one, other, turned in asked:
        found = remembering(one, other, turned=turned)
        assert found[0] is (other if turned else one)
        assert found[1] is (one if turned else other)


def test_the_last_few_results_are_made_once() -> None:
    made: list[object] = []

    def make(thing: object) -> list[object]:
        made.append(thing)
        return [thing]

    remembering = Last(make, size=2)
    first = remembering(THINGS[0])
    assert remembering(THINGS[2]) is not first
    assert remembering(THINGS[0]) is first
    assert len(made) == 2
    remembering(THINGS[4])
    remembering(THINGS[2])
    assert remembering(THINGS[0]) is not first, "of two states of a node none is kept for ever"


def test_of_each_key_the_last_result_is_remembered() -> None:
    known: ByKey[str, list[object]] = ByKey()
    first = known.get("a", (THINGS[0],), lambda: [1])
    assert known.get("a", (THINGS[0],), lambda: [2]) is first
    assert known.get("b", (THINGS[0],), lambda: [3]) == [3]
    assert known.get("a", (THINGS[1],), lambda: [4]) == [4]
    assert known.get("a", (THINGS[0],), lambda: [5]) == [5]


def test_what_is_remembered_does_not_grow_without_end() -> None:
    known: ByKey[int, int] = ByKey(most=10)
    for number in range(1000):
        assert known.get(number, (), partial(abs, number)) == number
    assert sum(known.get(number, (), lambda: -1) >= 0 for number in range(1000)) <= 10
