"""The lock file of the legacy back end: can it be had, and is it the one that other programs use?"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from kvctl.doctor.binaries import in_use
from kvctl.doctor.finding import Finding, failure, fine, warning
from kvctl.doctor.scene import Scene
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.flocks import holder_of

CHECK = "lock file"
_PATH = "/run/xtables.lock"
_MOUNTS = Path("/proc/thread-self/mountinfo")
_PATIENCE = 1.0
"""Seconds after which a lock that is held is worth a word: a change takes less."""
_TICK = 0.05
_SHARE = "mount /run/xtables.lock from the host (hostPath, type FileOrCreate)"


def check(scene: Scene) -> Iterator[Finding]:
    """Only iptables-legacy takes it; xtables-nft(8): there -w does nothing."""
    if in_use(scene) is not Backend.LEGACY:
        return
    # xtables-legacy(8): another place, for tests.
    path = Path(os.environ.get("XTABLES_LOCKFILE") or _PATH)
    problem = _obstacle(path)
    if problem is not None:
        yield problem
        return
    # Whoever names a directory that is mounted writes what he likes there.
    if not _is_shared(path, _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")):
        text = f"{path} is this container's own: other programs' changes and kvctl's may undo each other"
        yield warning(
            CHECK, text, evidence="the root is an overlay, and nothing is mounted there", mend=_SHARE
        )
        return
    holder = _lasting_holder(path)
    if holder is not None:
        text = f"process {holder} keeps {path}: nobody else can change rules of the legacy back end"
        mend = f"see who it is: ps -fp {holder}"
        yield failure(CHECK, text, evidence=f"/proc/locks, for {_PATIENCE:g} s", mend=mend)
        return
    yield fine(CHECK, f"{path} can be taken")


def _obstacle(path: Path) -> Finding | None:
    """What keeps the file from being opened, as iptables does: for reading, and made where it is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if os.access(path.parent, os.W_OK, effective_ids=True):
            return None
        text = f"{path} is not there and cannot be made: {path.parent} is not writable"
        return failure(CHECK, text, mend=f"{_SHARE}, or make {path.parent} writable")
    except OSError as error:
        return failure(CHECK, f"{path} cannot be looked at: {error.strerror}", mend=_SHARE)
    if stat.S_ISDIR(status.st_mode):
        text = (
            f"{path} is a directory: it was mounted before there was a file, and iptables-legacy cannot work"
        )
        return failure(CHECK, text, evidence=f"stat {path}", mend=f"on the host: rmdir {path}; then {_SHARE}")
    if not os.access(path, os.R_OK, effective_ids=True):
        return failure(CHECK, f"{path} cannot be opened", mend="run as root")
    return None


def _is_shared(path: Path, mounts: str) -> bool:
    """Whether it is plausible that others see the same file: not in a container's own layer, proc_pid_mountinfo(5)."""
    kinds = {}
    for line in mounts.split("\n"):
        before, _, after = line.partition(" - ")
        # The kernel writes blanks and line ends of names as octal numbers, and leaves other controls as they are.
        fields = before.split(" ")
        if len(fields) > 4:
            kinds[fields[4]] = after.partition(" ")[0]
    place = next(each for each in (path, *path.parents) if str(each) in kinds or str(each) == "/")
    return not (str(place) == "/" and kinds.get("/") == "overlay")


def _lasting_holder(path: Path) -> str | None:
    """The process that keeps the lock all the time that it is looked at."""
    deadline = time.monotonic() + _PATIENCE
    holder = _holder(path)
    while holder is not None and time.monotonic() < deadline:
        time.sleep(_TICK)
        now = _holder(path)
        holder = holder if now == holder else None
    return holder


def _holder(path: Path) -> str | None:
    try:
        return holder_of(path.stat())
    except OSError:
        return None
