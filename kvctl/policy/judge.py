"""Whether one Service can have rules, family by family, and what becomes of its traffic if not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvctl.model.net import Address, Family
from kvctl.model.objects import Service
from kvctl.model.policy import DROPPED, EgressPod, EgressPolicy, Fence, WithoutVip
from kvctl.model.settings import Settings
from kvctl.policy.annotations import (
    ADDRESSES,
    IGNORE,
    KVCTL_EGRESS,
    WITHOUT_VIP,
    Annotations,
    Problem,
    of_family,
)
from kvctl.policy.context import Context
from kvctl.policy.faults import (
    claim_lost,
    countable_pods,
    no_pod,
    nothing_allowed,
    other_lease,
    range_faults,
    shortened,
    state_faults,
)
from kvctl.policy.holder import evidence_of, not_here
from kvctl.policy.interface import interface_warnings
from kvctl.policy.layout import fence_name
from kvctl.policy.management import managed_elsewhere
from kvctl.policy.pods import Member, members
from kvctl.policy.verdict import Fate, Skipped, SkipStatus, Wanted
from kvctl.policy.vips import STATUS_FIELD, Claim, Standing, Vip, Vips


def judge(
    service: Service, annotations: Annotations, vips: Vips, context: Context
) -> Iterable[Wanted | Skipped]:
    if annotations.ignore:
        yield Skipped(ref=service.ref, reason=f"{IGNORE} is true", fate=Fate.LOSE)
        return
    problems = (*annotations.problems, *vips.problems)
    warnings = (*annotations.warnings, *vips.warnings)
    without_vip = annotations.without_vip
    if without_vip is None and not annotations.faulty(WITHOUT_VIP):
        without_vip = context.settings.without_vip
    skipped = Skipped(
        ref=service.ref,
        reason="",
        fate=Fate.LOSE,
        problems=problems,
        warnings=warnings,
        without_vip=without_vip,
    )
    state = state_faults(service)
    if state:
        yield skipped._replace(reason=_sentence(state, problems))
        return
    families = sorted({*vips.accepted, *vips.refused})
    by_status = any(vip.standing is Standing.STATUS for vip in vips.accepted.values())
    unclear = bool(vips.problems) or (annotations.faulty(ADDRESSES) and not by_status)
    skipped = skipped._replace(vip_unclear=unclear)
    if not families:
        if unclear:
            yield skipped._replace(reason=_sentence([], problems), fate=Fate.KEEP)
        else:
            missing = (
                f"no VIP: {STATUS_FIELD} is empty, and neither {ADDRESSES} nor spec.loadBalancerIP is set"
            )
            yield skipped._replace(reason=_sentence([missing], problems))
        return
    for family in families:
        refused = vips.refused.get(family)
        if refused is not None:
            yield skipped._replace(family=family, reason=_sentence([refused], problems))
        else:
            vip, more = _to_have(service, family, vips, context.claims)
            its = skipped._replace(family=family, warnings=(*warnings, *more))
            yield _judge_family(service, annotations, vip, context, its)


def _to_have(
    service: Service, family: Family, vips: Vips, claims: Mapping[Address, Claim]
) -> tuple[Vip, tuple[str, ...]]:
    """The VIP of a family: what is asked for, but not another's in place of what the Service has."""
    asked, held = vips.accepted[family], vips.held.get(family)
    own = Claim(ref=service.ref, vip=asked, created=service.created)
    lost = claim_lost(service.ref, asked.address, claims, own=own)
    if lost is None or held is None or held.address == asked.address:
        return asked, ()
    return held, (f"{lost}; it keeps {held.address}",)


def _judge_family(
    service: Service, annotations: Annotations, vip: Vip, context: Context, skipped: Skipped
) -> Wanted | Skipped:
    family = skipped.family
    assert family is not None
    skipped = skipped._replace(vip=vip.address)
    found = members(service, family=family, index=context.pods, node=context.settings.node)
    pods, left_out = countable_pods(found, family, context)
    unknown = not service.selector and not context.endpoints_known
    lost = bool(found.elsewhere) and not found.addresses and context.node_is_unknown
    claim = Claim(ref=service.ref, vip=vip, created=service.created)
    others = claim_lost(service.ref, vip.address, context.claims, own=claim) or other_lease(
        service.ref, annotations, vip.address, context.leases
    )
    state = [
        fault
        for fault in (
            nothing_allowed(annotations, family),
            no_pod(service, family, found, context)
            if not found.addresses and not unknown and not lost
            else None,
        )
        if fault is not None
    ]
    away = _away(service, vip, context)
    lacks = [sentence for sentence in (away, others) if sentence is not None]
    if state:
        return skipped._replace(reason=_sentence([*lacks, *state], skipped.problems))
    if lacks:
        status = SkipStatus.SKIPPED if others else SkipStatus.ELSEWHERE
        skipped = skipped._replace(status=status, reason=_sentence(lacks, skipped.problems))
        if skipped.without_vip is WithoutVip.NODE_ADDRESS:
            return skipped._replace(reason=_without(lacks, skipped))
    faults = range_faults(service, family, context)
    if unknown:
        faults.append("spec.selector is empty, and EndpointSlices cannot be read")
    if lost:
        there = ", ".join(context.nodes[:8]) + (" ..." if len(context.nodes) > 8 else "")
        faults.append(
            f"the source has no Node {context.settings.node} (it has {there}): set --node or NODE_NAME"
        )
    if not pods:
        faults = list(dict.fromkeys((*faults, *shortened(left_out))))
    if faults or skipped.problems:
        # What has to go because the VIP is another's goes whatever else is wrong.
        fate = Fate.LOSE if others else Fate.KEEP
        return skipped._replace(reason=_sentence([*lacks, *faults], skipped.problems), fate=fate)
    policy = _policy(service, annotations, vip.address, pods, family, context.settings)
    policy = _fenced(policy, service, context, drops=skipped.without_vip is WithoutVip.DROP)
    warnings = (*skipped.warnings, *shortened(left_out), *_both_egress(annotations, service))
    if lacks:
        return skipped._replace(reason=_without(lacks, skipped), drop=policy, warnings=warnings)
    if context.host is not None:
        warnings = (*warnings, *interface_warnings(policy, context.host))
    return Wanted(policy=policy, warnings=warnings)


def _away(service: Service, vip: Vip, context: Context) -> str | None:
    """The sentence that says that the VIP is not here; None: it is."""
    settings = context.settings
    announced = context.announced.get(service.ref, frozenset())
    return not_here(
        vip.address,
        host=context.host,
        assume=settings.assume_vip,
        evidence=evidence_of(service.annotations, announced=announced, node=settings.this_node),
        elected=settings.elects and managed_elsewhere(service, announced=announced) is None,
    )


def _fenced(policy: EgressPolicy, service: Service, context: Context, *, drops: bool) -> EgressPolicy:
    """With what stops its rules when this node loses the VIP unheard; where another program places it nobody beats."""
    seconds = context.settings.fence_seconds
    announced = context.announced.get(service.ref, ())
    if seconds is None or managed_elsewhere(service, announced=announced) is not None:
        return policy
    # By the VIP: Services that share one are held together, by whichever Lease.
    fence = Fence(fence_name(policy.vip), seconds)
    return policy._replace(fence=fence, drops_without_vip=drops)


def _policy(
    service: Service,
    annotations: Annotations,
    vip: Address,
    pods: Iterable[Member],
    family: Family,
    settings: Settings,
) -> EgressPolicy:
    return EgressPolicy(
        ref=service.ref,
        family=family,
        vip=vip,
        pods=tuple(EgressPod.named(pod.address, name=pod.name, node=pod.node) for pod in pods),
        ports=annotations.ports,
        allowed=tuple(n for n in of_family(annotations.allowed or (), family) if n.prefixlen),
        denied=of_family(annotations.denied, family),
        interface=annotations.interface or settings.interface,
        created=service.created,
    )


def _without(lacks: Sequence[str], skipped: Skipped) -> str:
    """The sentence about what becomes of the traffic of a Service that cannot use its VIP here."""
    why = "; ".join(lacks)
    if skipped.without_vip is WithoutVip.DROP:
        return f"{why}: {DROPPED}"
    if skipped.status is SkipStatus.ELSEWHERE:
        why += ": its pods' traffic leaves with the node's address"
    return _sentence([why], skipped.problems)


def _sentence(reasons: Iterable[str], problems: Iterable[Problem]) -> str:
    return "; ".join((*reasons, *map(str, problems)))


def _both_egress(annotations: Annotations, service: Service) -> tuple[str, ...]:
    """kube-vip names the pod it programs in an annotation: then two programs rewrite the same traffic."""
    programmed = any(
        service.annotations.get(f"kube-vip.io/active-endpoint{suffix}") for suffix in ("", "-ipv6")
    )
    if programmed and service.annotations.get(KVCTL_EGRESS) is None:
        return (
            "kube-vip programs egress for this Service too: use kvctl.io/egress instead of kube-vip.io/egress",
        )
    return ()
