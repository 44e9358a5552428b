"""Finding the network namespace of a pod, by its address or as it is told.

Only network namespaces are entered, by a thread that ends afterwards: nothing of a pod's files or processes is used.
Whoever may make a namespace in a pod may put any address into it. So of several that have an address, the one counts
that the links of this node lead to; where that does not tell, nobody chooses.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from kvctl.errors import KvctlError, NetlinkError
from kvctl.lab.netns import DIRECTORY, setns
from kvctl.model.net import Address
from kvctl.model.text import quote
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.other_ends import linked
from kvctl.node.rtnetlink import read_addresses

T = TypeVar("T")

_OWN = "/proc/thread-self/ns/net"
_PROCESSES = Path("/proc")
# linux/nsfs.h; linux/sched.h
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_MOST_NAMED = 4


class NamespaceError(KvctlError):
    """The network namespace of a pod cannot be found or entered."""

    exit_status = 4


class Space:
    """A network namespace that is open; a context manager. `path` is where it was found."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go."""
        os.close(self.descriptor)


class _Found(NamedTuple):
    spaces: list[Space]
    unseen: int
    """How many could not be looked into."""


def find_space(address: Address) -> Space:
    """The network namespace, other than the caller's own, that has `address`: the caller closes it.

    Of those that a process of /proc is in or that have a name (ip-netns(8)). Raises NamespaceError where there is none,
    or several and no link of this node tells which.
    """
    found = _in_thread(lambda: _having(address))
    if not found.spaces:
        raise NamespaceError(
            f"no network namespace on this node has {address}", hint=_where_else(found.unseen)
        )
    chosen = found.spaces
    if len(chosen) > 1:
        with suppress(NetlinkError):
            leads = linked([each.descriptor for each in chosen], to=address)
            chosen = [each for each, it_leads in zip(chosen, leads, strict=True) if it_leads] or chosen
    for each in found.spaces:
        if each is not chosen[0] or len(chosen) > 1:
            each.close()
    if len(chosen) > 1:
        paths = ", ".join(quote(each.path) for each in chosen[:_MOST_NAMED])
        more = ", ..." if len(chosen) > _MOST_NAMED else ""
        raise NamespaceError(
            f"{len(chosen)} network namespaces on this node have {address}: {paths}{more}",
            hint="say which one is meant: --netns PATH, PID or NAME",
        )
    return chosen[0]


def told_space(told: str, address: Address) -> Space:
    """The network namespace that is a path, the number of a process or a name (ip-netns(8)); the caller closes it.

    Raises NamespaceError: there is none, it is the caller's own, or `address` is not in it.
    """
    path = f"/proc/{told}/ns/net" if re.fullmatch(r"[0-9]{1,10}", told) else told
    if "/" not in path:
        path = str(DIRECTORY / told)
    try:
        space = _open(path)
    except OSError as error:
        raise NamespaceError(
            f"--netns {quote(told)}: cannot open {quote(path)}: {error.strerror}",
            hint="give the number of a process of the pod, a path such as /proc/PID/ns/net, or a name of ip netns list",
        ) from error
    try:
        if not _is_network(space):
            raise NamespaceError(f"--netns {quote(told)}: {quote(path)} is no network namespace")
        if space.identity == _identity(_OWN):
            raise NamespaceError(
                f"--netns {quote(told)} is the network namespace of this node itself",
                hint="pods on the host network leave as the node, and are never rewritten: give the one of a pod",
            )
        if not _in_thread(lambda: _has(space, address)):
            raise NamespaceError(f"--netns {quote(told)}: no interface there has {address}")
    except BaseException:
        space.close()
        raise
    return space


def _where_else(unseen: int) -> str:
    text = "run it on the node that the pod is on, as root and among the host's processes (in a container: hostPID), "
    text += "or name the namespace by --netns"
    return text + (f"; {unseen} could not be looked into" if unseen else "")


def _having(address: Address) -> _Found:
    """All that have it, the caller's own left out; for a thread of its own, which is somewhere else afterwards."""
    seen = {_identity(_OWN)}
    found: list[Space] = []
    unseen = 0
    for path in _paths():
        try:
            if _identity(path) in seen:
                continue
            space = _open(path)
        except PermissionError:
            unseen += 1
            continue
        except OSError:
            continue  # the process has ended meanwhile
        seen.add(space.identity)
        if _is_network(space):
            try:
                if _has(space, address):
                    found.append(space)
                    continue
            except NamespaceError:
                unseen += 1
        space.close()
    return _Found(found, unseen)


def _paths() -> Iterator[str]:
    """Of each process, and each name."""
    for entry in os.scandir(_PROCESSES):
        if entry.name.isdecimal():
            yield f"/proc/{entry.name}/ns/net"
    with suppress(OSError):
        yield from sorted(entry.path for entry in os.scandir(DIRECTORY))


def _open(path: str) -> Space:
    # Whatever else is there under this name, a pipe for one, is not to be waited for.
    return Space(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_network(space: Space) -> bool:
    try:
        return fcntl.ioctl(space.descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _has(space: Space, address: Address) -> bool:
    """Whether an interface there has it. The thread stays there."""
    try:
        setns(space.descriptor)
    except OSError as error:
        raise NamespaceError(
            f"cannot enter the network namespace {quote(space.path)}: {os.strerror(error.errno or 0)}",
            hint="run as root; in a container: securityContext.privileged, or the capability SYS_ADMIN",
        ) from error
    what = f"cannot read the addresses in {quote(space.path)}"
    try:
        with open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
            return bool(read_addresses(netlink, of={address}, what=what))
    except NetlinkError as error:
        raise NamespaceError(error.message, hint=error.hint) from error


def _in_thread(function: Callable[[], T]) -> T:
    """What it returns or raises, in a thread that is gone afterwards: it may enter namespaces."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="looking into namespaces", daemon=True)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]
