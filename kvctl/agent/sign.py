"""The sign that an agent lives in this network namespace: a root's listener on an abstract Unix socket.

Abstract names are scoped to the network namespace and go with their process, unix(7). Anybody may bind one,
so a name proves nothing: who listens is asked of the kernel (SO_PEERCRED), and only root counts. The agent
has a second, random name where somebody else keeps the first, and whoever looks for an agent tries all that
/proc/net/unix lists.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.text import one_line
from kvctl.netfilter.lock import namespace_lock

if TYPE_CHECKING:
    import socket  # imported where one is opened: 4 ms that a command beside no agent does not need

NAME = "kvctl-egress"
"""The abstract name, without its leading NUL; other names of agents begin so."""

# One agent's answer, and the whole search, in seconds: a stranger must not hold anybody up.
_ANSWER_SECONDS = 0.1
_SEARCH_SECONDS = 0.3
_LOCK_SECONDS = 10.0
_LONGEST_ANSWER = 4096
_BACKLOG = 64
# A tick between looks at a listener whose queue is full: the agent empties it at once.
_TICK = 0.01
_CREDENTIALS = struct.Struct("=iII")
# proc(5), net/unix: the flag of a socket that listens (__SO_ACCEPTCON)
_LISTENS = 0x10000
_SHUT_RDWR = 2


class Election(NamedTuple):
    """How an agent places VIPs (serviceElection)."""

    fence_seconds: int | None
    """How long its rules use a VIP without a heartbeat; None: as long as they are there."""
    interface: str | None = None
    """Where it puts the VIPs of Services that name no interface; None: by the routes."""


class Agent(NamedTuple):
    """A living agent of this network namespace."""

    pid: int
    """In the PID namespace of who asks; 0 where it is not to be seen there."""
    node: str | None
    """None: it did not answer in time."""
    version: str | None = None
    election: Election | None = None
    """None: it follows whoever places the VIPs."""

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "a process that is not to be seen from here"
        of_node = f", node {one_line(self.node, longest=253)}" if self.node else ""
        version = f", version {one_line(self.version, longest=40)}" if self.version else ""
        return f"{who}{of_node}{version}"


class _Listener(NamedTuple):
    pid: int
    uid: int
    answer: bytes


class Sign:
    """An agent's sign, given up with `close` or at the end of the block."""

    def __init__(self, listener: socket.socket, *, answer: bytes, squatter: str | None) -> None:
        self._listener = listener
        self._answer = answer
        self.warning = squatter
        """What an admin should know of who keeps the name; None: nothing is wrong."""
        self._thread = threading.Thread(target=self._serve, name="sign", daemon=True)
        self._thread.start()

    def __enter__(self) -> Sign:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """From now on no agent lives here."""
        with suppress(OSError):  # closed before
            self._listener.shutdown(_SHUT_RDWR)  # wakes the thread, which close alone does not
        self._thread.join(1.0)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._listener.fileno() < 0 or error.errno == errno.EINVAL:
                    return
                time.sleep(
                    _TICK
                )  # out of descriptors: who looks for us sees who we are from the kernel alone
                continue
            with connection, suppress(OSError):
                connection.setblocking(False)
                connection.send(self._answer)


def take_sign(*, node: str, version: str, election: Election | None = None) -> Sign:
    """Give this network namespace the sign of an agent.

    Raises KvctlError where another agent lives, NetfilterUnavailableError where the lock of the namespace
    cannot be had. A name that somebody else keeps is no reason to fail: see `Sign.warning`.
    """
    import json

    # Two agents that start at the same moment must not overlook each other.
    with namespace_lock(timeout=_LOCK_SECONDS):
        strangers: dict[bytes, _Listener] = {}
        other = _search(strangers)
        if other is not None:
            raise KvctlError(
                f"another kvctl agent lives in this network namespace: {other}",
                hint="one agent a node: stop that one first"
                + (f" (see who it is with: ps -fp {other.pid})" if other.pid else ""),
            )
        listener, squatter = _bind(strangers.get(NAME.encode("ascii")))
    said = {"node": node, "version": version, "election": election._asdict() if election else None}
    answer = json.dumps(said).encode("ascii")
    return Sign(listener, answer=answer, squatter=squatter)


def find_agent() -> Agent | None:
    """The agent that lives in this network namespace, if any; takes a fraction of a second at the very most."""
    return _search({})


def _search(strangers: dict[bytes, _Listener]) -> Agent | None:
    """As `find_agent`; notes in `strangers` who else listens, because nobody may be asked twice."""
    deadline = time.monotonic() + _SEARCH_SECONDS
    names = _listening_names()
    while names:
        busy = []
        for name in names:
            try:
                found = _ask(name)
            except BlockingIOError:
                busy.append(name)
                continue
            if found is not None and found.uid == 0:
                return _agent(found)
            if found is not None:
                strangers[name] = found
            if time.monotonic() >= deadline:
                return None
        # An agent empties its queue at once; a stranger who does not is not waited for any longer.
        if time.monotonic() >= deadline:
            return None
        names = busy
        time.sleep(_TICK if busy else 0)
    return None


def refuse_beside_agent(*, can_force: bool = True) -> None:
    """Raise KvctlError if an agent lives here: it would undo what a command changes by hand."""
    agent = find_agent()
    if agent is not None:
        raise KvctlError(
            f"a kvctl agent keeps the rules of this network namespace ({agent}), and would undo this",
            hint="change the objects in the cluster, stop the agent, or use --force"
            if can_force
            else "change the objects in the cluster, or stop the agent",
        )


def _bind(stranger: _Listener | None) -> tuple[socket.socket, str | None]:
    """A listener on the usual name, else on one that nobody can know, and what to say about it."""
    import socket

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    squatter = None
    try:
        try:
            listener.bind(f"\0{NAME}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            squatter = _complaint(stranger)
            listener.bind(f"\0{NAME}-{os.urandom(16).hex()}")
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise KvctlError(f"cannot show that an agent lives here: {error}") from error
    return listener, squatter


def _complaint(found: _Listener | None) -> str:
    who = f"process {found.pid} of user {found.uid}" if found is not None else "a process"
    mend = f"kill {found.pid}" if found is not None and found.pid else f"ss -xap | grep @{NAME}"
    return (
        f"{who}, which is no agent, keeps the socket name @{NAME}; this agent goes on under another name. "
        f"Nobody but kvctl has a use for it: see who it is, then end it ({mend})"
    )


def _listening_names() -> list[bytes]:
    """The abstract names that listeners have and agents may have, the usual one first."""
    prefix = f"@{NAME}".encode("ascii")
    try:
        with open("/proc/thread-self/net/unix", "rb") as sockets:
            rows = [line.rstrip(b"\n").split(maxsplit=7) for line in sockets if prefix in line]
    except OSError:
        return [NAME.encode("ascii")]
    # A name may hold anything, a line break and something that looks like another line, too.
    names = {row[7][1:] for row in rows if len(row) == 8 and row[7].startswith(prefix) and _listens(row[3])}
    return sorted(names, key=len)


def _listens(flags: bytes) -> bool:
    try:
        return bool(int(flags, 16) & _LISTENS)
    except ValueError:
        return False


def _ask(name: bytes) -> _Listener | None:
    """Who listens under `name` and, if root, what it says; None: nobody. BlockingIOError: its queue is full."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(b"\0" + name)
        except BlockingIOError:
            raise
        except OSError:
            return None
        data = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(data)
        answer = b""
        if uid == 0:
            asking.settimeout(_ANSWER_SECONDS)
            with suppress(OSError):
                answer = asking.recv(_LONGEST_ANSWER)
        return _Listener(pid=pid, uid=uid, answer=answer)


def _agent(found: _Listener) -> Agent:
    import json

    try:
        said = json.loads(found.answer)
    except ValueError:
        said = None
    known = said if isinstance(said, dict) else {}
    node, version = known.get("node"), known.get("version")
    return Agent(
        pid=found.pid,
        node=node if isinstance(node, str) else None,
        version=version if isinstance(version, str) else None,
        election=_election(known.get("election")),
    )


def _election(said: object) -> Election | None:
    if not isinstance(said, dict):
        return None
    seconds, interface = said.get("fence_seconds"), said.get("interface")
    return Election(
        fence_seconds=seconds if isinstance(seconds, int) and seconds > 0 else None,
        interface=interface if isinstance(interface, str) else None,
    )
