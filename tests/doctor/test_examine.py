"""What becomes of the other checks when one goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.doctor import conntrack, lockfile
from kvctl.doctor.finding import Finding, Level
from tests.doctor.host import look_at, of_level
from tests.robustness.node import Node


def test_a_check_that_fails_in_a_way_nobody_thought_of_is_unknown_and_the_others_are_made(
    bare: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {each.check for each in look_at(bare).findings}

    def fail() -> list[Finding]:
        raise IndexError("list index out of range")

    monkeypatch.setattr(conntrack, "check", fail)
    found = look_at(bare)
    assert {each.check for each in found.findings} == whole
    (unknown,) = of_level(found, Level.UNKNOWN)
    assert unknown.check == conntrack.CHECK
    assert "this check failed itself: IndexError: list index out of range" in unknown.message


@pytest.mark.parametrize("name", ["vol\x0bume", "vol\x85ume", "vol\udcffume", "vol\u2028ume", ""])
def test_a_directory_that_a_tenant_named_and_that_is_mounted_hides_no_mount(name: str) -> None:
    rows = (
        "1 0 0:1 / / rw - overlay none rw",
        f"2 1 8:1 /{name} /data rw - ext4 /dev/sda rw",
        "3 1 0:2 / /run/xtables.lock rw - ext4 none rw",
        "",
    )
    path = Path("/run/xtables.lock")
    assert lockfile._is_shared(path, "\n".join(rows))
    assert not lockfile._is_shared(path, "\n".join(rows[:2]))
