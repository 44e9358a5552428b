"""Who holds the lock on a file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kvctl.netfilter.flocks import holder_of


def test_the_process_that_holds_it_is_named_until_it_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with file.open("w") as held:
        assert holder_of(file.stat()) is None
        fcntl.flock(held, fcntl.LOCK_EX)
        assert holder_of(file.stat()) == str(os.getpid())
    assert holder_of(file.stat()) is None


def test_a_file_of_the_same_inode_number_elsewhere_is_another(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch()
    status = file.stat()
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    locks = tmp_path / "locks"

    def held_on(major: int, minor: int) -> str | None:
        row = f"1: FLOCK  ADVISORY  WRITE 77 {major:02x}:{minor:02x}:{status.st_ino} 0 EOF\n"
        locks.write_text(f"{row}what the kernel never wrote\n")
        return holder_of(status, locks=locks)

    assert held_on(major, minor) == "77"
    assert held_on(major, minor + 1) is None
    assert held_on(major + 1, minor) is None
