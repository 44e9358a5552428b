"""What who watches is told of looks and writes, and what is known where nobody does."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from kvctl import proc
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter import kernel
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Kernel, RestoreError, read_everything
from kvctl.netfilter.ledger import UNWATCHED, Ledger, commits_in, kept_by, ledger

ONE = "*nat\n:KVCTL-EGRESS - [0:0]\nCOMMIT\n"


class Book(Ledger):
    """Writes down what it is told, and says of every write the same."""

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone
        self.told: list[tuple[str, str, str]] = []

    def looks(self, backend: Backend, family: Family) -> Callable[[], None]:
        self.told.append(("looks", backend, family))
        return lambda: self.told.append(("looked", backend, family))

    def writes(self, backend: Backend, family: Family, text: str) -> Callable[[], bool]:
        self.told.append(("writes", backend, text))

        def wrote() -> bool:
            self.told.append(("wrote", backend, text))
            return self.alone

        return wrote


def test_who_watches_is_told_of_each_look_and_write_and_judges_it(namespace: Namespace, backend: str) -> None:
    book = Book(alone=backend == "legacy")
    with namespace.entered(), kept_by(book):
        assert Kernel(Backend(backend)).write(Family.IPV4, ONE).alone is book.alone
        Kernel(Backend(backend)).read(Family.IPV6)
    assert book.told == [
        ("writes", backend, ONE),
        ("wrote", backend, ONE),
        ("looks", backend, Family.IPV6),
        ("looked", backend, Family.IPV6),
    ]


def test_a_look_at_everything_is_one_at_each_back_end_and_family(namespace: Namespace) -> None:
    book = Book(alone=True)
    with namespace.entered(), kept_by(book):
        read_everything()
    each = [(backend, family) for backend in Backend for family in Family]
    assert sorted(book.told) == sorted((what, *key) for what in ("looks", "looked") for key in each)


def test_a_write_that_is_refused_does_not_end(namespace: Namespace, backend: str) -> None:
    book = Book(alone=True)
    with namespace.entered(), kept_by(book), pytest.raises(RestoreError):
        Kernel(Backend(backend)).write(Family.IPV4, "*nat\n-A KVCTL-NONE -j RETURN\nCOMMIT\n")
    assert [what for what, *_ in book.told] == ["writes"]


def test_where_nobody_watches_only_nft_knows_who_was_alone(namespace: Namespace, backend: str) -> None:
    with kept_by(Book(alone=True)):
        pass
    assert ledger() is UNWATCHED
    with namespace.entered():
        assert Kernel(Backend(backend)).write(Family.IPV4, ONE).alone is (backend == "nft")


def test_every_table_of_a_restore_is_a_transaction() -> None:
    assert commits_in(ONE) == 1
    assert commits_in(ONE + ONE.replace("nat", "mangle")) == 2


def test_who_only_looks_loads_nothing_that_judges_writes() -> None:
    judges = {"kvctl.netlink", "kvctl.netfilter.generation", "kvctl.netfilter.legacy_tables", "ctypes"}
    code = f"import sys, {kernel.__name__}; print(sorted({judges} & set(sys.modules)))"
    assert proc.run((sys.executable, "-c", code), deadline=30).stdout == "[]\n"
