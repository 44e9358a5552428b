"""A host in a network namespace on which egress can work, to be broken by a test."""

from __future__ import annotations

from dataclasses import replace

from kvctl.doctor.examine import Examination, examine
from kvctl.doctor.finding import Finding, Level, verdict
from kvctl.doctor.scene import read_scene
from kvctl.lab.netns import Namespace
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile.leading import lead
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, pod, service, settings
from tests.robustness.node import Node

VIP, VIP6 = "198.51.100.245", "2001:db8::245"
POD = "10.244.1.5"
TOLD = settings(pod_cidrs=("10.244.0.0/16", "fd00:244::/56"), service_cidrs=("10.96.0.0/12", "fd00:96::/108"))
"""The ranges that the host really has."""
WANTED = objects(service(vip=VIP), pod("sip/sip-client-0", POD))


def prepare(namespace: Namespace) -> None:
    """eth0 leads out, eth1 has the VIP, cni0 leads to the pods."""
    namespace.batch(
        [
            "link add eth0 type veth peer name far0",
            "link add eth1 type veth peer name far1",
            "link add cni0 type bridge",
            *(f"link set {name} up" for name in ("eth0", "far0", "eth1", "far1", "cni0")),
            "addr add 192.0.2.10/24 dev eth0",
            "addr add 198.51.100.10/24 dev eth1",
            f"addr add {VIP}/32 dev eth1",
            "addr add 10.244.1.1/24 dev cni0",
            "route add default via 192.0.2.1",
        ]
    )
    namespace.write_sysctls(
        {
            "ipv4/ip_forward": "1",
            "ipv6/conf/all/forwarding": "1",
            "ipv4/conf/all/rp_filter": "0",
            "ipv4/conf/eth1/rp_filter": "0",
            "ipv4/conf/eth1/arp_announce": "2",
            "bridge/bridge-nf-call-iptables": "1",
        }
    )


def look_at(
    node: Node,
    *,
    told: Settings = TOLD,
    backend: bool | None = None,
    source: Objects | None = None,
    agent: str | None = None,
    again: str = "-f FILE",
) -> Examination:
    """What doctor finds on this host."""
    with node.namespace.entered():
        scene = read_scene(
            settings=told, told=backend, objects=source, agent=agent, wish=_wish(source, told), again=again
        )
        return examine(scene)


def _wish(source: Objects | None, told: Settings) -> Wish | None:
    if source is None:
        return None
    host = read_host()
    resolution = lead(resolve(source, told, host=host), host=host).resolution
    return Wish(resolution=resolution, scope=Scope(), settings=told, host=host)


def said(found: Examination) -> str:
    """The first line."""
    return verdict(found.findings)


def of_level(found: Examination, *levels: Level) -> list[Finding]:
    """The findings of these levels."""
    return [each for each in found.findings if each.level in levels]


def elsewhere(node: Node) -> Node:
    """The same host, by the other back end."""
    return replace(node, backend="legacy" if node.backend == "nft" else "nft")
