"""What kvctl keeps of a cluster's objects: the few fields it needs, checked, immutable.

Made by `cluster/` from manifests or the API, read by `policy/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from kvctl.errors import InputError
from kvctl.model.net import Address, Network
from kvctl.model.ref import ServiceRef


class Ingress(NamedTuple):
    """An entry of `status.loadBalancer.ingress` that has an `ip`; the text as written."""

    ip: str
    ip_mode: str | None = None


class Service(NamedTuple):
    """A Service; text that a tenant wrote (annotations, addresses) is still unparsed here."""

    ref: ServiceRef
    type: str = "ClusterIP"
    external_traffic_policy: str = "Cluster"
    created: int = 0
    """creationTimestamp in seconds since the epoch; 0: unknown."""
    selector: Mapping[str, str] = MappingProxyType({})
    """Empty: the Service has no selector."""
    annotations: Mapping[str, str] = MappingProxyType({})
    """Only those of `kube-vip.io/` and `kvctl.io/`."""
    ingress: tuple[Ingress, ...] = ()
    load_balancer_ip: str | None = None
    cluster_ips: tuple[str, ...] = ()
    """Without `None` and empty ones."""
    uid: str = ""
    """Empty: unknown."""
    load_balancer_class: str = ""
    """Empty: none."""
    status_managers: tuple[str, ...] = ()
    """Who has written `status`, by metadata.managedFields: a program names itself there."""


class Gate(NamedTuple):
    """A Pod's readiness gate `kube-vip.io/egress-enabled`, and the condition that is set so far."""

    status: str | None = None
    """`True`, `False` or `Unknown`; None: nobody has set the condition."""
    reason: str = ""
    message: str = ""


class Pod(NamedTuple):
    """A Pod with its addresses."""

    namespace: str
    name: str
    created: int = 0
    deleting: bool = False
    """It has a deletionTimestamp."""
    finished: bool = False
    """Its phase is Succeeded or Failed: its address may belong to another by now."""
    host_network: bool = False
    node: str | None = None
    addresses: tuple[Address, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})
    uid: str = ""
    """Empty: unknown."""
    gate: Gate | None = None
    """None: it does not wait for egress."""
    ready: bool = False
    """Its condition Ready is True."""


class Endpoint(NamedTuple):
    """One address of an EndpointSlice (or Endpoints) of a Service."""

    service: ServiceRef
    address: Address
    pod: str | None = None
    """The name in its targetRef of kind Pod."""
    node: str | None = None


class Node(NamedTuple):
    """A Node with its InternalIPs."""

    name: str
    internal_ips: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()
    cordoned: bool = False
    """`spec.unschedulable`: it is being drained, or is about to be."""


class CidrKind(StrEnum):
    """What a discovered range is for."""

    POD = "pod"
    SERVICE = "service"


class CidrHint(NamedTuple):
    """Ranges that the cluster itself names, and where they were read, in words for a message."""

    kind: CidrKind
    networks: tuple[Network, ...]
    origin: str


class Objects(NamedTuple):
    """Everything read from one source."""

    services: tuple[Service, ...] = ()
    pods: tuple[Pod, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    nodes: tuple[Node, ...] = ()
    cidr_hints: tuple[CidrHint, ...] = ()
    """Best evidence first: ServiceCIDR objects, controller-manager flags, kubeadm-config, Node.spec.podCIDRs."""
    errors: tuple[InputError, ...] = ()
    """Objects that were left out because they are malformed; the rest is still good."""
    broken: frozenset[ServiceRef] = frozenset()
    """Services among the objects left out: there, but nobody knows what they ask for."""
    unidentified: bool = False
    """Something that may have been a Service could not be told by name: then nothing is known to be absent."""
    nodes_known: bool = False
    """Every Node there is was listed: one that is not among them, or none at all, is told and not just unread."""
    endpoints_known: bool = True
    """False: EndpointSlices could not be read, so what Services without a selector lead to is not known."""
    warnings: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    """Some of the kinds that nothing is read of, in words that are safe to print: for messages, nothing follows."""
    from_api: bool = False
    """Read through the API, where annotations and spec are a tenant's word."""
    announced: Mapping[ServiceRef, frozenset[str]] = MappingProxyType({})
    """The nodes that announce a Service's VIP by their load balancer's own word (MetalLB's ServiceL2Status)."""
