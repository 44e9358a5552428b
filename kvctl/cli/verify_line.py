"""What `verify --watch` shows while it goes on: one line that is renewed on a terminal, else one a period."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from kvctl.cli.output import is_plain
from kvctl.verify.tally import Tally, counts

if TYPE_CHECKING:
    from rich.live import Live

_RENEWED = 0.25
"""Seconds."""


class Line:
    """The line; a context manager. `to_stderr`: standard output is for a document, and only news are told."""

    def __init__(self, *, every: float, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._live = None if to_stderr else _live()
        self._every = every if self._live is None else _RENEWED
        self._begun = time.monotonic()
        self._next = self._begun + self._every

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update("")
            self._live.stop()

    def next_at(self) -> float:
        """The monotonic time at which `show` has something to do."""
        return self._next

    def tell(self, text: str) -> None:
        """Something new, with the time of day, at once."""
        now = time.time()
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
        if self._live is not None:
            self._live.console.print(f"{stamp} {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(f"{stamp} {text}", err=self._to_stderr)

    def show(self, tallies: Sequence[Tally]) -> None:
        """The counts, if it is time for them."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        text = f"{now - self._begun:.0f} s: {counts(tallies)}"
        if self._live is not None:
            self._live.update(text)
        elif not self._to_stderr:
            click.echo(text)


def _live() -> Live | None:
    """None where there is no terminal that can renew a line."""
    if is_plain():
        return None
    from rich.console import Console
    from rich.live import Live

    console = Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    return Live("", console=console, auto_refresh=True, transient=True)
