"""The lab that stays, under fixed names: `kvctl lab up`, `exec`, `down`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kvctl import proc
from kvctl.errors import KvctlError, UsageError
from kvctl.lab.build import create, destroy
from kvctl.lab.netns import Namespace, ip_binary
from kvctl.lab.topology import standard
from kvctl.model.text import quote

PREFIX = "kvctl-"


def is_up() -> bool:
    """Whether any of it is there."""
    return any(Namespace(PREFIX + name).exists() for name in standard().names)


def up(*, backend: str) -> bool:
    """Build it; False if it was there already. A half-built one is removed again."""
    if is_up():
        return False
    topology = standard(backend=backend)
    try:
        create(topology, prefix=PREFIX)
    except BaseException:
        destroy(topology, prefix=PREFIX)
        raise
    return True


def down() -> bool:
    """Remove it; False if there was none."""
    found = is_up()
    destroy(standard(), prefix=PREFIX)
    return found


def execute(name: str, argv: Sequence[str]) -> NoReturn:
    """Become the program `argv` inside; raises UsageError for a name that the lab has not, NotRunError for a program
    that is not there.
    """
    names = standard().names
    if name not in names:
        raise UsageError(f"there is no {name} in the lab", hint=f"one of {', '.join(names)}")
    namespace = Namespace(PREFIX + name)
    if not namespace.exists():
        raise KvctlError(f"cannot run {argv[0]} in {name}: the lab is not up", hint="kvctl lab up")
    # This kvctl is the one that `kvctl` means inside, also where its directory is not in PATH.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    _check_program(argv[0], path=path)
    os.execve(ip_binary(), namespace.argv(argv), {**os.environ, "PATH": path, "NODE_NAME": name})


class NotRunError(KvctlError):
    """A program cannot be run; the exit status is that of a shell."""

    def __init__(self, message: str, *, exit_status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status


def _check_program(name: str, *, path: str) -> None:
    """`ip netns exec` ends with 1 for a program that it cannot run, as many programs do; a shell has 126 and 127."""
    if shutil.which(name, path=path) is not None:
        return
    places = [name] if "/" in name else [f"{directory}/{name}" for directory in path.split(os.pathsep)]
    if any(Path(place).exists() for place in places):
        raise NotRunError(f"cannot run {quote(name)}: it is no program that may be run", exit_status=126)
    raise NotRunError(
        f"cannot run {quote(name)}: there is no such program",
        exit_status=127,
        hint="the lab has this host's files",
    )


def default_backend() -> str:
    """The back end whose binaries are there, `nft` first."""
    if proc.find("iptables-nft-restore") is not None:
        return "nft"
    plain = proc.find("iptables")
    if plain is None:
        return "legacy"
    return "nft" if "(nf_tables)" in proc.run([plain, "--version"], deadline=10).stdout else "legacy"
