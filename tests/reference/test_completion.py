"""The scripts in completions/, in the shells they are for."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from reference.commands import pages
from reference.files import ROOT

COMPLETIONS = ROOT / "completions"
_DRIVER = """\
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDS=("${@:3}") COMP_CWORD=$(($# - 3))
_kvctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory for PATH whose kvctl knows a Service and its namespace, and writes down what it is asked."""
    return with_kvctl(
        tmp_path,
        f'echo "$@" >>{tmp_path}/asked; case $2 in services) echo sip/sip-client ;; namespaces) echo sip ;; esac',
    )


def with_kvctl(directory: Path, script: str) -> Path:
    programs = directory / "programs"
    programs.mkdir()
    (programs / "kvctl").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "kvctl").chmod(0o755)
    return programs


def bash(line: str, *, programs: Path, cwd: Path | None = None) -> list[str]:
    """What bash is offered for a line with the cursor at its end; it splits words at = and : as readline does."""
    words = re.findall(r"[:=]+|[^\s:=]+", line)
    done = subprocess.run(
        [
            "bash",
            "-c",
            _DRIVER,
            "bash",
            COMPLETIONS / "kvctl.bash",
            line,
            *words,
            *([""] * line.endswith(" ")),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=cwd,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": "/nonexistent"},
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kvctl egr", ["egress"]),
        ("kvctl egress li", ["list"]),
        ("kvctl egress apply --dr", ["--dry-run"]),
        ("kvctl egress apply -o ", ["table", "wide", "json", "yaml"]),
        ("kvctl egress apply --output=j", ["json"]),
        ("kvctl egress apply --output=", ["table", "wide", "json", "yaml"]),
        ("kvctl egress apply --without-vip d", ["drop"]),
        ("kvctl egress apply --pod-cidr ", []),
        ("kvctl egress apply --pod-cidr 10.0.0.0/16 --pru", ["--prune"]),
        ("kvctl egress apply -n egress --pru", ["--prune"]),
        ("kvctl egress list ", []),
        ("kvctl egress list --interface l", ["lo"]),
        ("kvctl lab exec ", ["pod", "worker", "outside", "peer", "server"]),
        ("kvctl --d", ["--debug"]),
    ],
)
def test_bash_knows_words_by_itself(line: str, offered: list[str], tmp_path: Path) -> None:
    programs = with_kvctl(tmp_path, "echo asked")
    assert bash(line, programs=programs) == offered


def test_bash_knows_every_command(tmp_path: Path) -> None:
    programs = with_kvctl(tmp_path, "echo asked")
    for page in pages():
        if page.commands:
            assert bash(f"{page.name} ", programs=programs) == [name for name, _ in page.commands]
        else:
            assert "--help" in bash(f"{page.name} --h", programs=programs)


def test_bash_offers_files(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "sip.yaml").touch()
    assert bash("kvctl egress apply -f si", programs=programs, cwd=tmp_path) == ["sip.yaml"]
    assert bash("kvctl egress apply --filename=si", programs=programs, cwd=tmp_path) == ["sip.yaml"]


def test_bash_asks_for_values_with_the_words_before(programs: Path, tmp_path: Path) -> None:
    assert bash("kvctl egress apply -f x.yaml ", programs=programs) == ["sip/sip-client"]
    assert bash("kvctl egress show sip/a --cluster si", programs=programs) == ["sip/sip-client"]
    assert bash("kvctl egress flush -n ", programs=programs) == ["sip"]
    assert bash("kvctl egress trace -f x.yaml --pod ", programs=programs) == []
    assert (tmp_path / "asked").read_text().splitlines() == [
        "complete services -- kvctl egress apply -f x.yaml",
        "complete services -- kvctl egress show sip/a --cluster",
        "complete namespaces -- kvctl egress flush -n",
        "complete pods -- kvctl egress trace -f x.yaml --pod",
    ]


def test_bash_completes_behind_the_colon_at_which_it_splits(tmp_path: Path) -> None:
    programs = with_kvctl(tmp_path, "echo admin@host:6443; echo admin@host:6444; echo other:6443")
    assert bash("kvctl egress diff --context admin@host:64", programs=programs) == ["6443", "6444"]
    assert bash("kvctl egress diff --context adm", programs=programs) == [
        "admin@host:6443",
        "admin@host:6444",
    ]
    assert bash("kvctl egress diff --context=admin@host:64", programs=programs) == ["6443", "6444"]


def test_bash_offers_nothing_that_it_would_not_take_for_a_word(tmp_path: Path) -> None:
    answers = "sip/good\n$(touch pwned)\n`touch pwned`\na b\na;b\n'\nsip/*\n"
    (tmp_path / "answers").write_text(answers)
    programs = with_kvctl(tmp_path, f"cat {tmp_path}/answers")
    assert bash("kvctl egress show ", programs=programs, cwd=tmp_path) == ["sip/good"]
    assert not (tmp_path / "pwned").exists()


def test_bash_is_quiet_when_values_cannot_be_had(tmp_path: Path) -> None:
    programs = with_kvctl(tmp_path, "echo complaint >&2; exit 1")
    assert bash("kvctl egress show ", programs=programs) == []
    assert bash("kvctl egress show no-such.yaml -f ./nothing/", programs=programs) == []


def fish(line: str, *, programs: Path, cwd: Path) -> list[str]:
    """What fish offers for the line, without the descriptions."""
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    done = subprocess.run(
        [
            "fish",
            "--no-config",
            "-c",
            "source $argv[1]; complete -C $argv[2]",
            COMPLETIONS / "kvctl.fish",
            line,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=cwd,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(cwd), "TERM": "dumb"},
    )
    assert done.stderr == ""
    return [found.partition("\t")[0] for found in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kvctl egr", ["egress"]),
        ("kvctl egress app", ["apply"]),
        ("kvctl egress apply --dr", ["--dry-run"]),
        ("kvctl egress apply -o ", ["json", "table", "wide", "yaml"]),
        ("kvctl egress apply --output=j", ["--output=json"]),
        ("kvctl egress apply -f si", ["sip.yaml"]),
        ("kvctl egress apply -f sip.yaml ", ["sip/sip-client"]),
        ("kvctl egress list ", []),
        ("kvctl lab exec ", ["outside", "peer", "pod", "server", "worker"]),
    ],
)
def test_fish_knows_commands_options_and_values(
    line: str, offered: list[str], programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "sip.yaml").touch()
    assert sorted(fish(line, programs=programs, cwd=tmp_path)) == offered


class Zsh:
    """A zsh at a terminal of its own, whose completion has been set up."""

    def __init__(self, *, programs: Path, cwd: Path) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(cwd)
            path = f"{programs}:{os.environ['PATH']}"
            os.execvpe(
                "zsh", ["zsh", "-f", "-i"], {**os.environ, "PATH": path, "TERM": "dumb", "HOME": str(cwd)}
            )
        self._send(
            f"unsetopt zle_bracketed_paste prompt_sp; PS1='> '; fpath=({COMPLETIONS} $fpath)\n"
            "autoload -U compinit && compinit -u -D && echo rea''dy\n"
        )
        self.until("ready")

    def type(self, text: str) -> None:
        """Type it, with a tab at its end."""
        self._send(text + "\t")

    def until(self, expected: str) -> str:
        """What is on the terminal as soon as it has `expected`."""
        seen, end = "", time.monotonic() + 30
        while expected not in seen:
            assert time.monotonic() < end, f"{expected!r} is not in {seen!r}"
            if select.select([self._terminal], [], [], 0.2)[0]:
                seen += os.read(self._terminal, 65536).decode(errors="replace")
        return seen

    def end(self) -> None:
        """Hang up."""
        os.close(self._terminal)
        os.waitpid(self._pid, 0)

    def _send(self, text: str) -> None:
        os.write(self._terminal, text.encode())


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("kvctl egress app", "kvctl egress apply "),
        ("kvctl egress apply --dr", "--dry-run"),
        ("kvctl egress apply -o j", "-o json"),
        ("kvctl egress apply --output=j", "--output=json"),
        ("kvctl egress apply -f sip.yaml s", "sip/sip-client"),
        ("kvctl lab exec pod -- kvc", "-- kvctl"),
        ("kvctl egress ", "List the Services with egress rules on this node."),
    ],
)
def test_zsh_knows_commands_options_and_values(line: str, shown: str, programs: Path, tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    (tmp_path / "sip.yaml").touch()
    zsh = Zsh(programs=programs, cwd=tmp_path)
    try:
        zsh.type(line)
        zsh.until(shown)
    finally:
        zsh.end()
