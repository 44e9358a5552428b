"""One raw object (JSON) -> the value kvctl keeps of it. Pure; problems go to the object's record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kvctl.cluster.cidr_hints import CONTROLLER_MANAGER, SYSTEM_NAMESPACE, Found, from_flags
from kvctl.cluster.fields import Field, is_label, is_subdomain
from kvctl.model.net import Address, Network
from kvctl.model.objects import Endpoint, Gate, Ingress, Node, Pod, Service
from kvctl.model.ref import ServiceRef

ANNOTATION_PREFIXES = ("kube-vip.io/", "kvctl.io/")
SERVICE_OF_SLICE = "kubernetes.io/service-name"
READINESS_GATE = "kube-vip.io/egress-enabled"


class Name(NamedTuple):
    """What an object is called; `namespace` is empty for kinds that have none."""

    namespace: str
    name: str


class PodView(NamedTuple):
    """A Pod and, if it runs kube-controller-manager, the ranges in its flags."""

    pod: Pod
    flags: Found | None = None


class EndpointsView(NamedTuple):
    """The endpoints of one EndpointSlice or Endpoints object, perhaps none."""

    service: ServiceRef
    endpoints: tuple[Endpoint, ...] = ()


class ServiceCidr(NamedTuple):
    """The ranges of a ServiceCIDR object."""

    networks: tuple[Network, ...]


class L2Status(NamedTuple):
    """Which node announces a Service's VIP, by MetalLB's own word."""

    service: ServiceRef
    node: str


View = Service | PodView | EndpointsView | Node | ServiceCidr | L2Status


def service(root: Field, name: Name) -> Service:
    """A Service; addresses and annotations stay the text that somebody wrote."""
    meta, spec = root.at("metadata"), root.at("spec")
    addresses = spec.at("clusterIPs").texts() or tuple(filter(None, [spec.at("clusterIP").text()]))
    ingress = []
    for entry in root.at("status", "loadBalancer", "ingress").entries():
        ip, ip_mode = entry.at("ip").text(), entry.at("ipMode").text()
        if ip is not None:
            ingress.append(Ingress(ip=ip, ip_mode=ip_mode))
    return Service(
        ref=ServiceRef(name.namespace, name.name),
        type=spec.at("type").word(default="ClusterIP"),
        external_traffic_policy=spec.at("externalTrafficPolicy").word(default="Cluster"),
        created=meta.at("creationTimestamp").seconds(),
        selector=spec.at("selector").text_map(),
        annotations=meta.at("annotations").text_map(prefixes=ANNOTATION_PREFIXES),
        ingress=tuple(ingress),
        load_balancer_ip=spec.at("loadBalancerIP").text(),
        cluster_ips=tuple(address for address in addresses if address != "None"),
        uid=meta.at("uid").text() or "",
        load_balancer_class=spec.at("loadBalancerClass").text() or "",
        status_managers=_status_managers(meta),
    )


def _status_managers(meta: Field) -> tuple[str, ...]:
    """Of the object's field managers those of the subresource `status`."""
    of_status = (e for e in meta.at("managedFields").entries() if e.at("subresource").text() == "status")
    return tuple(dict.fromkeys(name for e in of_status if (name := e.at("manager").text())))


def pod(root: Field, name: Name) -> PodView:
    """A Pod; one of kube-controller-manager in kube-system also for its flags."""
    meta, spec, status = root.at("metadata"), root.at("spec"), root.at("status")
    addresses = _present(entry.at("ip").address() for entry in status.at("podIPs").entries())
    return PodView(
        Pod(
            namespace=name.namespace,
            name=name.name,
            created=meta.at("creationTimestamp").seconds(),
            deleting=meta.at("deletionTimestamp").text() is not None,
            finished=status.at("phase").word(default="Unknown") in ("Succeeded", "Failed"),
            host_network=spec.at("hostNetwork").flag(),
            node=spec.at("nodeName").subdomain(),
            addresses=addresses or _present([status.at("podIP").address()]),
            labels=meta.at("labels").text_map(),
            uid=meta.at("uid").text() or "",
            gate=_gate(spec, status),
            ready=any(
                condition.at("type").text() == "Ready" and condition.at("status").text() == "True"
                for condition in status.at("conditions").entries()
            ),
        ),
        # Anybody may name a container so in a namespace of their own; kube-system is the admin's.
        _controller_manager_flags(spec, name) if name.namespace == SYSTEM_NAMESPACE else None,
    )


def _gate(spec: Field, status: Field) -> Gate | None:
    """The readiness gate of ours with its condition so far; None: the Pod does not declare it."""
    if not any(g.at("conditionType").text() == READINESS_GATE for g in spec.at("readinessGates").entries()):
        return None
    for condition in status.at("conditions").entries():
        if condition.at("type").text() == READINESS_GATE:
            return Gate(
                status=condition.at("status").text(),
                reason=condition.at("reason").text() or "",
                message=condition.at("message").text() or "",
            )
    return Gate()


def _controller_manager_flags(spec: Field, name: Name) -> Found | None:
    for container in spec.at("containers").entries():
        words = (*container.at("command").texts(), *container.at("args").texts())
        program = words[0].rpartition("/")[2] if words else ""
        if CONTROLLER_MANAGER in (program, container.at("name").text()):
            return from_flags(words, pod=f"{name.namespace}/{name.name}")
    return None


def endpoint_slice(root: Field, name: Name) -> EndpointsView | None:
    """An EndpointSlice with its Service by label; None if it is no Service's, or holds host names."""
    labels = root.at("metadata", "labels").text_map(prefixes=(SERVICE_OF_SLICE,))
    owner = labels.get(SERVICE_OF_SLICE, "")
    # A label may hold what no Service is called, and it takes no right over a Service to write one.
    if not is_label(owner) or root.at("addressType").text() == "FQDN":
        return None
    ref = ServiceRef(name.namespace, owner)
    endpoints = []
    for entry in root.at("endpoints").entries():
        node, target = entry.at("nodeName").subdomain(), _target_pod(entry, namespace=name.namespace)
        endpoints += [
            Endpoint(service=ref, address=address, pod=target, node=node)
            for address in _present(place.address() for place in entry.at("addresses").entries())
        ]
    return EndpointsView(ref, tuple(endpoints))


def endpoints(root: Field, name: Name) -> EndpointsView | None:
    """An Endpoints object, ready or not; None if its name cannot be a Service's."""
    if not is_label(name.name):
        return None
    ref = ServiceRef(name.namespace, name.name)
    found = []
    for subset in root.at("subsets").entries():
        for entry in (*subset.at("addresses").entries(), *subset.at("notReadyAddresses").entries()):
            address, node = entry.at("ip").address(), entry.at("nodeName").subdomain()
            target = _target_pod(entry, namespace=name.namespace)
            if address is not None:
                found.append(Endpoint(service=ref, address=address, pod=target, node=node))
    return EndpointsView(ref, tuple(found))


def _target_pod(entry: Field, *, namespace: str) -> str | None:
    """The pod an endpoint says it is. The API server does not check this text: what is no name is none."""
    target = entry.at("targetRef")
    kind, name = target.at("kind").text(), target.at("name").text()
    elsewhere = (target.at("namespace").text() or namespace) != namespace
    if kind != "Pod" or name is None or elsewhere or not is_subdomain(name):
        return None
    return name


def node(root: Field, name: Name) -> Node:
    """A Node with its InternalIPs and its part of the pod range."""
    spec = root.at("spec")
    internal: list[Address] = []
    for entry in root.at("status", "addresses").entries():
        if entry.at("type").text() == "InternalIP":
            internal += _present([entry.at("address").address()])
    networks = [entry.network() for entry in spec.at("podCIDRs").entries()] or [spec.at("podCIDR").network()]
    return Node(
        name=name.name,
        internal_ips=tuple(internal),
        pod_cidrs=tuple(network for network in networks if network is not None),
        cordoned=spec.at("unschedulable").flag(),
    )


def service_cidr(root: Field, name: Name) -> ServiceCidr:
    """A ServiceCIDR (networking.k8s.io)."""
    networks = [entry.network() for entry in root.at("spec", "cidrs").entries()]
    return ServiceCidr(tuple(network for network in networks if network is not None))


def l2_status(root: Field, name: Name) -> L2Status | None:
    """A ServiceL2Status; None while MetalLB has not filled it. Its own namespace is the speaker's."""
    status = root.at("status")
    service, namespace = status.at("serviceName").text(), status.at("serviceNamespace").text()
    node = status.at("node").subdomain()
    if node is None or not is_label(service or "") or not is_label(namespace or ""):
        return None
    return L2Status(ServiceRef(str(namespace), str(service)), node)


def _present(addresses: Iterable[Address | None]) -> tuple[Address, ...]:
    return tuple(address for address in addresses if address is not None)
