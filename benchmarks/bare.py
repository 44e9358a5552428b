"""What a restore takes without kvctl around it: the text that an agent writes for one changed pod, written again."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.commits import DEADLINE
from benchmarks.watched import Agent, Node
from kvctl.lab.build import restore_binary
from kvctl.model.net import Family

_PAUSE, _QUIET = 0.02, 0.5
# Keeps what it is fed, under names in the order of time, and does what it stands for.
_RECORDER = """\
#!/bin/sh
text="{directory}/$(date +%s%N)"
cat > "$text.part"
{program} "$@" < "$text.part"
status=$?
mv "$text.part" "$text.text"
exit $status
"""


class Bare(NamedTuple):
    """What the restores of one change took."""

    seconds: float
    """From before the start of the first until the end of the last."""
    cpu: float
    """Seconds, by wait4(2)."""


def bare_restores(node: Node, *, repetitions: int) -> list[Bare]:
    """Write what an agent writes when a pod gets another address, and when it gets its old one back, in turn.

    The rules are those an agent has left; none may run. An agent of our own is asked for the text first, which is
    not timed.
    """
    with tempfile.TemporaryDirectory(prefix="kvctl-bench-") as made:
        directory = Path(made)
        there, back = _recorded(node, directory)
        with node.lab.worker.entered():
            return [_written(node, back if number % 2 else there) for number in range(repetitions)]


def _recorded(node: Node, directory: Path) -> tuple[list[Path], list[Path]]:
    """The texts of a change, and of its undoing."""
    program = restore_binary(backend=node.backend, family=Family.IPV4)
    recorder = directory / Path(program).name
    recorder.write_text(_RECORDER.format(directory=directory, program=program))
    recorder.chmod(0o755)
    with node.agent(env={"PATH": f"{directory}:{os.environ['PATH']}"}) as agent:
        with _texts(directory, agent) as there:
            node.change(0)
        with _texts(directory, agent) as back:
            node.change_back(0)
    return there, back


@contextmanager
def _texts(directory: Path, agent: Agent) -> Iterator[list[Path]]:
    """What is written because of the block, when the agent has come to rest."""
    before = set(directory.glob("*.text"))
    found: list[Path] = []
    yield found
    end = time.monotonic() + DEADLINE
    while not found:
        if time.monotonic() > end:
            raise SystemExit(f"the agent (process {agent.pid}) writes nothing")
        time.sleep(_PAUSE)
        if set(directory.glob("*.text")) - before:
            time.sleep(_QUIET)
            # The question for its version has no text.
            fresh = set(directory.glob("*.text")) - before
            found += sorted(path for path in fresh if path.stat().st_size)


def _written(node: Node, texts: list[Path]) -> Bare:
    program = restore_binary(backend=node.backend, family=Family.IPV4)
    argv = [program, "--noflush", "-w", "5"]
    cpu, begun = 0.0, time.perf_counter()
    for text in texts:
        stdin = (os.POSIX_SPAWN_OPEN, 0, str(text), os.O_RDONLY, 0)
        child = os.posix_spawn(program, argv, os.environ, file_actions=[stdin])
        _, status, used = os.wait4(child, 0)
        if status:
            raise SystemExit(f"{program} refused what it took from the agent before")
        cpu += used.ru_utime + used.ru_stime
    return Bare(time.perf_counter() - begun, cpu)
