"""Objects and patience for tests of watches: quick, but with every delay still there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.pace import Pace
from tests.apiserver import ApiServer

QUICK = Pace(
    first_delay=0.01,
    longest_delay=0.04,
    healthy_after=5.0,
    answer=0.5,
    silence=0.8,
    at_once=0.05,
    ask_again=0.05,
    absent=0.05,
)
EGRESS = {"kube-vip.io/egress": "true"}


class Marks:
    """Counts notifications."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def __call__(self) -> None:
        with self._lock:
            self.count += 1


def connect(server: ApiServer, tmp_path: Path) -> Connection:
    """A connection to the server."""
    return open_connection(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), context=None)


def service(name: str, *, egress: bool = True, **spec: Any) -> dict[str, Any]:
    """A Service of namespace `sip`."""
    meta = {"name": name, "namespace": "sip", "annotations": dict(EGRESS) if egress else {}}
    kind = "LoadBalancer" if egress else "ClusterIP"
    return {"metadata": meta, "spec": {"type": kind, "selector": {"app": name}, **spec}}


def pod(name: str, *, ip: str = "10.0.0.1", node: str = "n1", **spec: Any) -> dict[str, Any]:
    """A Pod of namespace `sip`."""
    return {
        "metadata": {"name": name, "namespace": "sip", "labels": {"app": name}},
        "spec": {"nodeName": node, **spec},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    }


def node(name: str, ip: str = "192.168.0.1") -> dict[str, Any]:
    """A Node."""
    return {
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }


def endpoint_slice(owner: str, *ips: str, name: str | None = None) -> dict[str, Any]:
    """An EndpointSlice of a Service of namespace `sip`."""
    labels = {"kubernetes.io/service-name": owner}
    return {
        "metadata": {"name": name or f"{owner}-1", "namespace": "sip", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]} for ip in ips],
    }
