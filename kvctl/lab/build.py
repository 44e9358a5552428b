"""Building a lab: namespaces, veth pairs, addresses, routes and the rules that a cluster would have."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kvctl
from kvctl import proc
from kvctl.errors import KvctlError, ProcessError
from kvctl.lab.netns import Namespace, binary, delete_namespaces, existing, ip_batch
from kvctl.lab.topology import Topology
from kvctl.lab.wiring import plugs, rules_of, settings, sysctls
from kvctl.model.net import Family
from kvctl.model.text import quote

# Of a veth whose index is its peer's, too, Linux notices the carrier only once a second
# (net/core/link_watch.c, linkwatch_urgent_event), and until then IPv6 does not use the link.
_OWN_INDEX, _PEER_INDEX = 10, 10_000

# netdevice(7)
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
_LINK_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that has been built."""

    topology: Topology
    prefix: str
    namespaces: Mapping[str, Namespace]

    def __getitem__(self, name: str) -> Namespace:
        """The namespace of a worker, a pod, a host or `outside`."""
        return self.namespaces[name]

    @property
    def pod(self) -> Namespace:
        """The standard lab's pod."""
        return self["pod"]

    @property
    def worker(self) -> Namespace:
        """The standard lab's first worker."""
        return self["worker"]

    @property
    def outside(self) -> Namespace:
        """The outside world."""
        return self["outside"]

    def kvctl(
        self,
        *arguments: str,
        at: str = "worker",
        stdin: str | None = None,
        deadline: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> proc.Completed:
        """Run this very kvctl inside `at` to its end; a non-zero status is an answer.

        Settings in the caller's own environment do not count, those in `env` do.
        """
        argv = [*_forgetful(env or {}), "-m", "kvctl", *arguments]
        return self[at].run(argv, stdin=stdin, deadline=deadline, env={**_same_kvctl(), **(env or {})})

    def start_kvctl(self, *arguments: str, at: str, env: Mapping[str, str]) -> proc.Running:
        """Start this very kvctl inside `at`, for settings as `kvctl` does; the caller ends it.

        Should the calling thread be killed before, it goes with it.
        """
        argv = [*_forgetful(env), "-c", _MORTAL, str(os.getpid()), *arguments]
        return proc.Running(self[at].argv(argv), env={**_same_kvctl(), **env})


_MORTAL = """\
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9)  # linux/prctl.h: PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv.pop(1)):
    runpy.run_module("kvctl", run_name="__main__", alter_sys=True)
"""


def _same_kvctl() -> dict[str, str]:
    paths = [str(Path(kvctl.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _forgetful(env: Mapping[str, str]) -> list[str]:
    """The command that runs Python without the settings of the caller's environment, but those in `env`."""
    forget = [f"--unset={name}" for name in os.environ if _is_setting(name) and name not in env]
    return ["env", *forget, sys.executable]


def _is_setting(name: str) -> bool:
    return name.startswith(("egress_", "vip_", "svc_")) or name in ("KUBECONFIG", "NODE_NAME")


@contextmanager
def built(topology: Topology, *, prefix: str | None = None) -> Iterator[Lab]:
    """The lab, for the time of the block; it is removed however the block ends.

    Without `prefix` the names are unique to this process. Raises ProcessError with the `ip` or
    iptables line that failed; NetfilterUnavailableError (exit 4) without the rights or programs.
    """
    prefix = unique_prefix("lab") if prefix is None else prefix
    try:
        yield create(topology, prefix=prefix)
    finally:
        destroy(topology, prefix=prefix)


def create(topology: Topology, *, prefix: str) -> Lab:
    """Build the lab and leave it; on failure what had been built may be there: `destroy` removes it."""
    lab = Lab(
        topology=topology,
        prefix=prefix,
        namespaces={name: Namespace(prefix + name) for name in topology.names},
    )
    ip_batch([f"netns add {each.name}" for each in lab.namespaces.values()])
    for name, namespace in lab.namespaces.items():
        namespace.write_sysctls(sysctls(forwards=any(name == each.name for each in topology.workers)))
    ip_batch(_cables(lab))
    lines = settings(topology)
    for name in reversed(topology.names):
        lab[name].batch(lines[name])
    _wait_for_links(lab)
    for worker in topology.workers:
        _write_rules(topology, namespace=lab[worker.name])
    return lab


def destroy(topology: Topology, *, prefix: str) -> None:
    """Remove what is there of the lab."""
    delete_namespaces([Namespace(prefix + name) for name in topology.names])


def unique_prefix(kind: str) -> str:
    """A prefix `kvctl-KIND-...` that no other process uses, and by which `sweep` knows its maker."""
    pid = os.getpid()
    return f"kvctl-{kind}-{pid}-{start_time(pid)}-{secrets.token_hex(3)}-"


def sweep(kind: str) -> list[Namespace]:
    """Remove the namespaces with a `unique_prefix` of `kind` whose makers no longer live; returns them."""
    left = [each for each in existing(f"kvctl-{kind}-") if not _maker_lives(each.name, kind=kind)]
    delete_namespaces(left)
    return left


def _maker_lives(name: str, *, kind: str) -> bool:
    pid, _, rest = name.removeprefix(f"kvctl-{kind}-").partition("-")
    # A pid is used again, a pid with its start time is not. What has no pid was not made by us.
    return not pid.isdecimal() or start_time(int(pid)) == rest.partition("-")[0]


def start_time(pid: int) -> str:
    """When a process began, in ticks since boot; empty if it does not live.

    Fields 3 and 22 of proc(5)'s stat: a process that only waits for its parent does not live.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The second field is the name in parentheses and may hold anything, parentheses too.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _cables(lab: Lab) -> list[str]:
    """The veth pairs, each end made where it belongs: the host's own namespace never sees one."""
    outside = lab["outside"].name
    lines = []
    for port, (name, interface) in enumerate(plugs(lab.topology)):
        lines.append(
            f"link add {interface} index {_OWN_INDEX + port} netns {lab[name].name} type veth "
            f"peer name port{port} index {_PEER_INDEX + port} netns {outside}"
        )
    for number, pod in enumerate(lab.topology.pods):
        worker = lab[pod.worker].name
        lines.append(
            f"link add eth0 index {_OWN_INDEX + number} netns {lab[pod.name].name} type veth "
            f"peer name veth{number} index {_PEER_INDEX + number} netns {worker}"
        )
    return lines


def _wait_for_links(lab: Lab) -> None:
    """Until every veth is seen to be up: before that IPv6 does not answer, and asks again after a second."""
    ends = plugs(lab.topology)
    links = [*ends, *((pod.name, "eth0") for pod in lab.topology.pods)]
    links += [("outside", f"port{port}") for port in range(len(ends))]
    links += [("outside", segment.name) for segment in lab.topology.segments]
    until = time.monotonic() + _LINK_DEADLINE
    for name, interface in links:
        with lab[name].socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            request = struct.pack("16sH14x", interface.encode("ascii"), 0)
            while (
                not struct.unpack_from("H", fcntl.ioctl(asked, _SIOCGIFFLAGS, request), 16)[0] & _IFF_RUNNING
            ):
                if time.monotonic() > until:
                    raise KvctlError(f"the lab cannot be built: {interface} of {name} does not come up")
                time.sleep(0.0005)


def _write_rules(topology: Topology, *, namespace: Namespace) -> None:
    for family in Family:
        rules = rules_of(topology, family=family)
        if not rules:
            continue
        argv = [restore_binary(backend=topology.backend, family=family), "--noflush"]
        done = namespace.run(argv, stdin="\n".join(("*nat", *rules, "COMMIT", "")))
        if done.status != 0:
            raise ProcessError(
                f"the rules of the lab cannot be written: {quote(done.stderr.strip())}",
                argv=done.argv,
                status=done.status,
                stderr=done.stderr,
                hint="kvctl lab --nftables or --no-nftables takes the other back end",
            )


def restore_binary(*, backend: str, family: Family) -> str:
    """The iptables-restore of a back end and family; NetfilterUnavailableError names the package."""
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    # Where the alternative names do not exist, the plain one is of the only back end there is.
    return proc.find(f"{name}-{backend}-restore") or binary(f"{name}-restore", package="iptables")
