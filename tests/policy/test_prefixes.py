"""The tree of prefixes as pods come and go: what is made of what has changed is what would be made of everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.memo import ByKey
from kvctl.model.net import Address, Family, parse_address, parse_network
from kvctl.model.policy import EgressPod, Exclusion, ExclusionKind, Rank, RankClass
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Rule
from kvctl.policy import prefixes
from kvctl.policy.compile import compile_dispatch, entry

EXCLUSIONS = tuple(Exclusion(parse_network(n), ExclusionKind.POD) for n in ("10.0.0.0/16", "fd00:10::/64"))
BASES = {Family.IPV4: ("10.0.0.0", "10.0.64.0"), Family.IPV6: ("fd00:10::", "fd00:10::ffff:0")}


def addresses(family: Family, chosen: frozenset[int]) -> list[Address]:
    """Some that lie close together, and some far away."""
    return [parse_address(BASES[family][number >= 40]) + number for number in sorted(chosen)]


def dispatch(
    family: Family, chosen: frozenset[int], *, services: int, excluded: int
) -> dict[str, tuple[Rule, ...]]:
    """The chains that lead these pods, each to so many Services."""
    ranks = [Rank(RankClass.ALL, 1.0, ServiceRef("sip", f"s{number}")) for number in range(services)]
    entries = [
        entry(rank, EgressPod.named(address, name="pod"))
        for rank in ranks
        for address in addresses(family, chosen)
    ]
    return dict(compile_dispatch(family=family, entries=entries, exclusions=EXCLUSIONS[:excluded]))


@given(
    st.sampled_from(Family),
    st.frozensets(st.integers(0, 59), min_size=8, max_size=45),
    st.lists(
        st.tuples(st.frozensets(st.integers(0, 59), max_size=9), st.integers(1, 2), st.integers(1, 2)),
        min_size=1,
        max_size=6,
    ),
)
def test_the_tree_is_that_of_one_without_memory(
    family: Family, chosen: frozenset[int], changes: list[tuple[frozenset[int], int, int]]
) -> None:
    for changed, services, excluded in [(frozenset[int](), 1, 1), *changes]:
        chosen = chosen ^ changed
        made = dispatch(family, chosen, services=services, excluded=excluded)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prefixes, "_known", ByKey())
            assert dispatch(family, chosen, services=services, excluded=excluded) == made


def test_what_leads_to_other_pods_stays_the_very_same() -> None:
    many = frozenset(range(60))
    before = dispatch(Family.IPV4, many, services=1, excluded=1)
    after = dispatch(Family.IPV4, many - {3}, services=1, excluded=1)
    other = {chain for chain, rules in after.items() if before.get(chain) is not rules}
    assert 0 < len(other) < len(after) / 2
