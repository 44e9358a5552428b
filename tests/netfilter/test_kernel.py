"""What the binaries are asked, and what is made of their refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_subprocess import FakeProcess

from kvctl.errors import NetfilterUnavailableError, ProcessError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter import kernel as kernel_module
from kvctl.netfilter.binaries import Backend, Role, binary
from kvctl.netfilter.kernel import Kernel, Reading, RestoreError, read_everything, reading_everything

SCRIPT = "*nat\n:KVCTL-EGRESS - [0:0]\n-A KVCTL-EGRESS -j RETURN\nCOMMIT\n"


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "fp" in request.fixturenames:
        monkeypatch.setattr(kernel_module, "binary", _path)
        monkeypatch.setattr(kernel_module, "named", _path)


def _path(backend: Backend, family: Family, role: Role) -> str:
    return f"/sbin/{'iptables' if family is Family.IPV4 else 'ip6tables'}-{backend}{role}"


def _restore(backend: Backend = Backend.NFT, family: Family = Family.IPV4) -> list[str]:
    return [_path(backend, family, Role.RESTORE), "--noflush", "-w", "5"]


@pytest.mark.parametrize("backend", Backend)
def test_a_write_is_one_restore_on_standard_input_that_waits_for_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Backend, family: Family
) -> None:
    heard = tmp_path / "heard"
    program = tmp_path / "restore"
    program.write_text(f'#!/bin/sh\n{{ echo "$LC_ALL $*"; cat; }} >> {heard}\n')
    program.chmod(0o755)
    asked: list[object] = []

    def named(*which: object) -> str:
        asked.append(which)
        return str(program)

    monkeypatch.setattr(kernel_module, "binary", named)
    Kernel(backend).write(family, SCRIPT)
    assert heard.read_text() == "C --noflush -w 5\n" + SCRIPT
    assert asked == [(backend, family, Role.RESTORE)]


@pytest.mark.parametrize(
    ("status", "stderr", "line", "transient"),
    [
        (1, "iptables-restore: line 4 failed", "COMMIT", True),
        (
            4,
            "iptables-restore v1.8.9 (nf_tables): \nline 4: CHAIN_USER_DEL failed (Device or resource busy)",
            "COMMIT",
            True,
        ),
        (4, "iptables-restore: Resource temporarily unavailable.", None, True),
        (
            1,
            "iptables-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No such file)",
            "-A KVCTL-EGRESS -j RETURN",
            False,
        ),
        (2, "Error occurred at line: 3", "-A KVCTL-EGRESS -j RETURN", False),
        (1, "line 99 failed", None, False),
        (1, "", None, False),
        (3, "version mismatch", None, False),
    ],
)
def test_a_refusal_carries_its_evidence(
    fp: FakeProcess, status: int, stderr: str, line: str | None, transient: bool
) -> None:
    fp.register(_restore(), returncode=status, stderr=stderr)
    with pytest.raises(RestoreError) as caught:
        Kernel(Backend.NFT).write(Family.IPV4, SCRIPT)
    error = caught.value
    assert (error.status, error.line, error.transient) == (status, line, transient)
    assert error.argv == tuple(_restore())
    assert error.stderr == stderr
    assert (stderr or "no reason given") in error.message
    assert "nothing was changed" in str(error.hint)
    assert line is None or line in str(error.hint)
    assert error.exit_status == 1


@pytest.mark.parametrize(
    ("stderr", "hint"),
    [
        ("Another app is currently holding the xtables lock. Stopped waiting after 5s.", "fuser"),
        (
            "Another app is currently holding the xtables lock; still 3s 0us time ahead to have a chance",
            "fuser",
        ),
        ("Fatal: can't open lock file /run/xtables.lock: Read-only file system", "/run/xtables.lock"),
        (
            "Could not fetch rule set generation id: Permission denied (you must be root)",
            "root",
        ),
        ("can't initialize iptables table `nat': Permission denied (you must be root)", "CAP_NET_ADMIN"),
    ],
)
def test_what_cannot_work_at_all_is_told_apart(fp: FakeProcess, stderr: str, hint: str) -> None:
    fp.register(_restore(), returncode=4, stderr=stderr)
    with pytest.raises(NetfilterUnavailableError) as caught:
        Kernel(Backend.NFT).write(Family.IPV4, SCRIPT)
    assert caught.value.exit_status == 4
    assert stderr in caught.value.message
    assert hint in str(caught.value.hint)

    fp.register([_path(Backend.NFT, Family.IPV4, Role.SAVE), "-c"], returncode=4, stderr=stderr)
    with pytest.raises(NetfilterUnavailableError, match="cannot read the ipv4 rules"):
        Kernel(Backend.NFT).read(Family.IPV4)


def test_a_binary_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "iptables-nft-restore"
    slow.write_text("#!/bin/sh\nexec sleep 60\n", encoding="ascii")
    slow.chmod(0o755)
    monkeypatch.setattr(kernel_module, "binary", lambda *arguments: str(slow))
    monkeypatch.setattr(kernel_module, "_PROCESS_SECONDS", 0.2)
    with pytest.raises(ProcessError, match=r"has not finished after 0\.2 s"):
        Kernel(Backend.NFT).write(Family.IPV4, SCRIPT)


def test_the_legacy_back_end_is_not_asked_where_it_has_no_table(
    namespace: Namespace, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> str:
        raise AssertionError(arguments)

    monkeypatch.setattr(kernel_module, "binary", never)
    with namespace.entered():
        assert Kernel(Backend.LEGACY).read(family).tables == {}


def test_what_cannot_be_read_is_an_error_of_that_part_alone(
    monkeypatch: pytest.MonkeyPatch, namespace: Namespace
) -> None:
    def refusing(backend: Backend, family: Family, role: Role) -> str:
        if (backend, family) == (Backend.NFT, Family.IPV6):
            raise NetfilterUnavailableError("no ip6tables")
        return binary(backend, family, role)

    monkeypatch.setattr(kernel_module, "binary", refusing)
    with namespace.entered():
        reading = read_everything()
    assert set(reading.failed) == {(Backend.NFT, Family.IPV6)}
    assert len(reading.tables) == 3


def test_what_has_been_started_is_waited_for_once_also_where_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished: list[Reading] = []

    def finish() -> Reading:
        finished.append(Reading(tables={}, failed={}))
        return finished[-1]

    monkeypatch.setattr(kernel_module, "start_reading_everything", lambda: finish)
    with reading_everything() as read:
        assert not finished
        assert read() is finished[0]
    assert len(finished) == 1
    with pytest.raises(ZeroDivisionError), reading_everything():
        raise ZeroDivisionError
    assert len(finished) == 2


@pytest.fixture
def slow_restore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Restores end when somebody has written a file there, which they take away."""
    program = tmp_path / "restore"
    program.write_text(f"#!/bin/sh\nuntil rm {tmp_path}/go 2>/dev/null; do sleep 0.01; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(kernel_module, "binary", lambda *which: str(program))
    return tmp_path / "go"


def test_while_the_binary_works_something_else_can_be_done(slow_restore: Path) -> None:
    Kernel(Backend.LEGACY).write(Family.IPV4, SCRIPT, meanwhile=slow_restore.touch)
    assert not slow_restore.exists()


def test_what_fails_beside_a_write_is_told_when_that_has_ended(slow_restore: Path) -> None:
    def fail() -> None:
        slow_restore.touch()
        raise ProcessError("no", argv=(), status=None, stderr="")

    with pytest.raises(ProcessError, match="no"):
        Kernel(Backend.LEGACY).write(Family.IPV4, SCRIPT, meanwhile=fail)
    assert not slow_restore.exists()
