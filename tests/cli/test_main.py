"""What every command has in common: exit statuses, messages, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvctl import __version__
from kvctl.cli import main as cli
from kvctl.errors import KvctlError, NetfilterUnavailableError

HEAVY = ("kubernetes", "rich", "yaml", "kvctl.cluster", "kvctl.policy", "kvctl.netfilter")


def run(
    *arguments: str, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvctl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_the_version_is_the_packages() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"kvctl {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["egress", "nope"], "No such command 'nope'"),
        (["egress", "aply"], "No such command 'aply'. Did you mean kvctl egress apply?"),
        (["list"], "No such command 'list'. Did you mean kvctl egress list?"),
        (["egress", "list", "--nope"], "No such option"),
        (["egress", "flush"], "flush needs either the Services to remove or --all"),
        (["egress", "flush", "a/b", "--all"], "flush needs either the Services to remove or --all"),
        (["egress", "show", "../x"], "is not a Service"),
        (["egress", "compute", "-o", "iptables", "a/b"], "takes no SERVICE"),
    ],
)
def test_wrong_usage_is_2_with_a_hint(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Hint: " in done.stderr or "is written NAMESPACE/NAME" in done.stderr
    assert done.stdout == ""


def test_help_names_every_command_without_importing_it() -> None:
    code = (
        "import sys; sys.argv = ['kvctl', 'egress', '--help']\n"
        "from kvctl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    for name in ("compute", "apply", "diff", "list", "show", "flush", "watch", "move", "wait"):
        assert f"\n  {name} " in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_list_without_a_source_imports_nothing_that_judges_objects() -> None:
    code = "import sys, kvctl.cli.main, kvctl.cli.list; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = ("kubernetes", "rich", "yaml", "json", "kvctl.cluster", "kvctl.policy.resolve", "kvctl.netlink")
    assert [name for name in done.stdout.split() if name.startswith(heavy)] == []


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kvctl", "egress", "--help"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_has_its_hint_and_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise NetfilterUnavailableError("no iptables on this host", hint="install it")

    monkeypatch.setattr(cli, "_invoke", fail)
    assert cli._run([]) == 4
    assert capsys.readouterr().err == "Error: no iptables on this host\nHint: install it\n"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_invoke", interrupted)
    assert cli._run([]) == 130
    assert capsys.readouterr().err == "Error: interrupted\n"


def test_a_fault_of_kvctl_itself_is_no_traceback_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(cli, "_invoke", broken)
    assert cli._run([]) == 1
    told = capsys.readouterr().err
    assert "unexpected RuntimeError: the sky fell" in told
    assert "Traceback" not in told
    assert cli._run(["egress", "list", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        assert arguments == ["lab", "exec", "pod", "--", "tool", "--debug"]
        raise KvctlError("no")

    monkeypatch.setattr(cli, "_invoke", fail)
    assert cli._run(["lab", "--debug", "exec", "pod", "--", "tool", "--debug"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("Error: no\n")


def test_what_is_not_printable_in_an_error_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise KvctlError("bad \x1b[31m\u202e name")

    monkeypatch.setattr(cli, "_invoke", fail)
    cli._run([])
    assert capsys.readouterr().err == "Error: bad \\x1b[31m\\u202e name\n"


def test_a_full_disk_is_an_error_and_no_fault_of_kvctl() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kvctl", "egress", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: cannot read or write: [Errno 28] No space left on device\n"


def test_a_closed_standard_output_is_quiet() -> None:
    command = [sys.executable, "-m", "kvctl", "egress", "--help"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_for_shells_alone_is_not_shown() -> None:
    assert "complete" not in run("--help").stdout
    assert run("complete", "services", "--", "kvctl").returncode == 0
