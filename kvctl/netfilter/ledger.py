"""Whether a restore was alone: what `Kernel` tells of its looks and writes to who watches the rules, and asks of them.

nft counts its commits, so everybody can tell whether there was another one beside his own. legacy counts nothing:
only who has compared the tables with what was looked at can tell, and nobody does for a command that runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend

_COMMIT = "\nCOMMIT\n"


class Ledger:
    """Is told of all that a thread looks at and writes; this one watches nothing, and says what can be said anyway.

    Neither method raises KvctlError, nor does what it returns.
    """

    def looks(self, backend: Backend, family: Family) -> Callable[[], None]:
        """A look begins; what this returns is called when it has ended."""
        return _nothing

    def writes(self, backend: Backend, family: Family, text: str) -> Callable[[], bool]:
        """A restore of `text` begins; what this returns is called when it has gone through.

        It says whether the rules that concern kvctl are now, but for `text`, what they were: in nft from the beginning
        of the restore to its end, in legacy since the last look, or since the last write that was alone.
        """
        if backend is Backend.LEGACY:
            return _unknown
        from kvctl.netfilter.generation import own_commits  # netlink, which commands that look need not load

        ended = own_commits(commits_in(text))
        return lambda: bool(ended())


def commits_in(text: str) -> int:
    """How many transactions a restore text has."""
    return text.count(_COMMIT)


def _nothing() -> None: ...


def _unknown() -> bool:
    return False


UNWATCHED = Ledger()
_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


def ledger() -> Ledger:
    """Whom to tell, and to ask."""
    return _ledger.get() or UNWATCHED


@contextmanager
def kept_by(told: Ledger) -> Iterator[None]:
    """In the block that is `told`."""
    token = _ledger.set(told)
    try:
        yield
    finally:
        _ledger.reset(token)
