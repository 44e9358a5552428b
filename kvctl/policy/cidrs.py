"""Which networks are the cluster's own and never rewritten to: told, discovered, or the default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvctl.model.net import Family, Network, collapse, family_of, host_network, parse_network
from kvctl.model.objects import CidrHint, CidrKind, Node
from kvctl.model.policy import Exclusion, ExclusionKind, canonical
from kvctl.model.settings import Settings

DEFAULTS = {
    CidrKind.POD: parse_network("10.0.0.0/16"),
    CidrKind.SERVICE: parse_network("10.96.0.0/12"),
}
"""kube-vip's defaults. IPv6 has none."""

ALWAYS = (
    Exclusion(parse_network("169.254.0.0/16"), ExclusionKind.LINK_LOCAL),
    Exclusion(parse_network("224.0.0.0/4"), ExclusionKind.MULTICAST),
    Exclusion(parse_network("fe80::/10"), ExclusionKind.LINK_LOCAL),
    Exclusion(parse_network("ff00::/8"), ExclusionKind.MULTICAST),
)

MAX_NODES = 32
"""Beyond that many node addresses of a family each new connection would walk too many rules."""


class Cidrs(NamedTuple):
    """The pod or service ranges of one family and where they come from; empty: unknown."""

    networks: tuple[Network, ...] = ()
    origin: str = "unknown"

    def __str__(self) -> str:
        if not self.networks:
            return "unknown"
        return f"{', '.join(map(str, self.networks))} ({self.origin})"


class ClusterNetworks(NamedTuple):
    """Everything about ranges that policies need, one entry a family."""

    pod: dict[Family, Cidrs]
    service: dict[Family, Cidrs]
    exclusions: dict[Family, tuple[Exclusion, ...]]
    warnings: tuple[str, ...] = ()


def cluster_networks(
    settings: Settings, *, hints: Sequence[CidrHint], nodes: Sequence[Node]
) -> ClusterNetworks:
    """Flags or environment first, then what the cluster says, then the default, for each family by itself."""
    pod = {f: _cidrs(CidrKind.POD, f, told=settings.pod_cidrs, hints=hints) for f in Family}
    service = {f: _cidrs(CidrKind.SERVICE, f, told=settings.service_cidrs, hints=hints) for f in Family}
    node_exclusions, warnings = _node_exclusions(settings, nodes)
    exclusions = {
        family: canonical(
            (
                *(Exclusion(n, ExclusionKind.POD) for n in pod[family].networks),
                *(Exclusion(n, ExclusionKind.SERVICE) for n in service[family].networks),
                *(
                    Exclusion(n, ExclusionKind.OPTION)
                    for n in settings.exclude_cidrs
                    if family_of(n) is family
                ),
                *(e for e in ALWAYS if family_of(e.network) is family),
                *(e for e in node_exclusions if family_of(e.network) is family),
            )
        )
        for family in Family
    }
    return ClusterNetworks(pod=pod, service=service, exclusions=exclusions, warnings=warnings)


def _cidrs(kind: CidrKind, family: Family, *, told: Sequence[Network], hints: Sequence[CidrHint]) -> Cidrs:
    flag = "--pod-cidr" if kind is CidrKind.POD else "--service-cidr"
    sources = [(told, flag), *((hint.networks, hint.origin) for hint in hints if hint.kind is kind)]
    for networks, origin in sources:
        mine = collapse(n for n in networks if family_of(n) is family)
        if mine:
            return Cidrs(networks=mine, origin=origin)
    if family is Family.IPV4:
        return Cidrs(networks=(DEFAULTS[kind],), origin="default")
    return Cidrs()


def _node_exclusions(
    settings: Settings, nodes: Sequence[Node]
) -> tuple[tuple[Exclusion, ...], tuple[str, ...]]:
    if not settings.exclude_nodes:
        return (), ()
    counted = list(nodes)
    warnings: tuple[str, ...] = ()
    distinct = {ip for node in nodes for ip in node.internal_ips}
    if any(sum(family_of(ip) is family for ip in distinct) > MAX_NODES for family in Family):
        counted = [node for node in nodes if node.name == settings.this_node]
        warnings = (
            (
                f"more than {MAX_NODES} node addresses: only this node's own are excluded networks; "
                "name the nodes' networks with --exclude-cidr or egress_excludecidrs"
            ),
        )
    return (
        tuple(
            Exclusion(host_network(ip), ExclusionKind.NODE) for node in counted for ip in node.internal_ips
        ),
        warnings,
    )
