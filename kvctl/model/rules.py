"""Rules as values: wanted and found ones are the same type, so they compare."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network

EGRESS_CHAIN = "KVCTL-EGRESS"
CHAIN_PREFIX = "KVCTL-"
COMMENT_PREFIX = "kvctl:"
TABLE = "nat"
HOOK_CHAIN = "POSTROUTING"


class Verb(StrEnum):
    """What a rule of ours does with a packet."""

    RETURN = "RETURN"
    JUMP = "jump"
    GOTO = "goto"
    SNAT = "SNAT"


class Target(NamedTuple):
    """The verb with its chain (jump, goto) or its address (SNAT)."""

    verb: Verb
    chain: str | None = None
    address: Address | None = None


RETURN = Target(verb=Verb.RETURN)


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


class Ruleset(NamedTuple):
    """What one family's nat table should hold of ours."""

    family: Family
    hook: Rule | None = None
    """Our jump, first in POSTROUTING; None: there is to be none."""
    chains: Mapping[str, tuple[Rule, ...]] = {}
    untouched: frozenset[str] = frozenset()
    """Chains of ours that stay as they are, whatever is in them."""
