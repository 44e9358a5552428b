"""Whether this process can change rules at all: asked before anything is waited for."""

from __future__ import annotations

from contextlib import suppress

from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend, Role, binary, is_installed

_CAP_NET_ADMIN = 12  # linux/capability.h


def require_netfilter(told: bool | None) -> None:
    """Raise NetfilterUnavailableError where no rule can ever be written: no CAP_NET_ADMIN, no iptables.

    `told`: the back end by setting, see `choose_backend`. What may pass, such as a lock that is held, is not
    looked at.
    """
    if not _may_administer():
        raise NetfilterUnavailableError(
            "rules cannot be changed: this process has no CAP_NET_ADMIN",
            hint="run as root; in a container: securityContext.capabilities.add: [NET_ADMIN, NET_RAW]",
        )
    chosen = {True: [Backend.NFT], False: [Backend.LEGACY], None: list(Backend)}[told]
    if not any(is_installed(backend, Family.IPV4) for backend in chosen):
        binary(chosen[0], Family.IPV4, Role.SAVE)


def _may_administer() -> bool:
    """By the effective capabilities of the calling thread, proc_pid_status(5); true where that tells nothing."""
    with suppress(OSError, ValueError), open("/proc/thread-self/status", encoding="utf-8") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> _CAP_NET_ADMIN & 1)
    return True
