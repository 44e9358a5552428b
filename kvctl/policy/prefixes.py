"""How many pods are led to their Services: by a tree of prefixes, so that a bystander meets few rules."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network, parse_network
from kvctl.model.rules import Rule, Target, Verb
from kvctl.policy import comments, layout

MAX_LEAF = 16
"""Source addresses in one chain; more are split by the next four bits."""

_SPLIT_BITS = 4


def tree(
    family: Family, jumps: Mapping[Address, list[Rule]], *, head: tuple[Rule, ...], names: layout.Names
) -> dict[str, tuple[Rule, ...]]:
    """The chains from the root to these jumps, by address and in its order; `head` stands before them in each leaf."""
    it = _Tree(family=family, names=names, jumps=jumps, head=head, chains={})
    it.place(names.root, 0, list(jumps))
    return it.chains


class _Tree(NamedTuple):
    family: Family
    names: layout.Names
    jumps: Mapping[Address, list[Rule]]
    head: tuple[Rule, ...]
    chains: dict[str, tuple[Rule, ...]]
    """What has been written so far."""

    def place(self, chain: str, length: int, addresses: list[Address]) -> None:
        """Fill `chain`, for `addresses` (sorted, all in one prefix of `length` bits), and those below it."""
        if len(addresses) <= MAX_LEAF:
            jumps = (jump for address in addresses for jump in self.jumps[address])
            self.chains[chain] = (*self.head, *jumps)
            return
        groups: list[list[Address]] = []
        while len(groups) < 2:  # a level with one child is left out
            length += _SPLIT_BITS
            shift = self.family.bits - length
            groups = [list(group) for _, group in groupby(addresses, key=lambda a: int(a) >> shift)]
        rules = []
        self.chains[chain] = ()
        for group in groups:
            prefix = _prefix(group[0], length, self.family)
            child = self.names.leaf_chain(prefix)
            rules.append(
                Rule(
                    comment=comments.comment(f"branch {prefix}"),
                    target=Target(verb=Verb.GOTO, chain=child),
                    source=prefix,
                )
            )
            self.place(child, length, group)
        self.chains[chain] = tuple(rules)


def _prefix(address: Address, length: int, family: Family) -> Network:
    shift = family.bits - length
    base = type(address)(int(address) >> shift << shift)
    return parse_network(f"{base}/{length}")
