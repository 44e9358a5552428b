"""Which iptables binaries there are, and that each is of the back end its name is taken for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError, ProcessError
from kvctl.model.net import Family

_VERSION = re.compile(r"v(?P<version>[0-9][0-9.]*)\S*(?: \((?P<suffix>[a-z_]+)\))?")
_VERSION_SECONDS = 10.0


class Backend(StrEnum):
    """Which of the kernel's two rule engines."""

    NFT = "nft"
    LEGACY = "legacy"

    @property
    def other(self) -> Backend:
        """The one that is not this one."""
        return Backend.LEGACY if self is Backend.NFT else Backend.NFT

    @property
    def setting(self) -> str:
        """The environment setting that chooses it."""
        return f"egress_withnftables={'true' if self is Backend.NFT else 'false'}"


class Role(StrEnum):
    """The three programs of a back end and family: `iptables-nft`, `iptables-nft-save`, `iptables-nft-restore`."""

    RULE = ""
    SAVE = "-save"
    RESTORE = "-restore"


@dataclass(frozen=True, slots=True)
class Version:
    """What `--version` says."""

    backend: Backend
    text: str


def binary(backend: Backend, family: Family, role: Role) -> str:
    """The path of a program that is of this back end by its own word.

    `iptables-nft` and `iptables-legacy` by name, else plain `iptables` if it is of that back end. Raises
    NetfilterUnavailableError with the package or the setting that mends it.
    """
    base = "iptables" if family is Family.IPV4 else "ip6tables"
    name, plain = f"{base}-{backend}{role}", f"{base}{role}"
    path = proc.find(name)
    if path is not None:
        found = version(path)
        if found.backend is not backend:
            raise NetfilterUnavailableError(
                f"{path} is not what its name says: it reports {found.text}",
                argv=(path, "--version"),
                hint=f"install the iptables package anew, or choose with {found.backend.setting}",
            )
        return path
    path = proc.find(plain)
    if path is None:
        raise NetfilterUnavailableError(
            f"neither {name} nor {plain} is on this host",
            hint="install the package iptables (Debian, Ubuntu: apt-get install iptables)",
        )
    found = version(path)
    if found.backend is not backend:
        raise NetfilterUnavailableError(
            f"the {backend} back end was chosen, but {name} is missing and {path} reports {found.text}",
            argv=(path, "--version"),
            hint=f"install the package that has {name} (Debian, Ubuntu: iptables; RHEL: iptables-{backend}), "
            f"or set {found.backend.setting}",
        )
    return path


@cache
def version(path: str) -> Version:
    """What the program says of itself; before 1.8 there was no suffix and only the legacy back end."""
    try:
        done = proc.run((path, "--version"), deadline=_VERSION_SECONDS)
    except ProcessError as error:
        raise NetfilterUnavailableError(error.message, argv=error.argv, stderr=error.stderr) from error
    match = _VERSION.search(done.stdout)
    if done.status != 0 or match is None:
        raise NetfilterUnavailableError(
            f"{path} --version failed with status {done.status}: {(done.stderr or done.stdout).strip()}",
            argv=done.argv,
            status=done.status,
            stderr=done.stderr,
            hint="install the package iptables anew",
        )
    backend = Backend.NFT if match["suffix"] == "nf_tables" else Backend.LEGACY
    return Version(backend=backend, text=f"iptables v{match['version']} ({match['suffix'] or 'legacy'})")


def plain_backend() -> Backend | None:
    """What plain `iptables` is on this host; None: there is none."""
    path = proc.find("iptables")
    return version(path).backend if path else None


def is_installed(backend: Backend, family: Family) -> bool:
    """Whether this back end can be read at all in this family."""
    try:
        binary(backend, family, Role.SAVE)
    except NetfilterUnavailableError:
        return False
    return True
