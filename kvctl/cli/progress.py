"""Says what takes so long, to a person who waits at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kvctl.netfilter.lock import namespace_lock

_PATIENCE = 1.0
"""Seconds before anything is said, and between two looks at the clock."""
_ERASE = "\r\x1b[K"


@contextmanager
def progress(what: str) -> Iterator[None]:
    """While the block lasts longer than a second: `what`, with its seconds, on standard error, erased at the end.

    Nothing where standard error is no terminal that can erase.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        yield
        return
    import threading

    ended = threading.Event()

    def tell() -> None:
        seconds = 0
        while not ended.wait(_PATIENCE):
            seconds += 1
            sys.stderr.write(f"{_ERASE}{what}: {seconds} s")
            sys.stderr.flush()
        if seconds:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def patient_lock(*, timeout: float) -> Iterator[None]:
    """`namespace_lock`, which says that it waits for another kvctl."""
    with ExitStack() as stack:
        with progress("waiting for another kvctl to finish"):
            stack.enter_context(namespace_lock(timeout=timeout))
        yield
