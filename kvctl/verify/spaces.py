"""Finding the network namespace of a pod, by its address or as it is told.

Only network namespaces are entered, by a thread that ends afterwards: nothing of a pod's files or processes is used.
Whoever may make a namespace in a pod may put any address into it. So of several that have an address, the one counts
that the links of this node lead to; where that does not tell, nobody chooses.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kvctl.errors import KvctlError, NetlinkError
from kvctl.model.net import Address
from kvctl.model.text import quote
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.netns import DIRECTORY, in_thread, setns
from kvctl.node.other_ends import OtherEnds, open_other_ends
from kvctl.node.rtnetlink import read_addresses

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


class Search:
    """What was found for one address. The spaces are open."""

    def __init__(self) -> None:
        self.linked: list[Space] = []
        """Those that a link of this node leads to."""
        self.others: list[Space] = []
        self.left_out = 0
        """Further ones, which were not kept."""

    def add(self, space: Space, *, is_linked: bool) -> bool:
        """Keep it, if there are not too many: whoever makes namespaces in a pod may make thousands."""
        kept = self.linked if is_linked else self.others
        if len(kept) == _MOST_NAMED:
            self.left_out += 1
            return False
        kept.append(space)
        return True

    def take(self, address: Address, *, unseen: int) -> Space:
        """The one, the others closed; raises NamespaceError where there is none, or nobody can choose."""
        chosen = self.linked or self.others
        if len(chosen) == 1 and (self.linked or not self.left_out):
            self.close(but=chosen[0])
            return chosen[0]
        self.close()
        if not chosen:
            raise NamespaceError(f"no network namespace on this node has {address}", hint=_where_else(unseen))
        paths = ", ".join(quote(each.path) for each in chosen) + (", ..." if self.left_out else "")
        raise NamespaceError(
            f"several network namespaces on this node have {address}: {paths}",
            hint="say which one is meant: --netns PATH, PID or NAME",
        )

    def close(self, *, but: Space | None = None) -> None:
        """Let all go but one."""
        for each in (*self.linked, *self.others):
            if each is not but:
                each.close()


def find_spaces(addresses: Collection[Address]) -> dict[Address, Space | NamespaceError]:
    """For each address the network namespace, other than the caller's own, that has it: the caller closes them.

    Of those that a process of /proc is in or that have a name (ip-netns(8)), each asked once. An error stands where
    there is none, or several and no link of this node tells which. Raises NetlinkError.
    """
    searches, unseen = in_thread(lambda: _search(addresses))
    found: dict[Address, Space | NamespaceError] = {}
    for address, search in searches.items():
        try:
            found[address] = search.take(address, unseen=unseen)
        except NamespaceError as error:
            found[address] = error
    return found


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
        if not in_thread(lambda: _addresses(space, (address,))):
            raise NamespaceError(f"--netns {quote(told)}: no interface there has {address}")
    except BaseException:
        space.close()
        raise
    return space


def _where_else(unseen: int) -> str:
    text = "run it on the node that the pod is on, as root and among the host's processes (in a container: hostPID), "
    text += "or name the namespace by --netns"
    return text + (f"; {unseen} could not be looked into" if unseen else "")


def _search(addresses: Collection[Address]) -> tuple[dict[Address, Search], int]:
    """All that have one, and how many could not be looked into; for a thread of its own, which moves about."""
    searches = {address: Search() for address in addresses}
    seen = {_identity(_OWN)}
    unseen = 0
    try:
        with open_other_ends(to=addresses) as ends:
            for path in _paths():
                try:
                    unseen += not _look_into(path, seen, searches, ends)
                except FileNotFoundError:
                    continue  # the process has ended meanwhile
    except BaseException:
        for search in searches.values():
            search.close()
        raise
    return searches, unseen


def _look_into(
    path: str, seen: set[tuple[int, int]], searches: Mapping[Address, Search], ends: OtherEnds
) -> bool:
    """Note what addresses it has; false where that cannot be seen. Raises FileNotFoundError: it has gone."""
    try:
        if _identity(path) in seen:
            return True
        space = _open(path)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise FileNotFoundError(path) from error
    except OSError:
        return False
    with space:
        seen.add(space.identity)
        if not _is_network(space):
            return True
        try:
            its = _addresses(space, searches)
        except NamespaceError:
            return False
        for address in its:
            copy = Space(path, os.dup(space.descriptor))
            if not searches[address].add(copy, is_linked=ends.are_in(copy.descriptor, to=address)):
                copy.close()
    return True


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


def _addresses(space: Space, sought: Collection[Address]) -> set[Address]:
    """Those of `sought` that an interface there has. The thread stays there."""
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
            return {row.address for row in read_addresses(netlink, of=set(sought), what=what)}
    except NetlinkError as error:
        raise NamespaceError(error.message, hint=error.hint) from error
