"""Waiting for what another thread does, with a deadline instead of a time."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable


def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.002)


def heard(descriptor: int, *, seconds: float = 60.0) -> bytes:
    """The next that comes from a terminal; empty at its end; fail when nothing comes within `seconds`."""
    assert select.select([descriptor], [], [], seconds)[0], f"nothing came within {seconds:g} s"
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the last process has closed its end
        return b""
