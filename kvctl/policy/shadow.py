"""Where a pod belongs to several Services: what a higher-ranking one takes from a lower one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network
from kvctl.model.policy import PROTOCOLS, EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.spans import Spans, inside, meet, merged, without

MAX_NAMED = 8
"""Services named in one sentence."""

MAX_COMPARED = 16
MAX_CROWDS = 64
"""Services of one pod that a lower one is compared with, and kinds of pods (by their Services) of one Service.

Anybody may write Services without end. Beyond these a shadow is reported as one in part, or not at all:
the rules are right anyway.
"""

_PORT_BITS = 16
# More than any protocol's ports: also what has no ports.
_ALL_TRAFFIC: Spans = ((0, (len(PROTOCOLS) + 1) << _PORT_BITS),)


class Shadow(NamedTuple):
    """What happens to a Service because others rank higher for its pods."""

    whole: bool
    """Nothing of its traffic is left for it, for any of its pods."""
    sentence: str


class _Traffic(NamedTuple):
    """What a policy takes of its pods' traffic: these destinations with these ports."""

    ref: ServiceRef
    destinations: Spans
    ports: Spans


def find_shadows(policies: Sequence[EgressPolicy]) -> dict[tuple[ServiceRef, Family], Shadow]:
    """The policies that others shadow, wholly or in part; all the others are absent.

    A policy that is covered only by several others together, none of which covers its ports or its
    networks alone, is reported as shadowed in part: that is cautious, and the rules are right anyway.
    """
    by_address: dict[Address, list[EgressPolicy]] = defaultdict(list)
    for policy in sorted(policies, key=lambda p: p.rank):
        for pod in policy.pods:
            by_address[pod.address].append(policy)
    # Pods with the same Services, highest rank first: what holds for one of them holds for all.
    crowds = {tuple(id(policy) for policy in sharing): sharing for sharing in by_address.values()}
    traffic = {id(p): _traffic(p) for crowd in crowds.values() if len(crowd) > 1 for p in crowd}
    meets = _Meetings()
    above: dict[int, list[list[_Traffic]]] = defaultdict(list)
    for crowd in crowds.values():
        if len(crowd) == 1:
            above[id(crowd[0])].append([])
            continue
        for place, policy in enumerate(crowd):
            mine, first = traffic[id(policy)], crowd[: min(place, MAX_COMPARED)]
            above[id(policy)].append([it for other in first if meets(it := traffic[id(other)], mine)])
    return {
        (policy.ref, policy.family): _judge(traffic[id(policy)], above[id(policy)])
        for policy in policies
        if any(above[id(policy)])
    }


def _judge(lower: _Traffic, crowds: Sequence[Sequence[_Traffic]]) -> Shadow:
    """`crowds`: for each kind of pod of `lower` those that come first and take something of its traffic.

    A policy that is wholly shadowed itself takes nothing that its own shadow does not take, so judging
    against all higher ones is right.
    """
    refs = sorted({higher.ref for crowd in crowds for higher in crowd})
    verb = "comes" if len(refs) == 1 else "come"
    names = ", ".join(map(str, refs[:MAX_NAMED])) + (" and others" if len(refs) > MAX_NAMED else "")
    whole = len(crowds) <= MAX_CROWDS and all(_covers(crowd, lower) for crowd in crowds)
    part = "all" if whole else "a part"
    return Shadow(whole=whole, sentence=f"{names} {verb} first for {part} of this traffic of the same pods")


def _traffic(policy: EgressPolicy) -> _Traffic:
    everywhere: Spans = ((0, (1 << policy.family.bits) - 1),)
    allowed = _addresses(policy.allowed) if policy.allowed else everywhere
    ports = merged(
        (
            PROTOCOLS.index(p.protocol) << _PORT_BITS | p.first,
            PROTOCOLS.index(p.protocol) << _PORT_BITS | p.last,
        )
        for p in policy.ports
    )
    return _Traffic(
        ref=policy.ref,
        destinations=without(allowed, _addresses(policy.denied)),
        ports=ports if policy.ports else _ALL_TRAFFIC,
    )


def _addresses(networks: Iterable[Network]) -> Spans:
    return merged((int(n.network_address), int(n.broadcast_address)) for n in networks)


class _Meetings:
    """Whether some packet is matched by both of two, each question answered once.

    Many Services of many pods meet again and again, and a tenant may write as many as it likes.
    """

    def __init__(self) -> None:
        self._spans: dict[tuple[Spans, Spans], bool] = {}
        self._pairs: dict[tuple[int, int], bool] = {}

    def __call__(self, one: _Traffic, other: _Traffic) -> bool:
        pair = (id(one), id(other))
        found = self._pairs.get(pair)
        if found is None:
            found = self._meet(one.ports, other.ports) and self._meet(one.destinations, other.destinations)
            self._pairs[pair] = found
        return found

    def _meet(self, one: Spans, other: Spans) -> bool:
        if one is other:
            return bool(one)
        found = self._spans.get((one, other))
        if found is None:
            found = self._spans[one, other] = meet(one, other)
        return found


def _covers(higher: Sequence[_Traffic], lower: _Traffic) -> bool:
    """Whether all traffic of `lower` is taken: by ports of those that take all its networks, or the reverse."""
    wide = [it for it in higher if inside(lower.destinations, it.destinations)]
    if inside(lower.ports, merged(span for it in wide for span in it.ports)):
        return True
    full = [it for it in higher if inside(lower.ports, it.ports)]
    return inside(lower.destinations, merged(span for it in full for span in it.destinations))
