"""Where a pod belongs to several Services: what a higher-ranking one takes from a lower one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvctl.model.net import Address, Family, Network, collapse, contains, overlap, within
from kvctl.model.policy import EgressPolicy, PortMatch
from kvctl.model.ref import ServiceRef

MAX_NAMED = 8
"""Services named in one sentence."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What happens to a Service because others rank higher for its pods."""

    whole: bool
    """Nothing of its traffic is left for it, for any of its pods."""
    sentence: str


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
    above: dict[int, list[list[EgressPolicy]]] = defaultdict(list)
    for crowd in crowds.values():
        for place, policy in enumerate(crowd):
            above[id(policy)].append([higher for higher in crowd[:place] if _meet(higher, policy)])
    return {
        (policy.ref, policy.family): _judge(policy, above[id(policy)])
        for policy in policies
        if any(above[id(policy)])
    }


def _judge(lower: EgressPolicy, crowds: Sequence[Sequence[EgressPolicy]]) -> Shadow:
    """`crowds`: for each kind of pod of `lower` those that come first and take something of its traffic.

    A policy that is wholly shadowed itself takes nothing that its own shadow does not take, so judging
    against all higher ones is right.
    """
    refs = sorted({higher.ref for crowd in crowds for higher in crowd})
    verb = "comes" if len(refs) == 1 else "come"
    names = ", ".join(map(str, refs[:MAX_NAMED])) + (" and others" if len(refs) > MAX_NAMED else "")
    whole = all(_covers(crowd, lower) for crowd in crowds)
    part = "all" if whole else "a part"
    return Shadow(whole=whole, sentence=f"{names} {verb} first for {part} of this traffic of the same pods")


def _meet(one: EgressPolicy, other: EgressPolicy) -> bool:
    """Whether some packet is matched by both."""
    ports = (
        not one.ports
        or not other.ports
        or any(
            a.protocol == b.protocol and a.first <= b.last and b.first <= a.last
            for a in one.ports
            for b in other.ports
        )
    )
    if not ports:
        return False
    if one.allowed and other.allowed:
        shared = [a if contains(b, a) else b for a in one.allowed for b in other.allowed if overlap(a, b)]
    elif one.allowed or other.allowed:
        shared = list(one.allowed or other.allowed)
    else:
        return True
    denied = (*one.denied, *other.denied)
    return any(not within(network, denied) for network in shared)


def _covers(higher: Iterable[EgressPolicy], lower: EgressPolicy) -> bool:
    """Whether all traffic of `lower` is taken: by ports of those that take all its networks, or the reverse."""
    higher = list(higher)
    wide = [p for p in higher if _networks_covered([p], lower)]
    if any(not p.ports for p in wide) or _ports_covered(
        [port for p in wide for port in p.ports], lower.ports
    ):
        return True
    full = [p for p in higher if not p.ports or _ports_covered(p.ports, lower.ports)]
    return _networks_covered(full, lower)


def _ports_covered(by: Iterable[PortMatch], ports: Sequence[PortMatch]) -> bool:
    if not ports:
        return False
    by = sorted(by)
    for port in ports:
        reached = port.first
        for other in by:
            if other.protocol == port.protocol and other.first <= reached <= other.last:
                reached = other.last + 1
        if reached <= port.last:
            return False
    return True


def _networks_covered(by: Sequence[EgressPolicy], lower: EgressPolicy) -> bool:
    """Whether all networks of `lower` are taken by these together, with no hole where `lower` would act."""
    for network in lower.allowed or (None,):
        taking = [policy for policy in by if _no_hole(policy, network, lower)]
        if any(not policy.allowed for policy in taking):
            continue
        if network is None or not within(network, collapse(n for p in taking for n in p.allowed)):
            return False
    return True


def _no_hole(policy: EgressPolicy, network: Network | None, lower: EgressPolicy) -> bool:
    """Whether `policy` denies nothing of `network` (None: everything) that `lower` does not deny too."""
    return all(
        any(contains(d, hole) for d in lower.denied)
        for hole in policy.denied
        if network is None or overlap(hole, network)
    )
