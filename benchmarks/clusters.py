"""Clusters of many Services, as kubectl prints them: each Service with one pod, ten namespaces."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

EGRESS_POD = "10.0.73.36"
"""The pod of the first Service: the one that is measured. The other Services' are on both sides of it.

Where a tree parts addresses by three bits it is the fifth of eight: by no power of two is it among the first.
"""
BYSTANDER = "10.0.73.35"
"""A pod of no Service, among them as any other pod of a node is: they have every second address, not this one."""
EGRESS_VIP = "192.168.0.245"
_FIRST_VIP = int(IPv4Address("198.18.0.0"))
"""Of the network for benchmarks (RFC 2544)."""


def pod_address(number: int) -> str:
    """Of the pod of a Service: the even addresses round the first Service's, above and below in turn."""
    steps = (number + 1) // 2 * (1 if number % 2 else -1)
    return str(IPv4Address(EGRESS_POD) + 2 * steps)


def vip(number: int) -> str:
    """Of a Service."""
    return EGRESS_VIP if number == 0 else str(IPv4Address(_FIRST_VIP + number))


def name(number: int) -> str:
    """`NAMESPACE/NAME` of a Service."""
    return f"ns{number % 10}/s{number}"


def service(number: int) -> Object:
    """A Service that asks for egress on one port; the first one for all traffic."""
    annotations = {"kube-vip.io/egress": "true"}
    if number:
        annotations["kube-vip.io/egress-destination-ports"] = "udp:5060,tcp:8080"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": f"ns{number % 10}", "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app": f"s{number}"},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip(number)}]}},
    }


def pod(number: int, *, node: str = "worker", address: str | None = None) -> Object:
    """The pod of a Service."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"s{number}-0",
            "namespace": f"ns{number % 10}",
            "labels": {"app": f"s{number}"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "it", "image": "it"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address or pod_address(number)}]},
    }


def write(path: Path, *, services: int, moved: bool = False) -> Path:
    """All of it as one list, JSON or, by the name of the file, YAML; `moved`: the first pod at BYSTANDER instead."""
    items = [each for number in range(services) for each in (service(number), pod(number))]
    if moved:
        items[1] = pod(0, address=BYSTANDER)
    told = {"apiVersion": "v1", "kind": "List", "items": items}
    if path.suffix == ".yaml":
        path.write_text(yaml.dump(told, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    else:
        path.write_text(json.dumps(told))
    return path
