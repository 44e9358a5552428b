"""The lab without root: inside a user namespace, where the kernel allows those."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kvctl import proc
from kvctl.errors import KvctlError, NetfilterUnavailableError
from kvctl.lab.build import start_time
from kvctl.lab.netns import binary

_UNSHARE = ("--user", "--map-root-user", "--net", "--mount")
# iproute2 and iptables keep files in /run, which only root may write.
_OWN_RUN = "mount -t tmpfs tmpfs /run && "
_DEADLINE = 10.0


def needed() -> bool:
    """Whether this process may not make network namespaces without one."""
    return os.geteuid() != 0


def reenter(arguments: Sequence[str]) -> NoReturn:
    """Become `kvctl ARGUMENTS` in a user namespace that ends with it."""
    _check()
    script = _OWN_RUN + 'exec "$@"'
    _become([_unshare(), *_UNSHARE, "sh", "-c", script, "sh", *_kvctl(arguments)])


def reenter_kept(arguments: Sequence[str]) -> NoReturn:
    """Become `kvctl ARGUMENTS` in the user namespace of the keeper; KvctlError if there is none."""
    pid = keeper()
    if pid is None:
        raise KvctlError("the lab is not up", hint="kvctl lab up (or sudo, if it was built with sudo)")
    enter = [binary("nsenter", package="util-linux"), f"--target={pid}", "--user", "--net", "--mount"]
    # Entering a mount namespace leads to its root directory.
    script = 'cd "$0" && exec "$@"'
    _become([*enter, "--preserve-credentials", "sh", "-c", script, os.getcwd(), *_kvctl(arguments)])


def keep() -> None:
    """Start the keeper, a sleeping process that holds the user namespace, unless there is one."""
    if keeper() is not None:
        return
    _check()
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_keeper(done)
    os.close(done)
    with open(ready, "rb") as told:
        if told.read(1) != b"x":
            raise KvctlError("the lab cannot be kept: its keeper has ended", hint="use sudo")
    _record().write_text(f"{pid} {start_time(pid)}\n", encoding="ascii")


def keeper() -> int | None:
    """The pid of the keeper, if it lives."""
    try:
        pid, _, started = _record().read_text(encoding="ascii").strip().partition(" ")
    except FileNotFoundError:
        return None
    return int(pid) if started and start_time(int(pid)) == started else None


def release() -> bool:
    """End the keeper, and with it the lab; False if there was none."""
    pid = keeper()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + _DEADLINE
        while keeper() is not None and time.monotonic() < until:
            time.sleep(0.01)
    _record().unlink(missing_ok=True)
    return pid is not None


def _be_keeper(done: int) -> NoReturn:
    try:
        os.setsid()
        # sh knows descriptors of one digit; the keeper must not hold the caller's terminal or pipes.
        os.dup2(done, 3)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        script = f"{_OWN_RUN} echo x >&3 && exec 3>&- && exec sleep infinity"
        os.execv(_unshare(), [_unshare(), *_UNSHARE, "sh", "-c", script])
    finally:
        os._exit(1)


def _check() -> None:
    argv = [_unshare(), *_UNSHARE, "sh", "-c", _OWN_RUN + "true"]
    done = proc.run(argv, deadline=_DEADLINE)
    if done.status != 0:
        raise NetfilterUnavailableError(
            f"the lab cannot be built without root: {done.stderr.strip() or 'no user namespaces'}",
            argv=argv,
            status=done.status,
            stderr=done.stderr,
            hint="use sudo, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0)",
        )


def _unshare() -> str:
    return binary("unshare", package="util-linux")


def _kvctl(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "kvctl", *arguments]


def _become(argv: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(argv[0], list(argv))


def _record() -> Path:
    """Where the keeper's pid is written: a directory that only this user can write."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "kvctl-lab")
    own = Path(tempfile.gettempdir(), f"kvctl-lab-{os.geteuid()}")
    own.mkdir(mode=0o700, exist_ok=True)
    status = own.lstat()
    if own.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise KvctlError(f"the lab cannot be kept: {own} belongs to somebody else", hint=f"remove {own}")
    return own / "keeper"
