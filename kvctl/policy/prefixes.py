"""How pods are led to their Services: by a tree of prefixes, so that a bystander meets few rules.

What a walk costs was measured (`benchmarks.datapath` does the whole of it). In nf_tables, on the machine of the README,
a rule that does not match takes 10 ns, going on in another chain 50 ns, a match on what conntrack knows 55 ns, and a
source of 24 bits 50 ns: its three octets are no load that nft_payload does fast. In legacy 5, 25, 35 and 5. Between
the packets of many connections a chain is not in the processor's cache: then going on in it takes 100 ns. So there are
few levels of sixteen branches, in IPv6, whose sources take nft 50 ns each, of eight; no branch has 24 bits; and the
networks that are never rewritten to are asked for behind the tree, by packets of pods that are in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain as chain_of
from itertools import groupby
from typing import NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Address, Family, Network, host_network, parse_network
from kvctl.model.rules import Rule, Target, Verb
from kvctl.policy import comments, layout

MAX_LEAF = 8
"""Source addresses in one chain; more are split by their next bits, if there may be one more level."""

MAX_BEHIND = 16
"""Source addresses behind the gates of one prefix, which the leaves below it share.

What is there begins with every network that is never rewritten to: with a chain of them for each leaf they would be
most of the rules of a node.
"""

MAX_LEVELS = 6
"""Levels of branches, one behind the other.

With the root, what is behind the gates, and what follows it (`service_chains.MOST_LINKS`), they make the 16 chains that
nf_tables allows. Sixteen branches each: more pods than a node has, unless their addresses were chosen against it.
"""

_SPLITS = {Family.IPV4: (1, 4), Family.IPV6: (2, 3)}
"""The first prefix length and the next bits: 1, 5, 9 … 21, 25, 29; 2, 5, 8 … 119, 122, 125. None has 24 bits."""


class Pod(NamedTuple):
    """A source address with what it is led by."""

    number: int
    """The address."""
    address: Address
    jumps: list[Rule]


def tree(
    family: Family, pods: Sequence[Pod], *, head: tuple[Rule, ...], names: layout.Names
) -> Mapping[str, tuple[Rule, ...]]:
    """The chains from the root to these, which are sorted and at least one; `head` stands before their jumps."""
    it = _Tree(family=family, names=names, head=head)
    whole = parse_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")
    return it.place(names.root, whole, pods, levels=MAX_LEVELS)


_Chains = Mapping[str, tuple[Rule, ...]]


class _Tree(NamedTuple):
    family: Family
    names: layout.Names
    head: tuple[Rule, ...]

    def place(
        self, chain: str, prefix: Network, pods: Sequence[Pod], *, levels: int, gated: str | None = None
    ) -> _Chains:
        """`chain`, for `pods` (sorted, all in `prefix`), and those below it, at most so many levels.

        `gated`: what is behind the gates of a prefix that this one is in; None: that is still to be written.
        """

        def make() -> _Chains:
            return self._place(chain, prefix, pods, levels=levels, gated=gated)

        # A chain's name tells its prefix, and each jump its pod: only what leads to a pod that changes is made anew.
        jumps = chain_of.from_iterable([pod.jumps for pod in pods])
        return _known.get((self.family, chain, gated, levels), (*self.head, None, *jumps), make)

    def _place(
        self, chain: str, prefix: Network, pods: Sequence[Pod], *, levels: int, gated: str | None
    ) -> _Chains:
        ends = len(pods) <= MAX_LEAF or not levels
        begins = gated is None and (ends or len(pods) <= MAX_BEHIND)
        behind = self.names.gated_chain(prefix) if begins else gated
        chains: dict[str, tuple[Rule, ...]] = {}
        if ends and behind is not None:
            chains[chain] = tuple(_branch(host_network(pod.address), behind) for pod in pods)
        else:
            parts = [(part, self.names.branch_chain(part), its) for part, its in self._split(prefix, pods)]
            chains[chain] = tuple(_branch(part, name) for part, name, _ in parts)
            for part, name, its in parts:
                chains.update(self.place(name, part, its, levels=levels - 1, gated=behind))
        if begins and behind is not None:
            chains[behind] = (*self.head, *(jump for pod in pods for jump in pod.jumps))
        return chains

    def _split(self, prefix: Network, pods: Sequence[Pod]) -> list[tuple[Network, list[Pod]]]:
        """The pods by their next bits; a level with one child is left out."""
        length, (first, bits) = prefix.prefixlen, _SPLITS[self.family]
        in_common = self.family.bits - (pods[0].number ^ pods[-1].number).bit_length()
        while length <= in_common:
            length += bits - (length - first) % bits
        shift = self.family.bits - length
        groups = [list(group) for _, group in groupby(pods, key=lambda pod: pod.number >> shift)]
        return [(_prefix(group[0].address, length, self.family), group) for group in groups]


_known: ByKey[tuple[Family, str, str | None, int], _Chains] = ByKey()


@lru_cache(maxsize=65536)
def _branch(prefix: Network, chain: str) -> Rule:
    return Rule(
        comment=comments.comment(comments.branch_text(prefix), chain),
        target=Target(verb=Verb.GOTO, chain=chain),
        source=prefix,
    )


def _prefix(address: Address, length: int, family: Family) -> Network:
    shift = family.bits - length
    base = type(address)(int(address) >> shift << shift)
    return parse_network(f"{base}/{length}")
