"""From objects and settings to policies; a Service that cannot have one becomes a `Skipped` with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from kvctl.policy.context import Context, LeaseClaim
from kvctl.policy.holder import Evidence, evidence_of
from kvctl.policy.judge import judge
from kvctl.policy.lease import lease_key
from kvctl.policy.pods import PodIndex, index_pods, selected_pods
from kvctl.policy.service_chains import MOST_LINKS, links, passed
from kvctl.policy.shadow import Shadow, find_shadows
from kvctl.policy.verdict import Fate, Skipped, Wanted
from kvctl.policy.vips import Claim, VipRules, Vips, find_vips, winners


@dataclass(frozen=True, slots=True)
class Resolution:
    """Everything the source says, and the means to judge what is kept from before."""

    wanted: tuple[Wanted, ...]
    skipped: tuple[Skipped, ...]
    present: AbstractSet[ServiceRef]
    """All Services of the source, also those that ask for nothing."""
    networks: ClusterNetworks
    claims: Mapping[Address, Claim]
    """Of each address the strongest claim."""
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
    return Resolver(settings).resolve(objects, host=host)


class _Read(NamedTuple):
    """A Service with what its annotations and addresses say, and by which rules."""

    service: Service
    rules: VipRules
    annotations: Annotations
    vips: Vips


class _Judged(NamedTuple):
    """What was said about a Service, and everything that it was said by."""

    grounds: tuple[object, ...]
    verdicts: tuple[Wanted | Skipped, ...]


class Resolver:
    """`resolve` again and again, for an agent: what is as it was is not judged anew.

    Objects count as unchanged when they are the same values as last time, so a caller keeps those that are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: dict[ServiceRef, _Read] = {}
        self._judged: dict[ServiceRef, _Judged] = {}
        self._services: tuple[Service, ...] = ()
        self._by_ref: Mapping[ServiceRef, Service] = {}
        self._shared: tuple[object, ...] = ()

    def resolve(self, objects: Objects, *, host: Host | None) -> Resolution:
        """As the function of that name."""
        settings = self._settings
        networks = cluster_networks(settings, hints=objects.cidr_hints, nodes=objects.nodes)
        rules = VipRules(
            networks=networks,
            node_addresses={ip: node.name for node in objects.nodes for ip in node.internal_ips},
        )
        self._read = self._read_services(objects, rules)
        context = Context(
            settings=settings,
            networks=networks,
            index=index_pods(objects),
            rules=rules,
            claims=winners(_claims(self._read.values())),
            leases=self._leases(),
            host=host,
            endpoints_known=objects.endpoints_known,
            nodes_known=objects.nodes_known,
            nodes=tuple(sorted(node.name for node in objects.nodes)),
            announced=objects.announced,
        )
        judged: list[Wanted | Skipped] = [
            Skipped(ref=ref, reason="the object is malformed, see the errors", fate=Fate.KEEP)
            for ref in sorted(objects.broken)
        ]
        judged += self._judge_services(context)
        wanted, skipped = _without_shadowed(judged)
        skipped = _with_unpassed(wanted, skipped)
        if objects.services is not self._services:
            self._services = objects.services
            self._by_ref = {service.ref: service for service in objects.services}
        return Resolution(
            wanted=tuple(wanted),
            skipped=tuple(skipped),
            present=self._by_ref.keys() | objects.broken if objects.broken else self._by_ref.keys(),
            networks=networks,
            claims=context.claims,
            rules=rules,
            index=context.index,
            services=self._by_ref,
            announced=objects.announced,
            unidentified=objects.unidentified,
            node_is_unknown=context.node_is_unknown,
        )

    def _read_services(self, objects: Objects, rules: VipRules) -> dict[ServiceRef, _Read]:
        found: dict[ServiceRef, _Read] = {}
        for service in objects.services:
            if not service.annotations and service.type != "LoadBalancer":
                continue
            known = self._read.get(service.ref)
            if known is None or known.service is not service or known.rules != rules:
                annotations = read_annotations(service.annotations)
                if not (annotations.asks or service.type == "LoadBalancer"):
                    continue
                vips = find_vips(
                    service,
                    annotated=annotations.addresses,
                    rules=rules,
                    settings=self._settings,
                    from_api=objects.from_api,
                )
                known = _Read(service, rules, annotations, vips)
            found[service.ref] = known
        return found

    def _leases(self) -> Mapping[Address, LeaseClaim]:
        """By which Lease each VIP is held: the same answer on all nodes, wherever the pods are."""
        if not self._settings.elects:
            return {}
        first = winners(_claims(read for read in self._read.values() if read.annotations.asks))
        return {
            vip: LeaseClaim(claim.ref, lease_key(claim.ref, self._read[claim.ref].annotations))
            for vip, claim in first.items()
        }

    def _judge_services(self, context: Context) -> Iterable[Wanted | Skipped]:
        """Every Service that asks; the verdict of last time where all its grounds are the same."""
        shared = (
            context.networks,
            context.rules,
            context.host,
            context.endpoints_known,
            context.nodes,
            context.nodes_known,
            context.announced,
            context.index.has_pods,
        )
        if shared != self._shared:
            self._shared, self._judged = shared, {}
        before, self._judged = self._judged, {}
        for ref, (service, _, read, vips) in self._read.items():
            if not read.asks:
                continue
            pods = selected_pods(service, context.index)
            owners = tuple(context.index.owners.get(address) for pod in pods for address in pod.addresses)
            claims = tuple(
                (context.claims.get(vip.address), context.leases.get(vip.address))
                for vip in (*vips.accepted.values(), *vips.held.values())
            )
            # Why there is no pod is told by those that do not count.
            others: tuple[object, ...] = ()
            if not pods:
                unusable = context.index.unusable.get(ref.namespace, ())
                others = (*unusable, context.nearly_selected(service))
            grounds = (service, vips, pods, owners, claims, others)
            known = before.get(ref)
            if known is None or known.grounds != grounds:
                known = _Judged(grounds, tuple(judge(service, read, vips, context)))
            if service.selector:
                self._judged[ref] = known
            yield from known.verdicts


def _claims(several: Iterable[_Read]) -> Iterable[Claim]:
    return (
        Claim(ref=service.ref, vip=vip, created=service.created)
        for service, _, _, vips in several
        if service.type == "LoadBalancer"
        for vip in vips.claims
    )


def _without_shadowed(judged: list[Wanted | Skipped]) -> tuple[list[Wanted], list[Skipped]]:
    policies = [item.policy if isinstance(item, Wanted) else item.drop for item in judged]
    shadows = find_shadows([policy for policy in policies if policy is not None])
    kept: list[Wanted] = []
    skipped: list[Skipped] = []
    shadowed: list[Skipped] = []
    for item, policy in zip(judged, policies, strict=True):
        shadow = shadows.get((policy.ref, policy.family)) if policy is not None else None
        told = item if shadow is None else replace(item, warnings=(*item.warnings, shadow.sentence))
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
            skip = replace(skip, warnings=(*skip.warnings, text))  # noqa: PLW2901
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
