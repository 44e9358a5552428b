"""Entering network namespaces, setns(2) and ip-netns(8)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

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
