"""Running programs: what they said, and that nothing of them stays when they take too long."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.errors import ProcessError
from tests.waiting import until


def test_what_a_program_said_and_its_status_are_an_answer() -> None:
    done = proc.run(("sh", "-c", "cat; echo no >&2; exit 3"), stdin="text", deadline=20)
    assert (done.status, done.stdout, done.stderr) == (3, "text", "no\n")


def test_a_program_reads_what_it_is_given_before_anybody_waits_for_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    much = "a line\n" * 100_000
    running = proc.Running(("sh", "-c", f"cat > {there}.new; mv {there}.new {there}"), stdin=much)
    until(there.exists)
    assert there.read_text() == much
    assert running.finish(deadline=20).status == 0


def test_no_descriptor_is_left_of_what_a_program_was_given() -> None:
    before = os.listdir("/proc/self/fd")
    proc.run(("cat",), stdin="text", deadline=20)
    with pytest.raises(ProcessError):
        proc.run(("/nowhere/at/all",), stdin="text", deadline=20)
    assert os.listdir("/proc/self/fd") == before


def test_a_program_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(ProcessError, match="cannot run /nowhere/at/all: "):
        proc.run(("/nowhere/at/all",), deadline=20)


def test_what_a_wrapper_started_ends_with_it_when_it_takes_too_long(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {told}.new; mv {told}.new {told}; wait"
    running = proc.Running(("sh", "-c", script))
    until(told.exists)
    with pytest.raises(ProcessError, match=r"sh has not finished after 0\.1 s"):
        running.finish(deadline=0.1)
    child = int(told.read_text())
    until(lambda: not _lives(child))


def test_what_is_killed_ends_with_all_that_it_started_and_tells_what_it_had_said(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    running = proc.Running(
        ("sh", "-c", f"echo $$; sleep 300 & echo $! > {told}.new; mv {told}.new {told}; wait")
    )
    until(told.exists)
    running.kill()
    done = running.finish(deadline=20)
    assert (done.status, done.stdout) == (-signal.SIGKILL, f"{running.pid}\n")
    until(lambda: not _lives(int(told.read_text())))


def _lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_signal_of_a_terminal_ends_kvctl_and_not_a_write_under_way() -> None:
    running = proc.Running(("sh", "-c", 'cut -d" " -f5 /proc/$$/stat'))
    assert int(running.finish(deadline=20).stdout) != os.getpgrp()
