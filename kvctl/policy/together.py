"""What Services with pods in common do to each other: who comes first, and whom a drop takes along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.service_chains import MOST_LINKS, links, passed
from kvctl.policy.shadow import Shadow, find_shadows
from kvctl.policy.verdict import Fate, Skipped, Wanted


def judged_together(judged: Sequence[Wanted | Skipped]) -> tuple[list[Wanted], list[Skipped]]:
    """What each Service gets, when others have the same pods: sorted into what is wanted and what is skipped."""
    wanted, skipped = _without_shadowed(judged)
    return wanted, _with_unpassed(wanted, skipped)


def _without_shadowed(judged: Sequence[Wanted | Skipped]) -> tuple[list[Wanted], list[Skipped]]:
    policies = [item.policy if isinstance(item, Wanted) else item.drop for item in judged]
    shadows = find_shadows([policy for policy in policies if policy is not None])
    kept: list[Wanted] = []
    skipped: list[Skipped] = []
    shadowed: list[Skipped] = []
    for item, policy in zip(judged, policies, strict=True):
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
