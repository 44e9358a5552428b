"""Entering network namespaces, setns(2) and ip-netns(8)."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DIRECTORY = Path("/run/netns")
"""A named namespace is a file here that is bound to it."""

_CLONE_NEWNET = 0x40000000


def setns(descriptor: int) -> None:
    """The calling thread enters the network namespace that is open as `descriptor`; raises OSError."""
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def in_thread(function: Callable[[], T]) -> T:
    """What it returns or raises, in a thread that is gone afterwards: it may enter or make namespaces."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="in another network namespace", daemon=True)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]
