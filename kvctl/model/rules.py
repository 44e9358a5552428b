"""Rules as values: wanted and found ones are the same type, so they compare."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network

EGRESS_CHAIN = "KVCTL-EGRESS"
"""Where the rewriting begins, in the nat table."""
DROP_CHAIN = "KVCTL-DROP"
"""Where the dropping begins, in the mangle table."""
CHAIN_PREFIX = "KVCTL-"
COMMENT_PREFIX = "kvctl:"
HOOK_CHAIN = "POSTROUTING"


class Table(StrEnum):
    """A table that kvctl writes to."""

    NAT = "nat"
    """Only the first packet of a connection comes through: here it is rewritten."""
    MANGLE = "mangle"
    """Every packet comes through, before nat: here it is dropped, which nat cannot do."""


ROOTS: Mapping[Table, str] = {Table.NAT: EGRESS_CHAIN, Table.MANGLE: DROP_CHAIN}
"""The chain that our hook in each table jumps to."""

DROP_SERVICE_PREFIX = CHAIN_PREFIX + "DROP-"
DROP_OUT_PREFIX = CHAIN_PREFIX + "DOUT-"
DROP_LEAF_PREFIX = CHAIN_PREFIX + "DIN-"
DROP_PASS_PREFIX = CHAIN_PREFIX + "DPASS-"
GUARD_PREFIX = CHAIN_PREFIX + "GRD-"
_IN_MANGLE = (DROP_SERVICE_PREFIX, DROP_OUT_PREFIX, DROP_LEAF_PREFIX, DROP_PASS_PREFIX, GUARD_PREFIX)


def table_of(chain: str) -> Table:
    """The table of a chain of ours: its name tells, so that no two tables have a chain of one name."""
    return Table.MANGLE if chain == DROP_CHAIN or chain.startswith(_IN_MANGLE) else Table.NAT


class Verb(StrEnum):
    """What a rule of ours does with a packet."""

    RETURN = "RETURN"
    JUMP = "jump"
    GOTO = "goto"
    SNAT = "SNAT"
    DROP = "DROP"


class Target(NamedTuple):
    """The verb with its chain (jump, goto) or its address (SNAT)."""

    verb: Verb
    chain: str | None = None
    address: Address | None = None


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


class Ruleset(NamedTuple):
    """What one family's tables should hold of ours."""

    family: Family
    hooks: Mapping[Table, Rule] = {}
    """Our jumps, each first in POSTROUTING of its table; absent: there is to be none."""
    chains: Mapping[str, tuple[Rule, ...]] = {}
    untouched: frozenset[str] = frozenset()
    """Chains of ours that stay as they are, whatever is in them."""
