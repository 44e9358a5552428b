"""From objects and settings to policies; a Service that cannot have one becomes a `Skipped` with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from kvctl.model.host import Host
from kvctl.model.net import Address, Family
from kvctl.model.objects import Objects, Service
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.annotations import (
    Annotations,
    read_annotations,
)
from kvctl.policy.cidrs import ClusterNetworks, cluster_networks
from kvctl.policy.holder import Evidence, evidence_of
from kvctl.policy.judge import Context, judge
from kvctl.policy.pods import PodIndex, index_pods
from kvctl.policy.shadow import Shadow, find_shadows
from kvctl.policy.verdict import Fate, Skipped, Wanted
from kvctl.policy.vips import Claim, VipRules, Vips, find_vips, winners


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
    announced: Mapping[ServiceRef, frozenset[str]] = field(default_factory=dict)
    unidentified: bool = False
    """An object of the source could not be told by name: then no Service is known to be absent."""
    node_is_unknown: bool = False
    """Which pods are here cannot be told: the source has Nodes, but none of this name."""

    def policies(self, family: Family) -> list[EgressPolicy]:
        """The policies of one family."""
        return [wanted.policy for wanted in self.wanted if wanted.policy.family is family]

    def drops(self, family: Family) -> list[EgressPolicy]:
        """What is dropped in one family, because the VIP is not here."""
        return [skip.drop for skip in self.skipped if skip.drop is not None and skip.family is family]

    def evidence(self, ref: ServiceRef, *, node: str | None) -> Evidence:
        """What is said about who holds the VIP of a Service; `node` is the name of this one."""
        service = self.services.get(ref)
        announced = self.announced.get(ref, frozenset())
        return evidence_of(service.annotations if service else {}, announced=announced, node=node)


def resolve(objects: Objects, settings: Settings, *, host: Host | None) -> Resolution:
    """Judge every Service of `objects`. Without `host` nothing is asked of this machine's addresses."""
    networks = cluster_networks(settings, hints=objects.cidr_hints, nodes=objects.nodes)
    rules = VipRules(
        networks=networks,
        node_addresses={ip: node.name for node in objects.nodes for ip in node.internal_ips},
    )
    read: dict[ServiceRef, tuple[Service, Annotations, Vips]] = {}
    for service in objects.services:
        annotations = _annotations_of(tuple(service.annotations.items()))
        if annotations.asks or service.type == "LoadBalancer":
            vips = find_vips(
                service,
                annotated=annotations.addresses,
                rules=rules,
                settings=settings,
                from_api=objects.from_api,
            )
            read[service.ref] = (service, annotations, vips)
    context = Context(
        settings=settings,
        networks=networks,
        index=index_pods(objects),
        rules=rules,
        claims=winners(
            Claim(ref=service.ref, vip=vip, created=service.created)
            for service, _, vips in read.values()
            if service.type == "LoadBalancer"
            for vip in vips.claims
        ),
        host=host,
        endpoints_known=objects.endpoints_known,
        nodes=tuple(sorted(node.name for node in objects.nodes)),
        announced=objects.announced,
    )
    judged: list[Wanted | Skipped] = [
        Skipped(ref=ref, reason="the object is malformed, see the errors", fate=Fate.KEEP)
        for ref in sorted(objects.broken)
    ]
    for service, annotations, vips in read.values():
        if annotations.asks:
            judged.extend(judge(service, annotations, vips, context))
    wanted, skipped = _without_shadowed(judged)
    return Resolution(
        wanted=tuple(wanted),
        skipped=tuple(skipped),
        present=frozenset(service.ref for service in objects.services) | objects.broken,
        networks=networks,
        claims=context.claims,
        rules=rules,
        index=context.index,
        services={service.ref: service for service in objects.services},
        announced=objects.announced,
        unidentified=objects.unidentified,
        node_is_unknown=context.node_is_unknown,
    )


# An agent judges every Service after each change of one: those that did not change are not read again.
@lru_cache(maxsize=2048)
def _annotations_of(items: tuple[tuple[str, str], ...]) -> Annotations:
    return read_annotations(dict(items))


def _without_shadowed(judged: list[Wanted | Skipped]) -> tuple[list[Wanted], list[Skipped]]:
    policies = [item.policy if isinstance(item, Wanted) else item.drop for item in judged]
    shadows = find_shadows([policy for policy in policies if policy is not None])
    kept: list[Wanted] = []
    skipped: list[Skipped] = []
    shadowed: list[Skipped] = []
    for item, policy in zip(judged, policies, strict=True):
        shadow = shadows.get((policy.ref, policy.family)) if policy is not None else None
        warnings = item.warnings if shadow is None else (*item.warnings, shadow.sentence)
        if isinstance(item, Skipped):
            skipped.append(replace(item, warnings=warnings))
        elif shadow is not None and shadow.whole:
            shadowed.append(_wholly_shadowed(item, shadow))
        else:
            kept.append(replace(item, warnings=warnings))
    return kept, [*skipped, *shadowed]


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
