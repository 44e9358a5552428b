"""The pod and service CIDRs in effect against what this host, and the source if one was named, shows of them.

The defaults fit few clusters, and a pod or a ClusterIP outside of them is never rewritten, for safety.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_interface
from typing import NamedTuple

from kvctl.doctor.finding import Finding, Level, fine, unknown, warning
from kvctl.doctor.scene import Scene
from kvctl.model.host import Host, HostAddress
from kvctl.model.net import (
    Address,
    Family,
    Network,
    collapse,
    family_of,
    host_network,
    overlap,
    parse_address,
    within,
)
from kvctl.model.objects import CidrKind
from kvctl.model.policy import ExclusionKind
from kvctl.netfilter.kernel import Reading
from kvctl.policy.cidrs import Cidrs, cluster_networks

CHECK = "ranges"
# Interfaces that CNI plugins make: bridge, flannel, Calico, Cilium, Weave, kube-router, Antrea, AWS, Azure.
_OF_PODS = re.compile(
    r"cni\d|cbr\d|flannel|cali[0-9a-f]|vxlan\.calico|tunl\d|cilium_|lxc[0-9a-f]|weave|kube-bridge|antrea-gw|eni[0-9a-f]{5}|azv"
)
# kube-proxy (pkg/proxy/iptables): the rules of KUBE-SERVICES that are about ClusterIPs say so.
_CLUSTER_IP = re.compile(r'-d (?P<address>[0-9a-f.:]+)/(?:32|128) .*--comment "[^"]* cluster IP"')
_MOST_NAMED = 3
_FLAGS = {
    CidrKind.POD: ("--pod-cidr", "egress_podcidr"),
    CidrKind.SERVICE: ("--service-cidr", "egress_servicecidr"),
}


class Evidence(NamedTuple):
    """A network that holds pods or ClusterIPs, and where that was read."""

    network: Network
    where: str


def known_networks(scene: Scene) -> dict[CidrKind, dict[Family, Cidrs]]:
    """The ranges in effect: told, else what the source names, else as rules of ours have them, else guessed."""
    objects = scene.objects
    found = cluster_networks(
        scene.settings,
        hints=objects.cidr_hints if objects is not None else (),
        nodes=objects.nodes if objects is not None else (),
    )
    return {
        kind: {family: _from_rules(scene, kind, family) or cidrs for family, cidrs in by_family.items()}
        if objects is None
        else by_family
        for kind, by_family in ((CidrKind.POD, found.pod), (CidrKind.SERVICE, found.service))
    }


def _from_rules(scene: Scene, kind: CidrKind, family: Family) -> Cidrs | None:
    """What rules in the kernel were written with: an agent has settings, or a cluster, that this command has not."""
    told = scene.settings.pod_cidrs if kind is CidrKind.POD else scene.settings.service_cidrs
    site = scene.look.sites.get(family) if scene.look is not None else None
    if site is None or any(family_of(network) is family for network in told):
        return None
    excluded = ExclusionKind.POD if kind is CidrKind.POD else ExclusionKind.SERVICE
    networks = tuple(each.network for each in site.installed.exclusions if each.kind is excluded)
    return Cidrs(networks, "as kvctl's rules have it") if networks else None


def check(scene: Scene) -> Iterator[Finding]:
    """Pods' and Services' ranges, of each family."""
    known = known_networks(scene)
    seen = {
        CidrKind.POD: [*_pods_of_host(scene.host), *_pods_of_source(scene)],
        CidrKind.SERVICE: [*_cluster_ips(scene.reading), *_environment(os.environ), *_services(scene)],
    }
    for kind, evidence in seen.items():
        for family in Family:
            mine = [each for each in evidence if family_of(each.network) is family]
            finding = _compare(kind, family, known[kind][family], mine, has_agent=scene.agent is not None)
            if finding is not None:
                yield finding
            yield from _own_networks(kind, known[kind][family], scene.host)
    for family in Family:
        yield from _strangers(scene, family)


def _compare(
    kind: CidrKind, family: Family, cidrs: Cidrs, evidence: list[Evidence], *, has_agent: bool
) -> Finding | None:
    flag, variable = _FLAGS[kind]
    mend = f"set {variable} (or {flag}) to the whole {kind} network of the cluster"
    outside = [each for each in evidence if not within(each.network, cidrs.networks)]
    seen = _named(outside or evidence)
    if outside:
        networks = ", ".join(map(str, collapse(each.network for each in outside)[:_MOST_NAMED]))
        what = "pods are" if kind is CidrKind.POD else "ClusterIPs are"
        if not cidrs.networks:
            text = (
                f"{what} in {networks}, and the {family} {kind} CIDR is not known: nothing is rewritten there"
            )
            return warning(CHECK, text, evidence=seen, mend=mend)
        text = f"{what} in {networks}, outside the {kind} CIDR {cidrs}: such Services are skipped"
        # An agent has asked its cluster, or has been told; where it has rules already they tell.
        level = Level.WARNING if has_agent and cidrs.origin == "default" else Level.FAILURE
        return Finding(CHECK, level, text, seen, mend)
    if evidence:
        return fine(CHECK, f"the {kind} CIDR {cidrs} fits this host", evidence=seen)
    if cidrs.origin == "default":
        text = f"the {kind} CIDR {cidrs} is a guess: nothing here tells whether it is right"
        return unknown(CHECK, text, mend=f"kvctl doctor --cluster, or {mend}")
    return fine(CHECK, f"the {kind} CIDR is {cidrs}") if cidrs.networks else None


def _named(evidence: list[Evidence]) -> str:
    told = [f"{each.network} ({each.where})" for each in evidence[:_MOST_NAMED]]
    more = len(evidence) - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _pods_of_host(host: Host) -> Iterator[Evidence]:
    """Routes into interfaces that only CNI plugins make."""
    for route in host.routes:
        network = route.network
        if route.interface is None or not network.prefixlen or network.is_link_local or network.is_multicast:
            continue
        if _OF_PODS.match(route.interface):
            yield Evidence(network, f"route by {route.interface}")


def _pods_of_source(scene: Scene) -> Iterator[Evidence]:
    if scene.objects is None:
        return
    for node in scene.objects.nodes:
        if node.name == scene.settings.this_node:
            yield from (Evidence(network, f"podCIDRs of Node {node.name}") for network in node.pod_cidrs)
    for pod in scene.objects.pods:
        if pod.node in (None, scene.settings.this_node) and not pod.host_network:
            where = f"pod {pod.namespace}/{pod.name}"
            yield from (Evidence(host_network(address), where) for address in pod.addresses)


def _cluster_ips(reading: Reading) -> Iterator[Evidence]:
    """What kube-proxy has rules for."""
    for saved in reading.tables.values():
        for _, text in saved.chain("nat", "KUBE-SERVICES"):
            match = _CLUSTER_IP.search(text)
            address = _address(match["address"]) if match is not None else None
            if address is not None:
                yield Evidence(host_network(address), "a rule of kube-proxy's")


def _environment(environment: Mapping[str, str]) -> Iterator[Evidence]:
    address = _address(environment.get("KUBERNETES_SERVICE_HOST", ""))
    if address is not None:
        yield Evidence(host_network(address), "KUBERNETES_SERVICE_HOST")


def _services(scene: Scene) -> Iterator[Evidence]:
    for service in scene.objects.services if scene.objects is not None else ():
        for address in filter(None, map(_address, service.cluster_ips)):
            yield Evidence(host_network(address), f"Service {service.ref}")


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _strangers(scene: Scene, family: Family) -> Iterator[Finding]:
    """Pod ranges of rules that nothing else here knows while another is known: written with a wrong --pod-cidr once."""
    cidrs = _from_rules(scene, CidrKind.POD, family)
    # An agent, or a source, knows of other nodes' ranges, to which this one may have no route of its own.
    if cidrs is None or scene.agent is not None or scene.objects is not None:
        return
    here = [
        *(route.network for route in scene.host.routes if route.network.prefixlen),
        *map(network_of, scene.host.addresses),
    ]
    unknown_here = [n for n in cidrs.networks if not any(overlap(n, each) for each in here)]
    if unknown_here and len(unknown_here) < len(cidrs.networks):
        named = ", ".join(map(str, unknown_here[:_MOST_NAMED]))
        text = (
            f"kvctl's rules take {named} for pods, where no route or address of this host is: what pods send there "
            "is never rewritten"
        )
        seen = f"the pod CIDR {cidrs}; the routes and addresses of this host"
        mend = (
            "if that is not the cluster's: kvctl egress flush --all, then "
            f"{scene.apply()} with the right --pod-cidr or egress_podcidr"
        )
        yield warning(CHECK, text, evidence=seen, mend=mend)


def _own_networks(kind: CidrKind, cidrs: Cidrs, host: Host) -> Iterator[Finding]:
    """A guess that holds the network by which this host talks to the outside hides the outside from egress."""
    if cidrs.origin != "default":
        return
    ways_out = {route.interface for route in host.routes if not route.network.prefixlen}
    for entry in host.addresses:
        if (
            entry.interface not in ways_out
            or not entry.serves
            or entry.prefix_length == entry.address.max_prefixlen
        ):
            continue
        network = network_of(entry)
        if any(overlap(network, each) for each in cidrs.networks):
            flag, variable = _FLAGS[kind]
            text = (
                f"the {kind} CIDR {cidrs} takes in {network}, this host's own network on {entry.interface}: "
                "traffic to it is never rewritten"
            )
            mend = f"if these are not the cluster's: set {variable} (or {flag})"
            yield warning(CHECK, text, evidence=f"{entry.address} on {entry.interface}", mend=mend)
            return


def network_of(entry: HostAddress) -> Network:
    """The network that an address of this host is in."""
    return ip_interface(f"{entry.address}/{entry.prefix_length}").network
