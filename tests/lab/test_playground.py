"""The lab that stays: up, exec, down; under names of the test's own, beside a lab of the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_subprocess import FakeProcess

from kvctl import proc
from kvctl.errors import KvctlError, NetfilterUnavailableError, ProcessError, UsageError
from kvctl.lab import playground, userns
from kvctl.lab.build import start_time, unique_prefix
from kvctl.lab.netns import existing
from kvctl.lab.topology import Pod, standard


@pytest.fixture
def prefix(kernel: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    own = unique_prefix("test")
    monkeypatch.setattr(playground, "PREFIX", own)
    yield own
    playground.down()


def test_it_stays_until_it_is_taken_down(prefix: str) -> None:
    assert not playground.is_up()
    assert playground.up(backend="nft") is True
    assert {each.name for each in existing(prefix)} >= {
        prefix + name for name in ("pod", "worker", "outside")
    }
    assert playground.up(backend="nft") is False
    assert playground.down() is True
    assert existing(prefix) == []
    assert playground.down() is False


def test_what_cannot_be_built_wholly_is_removed(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = standard(pods=(Pod(name="wrong", worker="worker", addresses=("10.0.0.300",)),))
    monkeypatch.setattr(playground, "standard", lambda **_: wrong)
    with pytest.raises(ProcessError, match=r"10\.0\.0\.300"):
        playground.up(backend="nft")
    assert existing(prefix) == []


def test_a_program_inside_has_the_terminal_the_status_and_this_kvctl(prefix: str) -> None:
    playground.up(backend="nft")
    script = (
        f"from kvctl.lab import playground; playground.PREFIX = {prefix!r}; "
        "playground.execute('worker', ['sh', '-c', 'cat; ip -br addr show eth1; echo $PATH; exit 7'])"
    )
    done = proc.run([sys.executable, "-c", script], stdin="from outside\n", deadline=30)
    assert done.status == 7
    text, interface, path = done.stdout.splitlines()
    assert text == "from outside"
    assert "192.168.0.245/32" in interface
    assert path.startswith(sys.executable.rpartition("/")[0] + ":")


@pytest.mark.parametrize(
    ("name", "mode", "status", "why"),
    [
        ("nosuch", None, 127, "there is no such program"),
        ("/no/such/file", None, 127, "there is no such program"),
        ("kvctl-no-program", 0o644, 126, "it is no program that may be run"),
    ],
)
def test_a_program_that_cannot_be_run_ends_as_in_a_shell(
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mode: int | None,
    status: int,
    why: str,
) -> None:
    playground.up(backend="nft")
    if mode is not None:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it was run"))
    with pytest.raises(KvctlError) as caught:
        playground.execute("worker", [name])
    assert caught.value.exit_status == status
    assert caught.value.message == f'cannot run "{name}": {why}'


def test_nothing_runs_in_a_lab_that_is_not_up(prefix: str) -> None:
    with pytest.raises(KvctlError) as caught:
        playground.execute("pod", ["true"])
    assert caught.value.hint == "kvctl lab up"


def test_a_name_that_the_lab_has_not_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        playground.execute("moon", ["true"])
    assert caught.value.hint is not None
    assert "outside" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "backend"), [("iptables v1.8.9 (nf_tables)", "nft"), ("iptables v1.8.9 (legacy)", "legacy")]
)
def test_where_only_plain_iptables_is_installed_its_version_decides(
    fp: FakeProcess, monkeypatch: pytest.MonkeyPatch, version: str, backend: str
) -> None:
    monkeypatch.setattr(proc, "find", lambda name: "/sbin/iptables" if name == "iptables" else None)
    fp.register(["/sbin/iptables", "--version"], stdout=version)
    assert playground.default_backend() == backend


def test_a_keeper_that_has_ended_is_none(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert userns.keeper() is None
    (runtime / "kvctl-lab").write_text("4194304 12345\n", encoding="ascii")
    assert userns.keeper() is None
    assert userns.release() is False
    assert not (runtime / "kvctl-lab").exists()


def test_a_keeper_holds_a_user_namespace_and_is_ended_by_its_recorded_pid(
    kernel: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    userns.keep()
    pid = userns.keeper()
    assert pid is not None
    try:
        userns.keep()
        assert userns.keeper() == pid
    finally:
        assert userns.release() is True
    assert start_time(pid) == ""


def test_where_user_namespaces_are_forbidden_the_error_says_what_to_do(fp: FakeProcess) -> None:
    fp.register([fp.any()], returncode=1, stderr="unshare: unshare failed: Operation not permitted\n")
    with pytest.raises(NetfilterUnavailableError, match=r"without root: .*Operation not permitted") as caught:
        userns.reenter(["lab", "demo"])
    assert caught.value.exit_status == 4
    assert caught.value.hint is not None
    assert "sudo" in caught.value.hint
