"""What Services with pods in common do to each other: who comes first, and whom a drop takes along."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.service_chains import MOST_LINKS, links, passed
from kvctl.policy.shadow import Shadow, find_shadows
from kvctl.policy.verdict import Fate, Skipped, Wanted


def policy_of(verdict: Wanted | Skipped) -> EgressPolicy | None:
    """What is done to the traffic of its pods: it is rewritten, or dropped."""
    return verdict.policy if isinstance(verdict, Wanted) else verdict.drop


class Sharing:
    """Which Services have pods in common with others: what the others get has nothing to do with anybody."""

    def __init__(self) -> None:
        self._refs: dict[Address, set[ServiceRef]] = {}
        self._shared: dict[Address, set[ServiceRef]] = {}
        """Of these the addresses of several."""

    @property
    def refs(self) -> set[ServiceRef]:
        """Those that share a pod."""
        return set().union(*self._shared.values())

    def change(
        self, ref: ServiceRef, *, before: Iterable[Wanted | Skipped], after: Iterable[Wanted | Skipped]
    ) -> None:
        """Note that the verdicts about a Service have changed."""
        old, new = _pods_of(before), _pods_of(after)
        for address in old - new:
            self._refs[address].discard(ref)
        for address in new - old:
            self._refs.setdefault(address, set()).add(ref)
        for address in old ^ new:
            refs = self._refs[address]
            if len(refs) > 1:
                self._shared[address] = refs
            else:
                self._shared.pop(address, None)
            if not refs:
                del self._refs[address]


def _pods_of(verdicts: Iterable[Wanted | Skipped]) -> set[Address]:
    policies = filter(None, map(policy_of, verdicts))
    return {pod.address for policy in policies for pod in policy.pods}


def judged_together(
    judged: Sequence[Wanted | Skipped], *, sharing: Collection[ServiceRef]
) -> tuple[list[Wanted], list[Skipped]]:
    """What each Service gets, when others have the same pods: sorted into what is wanted and what is skipped.

    `sharing`: those that have pods in common; the others are not compared.
    """
    policies = filter(None, map(policy_of, judged)) if sharing else ()
    crowd = [policy for policy in policies if policy.ref in sharing]
    wanted, skipped = _without_shadowed(judged, find_shadows(crowd))
    return wanted, _with_unpassed([each for each in wanted if each.policy.ref in sharing], skipped)


def _without_shadowed(
    judged: Sequence[Wanted | Skipped], shadows: Mapping[tuple[ServiceRef, Family], Shadow]
) -> tuple[list[Wanted], list[Skipped]]:
    kept: list[Wanted] = []
    skipped: list[Skipped] = []
    shadowed: list[Skipped] = []
    for item in judged:
        policy = policy_of(item) if shadows else None
        shadow = shadows.get((policy.ref, policy.family)) if policy is not None else None
        told = item if shadow is None else item._replace(warnings=(*item.warnings, shadow.sentence))
        if isinstance(told, Skipped):
            skipped.append(told)
        elif shadow is not None and shadow.whole:
            assert isinstance(item, Wanted)
            shadowed.append(_wholly_shadowed(item, shadow))
        else:
            kept.append(told)
    return kept, [*skipped, *shadowed]


def _with_unpassed(wanted: Sequence[Wanted], skipped: Iterable[Skipped]) -> list[Skipped]:
    """Say of each dropped Service which others its drop takes along, because too many come first for a pod."""
    result = []
    for skip in skipped:
        others = _unpassed(skip.drop, wanted) if skip.drop is not None else []
        if others:
            names = ", ".join(map(str, others[:3])) + (" and others" if len(others) > 3 else "")
            text = f"too many Services come first for the same pods: the traffic of {names} is dropped with its own"
            skip = skip._replace(warnings=(*skip.warnings, text))  # noqa: PLW2901
        result.append(skip)
    return result


def _unpassed(drop: EgressPolicy, wanted: Sequence[Wanted]) -> list[ServiceRef]:
    addresses = {pod.address for pod in drop.pods}
    first = sorted(
        (w.policy for w in wanted if w.policy.family is drop.family and w.policy.rank < drop.rank),
        key=lambda policy: policy.rank,
    )
    mine = [p for p in first if p.ref.namespace == drop.ref.namespace]
    if sum(map(links, mine)) <= MOST_LINKS:
        return []
    found: dict[ServiceRef, None] = {}
    for address in addresses:
        before = [p for p in mine if any(pod.address == address for pod in p.pods)]
        found.update(dict.fromkeys(p.ref for p in before[len(passed(before)) :]))
    return sorted(found)


def _wholly_shadowed(item: Wanted, shadow: Shadow) -> Skipped:
    policy = item.policy
    return Skipped(
        ref=policy.ref,
        reason=f"wholly shadowed: {shadow.sentence}",
        fate=Fate.LOSE,
        family=policy.family,
        vip=policy.vip,
        warnings=item.warnings,
    )
