"""What a person sees who waits."""

from __future__ import annotations

import os
import pty
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvctl.cli import progress as module
from kvctl.cli.progress import progress

PATIENCE = 30.0
ERASED = "\r\x1b[K"


class Terminal:
    """What comes out of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, mark: str) -> str:
        """Everything so far, once it ends with `mark`."""
        while not self.text.endswith(mark):
            assert select.select([self._descriptor], [], [], PATIENCE)[0], self.text
            self.text += os.read(self._descriptor, 4096).decode()
        return self.text

    def rest(self) -> str:
        """Everything, when nothing more comes."""
        sys.stderr.write("#")
        sys.stderr.flush()
        return self.until("#")[:-1]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, *, patience: float, term: str = "xterm") -> Iterator[Terminal]:
    """Standard error is one in this block."""
    monkeypatch.setattr(module, "_PATIENCE", patience)
    monkeypatch.setenv("TERM", term)
    master, slave = pty.openpty()
    try:
        with os.fdopen(slave, "w", encoding="ascii") as stream, monkeypatch.context() as patched:
            # Here and not in a fixture: pytest puts a stream of its own there before the test itself.
            patched.setattr(sys, "stderr", stream)
            yield Terminal(master)
    finally:
        os.close(master)


def test_what_takes_long_is_said_with_its_seconds_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, patience=0.05) as seen:
        with progress("reading the cluster"):
            assert seen.until(" s").startswith(f"{ERASED}reading the cluster: 1 s")
        assert seen.rest().endswith(ERASED)


def test_what_is_quick_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, patience=PATIENCE) as seen:
        with progress("reading the cluster"):
            pass
        assert seen.rest() == ""


def test_it_ends_with_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seen: Terminal) -> None:
        seen.until(" s")
        raise KeyError

    with terminal(monkeypatch, patience=0.05) as seen:
        with pytest.raises(KeyError), progress("reading"):
            fail(seen)
        assert seen.rest().endswith(ERASED)


def test_a_dumb_terminal_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, patience=0.0, term="dumb") as seen:
        with progress("reading"):
            pass
        assert seen.rest() == ""
