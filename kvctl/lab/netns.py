"""Network namespaces by name: make them, run programs in them, enter them, open sockets in them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError, ProcessError
from kvctl.model.text import quote
from kvctl.netns import DIRECTORY, setns

_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace; the value is only the name, `create` makes the thing."""

    name: str

    @property
    def path(self) -> Path:
        """The file that setns(2) takes."""
        return DIRECTORY / self.name

    def exists(self) -> bool:
        """Whether the namespace is there."""
        return self.path.exists()

    def create(self) -> None:
        """Make it; raises ProcessError if it is there already."""
        ip_batch([f"netns add {self.name}"])

    def delete(self) -> None:
        """Remove it with its interfaces and rules; it is no error if it has gone.

        Sockets that are still open in it keep the kernel's part alive until they are closed.
        """
        delete_namespaces([self])

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside."""
        return [ip_binary(), "netns", "exec", self.name, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        deadline: float = _DEADLINE,
        env: Mapping[str, str] | None = None,
    ) -> proc.Completed:
        """Run a program inside to its end; as `proc.run`, a non-zero status is an answer."""
        return proc.run(self.argv(argv), stdin=stdin, deadline=deadline, env=env)

    def batch(self, lines: Sequence[str]) -> None:
        """Feed `lines` to one `ip -batch` inside; raises ProcessError with the line that failed."""
        ip_batch(lines, namespace=self)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the time of the block, and so is what it starts there.

        Threads that run already stay where they are.
        """
        with open("/proc/thread-self/ns/net", "rb") as home, open(self.path, "rb") as inside:
            setns(inside.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives inside, whichever thread uses it afterwards; the caller closes it."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def write_sysctls(self, values: Mapping[str, str]) -> None:
        """Write files below /proc/sys/net of this namespace, given by paths such as `ipv4/ip_forward`."""
        # /proc/sys/net shows the namespace of the thread that opens a file: no process is needed.
        with self.entered():
            for path, value in values.items():
                Path("/proc/sys/net", path).write_text(value, encoding="ascii")


def ip_binary() -> str:
    """The path of iproute2's `ip`; raises NetfilterUnavailableError (exit 4) where there is none."""
    return binary("ip", package="iproute2")


def binary(name: str, *, package: str) -> str:
    """The path of a program; NetfilterUnavailableError names the Debian package that has it."""
    path = proc.find(name)
    if path is None:
        raise NetfilterUnavailableError(
            f"the lab cannot be built: there is no program {name}", hint=f"apt-get install {package}"
        )
    return path


def ip_batch(lines: Sequence[str], *, namespace: Namespace | None = None, keep_going: bool = False) -> None:
    """Feed `lines` to one `ip -batch`, in `namespace` or the caller's own.

    Raises ProcessError with the line that failed, NetfilterUnavailableError (exit 4) where the
    kernel forbids it. With `keep_going` failures of single lines are passed over.
    """
    if not lines:
        return
    argv = [ip_binary()]
    argv += ["-n", namespace.name] if namespace else []
    argv += ["-force"] if keep_going else []
    argv += ["-batch", "-"]
    done = proc.run(argv, stdin="\n".join(lines) + "\n", deadline=_DEADLINE)
    if done.status == 0 or keep_going:
        return
    raise _batch_error(done, lines)


def delete_namespaces(namespaces: Sequence[Namespace]) -> None:
    """Remove those of `namespaces` that exist, by one process; raises ProcessError if one stays."""
    ip_batch([f"netns del {each.name}" for each in namespaces if each.exists()], keep_going=True)
    left = [each.name for each in namespaces if each.exists()]
    if left:
        raise ProcessError(
            f"cannot remove the network namespace {left[0]}: it is still there",
            argv=("ip", "netns", "del", left[0]),
            status=None,
            stderr="",
            hint=f"ip netns del {left[0]}",
        )


def existing(prefix: str) -> list[Namespace]:
    """The named namespaces whose names begin with `prefix`, in order."""
    if not DIRECTORY.is_dir():
        return []
    return [Namespace(entry.name) for entry in sorted(DIRECTORY.iterdir()) if entry.name.startswith(prefix)]


def _batch_error(done: proc.Completed, lines: Sequence[str]) -> ProcessError:
    found = re.search(r"^Command failed -:(\d+)$", done.stderr, re.MULTILINE)
    index = int(found[1]) - 1 if found else -1
    line = lines[index] if 0 <= index < len(lines) else None
    reasons = [text for text in done.stderr.splitlines() if text and not text.startswith("Command failed")]
    why = quote(reasons[0]) if reasons else f"status {done.status}"
    message = f"ip {line or '-batch'} failed: {why}"
    if "not permitted" in done.stderr or "Permission denied" in done.stderr:
        return NetfilterUnavailableError(
            message,
            argv=done.argv,
            status=done.status,
            stderr=done.stderr,
            line=line,
            hint="network namespaces need root: use sudo",
        )
    return ProcessError(message, argv=done.argv, status=done.status, stderr=done.stderr, line=line)
