"""Clusters of many Services, as kubectl prints them: each Service with one pod, ten namespaces."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

Object = dict[str, Any]

_FIRST_POD = int(IPv4Address("10.0.0.2"))
_FIRST_VIP = int(IPv4Address("198.18.0.0"))
"""Of the network for benchmarks (RFC 2544)."""
EGRESS_POD = "10.0.0.2"
"""The pod of the first Service: the one that is measured."""
EGRESS_VIP = "192.168.0.245"


def pod_address(number: int) -> str:
    """Of the pod of a Service."""
    return str(IPv4Address(_FIRST_POD + number))


def vip(number: int) -> str:
    """Of a Service."""
    return EGRESS_VIP if number == 0 else str(IPv4Address(_FIRST_VIP + number))


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


def write(path: Path, *, services: int) -> Path:
    """All of it as one JSON list."""
    items = [each for number in range(services) for each in (service(number), pod(number))]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return path
