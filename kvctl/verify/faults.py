"""What somebody has done to the rules, where they cannot do what they were written for."""

from __future__ import annotations

from kvctl.model.ref import ServiceRef
from kvctl.model.snapshot import Snapshot
from kvctl.policy import layout

MEND = "kvctl egress apply mends it"


def fault_of_chains(ref: ServiceRef, snapshot: Snapshot) -> str:
    """What is wrong with the chains of a Service that are not as they were written."""
    there = [chain for chain in layout.chains_of(ref) if chain in snapshot.chains]
    empty = next((chain for chain in there if not snapshot.chains[chain]), None)
    if empty is not None:
        return _flushed(empty)
    return f"somebody has changed {there[0]}" if there else "somebody has removed its chain"


def fault_of_dispatch(names: layout.Names, snapshot: Snapshot) -> str | None:
    """Why not every pod is led to its Service's chain; None: no chain on the way there is empty."""
    empty = [chain for chain, rules in snapshot.chains.items() if names.is_dispatch(chain) and not rules]
    return _flushed(min(empty, key=lambda chain: (chain != names.root, chain))) if empty else None


def _flushed(chain: str) -> str:
    return f"{chain} is empty, somebody has flushed it"
