"""One kvctl at a time changes a network namespace."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvctl.errors import NetfilterUnavailableError

# flock works on the namespace's own inode: it is scoped to the namespace, crosses containers that share
# it, needs no file of ours, and goes with the process that holds it. The calling thread's namespace counts.
_NAMESPACE = "/proc/thread-self/ns/net"
_RETRY_SECONDS = 0.02


@contextmanager
def namespace_lock(
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock of this network namespace; waits at most `timeout` seconds.

    Raises NetfilterUnavailableError when another process keeps it for longer.
    """
    deadline = clock() + timeout
    try:
        descriptor = os.open(_NAMESPACE, os.O_RDONLY)
    except OSError as error:
        raise NetfilterUnavailableError(
            f"cannot lock this network namespace: {error}", hint="mount /proc: kvctl locks by it"
        ) from error
    # A restore that we started keeps the lock to its end, also when we are killed meanwhile: else the next
    # kvctl would look too early.
    os.set_inheritable(descriptor, True)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise
            if clock() >= deadline:
                raise NetfilterUnavailableError(
                    f"another kvctl is changing this network namespace, and has been for {timeout:g} s",
                    hint=f"{_holder(descriptor)}; --lock-timeout waits longer",
                )
            sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Who holds the lock: anybody in this namespace may."""
    from kvctl.netfilter.flocks import holder_of  # and pathlib, which most commands do not need

    process = holder_of(os.fstat(descriptor))
    return (
        "wait for it to end" if process is None else f"it is held by process {process}: see ps -p {process}"
    )
