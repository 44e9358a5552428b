"""A lab as a value: workers, their pods, the outside and further hosts; the standard lab is this one:

                        pod 10.0.0.1      peer 10.0.0.2
                                  \\        /
                                   worker
                  172.16.0.2 eth0 /      \\ eth1 192.168.0.240, VIP 192.168.0.245
      server 172.16.0.20 --------+        |
                172.16.0.250 eth0 \\      / eth1 192.168.0.250
                                  outside

An interface called eth0 is plugged into the segment eth0; the outside holds the segments, as
bridges. Everything has an IPv6 address too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kvctl.model.net import Family

BACKENDS = ("nft", "legacy")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who is who in the standard lab, one address family."""

    pod: str
    peer: str
    pod_network: str
    service_network: str
    worker_eth0: str
    worker_eth1: str
    vip: str
    outside_eth0: str
    """Behind the worker's default route."""
    outside_eth1: str
    """In the VIP's own network."""
    server: str
    """A host of the node network, such as another node's host-network pod."""
    server_cluster_ip: str
    """The ClusterIP of `server`: its back end is outside the pod network."""
    peer_cluster_ip: str
    """The ClusterIP of `peer`."""


STANDARD: Mapping[Family, Addresses] = MappingProxyType(
    {
        Family.IPV4: Addresses(
            pod="10.0.0.1",
            peer="10.0.0.2",
            pod_network="10.0.0.0/16",
            service_network="10.96.0.0/12",
            worker_eth0="172.16.0.2",
            worker_eth1="192.168.0.240",
            vip="192.168.0.245",
            outside_eth0="172.16.0.250",
            outside_eth1="192.168.0.250",
            server="172.16.0.20",
            server_cluster_ip="10.96.0.10",
            peer_cluster_ip="10.96.0.11",
        ),
        Family.IPV6: Addresses(
            pod="fd00:10::1",
            peer="fd00:10::2",
            pod_network="fd00:10::/64",
            service_network="fd00:96::/112",
            worker_eth0="2001:db8::2",
            worker_eth1="2001:db8:1::240",
            vip="2001:db8:1::245",
            outside_eth0="2001:db8::250",
            outside_eth1="2001:db8:1::250",
            server="2001:db8::20",
            server_cluster_ip="fd00:96::10",
            peer_cluster_ip="fd00:96::11",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A wire that every interface of its name is plugged into."""

    name: str
    outside: tuple[str, ...]
    """The addresses of the outside on it, with prefix lengths."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A node: forwards, holds pods, masquerades what its pods send out of the pod networks."""

    name: str
    addresses: Mapping[str, tuple[str, ...]]
    """By interface, with prefix lengths; a VIP is a /32 or /128 among them."""
    gateways: tuple[str, ...] = ()
    """The next hops of the default routes, one a family."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A namespace on a worker; thousands of further addresses cost little and stand for as many pods."""

    name: str
    worker: str
    addresses: tuple[str, ...]
    """Without prefix lengths; the first of each family is what it sends from unasked."""


@dataclass(frozen=True, slots=True)
class Host:
    """A further host on a segment, which knows the way to the pods."""

    name: str
    segment: str
    addresses: tuple[str, ...]
    """With prefix lengths."""


@dataclass(frozen=True, slots=True)
class ClusterIp:
    """A ClusterIP, all protocols and ports, as kube-proxy's DNAT would have it on every worker."""

    address: str
    back_end: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything a lab consists of. The names of workers, pods and hosts differ; `outside` is taken."""

    workers: tuple[Worker, ...]
    pods: tuple[Pod, ...]
    segments: tuple[Segment, ...]
    hosts: tuple[Host, ...] = ()
    pod_networks: tuple[str, ...] = ()
    cluster_ips: tuple[ClusterIp, ...] = ()
    masquerade: bool = True
    backend: str = "nft"
    """Whose binaries write the masquerade and ClusterIP rules: one of BACKENDS."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all namespaces, the outside first."""
        workers, hosts, pods = self.workers, self.hosts, self.pods
        return ("outside", *(w.name for w in workers), *(h.name for h in hosts), *(p.name for p in pods))


def standard(
    *,
    backend: str = "nft",
    workers: int = 1,
    pods: tuple[Pod, ...] = (),
    masquerade: bool = True,
    vip_here: bool = True,
) -> Topology:
    """The lab of the picture above, with `pods` besides `pod` and `peer`, which are on `worker`.

    Further workers are called worker-2, worker-3, ... (172.16.0.3 and 192.168.0.239, and so on
    downwards). The first worker has the VIP unless `vip_here` is false.
    """
    v4, v6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
    return Topology(
        workers=tuple(_standard_worker(index, vip=vip_here and index == 0) for index in range(workers)),
        pods=(
            Pod(name="pod", worker="worker", addresses=(v4.pod, v6.pod)),
            Pod(name="peer", worker="worker", addresses=(v4.peer, v6.peer)),
            *pods,
        ),
        segments=(
            Segment(name="eth0", outside=(f"{v4.outside_eth0}/24", f"{v6.outside_eth0}/64")),
            Segment(name="eth1", outside=(f"{v4.outside_eth1}/24", f"{v6.outside_eth1}/64")),
        ),
        hosts=(Host(name="server", segment="eth0", addresses=(f"{v4.server}/24", f"{v6.server}/64")),),
        pod_networks=(v4.pod_network, v6.pod_network),
        cluster_ips=tuple(
            ClusterIp(address=address, back_end=back_end)
            for each in (v4, v6)
            for address, back_end in (
                (each.server_cluster_ip, each.server),
                (each.peer_cluster_ip, each.peer),
            )
        ),
        masquerade=masquerade,
        backend=backend,
    )


def _standard_worker(index: int, *, vip: bool) -> Worker:
    v4, v6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
    return Worker(
        name="worker" if index == 0 else f"worker-{index + 1}",
        addresses={
            "eth0": (f"172.16.0.{2 + index}/24", f"2001:db8::{2 + index}/64"),
            "eth1": (
                f"192.168.0.{240 - index}/24",
                f"2001:db8:1::{240 - index}/64",
                *((f"{v4.vip}/32", f"{v6.vip}/128") if vip else ()),
            ),
        },
        gateways=(v4.outside_eth0, v6.outside_eth0),
    )
