"""What one family's tables hold, as far as kvctl is concerned: found, not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.rules import Hook, Rule, Table


class FoundRule(NamedTuple):
    """A rule in the kernel: its text after `-A CHAIN `, and its value if it is made of what kvctl uses."""

    text: str
    rule: Rule | None
    packets: int | None = None
    """None: the back end could not be asked for counters."""
    octets: int | None = None
    """The same, in bytes."""


class Surroundings(NamedTuple):
    """What is in one table beside our own chains."""

    hook_chains: Mapping[str, tuple[FoundRule, ...]] = {}
    """The chains that our hooks are in, ours and foreign rules in their order."""
    foreign: Mapping[str, tuple[str, ...]] = {}
    """The chains that are not ours: the rules' text."""
    position_known: bool = True
    """False: native nft rules hide a chain of a hook, only the presence of the hook could be checked."""


NOTHING = Surroundings()


class Snapshot(NamedTuple):
    """One family of one back end at one moment."""

    family: Family
    chains: Mapping[str, tuple[FoundRule, ...]] = {}
    """Chains of ours, with everything in them; their names tell their tables."""
    around: Mapping[Table, Surroundings] = {}
    """The tables; absent: there is no such table."""

    def beside(self, table: Table) -> Surroundings:
        """What is in a table beside our chains."""
        return self.around.get(table, NOTHING)

    def hook_chain(self, hook: Hook) -> tuple[FoundRule, ...]:
        """The rules of the chain that a hook is in."""
        return self.beside(hook.table).hook_chains.get(hook.chain, ())

    @property
    def is_empty(self) -> bool:
        """Nothing of ours is here."""
        hooks = (found.rule for hook in Hook for found in self.hook_chain(hook))
        return not self.chains and not any(hooks)
