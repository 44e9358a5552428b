"""The iptables programs: are they there, of which back end and version."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvctl import proc
from kvctl.doctor.finding import Finding, Level, failure, fine, from_error, unknown, warning
from kvctl.doctor.scene import Scene
from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend, Role, binary, is_installed, version

CHECK = "programs"
# Since then iptables-restore takes the lock, always (netfilter commit 80d8bfaa).
_LOCKS_SINCE = (1, 6, 2)
_NUMBER = re.compile(r"v(?P<number>[0-9.]+)")


def check(scene: Scene) -> Iterator[Finding]:
    """All programs of the back end in use, and nft beside them."""
    backend = in_use(scene)
    if not any(is_installed(each, Family.IPV4) for each in Backend):
        mend = "install the package iptables (Debian, Ubuntu: apt-get install iptables)"
        yield failure(
            CHECK, "no iptables is on this host", evidence="PATH and the sbin directories", mend=mend
        )
        return
    if backend is None:
        return
    for family in Family:
        yield from _of_family(backend, family)
    if proc.find("nft") is None:
        text = "without nft nobody sees native nft tables that come before iptables, or hide its rules"
        yield unknown(CHECK, text, evidence="nft is not in PATH", mend="apt-get install nftables")


def in_use(scene: Scene) -> Backend | None:
    """The back end that was chosen, or told; None: neither."""
    if scene.look is not None:
        return scene.look.choice.backend
    if scene.told is None:
        return None
    return Backend.NFT if scene.told else Backend.LEGACY


def _of_family(backend: Backend, family: Family) -> Iterator[Finding]:
    paths = []
    for role in Role:
        try:
            paths.append(binary(backend, family, role))
        except KvctlError as error:
            level = Level.FAILURE if family is Family.IPV4 else Level.WARNING
            yield from_error(CHECK, error, level=level)
            return
    try:
        told = {version(path).text for path in paths}
    except KvctlError as error:
        yield from_error(CHECK, error, level=Level.FAILURE)
        return
    evidence = ", ".join(paths)
    if len(told) > 1:
        text = f"the {family} programs are of several versions: {', '.join(sorted(told))}"
        yield warning(CHECK, text, evidence=evidence, mend="apt-get install --reinstall iptables")
        return
    (text,) = told
    if _parts(text) < _LOCKS_SINCE:
        why = f"{text} is older than 1.6.2: its restore takes no lock, and programs undo each other's changes"
        yield failure(CHECK, why, evidence=evidence, mend="install a newer package iptables")
        return
    yield fine(CHECK, f"{family}: {text}", evidence=evidence)


def _parts(text: str) -> tuple[int, ...]:
    match = _NUMBER.search(text)
    return tuple(int(part) for part in match["number"].split(".") if part) if match else ()
