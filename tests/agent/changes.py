"""What can change in a cluster and in a node's addresses, as values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.agent.world import KINDS, VIPS, WORKER, Choose, Step, World, node
from tests.apiserver import Object

SERVICES = ("shop/alpha", "shop/beta", "shop/gamma", "bank/alpha")
PODS = ("shop/one", "shop/two", "shop/three", "bank/one", "bank/two")
# Fewer than pods: an address goes from one to another, be it of another tenant.
ADDRESSES = ("10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.2.1")
# The agent sees this node's pods alone: an address that two nodes' pods claim looks otherwise from afar.
_ELSEWHERE = "10.0.9.1"
LABELS: tuple[Mapping[str, str], ...] = ({"app": "a"}, {"app": "b"}, {"app": "a", "tier": "edge"})
SELECTORS: tuple[Mapping[str, str] | None, ...] = (
    {"app": "a"},
    {"app": "a"},
    {"app": "b"},
    {"tier": "edge"},
    None,
)
_PORTS = "kube-vip.io/egress-destination-ports"
_ALLOWED = "kube-vip.io/egress-allowed-networks"
_DENIED = "kube-vip.io/egress-denied-networks"
_WITHOUT = "kvctl.io/without-vip"
FAULTLESS: tuple[Mapping[str, str], ...] = (
    {},
    {_PORTS: "udp:5060"},
    {_PORTS: "tcp:80,tcp:443,udp:1-9"},
    {_ALLOWED: "203.0.113.0/24,2001:db8:99::/64"},
    {_ALLOWED: "198.51.100.0/24", _PORTS: "udp:5060", _DENIED: "198.51.100.9/32"},
    {_WITHOUT: "drop"},
    {_WITHOUT: "drop", _PORTS: "udp:5060"},
    {_WITHOUT: "node-address"},
)
BROKEN: tuple[Mapping[str, str], ...] = ({_PORTS: "udp:0"}, {_ALLOWED: "everywhere"}, {_WITHOUT: "perhaps"})
_CREATED = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z")


@dataclass(frozen=True)
class PutService:
    """A Service comes, or becomes another."""

    name: str
    vips: tuple[str, ...]
    selector: Mapping[str, str] | None
    annotations: Mapping[str, str]
    asks: bool
    policy: str
    created: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.name.partition("/")
        asked = {"kube-vip.io/egress": "true"} if self.asks else {}
        written = {**asked, **self.annotations}
        meta = {
            "namespace": namespace,
            "name": name,
            "annotations": written,
            "creationTimestamp": self.created,
        }
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": self.policy, "selector": self.selector}
        status = {"loadBalancer": {"ingress": [{"ip": vip} for vip in self.vips]}}
        world.server.put("services", {"metadata": meta, "spec": spec, "status": status})


@dataclass(frozen=True)
class PutPod:
    """A Pod comes, or becomes another: its address, labels, node, phase."""

    name: str
    address: str
    labels: Mapping[str, str]
    state: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.name.partition("/")
        last = self.address.rpartition("10.0.")[2].replace(".", ":")
        spec = {"nodeName": "elsewhere" if self.state == "elsewhere" else WORKER}
        meta: Object = {"namespace": namespace, "name": name, "labels": dict(self.labels)}
        if self.state == "deleting":
            meta["deletionTimestamp"] = "2026-02-01T00:00:00Z"
        phase = "Succeeded" if self.state == "finished" else "Running"
        several = [self.address, f"fd00:10::{last}"] if self.state != "bare" else []
        status = {"phase": phase, "podIPs": [{"ip": address} for address in several]}
        world.server.put("pods", {"metadata": meta, "spec": spec, "status": status})


@dataclass(frozen=True)
class PutSlice:
    """The endpoints of a Service without a selector are these."""

    service: str
    addresses: tuple[str, ...]

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.service.partition("/")
        meta = {
            "namespace": namespace,
            "name": name,
            "labels": {"kubernetes.io/service-name": name},
        }
        endpoints = [{"addresses": [address], "nodeName": WORKER} for address in self.addresses]
        value = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
        world.server.put("endpointslices", value)


@dataclass(frozen=True)
class PutNode:
    """A node has this address: pods' traffic to nodes is left alone."""

    name: str
    address: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        world.server.put("nodes", node(self.name, self.address))


@dataclass(frozen=True)
class Delete:
    """An object goes; `again`: and another of its name comes at once."""

    kind: str
    which: int
    again: bool

    def do(self, world: World) -> None:
        """As Step."""
        several = [o for o in world.server.objects(self.kind) if not _is_permanent(o)]
        if not several:
            return
        world.events += 1
        value = several[self.which % len(several)]
        meta = value["metadata"]
        world.server.delete(self.kind, meta["name"], namespace=meta.get("namespace", ""))
        if self.again:
            del meta["uid"]
            world.server.put(self.kind, value)


@dataclass(frozen=True)
class MoveVip:
    """An address comes to eth1, or leaves it."""

    vip: str
    here: bool

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        world.move(self.vip, here=self.here)


@dataclass(frozen=True)
class Wait:
    """Nothing happens for a while; so that the next comes in the middle of something."""

    seconds: float

    def do(self, world: World) -> None:
        """As Step."""
        time.sleep(self.seconds)


def _is_permanent(value: Object) -> bool:
    """Whether a soak's packets depend on it, or all rules do (this node)."""
    return value["metadata"]["name"] in (WORKER, "steady", "steady-0")


def change(choose: Choose) -> Step:
    """Some change of the cluster or of this node's addresses."""
    kind = choose(
        ("service", "service", "pod", "pod", "pod", "slice", "node", "delete", "vip", "vip", "vip", "wait")
    )
    match kind:
        case "service":
            return _service(choose)
        case "pod":
            states = ("running",) * 6 + ("elsewhere", "finished", "deleting", "bare")
            state = choose(states)
            return PutPod(
                choose(PODS), choose(ADDRESSES) if state != "elsewhere" else _ELSEWHERE, choose(LABELS), state
            )
        case "slice":
            return PutSlice(choose(SERVICES), choose(((), ADDRESSES[:1], ADDRESSES[:2], ADDRESSES[2:])))
        case "node":
            return PutNode(
                choose((WORKER, "elsewhere")), choose(("172.16.0.2", "172.16.0.3", "203.0.113.77"))
            )
        case "delete":
            return Delete(choose(KINDS[:3]), choose(range(4)), choose((False, True)))
        case "vip":
            return MoveVip(choose(VIPS), choose((False, True)))
    return Wait(choose((0.0, 0.01, 0.03, 0.1)))


def beginning(choose: Choose) -> list[Step]:
    """A node with work to do: all Services and Pods, and most VIPs here."""
    here: list[Step] = [MoveVip(vip, here=choose((True, True, True, False))) for vip in VIPS]
    places = zip(PODS, (*ADDRESSES, ADDRESSES[0]), strict=True)
    pods: list[Step] = [PutPod(name, address, choose(LABELS), "running") for name, address in places]
    return [*here, *pods, *(_service(choose, name) for name in SERVICES)]


def _service(choose: Choose, name: str | None = None) -> Step:
    one, other = choose(VIPS[:2]), choose(VIPS[2:])
    return PutService(
        name=choose(SERVICES) if name is None else name,
        vips=choose(((one, other), (one,), (other,), (one, other))),
        selector=choose(SELECTORS),
        annotations=choose((*FAULTLESS, *FAULTLESS, *BROKEN)),
        asks=choose((True, True, True, True, False)),
        policy=choose(("Local", "Local", "Local", "Cluster")),
        created=choose(_CREATED),
    )


def mend(world: World) -> None:
    """No fault is to come any more, and no Service says what cannot be read."""
    world.server.mend()
    for value in world.server.objects("services"):
        written = value["metadata"]["annotations"]
        if any(broken.items() <= written.items() for broken in BROKEN):
            value["metadata"]["annotations"] = {"kube-vip.io/egress": "true"}
            world.server.put("services", value)
