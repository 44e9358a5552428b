"""What the `nft` program says, where there is one: kvctl looks with it and writes nothing by it."""

from __future__ import annotations

from typing import Any

from kvctl import proc
from kvctl.errors import ProcessError
from kvctl.model.net import Family

IPTABLES_TABLE = {Family.IPV4: ("ip", "nat"), Family.IPV6: ("ip6", "nat")}
"""Where iptables-nft keeps its nat table: nft's family and name of it."""

_SECONDS = 20.0

Json = dict[str, Any]


def nft(*words: str) -> list[Json]:
    """The objects that `nft -j WORDS` prints; none also where it is not installed or does not answer."""
    import json

    path = proc.find("nft")
    if path is None:
        return []
    try:
        done = proc.run((path, "-j", *words), deadline=_SECONDS)
        parsed = json.loads(done.stdout) if done.status == 0 and done.stdout else {}
    except (ProcessError, ValueError):
        return []
    found = parsed.get("nftables", []) if isinstance(parsed, dict) else []
    return [entry for entry in found if isinstance(entry, dict)]


def nat_chain_names(family: Family) -> list[str]:
    """The chains of iptables-nft's nat table."""
    chains = (entry["chain"] for entry in nft("list", "chains") if "chain" in entry)
    return [chain["name"] for chain in chains if (chain["family"], chain["table"]) == IPTABLES_TABLE[family]]
