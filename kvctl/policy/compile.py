"""From policies to rules: the only place that spells one.

Only the first packet of a connection meets the nat table, so the rewriting costs established
connections nothing. What each chain is for is told in `layout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network, host_network, parse_network
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, PortMatch, Rank
from kvctl.model.rules import EGRESS_CHAIN, RETURN, Rule, Ruleset, Target, Verb
from kvctl.policy import layout

MAX_LEAF = 16
"""Source addresses in one chain; more are split by the next four bits."""

_SPLIT_BITS = 4
# xt_multiport.h XT_MULTI_PORTS: fifteen slots, a range takes two.
_MULTIPORT_SLOTS = 15

HOOK = Rule(comment=layout.comment("egress"), target=Target(verb=Verb.JUMP, chain=EGRESS_CHAIN))
"""Our jump in POSTROUTING."""


class Entry(NamedTuple):
    """A pod's jump to the chain of one of its Services."""

    address: Address
    rank: Rank
    label: str


def entries_of(policy: EgressPolicy) -> list[Entry]:
    """The jumps of a policy's pods."""
    rank = policy.rank
    return [entry(rank, pod) for pod in policy.pods]


def entry(rank: Rank, pod: EgressPod) -> Entry:
    """One pod's jump."""
    return Entry(address=pod.address, rank=rank, label=pod.label)


def compile_ruleset(
    *, family: Family, policies: Iterable[EgressPolicy], exclusions: Sequence[Exclusion]
) -> Ruleset:
    """The rules of one family for these policies alone."""
    policies = list(policies)
    chains: dict[str, tuple[Rule, ...]] = {}
    for policy in policies:
        chains.update(compile_service(policy))
    entries = [item for policy in policies for item in entries_of(policy)]
    chains.update(compile_dispatch(family=family, entries=entries, exclusions=exclusions))
    return Ruleset(family=family, hook=HOOK if entries else None, chains=chains)


def compile_service(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    """The chain of a Service, and a second one where it has networks and ports."""
    # What a Service's pods are does not show in its own chains: the same ones serve while pods come and go.
    return _service_chains(policy._replace(pods=(), created=0))


@lru_cache(maxsize=16384)
def _service_chains(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    text = layout.service_text(policy.ref, policy.interface)
    # One tag for all rules of a Service: a rule that somebody took away shows without the source.
    tag = layout.comment(
        text, policy.vip, *policy.ports, "allowed", *policy.allowed, "denied", *policy.denied
    )
    snat = Target(verb=Verb.SNAT, address=policy.vip)
    by_ports = [
        Rule(comment=tag, target=snat, protocol=protocol, ports=pairs)
        for protocol, pairs in _port_groups(policy.ports)
    ] or [Rule(comment=tag, target=snat)]
    denied = [Rule(comment=tag, target=RETURN, destination=network) for network in policy.denied]
    chain = layout.service_chain(policy.ref)
    if policy.allowed and policy.ports:
        out = layout.out_chain(policy.ref)
        jump = Target(verb=Verb.JUMP, chain=out)
        allowed = [Rule(comment=tag, target=jump, destination=network) for network in policy.allowed]
        return {chain: (*denied, *allowed), out: tuple(by_ports)}
    if policy.allowed:
        by_network = [Rule(comment=tag, target=snat, destination=network) for network in policy.allowed]
        return {chain: (*denied, *by_network)}
    return {chain: (*denied, *by_ports)}


def _port_groups(ports: Iterable[PortMatch]) -> Iterable[tuple[str, tuple[tuple[int, int], ...]]]:
    """Ports as few matches as multiport allows: (protocol, pairs)."""
    for protocol, same in groupby(ports, key=lambda port: port.protocol):
        group: list[tuple[int, int]] = []
        slots = 0
        for port in same:
            takes = 1 if port.first == port.last else 2
            if slots + takes > _MULTIPORT_SLOTS:
                yield protocol, tuple(group)
                group, slots = [], 0
            group.append((port.first, port.last))
            slots += takes
        yield protocol, tuple(group)


def compile_dispatch(
    *, family: Family, entries: Iterable[Entry], exclusions: Sequence[Exclusion]
) -> dict[str, tuple[Rule, ...]]:
    """The chains from the hook to the Services: one, or a tree of prefixes; empty without entries."""
    by_address: dict[Address, list[Entry]] = {}
    for item in sorted(entries, key=lambda e: (int(e.address), e.rank)):
        by_address.setdefault(item.address, []).append(item)
    if not by_address:
        return {}
    head = exclusion_rules(exclusions)
    chains: dict[str, tuple[Rule, ...]] = {}
    _place(EGRESS_CHAIN, 0, list(by_address), by_address, head, family, chains)
    return chains


def exclusion_rules(exclusions: Iterable[Exclusion]) -> tuple[Rule, ...]:
    """What stands at the head of every chain that leads pods to Services."""
    return tuple(rule for exclusion in exclusions for rule in _exclusion_rules(exclusion))


def _place(
    chain: str,
    length: int,
    addresses: list[Address],
    by_address: Mapping[Address, list[Entry]],
    head: tuple[Rule, ...],
    family: Family,
    chains: dict[str, tuple[Rule, ...]],
) -> None:
    """Fill `chain`, which is for `addresses` (sorted, all in one prefix of `length` bits), and those below it."""
    if len(addresses) <= MAX_LEAF:
        jumps = (_jump(item) for address in addresses for item in by_address[address])
        chains[chain] = (*head, *jumps)
        return
    groups: list[list[Address]] = []
    while len(groups) < 2:  # a level with one child is left out
        length += _SPLIT_BITS
        shift = family.bits - length
        groups = [list(group) for _, group in groupby(addresses, key=lambda a: int(a) >> shift)]
    rules = []
    chains[chain] = ()
    for group in groups:
        prefix = _prefix(group[0], length, family)
        child = layout.leaf_chain(prefix)
        rules.append(
            Rule(
                comment=layout.comment(f"branch {prefix}"),
                target=Target(verb=Verb.GOTO, chain=child),
                source=prefix,
            )
        )
        _place(child, length, group, by_address, head, family, chains)
    chains[chain] = tuple(rules)


def _prefix(address: Address, length: int, family: Family) -> Network:
    shift = family.bits - length
    base = type(address)(int(address) >> shift << shift)
    return parse_network(f"{base}/{length}")


@lru_cache(maxsize=4096)
def _exclusion_rules(exclusion: Exclusion) -> tuple[Rule, Rule]:
    """Where the packet goes now, after DNAT, and where the pod aimed, before it."""
    text = layout.comment(layout.exclude_text(exclusion), exclusion.network)
    return (
        Rule(comment=text, target=RETURN, destination=exclusion.network),
        Rule(comment=text, target=RETURN, original_destination=exclusion.network),
    )


@lru_cache(maxsize=65536)
def _jump(item: Entry) -> Rule:
    source = host_network(item.address)
    return Rule(
        comment=layout.comment(layout.pod_text(item.rank, item.label), source),
        target=Target(verb=Verb.JUMP, chain=layout.service_chain(item.rank.ref)),
        source=source,
    )


def pod_of(item: Entry) -> EgressPod:
    """The pod of an entry that was read back from the kernel."""
    return EgressPod.labelled(item.address, label=item.label)
