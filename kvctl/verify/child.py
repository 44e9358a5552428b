"""Asking from within a pod's network namespace: by a process that has entered it alone, and has no rights left.

It is a copy of this one: no program of the pod's is run, none of its files is opened. What it hears of the outside it
tells its parent as one short line an outcome.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NoReturn, Self

from kvctl.errors import KvctlError
from kvctl.model.net import parse_address
from kvctl.model.text import quote
from kvctl.netns import setns
from kvctl.verify.sender import Job, Loss, Outcome, Sender
from kvctl.verify.spaces import NamespaceError, Space

_NOBODY = 65534
# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION = 0x20080522
_NOT_ENTERED = 3
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ = 65536
_LONGEST_LINE = 100


class Asker:
    """A process that does one job; a context manager, which ends it."""

    def __init__(self, space: Space, job: Job) -> None:
        self.job = job
        self._path = space.path
        self._pipe, writes = os.pipe()
        self._text = b""
        # A signal between the fork and what the child does about it would make it go on as its parent.
        with _signals_held(), warnings.catch_warnings():
            # From 3.12 on Python warns of forks beside threads: the child goes on with what none of them could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(space.descriptor, writes, job)
        os.close(writes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pipe)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def fileno(self) -> int:
        """To wait on: there is something to hear."""
        return self._pipe

    def hear(self) -> list[Outcome] | None:
        """What it has told since; None: it has ended, its job done. Raises KvctlError where it could not do it."""
        received = os.read(self._pipe, _READ)
        if not received:
            self._bury()
            return None
        *lines, self._text = (self._text + received).split(b"\n")
        try:
            if len(self._text) > _LONGEST_LINE:
                raise ValueError
            return [_read_line(line) for line in lines]
        except ValueError:
            raise KvctlError(f"the process that asks from {self.job.source} tells nonsense") from None

    def _bury(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        if code == _NOT_ENTERED:
            raise NamespaceError(
                f"cannot enter the network namespace {quote(self._path)}",
                hint="run as root; in a container: securityContext.privileged, or the capability SYS_ADMIN",
            )
        if code != 0:
            raise KvctlError(f"the process that asks from {self.job.source} ended with status {code}")


def hear_all(
    askers: Sequence[Asker], *, until: Callable[[], float | None] = lambda: None
) -> Iterator[tuple[Asker, Outcome] | None]:
    """Each outcome as it comes, to the end of all jobs; None when the monotonic time that `until` gives has come."""
    with selectors.DefaultSelector() as selector:
        for asker in askers:
            selector.register(asker, selectors.EVENT_READ)
        while selector.get_map():
            at = until()
            for key, _ in selector.select(None if at is None else max(at - time.monotonic(), 0)):
                assert isinstance(key.fileobj, Asker)
                outcomes = key.fileobj.hear()
                if outcomes is None:
                    selector.unregister(key.fileobj)
                    continue
                for outcome in outcomes:
                    yield key.fileobj, outcome
            if at is not None and time.monotonic() >= at:
                yield None


@contextmanager
def asking(places: Sequence[tuple[Space, Job]]) -> Iterator[list[Asker]]:
    """A process for each job, for the time of the block."""
    askers: list[Asker] = []
    try:
        for space, job in places:
            askers.append(Asker(space, job))
        yield askers
    finally:
        for asker in askers:
            asker.__exit__(None, None, None)


@contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_line(outcome: Outcome) -> bytes:
    return f"{outcome.protocol} {outcome.source or '-'} {outcome.loss or '-'}\n".encode("ascii")


def _read_line(line: bytes) -> Outcome:
    """Strictly: whoever wrote it has heard strangers. Raises ValueError."""
    protocol, source, loss = line.decode("ascii").split(" ", 2)
    if protocol not in ("tcp", "udp"):
        raise ValueError(protocol)
    return Outcome(
        protocol,
        source=parse_address(source) if source != "-" else None,
        loss=Loss(loss) if loss != "-" else None,
    )


def _be_child(space: int, writes: int, job: Job) -> NoReturn:
    status = 1
    try:
        # Its parent decides when it ends, also when somebody presses Ctrl-C.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        _keep_only(space, writes)
        try:
            setns(space)
        except OSError:
            status = _NOT_ENTERED
            os._exit(status)
        os.close(space)
        _drop_rights()
        Sender(job, lambda outcome: _tell(writes, outcome)).run()
        status = 0
    finally:
        os._exit(status)


def _tell(writes: int, outcome: Outcome) -> None:
    os.write(writes, _write_line(outcome))


def _keep_only(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in descriptors:
            # That of the listing itself is closed already.
            with suppress(OSError):
                os.close(int(name))


def _drop_rights() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # In a user namespace there may be nobody else to become: without capabilities it is the same as nobody.
    with suppress(OSError):
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot give up rights")
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
