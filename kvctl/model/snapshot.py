"""What one family's nat table holds, as far as kvctl is concerned: found, not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.rules import Rule


class FoundRule(NamedTuple):
    """A rule in the kernel: its text after `-A CHAIN `, and its value if it is made of what kvctl uses."""

    text: str
    rule: Rule | None
    packets: int | None = None
    """None: the back end could not be asked for counters."""


class Snapshot(NamedTuple):
    """One family of one back end at one moment."""

    family: Family
    chains: Mapping[str, tuple[FoundRule, ...]] = {}
    """Chains named KVCTL-…, with everything in them."""
    hook_chain: tuple[FoundRule, ...] = ()
    """POSTROUTING, ours and foreign rules in their order."""
    foreign: Mapping[str, tuple[str, ...]] = {}
    """The other chains of the nat table: the rules' text."""
    position_known: bool = True
    """False: native nft rules hide POSTROUTING, only the presence of the hook could be checked."""

    @property
    def is_empty(self) -> bool:
        """Nothing of ours is here."""
        return not self.chains and not any(found.rule for found in self.hook_chain)
