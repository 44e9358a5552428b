"""What this process may do: capabilities, and whether its root is the host's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kvctl.doctor.finding import Finding, failure, fine, unknown, warning
from kvctl.netfilter import fence
from kvctl.netfilter.binaries import Backend

CHECK = "privileges"
_STATUS = Path("/proc/thread-self/status")
_UID_MAP = Path("/proc/thread-self/uid_map")
# linux/capability.h
_NET_ADMIN, _NET_RAW, _SYS_ADMIN = 12, 13, 21
_MEND = "in a container: securityContext.capabilities.add: [NET_ADMIN, NET_RAW]"


class Privileges(NamedTuple):
    """Of the calling thread."""

    uid: int
    capabilities: int | None
    """CapEff of proc_pid_status(5); None: it cannot be read."""
    maps_all: bool
    """user_namespaces(7): this is the host's own user namespace, or one that maps all of its users."""

    def has(self, capability: int) -> bool:
        """Whether it has a capability; true where that cannot be told."""
        return self.capabilities is None or bool(self.capabilities >> capability & 1)

    @property
    def may_administer(self) -> bool:
        """Whether it may read and write rules."""
        return self.has(_NET_ADMIN)

    @property
    def may_make_namespaces(self) -> bool:
        """Whether it may make network namespaces, clone(2)."""
        return self.has(_SYS_ADMIN)


def read_privileges() -> Privileges:
    """What the kernel says of the calling thread."""
    capabilities = None
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                capabilities = int(value, 16)
    maps_all = True
    with suppress(OSError):
        maps_all = _UID_MAP.read_text(encoding="ascii").split() == ["0", "0", "4294967295"]
    return Privileges(uid=os.geteuid(), capabilities=capabilities, maps_all=maps_all)


def check(privileges: Privileges, *, backend: Backend | None) -> list[Finding]:
    """Whether rules can be changed from here, and addresses announced."""
    held = "unknown" if privileges.capabilities is None else f"{privileges.capabilities:#x}"
    evidence = f"uid {privileges.uid}, effective capabilities {held}"
    if not privileges.may_administer:
        if privileges.uid != 0:
            text = "not run as root: what takes CAP_NET_ADMIN was not looked at"
            return [unknown(CHECK, text, evidence=evidence, mend="sudo kvctl doctor")]
        text = "rules can be neither read nor changed: this process has no CAP_NET_ADMIN"
        return [failure(CHECK, text, evidence=evidence, mend=_MEND)]
    if not privileges.has(_NET_RAW):
        if backend is Backend.LEGACY:
            text = "iptables-legacy cannot work: this process has no CAP_NET_RAW"
            return [failure(CHECK, text, evidence=evidence, mend=_MEND)]
        text = "VIPs cannot be announced (serviceElection, --with-vip): this process has no CAP_NET_RAW"
        return [warning(CHECK, text, evidence=evidence, mend=_MEND)]
    return [fine(CHECK, "rules can be changed", evidence=evidence), *_user_namespace(privileges)]


def _user_namespace(privileges: Privileges) -> list[Finding]:
    if privileges.maps_all:
        return []
    obstacle = fence.obstacle()
    if obstacle is None:
        return []
    text = f"with serviceElection only addresses are fenced, not the traffic: {obstacle}"
    return [
        warning(
            CHECK, text, evidence=str(_UID_MAP), mend="without serviceElection: nothing; else hostUsers: true"
        )
    ]
