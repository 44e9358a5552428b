"""The number of the last commit: whether anybody has written meanwhile."""

from __future__ import annotations

import pytest

from kvctl.netfilter.generation import following, generation
from tests.conftest import MakeNamespace


def test_each_table_of_a_restore_raises_it_by_one_and_looking_does_not(make_namespace: MakeNamespace) -> None:
    namespace = make_namespace()
    with namespace.entered():
        before = generation()
        assert before is not None
        two = "*nat\n:KVCTL-A - [0:0]\nCOMMIT\n*mangle\n:KVCTL-DROP-A - [0:0]\nCOMMIT\n"
        assert namespace.run(["iptables-nft-restore", "--noflush"], stdin=two).status == 0
        assert generation() == following(before, 2)[-1]
        assert namespace.run(["iptables-nft-save"]).status == 0
        assert generation() == before + 2


@pytest.mark.parametrize(
    ("number", "commits", "expected"),
    [(7, 0, ()), (7, 2, (8, 9)), (0xFFFFFFFF, 2, (0, 1)), (None, 2, ())],
)
def test_generations_are_counted_round_and_round(
    number: int | None, commits: int, expected: tuple[int, ...]
) -> None:
    assert following(number, commits) == expected
