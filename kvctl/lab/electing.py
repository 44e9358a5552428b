"""The lab of the failover: workers with a pod each that nobody has given the VIP, and their objects in the API."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError
from kvctl.lab.api.kinds import Object
from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD, Pod, Topology, standard
from kvctl.model.net import Family

_WHO = STANDARD[Family.IPV4]
NAMESPACE, SERVICE = "sip", "sip-client"
LEASE = f"kubevip-{SERVICE}"
DURATION, _DEADLINE, RETRY = 3, 2, 1
_SETTINGS = {
    "svc_election": "true",
    "vip_leaseduration": str(DURATION),
    "vip_renewdeadline": str(_DEADLINE),
    "vip_retryperiod": str(RETRY),
    "egress_podcidr": _WHO.pod_network,
    "egress_servicecidr": _WHO.service_network,
    "egress_vipranges": "192.168.0.0/24",
    "egress_listen": "off",
    "egress_logformat": "text",
}


class Node(NamedTuple):
    """A worker and its pod."""

    name: str
    pod: str
    """The namespace of its pod, by which the outside's packets name it, too."""
    pod_address: str
    address: str
    """On the VIP's network."""


def topology_of(*, backend: str, workers: int) -> tuple[Topology, list[Node]]:
    """The standard lab with so many workers, a pod on each and the VIP on none."""
    names = ["worker", *(f"worker-{number}" for number in range(2, workers + 1))]
    # The standard lab has 10.0.0.1, and 10.0.0.2 beside it.
    pods = tuple(
        Pod(name=f"pod-{number}", worker=name, addresses=(f"10.0.0.{number + 1}",))
        for number, name in enumerate(names[1:], start=2)
    )
    topology = standard(backend=backend, workers=workers, pods=pods, vip_here=False)
    on = {"worker": ("pod", _WHO.pod), **{pod.worker: (pod.name, pod.addresses[0]) for pod in pods}}
    nodes = [
        Node(worker.name, *on[worker.name], worker.addresses["eth1"][0].partition("/")[0])
        for worker in topology.workers
    ]
    return topology, nodes


def objects_of(nodes: Sequence[Node]) -> Iterator[tuple[str, Object]]:
    """The Nodes, and the Pods on them."""
    for number, node in enumerate(nodes):
        yield "nodes", {"metadata": {"name": node.name}, "spec": {}, "status": {}}
        name = f"{SERVICE}-{number}"
        yield (
            "pods",
            {
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": SERVICE}},
                "spec": {"nodeName": node.name},
                "status": {
                    "phase": "Running",
                    "podIP": node.pod_address,
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            },
        )


def asking_service() -> Object:
    """It names its VIP by annotation, for the agents to place, and wants nothing to leave without it."""
    annotations = {
        "kube-vip.io/egress": "true",
        "kube-vip.io/loadbalancerIPs": _WHO.vip,
        "kvctl.io/without-vip": "drop",
    }
    return {
        "metadata": {"name": SERVICE, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app": SERVICE},
        },
    }


@contextmanager
def in_memory(text: str) -> Iterator[str]:
    """The path of a file with this text, which is nowhere and goes with this process."""
    file = os.memfd_create("kvctl-lab")
    try:
        os.write(file, text.encode("utf-8"))
        yield f"/proc/{os.getpid()}/fd/{file}"
    finally:
        os.close(file)


def require_root() -> None:
    """Raise NetfilterUnavailableError where agents could not write their heartbeats.

    The lists of xt_recent belong to the host's root, in every network namespace (the module's ip_list_uid, seen on
    kernel 6.18): root of a user namespace may not write them.
    """
    # user_namespaces(7): the first line tells who root is outside.
    with open("/proc/self/uid_map", encoding="ascii") as mapping:
        inside, outside, _ = mapping.readline().split()
    if os.geteuid() != 0 or (inside, outside) != ("0", "0"):
        raise NetfilterUnavailableError(
            "the failover cannot be shown without root: in a user namespace nobody may write to the lists of "
            "xt_recent, where agents that hold a VIP leave their heartbeats",
            hint="use sudo; kvctl lab demo, with one worker, needs no root",
        )


def start_agent(lab: Lab, node: Node, *, kubeconfig: str) -> proc.Running:
    """`kvctl egress watch --elect` on a node; the caller ends it."""
    flag = "--nftables" if lab.topology.backend == "nft" else "--no-nftables"
    return lab.start_kvctl(
        *("egress", "watch", "--elect", "--kubeconfig", kubeconfig, flag),
        at=node.name,
        env={**_SETTINGS, "NODE_NAME": node.name},
    )
