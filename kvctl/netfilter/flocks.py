"""Who holds the lock on a file, as far as the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path

_LOCKS = Path("/proc/locks")


def holder_of(status: os.stat_result, *, locks: Path = _LOCKS) -> str | None:
    """The process with a flock on the file that `status` is of; None: nobody, or nobody who can be seen from here.

    By proc_locks(5): a file is its device and inode together there, and an inode number alone is anybody's to have.
    """
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    try:
        lines = locks.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == file:
            return words[4]
    return None
