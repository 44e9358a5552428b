"""From objects and settings to policies; a Service that cannot have one becomes a `Skipped` with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kvctl.model.host import Host
from kvctl.model.net import Address, Family, collapse, parse_address, within
from kvctl.model.objects import Objects, Service
from kvctl.model.policy import EgressPod, EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.model.text import quote
from kvctl.policy.annotations import (
    ADDRESSES,
    ALLOWED,
    DENIED,
    IGNORE,
    KVCTL_EGRESS,
    Annotations,
    Problem,
    of_family,
    read_annotations,
)
from kvctl.policy.cidrs import ClusterNetworks, cluster_networks
from kvctl.policy.interface import interface_warnings
from kvctl.policy.pods import Member, Members, PodIndex, index_pods, members
from kvctl.policy.shadow import find_shadows
from kvctl.policy.vips import STATUS_FIELD, Claim, Standing, Vip, VipRules, Vips, find_vips, winners

# What the API server lets a selector hold, as long as a message may be; a file may hold anything.
_PLAIN_SELECTOR = re.compile(r"[A-Za-z0-9_./=,-]{1,80}")


class Fate(StrEnum):
    """What becomes of the rules that a skipped Service has in the kernel."""

    LOSE = "lose"
    """The Service cannot be programmed as things are."""
    KEEP = "keep"
    """Something in the input is faulty: the last good rules stay, for the pods it has now."""


class SkipStatus(StrEnum):
    """How a skipped Service is reported."""

    SKIPPED = "skipped"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A Service (in one family, or before its families are known) that gets no rules of this input."""

    ref: ServiceRef
    reason: str
    fate: Fate
    family: Family | None = None
    vip: Address | None = None
    status: SkipStatus = SkipStatus.SKIPPED
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    vip_unclear: bool = False
    """It names a VIP that cannot be one, so a family without a VIP may have lost it by an error."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A policy, and what there is to say about it."""

    policy: EgressPolicy
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """Everything the source says, and the means to judge what is kept from before."""

    wanted: tuple[Wanted, ...]
    skipped: tuple[Skipped, ...]
    present: frozenset[ServiceRef]
    """All Services of the source, also those that ask for nothing."""
    networks: ClusterNetworks
    claims: Mapping[Address, Claim]
    rules: VipRules
    index: PodIndex
    services: Mapping[ServiceRef, Service] = field(default_factory=dict)

    def policies(self, family: Family) -> list[EgressPolicy]:
        """The policies of one family."""
        return [wanted.policy for wanted in self.wanted if wanted.policy.family is family]


@dataclass(frozen=True, slots=True)
class _Context:
    """What the judgement of every Service needs."""

    settings: Settings
    networks: ClusterNetworks
    index: PodIndex
    rules: VipRules
    claims: Mapping[Address, Claim]
    host: Host | None
    endpoints_known: bool


def resolve(objects: Objects, settings: Settings, *, host: Host | None) -> Resolution:
    """Judge every Service of `objects`. Without `host` nothing is asked of this machine's addresses."""
    networks = cluster_networks(settings, hints=objects.cidr_hints, nodes=objects.nodes)
    rules = VipRules(
        networks=networks,
        node_addresses={ip: node.name for node in objects.nodes for ip in node.internal_ips},
    )
    read: dict[ServiceRef, tuple[Service, Annotations, Vips]] = {}
    for service in objects.services:
        annotations = read_annotations(service.annotations)
        if annotations.asks or service.type == "LoadBalancer":
            vips = find_vips(
                service,
                annotated=annotations.addresses,
                rules=rules,
                settings=settings,
                from_api=objects.from_api,
            )
            read[service.ref] = (service, annotations, vips)
    context = _Context(
        settings=settings,
        networks=networks,
        index=index_pods(objects),
        rules=rules,
        claims=winners(
            Claim(ref=service.ref, vip=vip, created=service.created)
            for service, _, vips in read.values()
            if service.type == "LoadBalancer"
            for vip in vips.accepted.values()
        ),
        host=host,
        endpoints_known=objects.endpoints_known,
    )
    judged: list[Wanted | Skipped] = [
        Skipped(ref=ref, reason="the object is malformed, see the errors", fate=Fate.KEEP)
        for ref in sorted(objects.broken)
    ]
    for service, annotations, vips in read.values():
        if annotations.asks:
            judged.extend(_judge(service, annotations, vips, context))
    wanted, shadowed = _without_shadowed([item for item in judged if isinstance(item, Wanted)])
    return Resolution(
        wanted=tuple(wanted),
        skipped=(*(item for item in judged if isinstance(item, Skipped)), *shadowed),
        present=frozenset(service.ref for service in objects.services) | objects.broken,
        networks=networks,
        claims=context.claims,
        rules=rules,
        index=context.index,
        services={service.ref: service for service in objects.services},
    )


def _judge(
    service: Service, annotations: Annotations, vips: Vips, context: _Context
) -> Iterable[Wanted | Skipped]:
    if annotations.ignore:
        yield Skipped(ref=service.ref, reason=f"{IGNORE} is true", fate=Fate.LOSE)
        return
    problems = (*annotations.problems, *vips.problems)
    warnings = (*annotations.warnings, *vips.warnings)
    skipped = Skipped(ref=service.ref, reason="", fate=Fate.LOSE, problems=problems, warnings=warnings)
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
            yield _judge_family(
                service, annotations, vips.accepted[family], context, replace(skipped, family=family)
            )


def _state_faults(service: Service) -> list[str]:
    faults = []
    if service.type != "LoadBalancer":
        faults.append(f"spec.type is {service.type}, not LoadBalancer")
    if service.external_traffic_policy != "Local":
        faults.append(f"spec.externalTrafficPolicy is {service.external_traffic_policy}, not Local")
    return faults


def _judge_family(
    service: Service, annotations: Annotations, vip: Vip, context: _Context, skipped: Skipped
) -> Wanted | Skipped:
    family = skipped.family
    assert family is not None
    skipped = replace(skipped, vip=vip.address)
    found = members(service, family=family, index=context.index, node=context.settings.node)
    pods, left_out = _countable_pods(found, family, context)
    unknown = not service.selector and not context.endpoints_known
    state = [
        fault
        for fault in (
            claim_lost(service.ref, vip.address, context.claims),
            _nothing_allowed(annotations, family),
            _no_pod(service, found, context) if not found.addresses and not unknown else None,
        )
        if fault is not None
    ]
    away = not_here(vip.address, host=context.host, assume=context.settings.assume_vip)
    if state or away:
        status = SkipStatus.ELSEWHERE if away and not state else SkipStatus.SKIPPED
        reasons = [*([away] if away else []), *state]
        return replace(skipped, reason=_sentence(reasons, skipped.problems), status=status)
    faults = _range_faults(service, family, context)
    if unknown:
        faults.append("spec.selector is empty, and EndpointSlices cannot be read")
    if not pods:
        faults = list(dict.fromkeys((*faults, *_shortened(left_out))))
    if faults or skipped.problems:
        return replace(skipped, reason=_sentence(faults, skipped.problems), fate=Fate.KEEP)
    policy = EgressPolicy(
        ref=service.ref,
        family=family,
        vip=vip.address,
        pods=tuple(EgressPod.named(pod.address, name=pod.name, node=pod.node) for pod in pods),
        ports=annotations.ports,
        allowed=tuple(n for n in of_family(annotations.allowed or (), family) if n.prefixlen),
        denied=of_family(annotations.denied, family),
        interface=annotations.interface or context.settings.interface,
        created=service.created,
    )
    warnings = (*skipped.warnings, *_shortened(left_out), *_both_egress(annotations, service))
    if context.host is not None:
        warnings = (*warnings, *interface_warnings(policy, context.host))
    return Wanted(policy=policy, warnings=warnings)


def _sentence(reasons: Iterable[str], problems: Iterable[Problem]) -> str:
    return "; ".join((*reasons, *map(str, problems)))


def claim_lost(ref: ServiceRef, vip: Address, claims: Mapping[Address, Claim]) -> str | None:
    """The sentence about the Service of another namespace that has the VIP, if one has."""
    winner = claims.get(vip)
    if winner is None or winner.ref.namespace == ref.namespace:
        return None
    return f"the VIP {vip} is claimed by Service {winner.ref} ({winner.vip.field})"


def not_here(vip: Address, *, host: Host | None, assume: bool) -> str | None:
    """The sentence that says that the VIP is not on this node; None: it is, or nobody looked."""
    if host is None or assume or host.holds(vip) is not None:
        return None
    hint = "use --assume-vip if a load balancer answers for it here without binding it"
    other = host.present_elsewhere(vip)
    if other is not None:
        return f"the VIP {vip} is only on {other}, which does not answer ARP for it: {hint}"
    return f"the VIP {vip} is on no interface of this node ({hint})"


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


def _no_pod(service: Service, found: Members, context: _Context) -> str:
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
    return f"no pod {where} matches spec.selector {shown}"


def _countable_pods(found: Members, family: Family, context: _Context) -> tuple[list[Member], list[str]]:
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
        elif pod.from_endpoint and pod.address in context.rules.node_addresses:
            sentences.append(f"endpoint {pod.address} is an address of a Node: left out")
        elif pod.from_endpoint and context.host is not None and context.host.is_local(pod.address):
            sentences.append(f"endpoint {pod.address} is an address of this host: left out")
        else:
            inside.append(pod)
    return inside, list(dict.fromkeys(sentences))


def _range_faults(service: Service, family: Family, context: _Context) -> list[str]:
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


def _without_shadowed(wanted: list[Wanted]) -> tuple[list[Wanted], list[Skipped]]:
    shadows = find_shadows([item.policy for item in wanted])
    kept: list[Wanted] = []
    skipped: list[Skipped] = []
    for item in wanted:
        policy = item.policy
        shadow = shadows.get((policy.ref, policy.family))
        if shadow is None:
            kept.append(item)
        elif shadow.whole:
            skipped.append(
                Skipped(
                    ref=policy.ref,
                    reason=f"wholly shadowed: {shadow.sentence}",
                    fate=Fate.LOSE,
                    family=policy.family,
                    vip=policy.vip,
                    warnings=item.warnings,
                )
            )
        else:
            kept.append(replace(item, warnings=(*item.warnings, shadow.sentence)))
    return kept, skipped
