"""Where a pod belongs to several Services: what a higher-ranking one takes from a lower one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvctl.model.net import Address, Family, Network, contains, overlap
from kvctl.model.policy import EgressPolicy, PortMatch
from kvctl.model.ref import ServiceRef


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
    for policy in policies:
        for pod in policy.pods:
            by_address[pod.address].append(policy)
    crowded = {address: ps for address, ps in by_address.items() if len(ps) > 1}
    above: dict[tuple[ServiceRef, Family], dict[ServiceRef, EgressPolicy]] = defaultdict(dict)
    for sharing in crowded.values():
        for lower in sharing:
            for higher in sharing:
                if higher.rank < lower.rank and _meet(higher, lower):
                    above[lower.ref, lower.family][higher.ref] = higher
    # The effective coverage: a policy that is wholly shadowed itself takes nothing that its own
    # shadow does not take, so judging against all higher ones is right.
    result: dict[tuple[ServiceRef, Family], Shadow] = {}
    for policy in policies:
        higher_ones = above.get((policy.ref, policy.family))
        if higher_ones:
            result[policy.ref, policy.family] = _judge(policy, higher_ones, by_address)
    return result


def _judge(
    lower: EgressPolicy,
    higher_ones: dict[ServiceRef, EgressPolicy],
    by_address: dict[Address, list[EgressPolicy]],
) -> Shadow:
    names = ", ".join(str(ref) for ref in sorted(higher_ones))
    verb = "comes" if len(higher_ones) == 1 else "come"
    verdicts: dict[frozenset[ServiceRef], bool] = {}

    def covered(address: Address) -> bool:
        here = [p for p in by_address[address] if p.ref in higher_ones and p.rank < lower.rank]
        key = frozenset(p.ref for p in here)
        if key not in verdicts:
            verdicts[key] = _covers(here, lower)
        return verdicts[key]

    whole = all(covered(pod.address) for pod in lower.pods)
    if whole:
        return Shadow(whole=True, sentence=f"{names} {verb} first for all of this traffic of the same pods")
    return Shadow(whole=False, sentence=f"{names} {verb} first for a part of this traffic of the same pods")


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
    if not one.allowed or not other.allowed:
        allowed = one.allowed or other.allowed
        denied = (*one.denied, *other.denied)
        return not allowed or any(not any(contains(d, a) for d in denied) for a in allowed)
    return any(overlap(a, b) for a in one.allowed for b in other.allowed)


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
    """Whether each network of `lower` lies in one that is taken, with no hole where `lower` would act."""
    if not by:
        return False
    if not lower.allowed:
        return any(not p.allowed and _no_hole(p, None, lower) for p in by)
    return all(
        any(_contains_allowed(p, network) and _no_hole(p, network, lower) for p in by)
        for network in lower.allowed
    )


def _contains_allowed(policy: EgressPolicy, network: Network) -> bool:
    return not policy.allowed or any(contains(allowed, network) for allowed in policy.allowed)


def _no_hole(policy: EgressPolicy, network: Network | None, lower: EgressPolicy) -> bool:
    """Whether `policy` denies nothing of `network` (None: everything) that `lower` does not deny too."""
    return all(
        any(contains(d, hole) for d in lower.denied)
        for hole in policy.denied
        if network is None or overlap(hole, network)
    )
