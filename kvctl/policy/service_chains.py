"""The chains of a Service: what it matches, and what is done with that; in nat and, where it is dropped, in mangle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import groupby
from typing import NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Family, parse_network
from kvctl.model.policy import EgressPolicy, PortMatch
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import DROP, RETURN, Heartbeat, Mark, Rule, Target, Verb
from kvctl.policy import comments, layout

# xt_multiport.h XT_MULTI_PORTS: fifteen slots, a range takes two.
_MULTIPORT_SLOTS = 15


def compile_service(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    """The chain of a Service, and a second one where it has networks and ports."""
    # What a Service's pods are does not show in its own chains: the same ones serve while pods come and go.
    return _compiled.get((policy.ref, policy.family), (policy,), lambda: _service_chains(_bare(policy)))


_compiled: ByKey[tuple[ServiceRef, Family], Mapping[str, tuple[Rule, ...]]] = ByKey()


def compile_drop(
    policy: EgressPolicy, names: layout.Names = layout.DROPPING
) -> Mapping[str, tuple[Rule, ...]]:
    """The same chains, of other names and in mangle: what would be rewritten is dropped."""
    return _drop_chains(_bare(policy)._replace(mark=None), names)


def _bare(policy: EgressPolicy) -> EgressPolicy:
    """Without what does not show in its chains."""
    drops = policy.fence is not None and policy.drops_without_vip
    return policy._replace(pods=(), created=0, drops_without_vip=drops)


@lru_cache(maxsize=16384)
def _service_chains(policy: EgressPolicy) -> Mapping[str, tuple[Rule, ...]]:
    snat = Target(verb=Verb.SNAT, address=policy.vip)
    names, text = layout.REWRITING, comments.service_text(policy)
    return _own_chains(policy, names, text=text, action=snat, beat=heartbeat(policy))


@lru_cache(maxsize=16384)
def _drop_chains(policy: EgressPolicy, names: layout.Names) -> Mapping[str, tuple[Rule, ...]]:
    return _own_chains(policy, names, text=comments.drop_text(policy), action=DROP)


def heartbeat(policy: EgressPolicy, *, late: bool = False) -> Heartbeat | None:
    """What a policy's fence asks of each packet; None: it has no fence."""
    fence = policy.fence
    return Heartbeat(fence.name, fence.seconds, policy.family, late=late) if fence is not None else None


def _own_chains(
    policy: EgressPolicy, names: layout.Names, *, text: str, action: Target, beat: Heartbeat | None = None
) -> Mapping[str, tuple[Rule, ...]]:
    # One tag for all rules of a Service: a rule that somebody took away shows without the source.
    tag = comments.comment(text, policy.vip, *_content(policy))
    chain, out = names.service_chain(policy.ref), partial(names.out_chain, policy.ref)
    return _chains_that(policy, tag=tag, action=action, beat=beat, chain=chain, out=out)


def _content(policy: EgressPolicy) -> list[object]:
    """What a policy matches, and when, for a tag."""
    when = ("fence", *policy.fence) if policy.fence is not None else ()
    return [*policy.ports, "allowed", *policy.allowed, "denied", *policy.denied, *when]


def _chains_that(
    policy: EgressPolicy,
    *,
    tag: str,
    action: Target,
    beat: Heartbeat | None,
    chain: str,
    out: Callable[[], str],
) -> dict[str, tuple[Rule, ...]]:
    """The chains that do `action` with what a policy matches, and return the rest."""
    denied = [Rule(comment=tag, target=RETURN, destination=network) for network in policy.denied]
    matching, more = _matching(policy, tag=tag, action=action, out=out, verb=Verb.JUMP, beat=beat)
    return {chain: (*denied, *matching), **more}


class Guards(NamedTuple):
    """What silences a policy's traffic while its heartbeat is late; without a fence nothing does."""

    established: str | None = None
    """The chain that drops what is sent in connections that have the VIP."""
    late: str | None = None
    """The chain that drops whatever the policy matches, so that nothing leaves as the node."""
    chains: Mapping[str, tuple[Rule, ...]] = {}


def compile_guards(policy: EgressPolicy) -> Guards:
    """The chains that guard a rewritten Service; named by their content, so that old and new ones can be there at once.

    nat sees only the first packet of a connection and cannot drop: this is mangle's part of the fence.
    """
    if policy.fence is None:
        return Guards()
    return _guards(_bare(policy)._replace(interface=None, mark=None))


@lru_cache(maxsize=16384)
def _guards(policy: EgressPolicy) -> Guards:
    late = heartbeat(policy, late=True)
    has_vip = (policy.ref, policy.vip, policy.fence)
    established = layout.guard_chain(*has_vip)
    rule = Rule(
        comment=comments.comment(comments.guard_text(policy.ref), *has_vip),
        target=DROP,
        reply_destination=policy.vip,
        heartbeat=late,
    )
    if not policy.drops_without_vip:
        return Guards(established=established, chains={established: (rule,)})
    content = (policy.ref, *_content(policy))
    chain, out = layout.guard_chain("late", *content), partial(layout.guard_chain, "ports", *content)
    tag = comments.comment(comments.guard_text(policy.ref), *content)
    chains = _chains_that(policy, tag=tag, action=DROP, beat=late, chain=chain, out=out)
    return Guards(established=established, late=chain, chains={established: (rule,), **chains})


class Marks(NamedTuple):
    """What marks a policy's traffic for the routes of its interface."""

    chain: str | None = None
    """The chain that marks what the policy matches, and its connection; None: nothing is to be marked."""
    chains: Mapping[str, tuple[Rule, ...]] = {}


def compile_marks(policy: EgressPolicy) -> Marks:
    """The chains that mark what a policy matches, as long as it is rewritten; named by their content, as guards are."""
    if policy.mark is None:
        return Marks()
    return _marks(
        _bare(policy)._replace(interface=None, vip=_ANY_VIP[policy.family], drops_without_vip=False),
        policy.mark,
    )


@lru_cache(maxsize=16384)
def _marks(policy: EgressPolicy, mark: Mark) -> Marks:
    content = (policy.ref, mark, *_content(policy))
    chain, out = layout.mark_chain(*content), partial(layout.mark_chain, "ports", *content)
    tag = comments.comment(comments.mark_text(policy.ref), *content)
    chains = _chains_that(
        policy,
        tag=tag,
        action=Target(verb=Verb.MARK, mark=mark),
        beat=heartbeat(policy),
        chain=chain,
        out=out,
    )
    # MARK is not the end of the walk: what has been marked comes here.
    save = Rule(comment=tag, target=Target(verb=Verb.SAVE_MARK, mark=Mark(0, mark.mask)), marked=mark.mask)
    return Marks(chain=chain, chains={**chains, chain: (*chains[chain], save)})


def restore_rule(mask: int) -> Rule:
    """What the marking begins with: packets of a marked connection have its mark, if nothing gives them another.

    They are not done with by that: a connection that goes on under the same VIP follows its Service to another way.
    """
    tag = comments.comment("marked", mask)
    return Rule(comment=tag, target=Target(verb=Verb.RESTORE_MARK, mark=Mark(0, mask)))


def _matching(
    policy: EgressPolicy,
    *,
    tag: str,
    action: Target,
    out: Callable[[], str],
    verb: Verb,
    beat: Heartbeat | None = None,
    rest: tuple[Rule, ...] = (),
) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The rules that do `action` with what a policy matches but for its denied networks, and `out` if that is needed.

    Networks by ports would multiply: `out` holds the ports, and is entered by `verb`; `rest` ends it. Its name is asked
    for only then: that takes a hash.
    `beat`: whether heartbeats have to come, or have to be late, for the action.
    """
    by_ports = [
        Rule(comment=tag, target=action, protocol=protocol, ports=pairs, heartbeat=beat)
        for protocol, pairs in _port_groups(policy.ports)
    ] or [Rule(comment=tag, target=action, heartbeat=beat)]
    if policy.allowed and policy.ports:
        chain = out()
        to_ports = Target(verb=verb, chain=chain)
        allowed = [Rule(comment=tag, target=to_ports, destination=network) for network in policy.allowed]
        return allowed, {chain: (*by_ports, *rest)}
    if policy.allowed:
        return [
            Rule(comment=tag, target=action, destination=network, heartbeat=beat)
            for network in policy.allowed
        ], {}
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


def compile_passing(before: Sequence[EgressPolicy], ref: ServiceRef, end: str) -> Passing:
    """Let pass what Services of higher rank rewrite, and lead the rest to the chain `end`, which drops for `ref`.

    A fenced Service has its traffic passed only while it rewrites it, which is while heartbeats come.
    `before`: highest rank first. A goto goes on to the next of them, and what one of them takes returns to
    where the walk came from: no network has to be written for each port, and none negated.
    """
    # Only what they match shows in the rules.
    let = passed(before)
    bare = tuple(
        p._replace(
            pods=(), created=0, interface=None, vip=_ANY_VIP[p.family], drops_without_vip=False, mark=None
        )
        for p in let
    )
    return _passing(bare, ref, end)


_ANY_VIP = {
    Family.IPV4: parse_network("0.0.0.0/0").network_address,
    Family.IPV6: parse_network("::/0").network_address,
}


@lru_cache(maxsize=16384)
def _passing(before: tuple[EgressPolicy, ...], ref: ServiceRef, end: str) -> Passing:
    if not before:
        return Passing(chain=end, chains={})
    first, *others = before
    rest = _passing(tuple(others), ref, end)
    content = (first.ref, *_content(first), rest.chain)
    tag = comments.comment(comments.pass_text(ref), *content)
    to_rest = Target(verb=Verb.GOTO, chain=rest.chain)
    onward = Rule(comment=tag, target=to_rest)
    denied = [Rule(comment=tag, target=to_rest, destination=network) for network in first.denied]
    matching, more = _matching(
        first,
        tag=tag,
        action=RETURN,
        out=partial(layout.pass_chain, "ports", *content),
        verb=Verb.GOTO,
        beat=heartbeat(first),
        rest=(onward,),
    )
    chain = layout.pass_chain(*content)
    return Passing(chain=chain, chains={chain: (*denied, *matching, onward), **more, **rest.chains})


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
