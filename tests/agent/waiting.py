"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 20.0
"""Seconds for what should take milliseconds; nothing waits so long unless it fails."""


def until(what: Callable[[], bool]) -> None:
    """Return as soon as this is true; fails after the deadline."""
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.002)
