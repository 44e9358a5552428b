"""Every error kvctl raises on purpose: what failed, the evidence, the next step, the exit status.

The exit statuses are those of kvctl(1): 1 something failed, 2 usage, 4 netfilter unavailable,
5 cluster unreachable or forbidden.
"""

from __future__ import annotations

from collections.abc import Sequence


class KvctlError(Exception):
    """Base of the tree. `message` says what failed and why, `hint` what to do next."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(KvctlError):
    """The command line or an environment variable asks for something impossible."""

    exit_status = 2


class InputError(KvctlError):
    """A file or an object in it cannot be read as what it claims to be."""


class ProcessError(KvctlError):
    """A program was run and failed; carries argv, status, stderr and the failing line of its input."""

    def __init__(
        self,
        message: str,
        *,
        argv: Sequence[str],
        status: int | None,
        stderr: str,
        line: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr
        self.line = line


class NetfilterUnavailableError(ProcessError):
    """netfilter cannot be reached at all: no binary, no permission, a lock that stays held."""

    exit_status = 4

    def __init__(
        self,
        message: str,
        *,
        argv: Sequence[str] = (),
        status: int | None = None,
        stderr: str = "",
        line: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, argv=argv, status=status, stderr=stderr, line=line, hint=hint)


class NetlinkError(KvctlError):
    """The kernel refused a netlink request; `errno` is its answer."""

    def __init__(self, message: str, *, errno: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class ClusterError(KvctlError):
    """No cluster configured, or it cannot be reached, or it refuses."""

    exit_status = 5
