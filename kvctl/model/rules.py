"""Rules as values: wanted and found ones are the same type, so they compare."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network

EGRESS_CHAIN = "KVCTL-EGRESS"
"""Where the rewriting begins, in the nat table."""
DROP_CHAIN = "KVCTL-DROP"
"""Where the dropping begins, in the mangle table."""
MARK_CHAIN = "KVCTL-MARK"
"""Where the marking begins, in the mangle table too, but before the routing."""
CHAIN_PREFIX = "KVCTL-"
COMMENT_PREFIX = "kvctl:"
HOOK_CHAIN = "POSTROUTING"
"""Where all but the marking is hooked in."""


class Table(StrEnum):
    """A table that kvctl writes to."""

    NAT = "nat"
    """Only the first packet of a connection comes through: here it is rewritten."""
    MANGLE = "mangle"
    """Every packet comes through, before nat: here it is dropped, which nat cannot do, or marked for a route."""


class Hook(Enum):
    """A place where our rules are entered: a table, the chain in it that is not ours, and the one of ours."""

    EGRESS = (Table.NAT, HOOK_CHAIN, EGRESS_CHAIN)
    DROP = (Table.MANGLE, HOOK_CHAIN, DROP_CHAIN)
    MARK = (Table.MANGLE, "PREROUTING", MARK_CHAIN)

    def __init__(self, table: Table, chain: str, root: str) -> None:
        self.table = table
        self.chain = chain
        """The chain that has our jump, first."""
        self.root = root
        """The chain that it leads to."""


HOOK_CHAINS = frozenset(hook.chain for hook in Hook)

DROP_SERVICE_PREFIX = CHAIN_PREFIX + "DROP-"
DROP_OUT_PREFIX = CHAIN_PREFIX + "DOUT-"
DROP_IN_PREFIX = CHAIN_PREFIX + "DIN-"
DROP_TO_PREFIX = CHAIN_PREFIX + "DTO-"
DROP_PASS_PREFIX = CHAIN_PREFIX + "DPASS-"
GUARD_PREFIX = CHAIN_PREFIX + "GRD-"
MARK_IN_PREFIX = CHAIN_PREFIX + "MIN-"
MARK_TO_PREFIX = CHAIN_PREFIX + "MTO-"
MARK_PREFIX = CHAIN_PREFIX + "MRK-"
_IN_MANGLE = (
    DROP_SERVICE_PREFIX,
    DROP_OUT_PREFIX,
    DROP_IN_PREFIX,
    DROP_TO_PREFIX,
    DROP_PASS_PREFIX,
    GUARD_PREFIX,
    MARK_IN_PREFIX,
    MARK_TO_PREFIX,
    MARK_PREFIX,
)
_ROOTS_IN_MANGLE = (DROP_CHAIN, MARK_CHAIN)


def table_of(chain: str) -> Table:
    """The table of a chain of ours: its name tells, so that no two tables have a chain of one name."""
    return Table.MANGLE if chain in _ROOTS_IN_MANGLE or chain.startswith(_IN_MANGLE) else Table.NAT


class Mark(NamedTuple):
    """A packet's mark, of which only the bits of `mask` are ours."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"


class Verb(StrEnum):
    """What a rule of ours does with a packet."""

    RETURN = "RETURN"
    JUMP = "jump"
    GOTO = "goto"
    SNAT = "SNAT"
    DROP = "DROP"
    MARK = "MARK"
    RESTORE_MARK = "restore-mark"
    """From the connection to the packet."""
    SAVE_MARK = "save-mark"
    """From the packet to the connection."""


class Target(NamedTuple):
    """The verb with its chain (jump, goto), its address (SNAT) or its mark (MARK; of the other two the mask alone)."""

    verb: Verb
    chain: str | None = None
    address: Address | None = None
    mark: Mark | None = None


RETURN = Target(verb=Verb.RETURN)
DROP = Target(verb=Verb.DROP)


class Heartbeat(NamedTuple):
    """`-m recent --rcheck`: whether the list `name` has had its heartbeat in the last `seconds`.

    The family is said because the text of the match depends on it, and nothing else in the rule may tell it.
    """

    name: str
    seconds: int
    family: Family
    late: bool = False
    """`! --rcheck`: it has not."""


class Rule(NamedTuple):
    """A rule made of the closed set of matches and targets that kvctl uses.

    Networks are never of prefix length 0 (iptables drops such a match: use None). Ports are pairs
    (first, last), one pair: the protocol's own match, more: multiport.
    """

    comment: str
    target: Target
    source: Network | None = None
    destination: Network | None = None
    original_destination: Network | None = None
    """`-m conntrack --ctorigdst`: where the connection was aimed before DNAT."""
    protocol: str | None = None
    ports: tuple[tuple[int, int], ...] = ()
    asked_only: bool = False
    """`-m conntrack --ctdir ORIGINAL`: no packet that answers, whoever began the connection."""
    reply_destination: Address | None = None
    """`-m conntrack --ctrepldst`: the source that the connection's packets leave with."""
    heartbeat: Heartbeat | None = None
    marked: int = 0
    """`-m mark ! --mark 0/MASK`: the packet has some of these bits."""


class Ruleset(NamedTuple):
    """What one family's tables should hold of ours."""

    family: Family
    hooks: Mapping[Hook, Rule] = {}
    """Our jumps, each first in the chain of its hook; absent: there is to be none."""
    chains: Mapping[str, tuple[Rule, ...]] = {}
    untouched: frozenset[str] = frozenset()
    """Chains of ours that stay as they are, whatever is in them."""
