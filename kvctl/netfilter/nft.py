"""What the `nft` program says, where there is one: kvctl looks with it and writes nothing by it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kvctl import proc
from kvctl.errors import ProcessError
from kvctl.model.net import Family
from kvctl.model.rules import Table

IPTABLES_TABLE = {Family.IPV4: ("ip", "nat"), Family.IPV6: ("ip6", "nat")}
"""Where iptables-nft keeps its nat table: nft's family and name of it."""

_SECONDS = 20.0

Json = dict[str, Any]


class Question:
    """`nft -j WORDS`, started; nothing where nft is not installed or does not answer."""

    def __init__(self, *words: str) -> None:
        path = proc.find("nft")
        self._running: proc.Running | None = None
        if path is not None:
            with suppress(ProcessError):
                self._running = proc.Running((path, "-j", *words))

    def answer(self) -> str:
        """Wait for what it prints."""
        if self._running is None:
            return ""
        try:
            done = self._running.finish(deadline=_SECONDS)
        except ProcessError:
            return ""
        return done.stdout if done.status == 0 else ""


def nft(*words: str) -> list[Json]:
    """The objects that `nft -j WORDS` prints; none also where it is not installed or does not answer."""
    return read_objects(Question(*words).answer())


def read_objects(answer: str) -> list[Json]:
    """The objects in what nft printed."""
    if not answer:
        return []
    import json

    try:
        parsed = json.loads(answer)
    except ValueError:
        return []
    found = parsed.get("nftables", []) if isinstance(parsed, dict) else []
    return [entry for entry in found if isinstance(entry, dict)]


def chain_names(family: Family, table: Table) -> list[str]:
    """The chains of one of iptables-nft's tables."""
    place = (IPTABLES_TABLE[family][0], str(table))
    chains = (entry["chain"] for entry in nft("list", "chains") if "chain" in entry)
    return [chain["name"] for chain in chains if (chain["family"], chain["table"]) == place]
