"""What keeps a Service from having rules: the sentences that say so, each naming the field, and what mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvctl.model.host import Host
from kvctl.model.net import Address, Family, collapse, parse_address, within
from kvctl.model.objects import Service
from kvctl.model.ref import ServiceRef
from kvctl.model.text import quote
from kvctl.policy.annotations import ALLOWED, DENIED, LEASE, Annotations, of_family
from kvctl.policy.context import Context, LeaseClaim
from kvctl.policy.lease import lease_key
from kvctl.policy.pods import Member, Members
from kvctl.policy.vips import Claim, VipRules

# What the API server lets a selector hold, as long as a message may be; a file may hold anything.
_PLAIN_SELECTOR = re.compile(r"[A-Za-z0-9_./=,-]{1,80}")


def state_faults(service: Service) -> list[str]:
    """What a Service is that cannot have egress."""
    faults = []
    if service.type != "LoadBalancer":
        faults.append(f"spec.type is {service.type}, not LoadBalancer")
    if service.external_traffic_policy != "Local":
        faults.append(f"spec.externalTrafficPolicy is {service.external_traffic_policy}, not Local")
    return faults


def claim_lost(
    ref: ServiceRef, vip: Address, claims: Mapping[Address, Claim], *, own: Claim | None = None
) -> str | None:
    """The sentence about the Service of another namespace that has the VIP, if one has; with the claim of one's
    `own` also why: it has it whether it has rules here or not, as its pods may be on other nodes.
    """
    winner = claims.get(vip)
    if winner is None or winner.ref.namespace == ref.namespace:
        return None
    why = f"{_why_stronger(winner, own)}, wherever its pods are" if own is not None else ""
    return f"the VIP {vip} is claimed by Service {winner.ref} ({winner.vip.field}{why})"


def _why_stronger(winner: Claim, own: Claim) -> str:
    """As the end of a sentence that has named the winner's field."""
    if winner.vip.standing < own.vip.standing:
        return f" comes before {own.vip.field}"
    if winner.created != own.created:
        return "; the older claim counts"
    return "; neither claim is known to be older, so the first name counts"


def other_lease(
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


def nothing_allowed(annotations: Annotations, family: Family) -> str | None:
    """The sentence about networks that leave nothing to rewrite to; None: they leave something."""
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


def no_pod(service: Service, family: Family, found: Members, context: Context) -> str:
    """Why no pod counts: where they are, or that none is selected."""
    node = context.settings.node
    if found.elsewhere:
        others = ", ".join(found.elsewhere[:8]) + (" ..." if len(found.elsewhere) > 8 else "")
        return f"no pod on node {node}: the pods are on {others}"
    where = f"on node {node}" if node else f"in namespace {service.ref.namespace}"
    if not service.selector:
        refused = "".join(f"; {sentence}" for sentence in shortened(list(found.refused)))
        return f"no usable EndpointSlice address {where}: spec.selector is empty{refused}"
    selector = ",".join(f"{key}={value}" for key, value in service.selector.items())
    shown = selector if _PLAIN_SELECTOR.fullmatch(selector) else quote(selector)
    if found.refused:
        return f"no pod {where} counts: {'; '.join(shortened(list(found.refused)))}"
    unusable = context.pods.why_unusable(service, family=family)
    if unusable is not None:
        return f"no pod {where} counts: {unusable}"
    # A cluster without Pods is none that lacks a file.
    unread = not (context.pods.has_pods or context.pods.from_api)
    more = ": the source has no Pods at all, give them too" if unread else _nearly(service, context)
    return f"no pod {where} matches spec.selector {shown}{more}"


def _nearly(service: Service, context: Context) -> str:
    """What a pod has whose labels the selector misses narrowly; empty: none is seen to."""
    near = context.nearly_selected(service)
    if near is None:
        return ""
    pod, key, value = near
    label = f"{key}={value}"
    return f": pod {pod.name} has {label if _PLAIN_SELECTOR.fullmatch(label) else quote(label)}"


def countable_pods(found: Members, family: Family, context: Context) -> tuple[list[Member], list[str]]:
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


def range_faults(service: Service, family: Family, context: Context) -> list[str]:
    """Which range is not known, or shows by the Service's own address that it is wrong."""
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


def shortened(sentences: list[str], most: int = 3) -> tuple[str, ...]:
    """The first of many, and how many more there are."""
    if len(sentences) <= most:
        return tuple(sentences)
    return (*sentences[:most], f"and {len(sentences) - most} more")
