"""The chains of a Service: what it matches, and what is done with that; in nat and, where it is dropped, in mangle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from kvctl.model.net import Family, parse_network
from kvctl.model.policy import EgressPolicy, PortMatch
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import DROP, RETURN, Rule, Target, Verb
from kvctl.policy import layout

# xt_multiport.h XT_MULTI_PORTS: fifteen slots, a range takes two.
_MULTIPORT_SLOTS = 15


def compile_service(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    """The chain of a Service, and a second one where it has networks and ports."""
    # What a Service's pods are does not show in its own chains: the same ones serve while pods come and go.
    return _service_chains(policy._replace(pods=(), created=0))


def compile_drop(
    policy: EgressPolicy, names: layout.Names = layout.DROPPING
) -> Mapping[str, tuple[Rule, ...]]:
    """The same chains, of other names and in mangle: what would be rewritten is dropped."""
    return _drop_chains(policy._replace(pods=(), created=0), names)


@lru_cache(maxsize=16384)
def _service_chains(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    snat = Target(verb=Verb.SNAT, address=policy.vip)
    return _own_chains(
        policy, layout.REWRITING, text=layout.service_text(policy.ref, policy.interface), action=snat
    )


@lru_cache(maxsize=16384)
def _drop_chains(policy: EgressPolicy, names: layout.Names) -> Mapping[str, tuple[Rule, ...]]:
    text = layout.drop_text(policy.ref, policy.interface, policy.vip)
    return _own_chains(policy, names, text=text, action=DROP)


def _own_chains(
    policy: EgressPolicy, names: layout.Names, *, text: str, action: Target
) -> Mapping[str, tuple[Rule, ...]]:
    # One tag for all rules of a Service: a rule that somebody took away shows without the source.
    tag = layout.comment(
        text, policy.vip, *policy.ports, "allowed", *policy.allowed, "denied", *policy.denied
    )
    denied = [Rule(comment=tag, target=RETURN, destination=network) for network in policy.denied]
    matching, more = _matching(
        policy, tag=tag, action=action, out=names.out_chain(policy.ref), verb=Verb.JUMP
    )
    return {names.service_chain(policy.ref): (*denied, *matching), **more}


def _matching(
    policy: EgressPolicy, *, tag: str, action: Target, out: str, verb: Verb, rest: tuple[Rule, ...] = ()
) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The rules that do `action` with what a policy matches but for its denied networks, and `out` if that is needed.

    Networks by ports would multiply: `out` holds the ports, and is entered by `verb`; `rest` ends it.
    """
    by_ports = [
        Rule(comment=tag, target=action, protocol=protocol, ports=pairs)
        for protocol, pairs in _port_groups(policy.ports)
    ] or [Rule(comment=tag, target=action)]
    if policy.allowed and policy.ports:
        to_ports = Target(verb=verb, chain=out)
        allowed = [Rule(comment=tag, target=to_ports, destination=network) for network in policy.allowed]
        return allowed, {out: (*by_ports, *rest)}
    if policy.allowed:
        return [Rule(comment=tag, target=action, destination=network) for network in policy.allowed], {}
    return by_ports, {}


class Passing(NamedTuple):
    """Where a pod enters a dropped Service, and the chains that takes beside the Service's own."""

    chain: str
    chains: Mapping[str, tuple[Rule, ...]]


MOST_LINKS = 5
"""Chains that may stand one behind the other between a pod's jump and a dropped Service.

nf_tables refuses a whole transaction with a walk of more than 16 chains (NFT_JUMP_STACK_SIZE), gotos count as
jumps; the tree of prefixes, the Service's own chains and POSTROUTING take up to 11.
"""


def links(policy: EgressPolicy) -> int:
    """How many chains it takes to let pass what a policy matches."""
    return 2 if policy.ports and (policy.allowed or policy.denied) else 1


def passed(before: Sequence[EgressPolicy]) -> Sequence[EgressPolicy]:
    """Those of `before` (highest rank first) that can be let pass; what the others match is dropped with the rest.

    Only a Service of the same namespace has the pod, so nobody else's traffic is concerned.
    """
    room = MOST_LINKS
    for place, policy in enumerate(before):
        room -= links(policy)
        if room < 0:
            return before[:place]
    return before


def compile_passing(
    before: Sequence[EgressPolicy], ref: ServiceRef, names: layout.Names = layout.DROPPING
) -> Passing:
    """Let pass what Services of higher rank rewrite, and lead the rest to the dropped Service `ref`.

    `before`: highest rank first. A goto goes on to the next of them, and what one of them takes returns to
    where the walk came from: no network has to be written for each port, and none negated.
    """
    # Only what they match shows in the rules.
    let = passed(before)
    bare = tuple(p._replace(pods=(), created=0, interface=None, vip=_ANY_VIP[p.family]) for p in let)
    return _passing(bare, ref, names)


_ANY_VIP = {
    Family.IPV4: parse_network("0.0.0.0/0").network_address,
    Family.IPV6: parse_network("::/0").network_address,
}


@lru_cache(maxsize=16384)
def _passing(before: tuple[EgressPolicy, ...], ref: ServiceRef, names: layout.Names) -> Passing:
    if not before:
        return Passing(chain=names.service_chain(ref), chains={})
    first, *others = before
    rest = _passing(tuple(others), ref, names)
    content = (first.ref, *first.ports, "allowed", *first.allowed, "denied", *first.denied, rest.chain)
    tag = layout.comment(layout.pass_text(ref), *content)
    onward = Target(verb=Verb.GOTO, chain=rest.chain)
    end = Rule(comment=tag, target=onward)
    denied = [Rule(comment=tag, target=onward, destination=network) for network in first.denied]
    matching, more = _matching(
        first,
        tag=tag,
        action=RETURN,
        out=layout.pass_chain("ports", *content),
        verb=Verb.GOTO,
        rest=(end,),
    )
    chain = layout.pass_chain(*content)
    return Passing(chain=chain, chains={chain: (*denied, *matching, end), **more, **rest.chains})


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
