"""Whole processes: what each takes from its start to its end, and what it starts in turn."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kvctl import proc
from kvctl.model.text import quote

DEADLINE = 600.0
NOTHING = (sys.executable, "-c", "pass")
"""The least that a program in Python takes."""


class Started(NamedTuple):
    """A program that kvctl started."""

    argv: list[str]
    stdin: str | None

    @property
    def restores(self) -> bool:
        """Whether it is one of those that write rules."""
        return os.path.basename(self.argv[0]).endswith("-restore") and "--version" not in self.argv


def kvctl(*arguments: str) -> list[str]:
    """The command line of this very kvctl, as its users run it: by its console script where it is installed."""
    script = Path(sys.executable).with_name("kvctl")
    return [str(script), *arguments] if script.exists() else [sys.executable, "-m", "kvctl", *arguments]


def choice(backend: str) -> str:
    """The option of kvctl's that chooses a back end."""
    return "--nftables" if backend == "nft" else "--no-nftables"


@contextmanager
def surroundings() -> Iterator[None]:
    """What holds for all that is started meanwhile: no settings of the caller's, byte code is kept, an own lock file.

    Where byte code is not kept, each start of kvctl would compile all of it: no installed program does.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="kvctl-bench-") as directory:
        for name in before:
            if name.startswith(("egress_", "vip_", "svc_")) or name in ("KUBECONFIG", "NODE_NAME"):
                del os.environ[name]
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(
            PYTHONPYCACHEPREFIX=f"{directory}/byte-code",
            PYTHONPATH=str(Path(__file__).parent.parent),
            XTABLES_LOCKFILE=f"{directory}/xtables.lock",
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def run(argv: Sequence[str], *, stdin: str | None = None) -> proc.Completed:
    """Run it to its end, with a fault as SystemExit: there is nothing to be measured."""
    done = proc.run(argv, stdin=stdin, deadline=DEADLINE)
    if done.status != 0:
        raise SystemExit(f"{' '.join(argv)[:200]} ended with {done.status}: {quote(done.stderr.strip())}")
    return done


def seconds(argv: Sequence[str], *, stdin: str | None = None) -> float:
    """How long it takes, from before its start until it has ended and all it said is read."""
    begun = time.perf_counter()
    run(argv, stdin=stdin)
    return time.perf_counter() - begun


def in_turn(measures: Mapping[str, Callable[[], float]], *, repetitions: int) -> dict[str, list[float]]:
    """What each measure gives, one after the other and that again and again: what else goes on meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    gc.collect()
    with before_others():
        for _ in range(repetitions):
            for name, measure in measures.items():
                found[name].append(measure())
    return found


@contextmanager
def before_others() -> Iterator[None]:
    """This thread, and what it starts, gets a processor before all others do (sched(7), SCHED_FIFO).

    So the machine need not be quite idle for the figures to be its own. Where it is not allowed: as everybody.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def started_by(*arguments: str) -> list[Started]:
    """All programs that kvctl starts for this, in order."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as log:
        run([sys.executable, "-m", "benchmarks.recorded", log.name, *arguments])
        return [Started(**json.loads(line)) for line in log]
