"""Which back end holds this host's rules, when nobody says."""

from __future__ import annotations

from typing import NamedTuple

from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX
from kvctl.netfilter.binaries import Backend, Role, binary, plain_backend
from kvctl.netfilter.kernel import Reading

# kubelet (pkg/kubelet/kubelet_network_linux.go) creates these in the mangle table of the back end it uses,
# for other programs to follow.
_HINTS = frozenset(("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"))


class Choice(NamedTuple):
    """The back end and the evidence for it, in words."""

    backend: Backend
    why: str


def choose_backend(reading: Reading, *, told: bool | None) -> Choice:
    """What the user says, else kubelet's hint, else our own chains, else who alone has rules, else plain iptables.

    `told`: true nft, false legacy, None nobody says. Raises NetfilterUnavailableError when the chosen one
    is not there, or nothing is.
    """
    choice = _choose(reading, told)
    for family in Family:
        error = reading.failed.get((choice.backend, family))
        if error is not None and family is Family.IPV4:
            raise error
    binary(choice.backend, Family.IPV4, Role.SAVE)
    return choice


def _choose(reading: Reading, told: bool | None) -> Choice:
    if told is not None:
        return Choice(Backend.NFT if told else Backend.LEGACY, "as told")
    for backend in Backend:
        for family in Family:
            saved = reading.tables.get((backend, family))
            mangle = saved.tables.get("mangle") if saved else None
            if mangle and _HINTS & mangle.chains.keys():
                return Choice(backend, "kubelet uses it")
    ours = [b for b in Backend if _has_our_chains(reading, b)]
    if len(ours) == 1:
        return Choice(ours[0], "kvctl's chains are there")
    used = [
        b for b in Backend if any(reading.tables[b, f].has_rules for f in Family if (b, f) in reading.tables)
    ]
    if len(used) == 1:
        return Choice(used[0], "it alone holds rules")
    plain = plain_backend()
    if plain is not None:
        return Choice(plain, "iptables --version says so")
    readable = [b for b in Backend if (b, Family.IPV4) in reading.tables]
    if readable:
        return Choice(readable[0], "it alone is installed")
    for error in reading.failed.values():
        raise error
    raise NetfilterUnavailableError(
        "no iptables on this host",
        hint="install the package iptables (Debian, Ubuntu: apt-get install iptables)",
    )


def _has_our_chains(reading: Reading, backend: Backend) -> bool:
    return any(
        name.startswith(CHAIN_PREFIX)
        for family in Family
        if (backend, family) in reading.tables
        for name in reading.tables[backend, family].chain_names
    )
