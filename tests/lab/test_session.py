"""The session that README shows, run command by command in a lab: what it prints is what README says."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.topology import standard
from tests.agent.process import eventually
from tests.conftest import MakeLab

README = Path(__file__).parents[2] / "README.md"
# Where a command is typed: on the worker, or on the outside.
_PROMPT = re.compile(r"(?P<at>worker|outside)# (?P<command>.*)")


class Step(NamedTuple):
    """A command, and what it prints on either stream."""

    at: str
    command: str
    printed: list[str]


def session() -> list[Step]:
    """The steps of the section of that name; lines without a prompt are output, and empty ones are left out."""
    section = README.read_text().split("\n### A session\n")[1].split("\n## ")[0]
    steps: list[Step] = []
    for line in re.findall(r"^ {4}(.+)$", section, re.MULTILINE):
        prompt = _PROMPT.fullmatch(line)
        if prompt is not None:
            steps.append(Step(prompt["at"], prompt["command"], []))
        else:
            steps[-1].printed.append(line)
    return steps


@pytest.mark.parametrize("backend", ["nft"])
def test_the_session_is_what_its_commands_print(
    make_lab: MakeLab, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(standard(backend=backend))
    monkeypatch.chdir(tmp_path)
    steps = session()
    assert len(steps) > 5
    with ExitStack() as stack:
        for step in steps:
            printed = run(step, lab=lab, stack=stack)
            assert printed == step.printed, step.command


def run(step: Step, *, lab: Lab, stack: ExitStack) -> list[str]:
    """What the step prints; one that ends in `&` goes on until `stack` ends, `cat` shows a file that is made so."""
    words = shlex.split(step.command)
    if words[0] == "cat":
        Path(words[1]).write_text("\n".join(step.printed) + "\n")
        return step.printed
    assert words[0] == "kvctl"
    env = {"NODE_NAME": "worker", "COLUMNS": "100"}
    if words[-1] == "&":
        running = lab.start_kvctl(*words[1:-1], at=step.at, env=env)
        stack.callback(end, running)
        port = f":{int(words[words.index('--port') + 1]):04X} "
        eventually(lambda: port in lab[step.at].run(["cat", "/proc/net/udp", "/proc/net/udp6"]).stdout)
        return step.printed
    done = lab.kvctl(*words[1:], at=step.at, env=env)
    return [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def end(running: proc.Running) -> None:
    """End what was left running."""
    running.kill()
    running.finish(deadline=10)
