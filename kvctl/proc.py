"""Running other programs: the only importer of `subprocess`.

No shell, no inherited standard input, the C locale (messages of the binaries are matched), and a
deadline on everything.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from kvctl.errors import ProcessError

# A root shell opened with plain `su` has no sbin directory in its PATH, and the binaries live there.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Completed(NamedTuple):
    """A program that ran to its end; the streams are text, undecodable bytes escaped."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


@cache
def find(name: str) -> str | None:
    """The path of the program `name` in PATH or an sbin directory, or None."""
    # Not shutil.which: importing shutil takes longer than everything else that `list` imports of the library.
    for directory in (*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN):
        path = os.path.join(directory, name)
        if directory and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


class Running:
    """A program that was started, and reads `stdin` while its caller does something else.

    `finish` waits for its end, and has to be called.
    """

    def __init__(
        self, argv: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._argv = tuple(argv)
        source = subprocess.DEVNULL if stdin is None else _file_of(stdin)
        try:
            self._process = subprocess.Popen(
                self._argv,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="backslashreplace",
                env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C", **(env or {})},
                # Python's descriptors are closed on exec unless made inheritable: only a lock is (netfilter.lock).
                close_fds=False,
                # What a wrapper has started is ended with it: it would keep the lock that it was given.
                process_group=0,
            )
        except (OSError, ValueError) as error:
            raise ProcessError(
                f"cannot run {argv[0]}: {error}", argv=argv, status=None, stderr=str(error)
            ) from error
        finally:
            if stdin is not None:
                os.close(source)

    @property
    def pid(self) -> int:
        """Of the program, until `finish` has waited for its end: the first of a process group of its own."""
        return self._process.pid

    def kill(self) -> None:
        """End it and what it has started, at once; `finish` tells what it had said."""
        _end(self._process.pid)

    def finish(self, *, deadline: float) -> Completed:
        """What it said; raises ProcessError when it has not ended in `deadline` seconds (it is killed then)."""
        with self._process as process:
            try:
                stdout, stderr = process.communicate(timeout=deadline)
            except subprocess.TimeoutExpired as error:
                _end(process.pid)
                raise ProcessError(
                    f"{self._argv[0]} has not finished after {deadline:g} s",
                    argv=self._argv,
                    status=None,
                    stderr=_text(error.stderr),
                ) from error
            except BaseException:
                _end(process.pid)
                raise
        return Completed(argv=self._argv, status=process.returncode, stdout=stdout, stderr=stderr)


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    deadline: float,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run `argv` to its end, feeding it `stdin`; `deadline` is how many seconds it may take.

    Raises ProcessError when it cannot be started or has not ended in time (it is killed then).
    A non-zero status is an answer, not an error: callers judge it.
    """
    return Running(argv, stdin=stdin, env=env).finish(deadline=deadline)


def _file_of(text: str) -> int:
    """A descriptor to read it from, to the end. Not a pipe, which somebody would have to fill as it empties."""
    descriptor = os.memfd_create("stdin")
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _text(stream: bytes | str | None) -> str:
    if stream is None:
        return ""
    return stream if isinstance(stream, str) else stream.decode("utf-8", "backslashreplace")
