"""Objects for tests, made of the few words that matter to the test; the rest is a Service that works."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvctl.model.net import Network, parse_address, parse_network
from kvctl.model.objects import CidrHint, Endpoint, Ingress, Node, Objects, Pod, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings

Thing = Service | Pod | Endpoint | Node | CidrHint
"""What `objects` takes."""

EGRESS = {"kube-vip.io/egress": "true"}


def ref(text: str) -> ServiceRef:
    """`namespace/name`."""
    namespace, _, name = text.partition("/")
    return ServiceRef(namespace, name)


def networks(*texts: str) -> tuple[Network, ...]:
    """Networks in CIDR notation."""
    return tuple(map(parse_network, texts))


def service(
    name: str = "sip/sip-client",
    *,
    vip: str | Iterable[str] | None = "192.168.0.245",
    annotations: Mapping[str, str] | None = None,
    ports: str | None = None,
    allowed: str | None = None,
    denied: str | None = None,
    selector: Mapping[str, str] | None = None,
    type: str = "LoadBalancer",  # noqa: A002
    policy: str = "Local",
    created: int = 1_700_000_000,
    cluster_ips: Iterable[str] = (),
    spec_ip: str | None = None,
    egress: bool = True,
) -> Service:
    """A Service that asks for egress; `vip` (one or several) stands in its status.

    The selector is `app: NAME`, that of `pod` with `app=NAME`; `{}` for none.
    """
    its_ref = ref(name)
    vips = (vip,) if isinstance(vip, str) else tuple(vip or ())
    written = {
        **(EGRESS if egress else {}),
        **({"kube-vip.io/egress-destination-ports": ports} if ports is not None else {}),
        **({"kube-vip.io/egress-allowed-networks": allowed} if allowed is not None else {}),
        **({"kube-vip.io/egress-denied-networks": denied} if denied is not None else {}),
        **(annotations or {}),
    }
    return Service(
        ref=its_ref,
        type=type,
        external_traffic_policy=policy,
        created=created,
        selector={"app": its_ref.name} if selector is None else selector,
        annotations=written,
        ingress=tuple(Ingress(address) for address in vips),
        load_balancer_ip=spec_ip,
        cluster_ips=tuple(cluster_ips),
    )


def pod(
    name: str = "sip/sip-client-0",
    *addresses: str,
    app: str | None = None,
    labels: Mapping[str, str] | None = None,
    created: int = 1_700_000_000,
    deleting: bool = False,
    finished: bool = False,
    host_network: bool = False,
    node: str | None = "worker",
) -> Pod:
    """A pod at 10.0.0.1 or `addresses`; labelled `app: APP`, else by its name without the last `-…`."""
    its_ref = ref(name)
    its_app = app if app is not None else its_ref.name.rpartition("-")[0]
    return Pod(
        namespace=its_ref.namespace,
        name=its_ref.name,
        created=created,
        deleting=deleting,
        finished=finished,
        host_network=host_network,
        node=node,
        addresses=tuple(map(parse_address, addresses or ("10.0.0.1",))),
        labels={"app": its_app, **(labels or {})},
    )


def endpoint(
    service_name: str, address: str, *, pod_name: str | None = None, node: str | None = None
) -> Endpoint:
    """One address of an EndpointSlice of a Service."""
    return Endpoint(service=ref(service_name), address=parse_address(address), pod=pod_name, node=node)


def node(name: str, *addresses: str, pod_cidrs: Iterable[str] = ()) -> Node:
    """A Node with its InternalIPs."""
    return Node(
        name=name,
        internal_ips=tuple(map(parse_address, addresses)),
        pod_cidrs=tuple(map(parse_network, pod_cidrs)),
    )


def objects(*things: Thing, from_api: bool = False) -> Objects:
    """Everything read from one source, in any order."""
    return Objects(
        services=tuple(thing for thing in things if isinstance(thing, Service)),
        pods=tuple(thing for thing in things if isinstance(thing, Pod)),
        endpoints=tuple(thing for thing in things if isinstance(thing, Endpoint)),
        nodes=tuple(thing for thing in things if isinstance(thing, Node)),
        cidr_hints=tuple(thing for thing in things if isinstance(thing, CidrHint)),
        from_api=from_api,
    )


def settings(
    *,
    pod_cidrs: Iterable[str] = (),
    service_cidrs: Iterable[str] = (),
    exclude_cidrs: Iterable[str] = (),
    vip_ranges: Iterable[str] = (),
    exclude_nodes: bool = True,
    node: str | None = None,
    this_node: str | None = "worker",
    assume_vip: bool = False,
    interface: str | None = None,
) -> Settings:
    """Settings with networks as text."""
    return Settings(
        pod_cidrs=networks(*pod_cidrs),
        service_cidrs=networks(*service_cidrs),
        exclude_cidrs=networks(*exclude_cidrs),
        exclude_nodes=exclude_nodes,
        vip_ranges=networks(*vip_ranges),
        node=node,
        this_node=this_node,
        assume_vip=assume_vip,
        interface=interface,
    )


DUAL_STACK = settings(
    pod_cidrs=("10.0.0.0/16", "fd00:10::/48"), service_cidrs=("10.96.0.0/12", "fd00:96::/108")
)
"""Settings that know the ranges of both families."""
