"""Whether one Service can have rules, and if not, why: every sentence that says so is written here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, Family, collapse, parse_address, within
from kvctl.model.objects import Service
from kvctl.model.policy import DROPPED, EgressPod, EgressPolicy, Fence, WithoutVip
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.model.text import quote
from kvctl.policy.annotations import (
    ADDRESSES,
    ALLOWED,
    DENIED,
    IGNORE,
    KVCTL_EGRESS,
    LEASE,
    WITHOUT_VIP,
    Annotations,
    Problem,
    of_family,
)
from kvctl.policy.cidrs import ClusterNetworks
from kvctl.policy.holder import evidence_of, not_here
from kvctl.policy.interface import interface_warnings
from kvctl.policy.layout import fence_name
from kvctl.policy.lease import lease_key
from kvctl.policy.management import managed_elsewhere
from kvctl.policy.pods import Member, Members, PodIndex, members
from kvctl.policy.verdict import Fate, Skipped, SkipStatus, Wanted
from kvctl.policy.vips import STATUS_FIELD, Claim, Standing, Vip, VipRules, Vips

# What the API server lets a selector hold, as long as a message may be; a file may hold anything.
_PLAIN_SELECTOR = re.compile(r"[A-Za-z0-9_./=,-]{1,80}")


class LeaseClaim(NamedTuple):
    """The Service that says by which Lease a VIP is held, because its claim is the strongest of those that ask."""

    ref: ServiceRef
    key: LeaseKey


@dataclass(frozen=True, slots=True)
class Context:
    """What the judgement of every Service needs."""

    settings: Settings
    networks: ClusterNetworks
    index: PodIndex
    rules: VipRules
    claims: Mapping[Address, Claim]
    leases: Mapping[Address, LeaseClaim]
    """Where Leases decide who holds a VIP: by which one."""
    host: Host | None
    endpoints_known: bool
    nodes_known: bool
    nodes: tuple[str, ...]
    """The names of the source's Nodes; empty: it has none."""
    announced: Mapping[ServiceRef, frozenset[str]]

    @property
    def node_is_unknown(self) -> bool:
        """Only pods of one node count, and the source has Nodes, but none of that name: the name must be wrong.

        Or the API server has lost them: a node that runs kvctl is one.
        """
        told = bool(self.nodes) or self.nodes_known
        return self.settings.node is not None and told and self.settings.node not in self.nodes


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
    state = _state_faults(service)
    if state:
        yield replace(skipped, reason=_sentence(state, problems))
        return
    families = sorted({*vips.accepted, *vips.refused})
    by_status = any(vip.standing is Standing.STATUS for vip in vips.accepted.values())
    unclear = bool(vips.problems) or (annotations.faulty(ADDRESSES) and not by_status)
    skipped = replace(skipped, vip_unclear=unclear)
    if not families:
        if unclear:
            yield replace(skipped, reason=_sentence([], problems), fate=Fate.KEEP)
        else:
            missing = (
                f"no VIP: {STATUS_FIELD} is empty, and neither {ADDRESSES} nor spec.loadBalancerIP is set"
            )
            yield replace(skipped, reason=_sentence([missing], problems))
        return
    for family in families:
        refused = vips.refused.get(family)
        if refused is not None:
            yield replace(skipped, family=family, reason=_sentence([refused], problems))
        else:
            vip, more = _to_have(service.ref, family, vips, context.claims)
            its = replace(skipped, family=family, warnings=(*warnings, *more))
            yield _judge_family(service, annotations, vip, context, its)


def _to_have(
    ref: ServiceRef, family: Family, vips: Vips, claims: Mapping[Address, Claim]
) -> tuple[Vip, tuple[str, ...]]:
    """The VIP of a family: what is asked for, but not another's in place of what the Service has."""
    asked, held = vips.accepted[family], vips.held.get(family)
    lost = claim_lost(ref, asked.address, claims)
    if lost is None or held is None or held.address == asked.address:
        return asked, ()
    return held, (f"{lost}; it keeps {held.address}",)


def _state_faults(service: Service) -> list[str]:
    faults = []
    if service.type != "LoadBalancer":
        faults.append(f"spec.type is {service.type}, not LoadBalancer")
    if service.external_traffic_policy != "Local":
        faults.append(f"spec.externalTrafficPolicy is {service.external_traffic_policy}, not Local")
    return faults


def _judge_family(
    service: Service, annotations: Annotations, vip: Vip, context: Context, skipped: Skipped
) -> Wanted | Skipped:
    family = skipped.family
    assert family is not None
    skipped = replace(skipped, vip=vip.address)
    found = members(service, family=family, index=context.index, node=context.settings.node)
    pods, left_out = _countable_pods(found, family, context)
    unknown = not service.selector and not context.endpoints_known
    lost = bool(found.elsewhere) and not found.addresses and context.node_is_unknown
    others = claim_lost(service.ref, vip.address, context.claims) or _other_lease(
        service.ref, annotations, vip.address, context.leases
    )
    state = [
        fault
        for fault in (
            _nothing_allowed(annotations, family),
            _no_pod(service, found, context) if not found.addresses and not unknown and not lost else None,
        )
        if fault is not None
    ]
    away = _away(service, vip, context)
    lacks = [sentence for sentence in (away, others) if sentence is not None]
    if state:
        return replace(skipped, reason=_sentence([*lacks, *state], skipped.problems))
    if lacks:
        status = SkipStatus.SKIPPED if others else SkipStatus.ELSEWHERE
        skipped = replace(skipped, status=status, reason=_sentence(lacks, skipped.problems))
        if skipped.without_vip is WithoutVip.NODE_ADDRESS:
            return replace(skipped, reason=_without(lacks, skipped))
    faults = _range_faults(service, family, context)
    if unknown:
        faults.append("spec.selector is empty, and EndpointSlices cannot be read")
    if lost:
        there = ", ".join(context.nodes[:8]) + (" ..." if len(context.nodes) > 8 else "")
        faults.append(
            f"the source has no Node {context.settings.node} (it has {there}): set --node or NODE_NAME"
        )
    if not pods:
        faults = list(dict.fromkeys((*faults, *_shortened(left_out))))
    if faults or skipped.problems:
        # What has to go because the VIP is another's goes whatever else is wrong.
        fate = Fate.LOSE if others else Fate.KEEP
        return replace(skipped, reason=_sentence([*lacks, *faults], skipped.problems), fate=fate)
    policy = _policy(service, annotations, vip.address, pods, family, context.settings)
    policy = _fenced(policy, service, context, drops=skipped.without_vip is WithoutVip.DROP)
    warnings = (*skipped.warnings, *_shortened(left_out), *_both_egress(annotations, service))
    if lacks:
        return replace(skipped, reason=_without(lacks, skipped), drop=policy, warnings=warnings)
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


def claim_lost(ref: ServiceRef, vip: Address, claims: Mapping[Address, Claim]) -> str | None:
    """The sentence about the Service of another namespace that has the VIP, if one has."""
    winner = claims.get(vip)
    if winner is None or winner.ref.namespace == ref.namespace:
        return None
    return f"the VIP {vip} is claimed by Service {winner.ref} ({winner.vip.field})"


def _other_lease(
    ref: ServiceRef, annotations: Annotations, vip: Address, leases: Mapping[Address, LeaseClaim]
) -> str | None:
    """The sentence about the Service that comes first and has the VIP by another Lease: one VIP, one holder."""
    first, own = leases.get(vip), lease_key(ref, annotations)
    if first is None or first.key == own:
        return None
    return (
        f"{first.ref} comes first and has the VIP {vip} by Lease {first.key}, this one would by {own}: "
        f"give both one {LEASE}"
    )


def _nothing_allowed(annotations: Annotations, family: Family) -> str | None:
    if annotations.allowed is not None and not annotations.faulty(ALLOWED):
        allowed = of_family(annotations.allowed, family)
        if not allowed:
            return f"{ALLOWED} has no {family} network"
    else:
        allowed = ()
    denied = collapse(of_family(annotations.denied, family))
    everything = any(network.prefixlen == 0 for network in denied)
    if everything or (allowed and all(within(network, denied) for network in allowed)):
        return f"{DENIED} leaves no {family} network to rewrite to"
    return None


def _no_pod(service: Service, found: Members, context: Context) -> str:
    node = context.settings.node
    if found.elsewhere:
        others = ", ".join(found.elsewhere[:8]) + (" ..." if len(found.elsewhere) > 8 else "")
        return f"no pod on node {node}: the pods are on {others}"
    where = f"on node {node}" if node else f"in namespace {service.ref.namespace}"
    if not service.selector:
        refused = "".join(f"; {sentence}" for sentence in _shortened(list(found.refused)))
        return f"no usable EndpointSlice address {where}: spec.selector is empty{refused}"
    selector = ",".join(f"{key}={value}" for key, value in service.selector.items())
    shown = selector if _PLAIN_SELECTOR.fullmatch(selector) else quote(selector)
    unusable = context.index.why_unusable(service)
    if unusable is not None:
        return f"no pod {where} counts: {unusable}"
    # A cluster without Pods is none that lacks a file.
    unread = not (context.index.has_pods or context.index.from_api)
    more = ": the source has no Pods at all, give them too" if unread else ""
    return f"no pod {where} matches spec.selector {shown}{more}"


def _countable_pods(found: Members, family: Family, context: Context) -> tuple[list[Member], list[str]]:
    """The pods inside the pod CIDRs, and a sentence for each one that is outside."""
    cidrs = context.networks.pod[family]
    inside: list[Member] = []
    sentences: list[str] = list(found.refused)
    for pod in found.addresses:
        mend = "set --pod-cidr or egress_podcidr"
        if not cidrs.networks:
            sentences.append(f"the {family} pod CIDR is unknown: {mend}")
        elif not within(pod.address, cidrs.networks):
            noun = "CIDR" if len(cidrs.networks) == 1 else "CIDRs"
            sentences.append(f"pod {pod.address} is outside the pod {noun} {cidrs}: {mend}")
        elif (refusal := endpoint_refusal(pod, rules=context.rules, host=context.host)) is not None:
            sentences.append(refusal)
        else:
            inside.append(pod)
    return inside, list(dict.fromkeys(sentences))


def endpoint_refusal(pod: Member, *, rules: VipRules, host: Host | None) -> str | None:
    """The sentence about an address of an EndpointSlice that is a Node's or this host's; None: it is a pod's."""
    if pod.from_endpoint and pod.address in rules.node_addresses:
        return f"endpoint {pod.address} is an address of a Node: left out"
    if pod.from_endpoint and host is not None and host.is_local(pod.address):
        return f"endpoint {pod.address} is an address of this host: left out"
    return None


def _range_faults(service: Service, family: Family, context: Context) -> list[str]:
    faults = []
    mend = "set --service-cidr or egress_servicecidr"
    cidrs = context.networks.service[family]
    if not context.networks.pod[family].networks:
        faults.append(f"the {family} pod CIDR is unknown: set --pod-cidr or egress_podcidr")
    if not cidrs.networks:
        faults.append(f"the {family} service CIDR is unknown: {mend}")
        return faults
    for text in service.cluster_ips:
        try:
            address = parse_address(text)
        except ValueError:
            faults.append("spec.clusterIP is not an IP address")
            continue
        is_mine = (address.version == 4) == (family is Family.IPV4)
        if is_mine and not within(address, cidrs.networks):
            noun = "CIDR" if len(cidrs.networks) == 1 else "CIDRs"
            faults.append(f"clusterIP {address} is outside the service {noun} {cidrs}: {mend}")
    return faults


def _shortened(sentences: list[str], most: int = 3) -> tuple[str, ...]:
    if len(sentences) <= most:
        return tuple(sentences)
    return (*sentences[:most], f"and {len(sentences) - most} more")


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
