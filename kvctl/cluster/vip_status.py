"""What the holder of a VIP writes into its Service: the address, and its own name.

`status` by the subresource, so that `patch` of services/status and of services is all it takes; the field
manager is `kvctl`, by which every node knows that it is kvctl that manages the address.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from kvctl.cluster.events import Sender
from kvctl.cluster.failures import RefusedError
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef

MANAGER = "kvctl"
_VIP_HOST = "kube-vip.io/vipHost"
_TIMEOUT = 10.0
_MERGE = "application/merge-patch+json"


class Client(Sender, Protocol):
    """What is needed of a connection that also reads."""

    def get(self, path: str, *, timeout: float) -> Mapping[str, Any]:
        """The object at `path`; raises RefusedError for a status but 200, else ClusterError."""


def write_status(connection: Sender, ref: ServiceRef, vips: Collection[Address]) -> None:
    """Make these addresses the Service's. Raises ClusterError."""
    body = {"status": {"loadBalancer": {"ingress": [{"ip": str(vip)} for vip in vips]}}}
    connection.send("PATCH", _path(ref, "/status"), body, content_type=_MERGE, timeout=_TIMEOUT)


def write_holder(connection: Sender, ref: ServiceRef, node: str) -> None:
    """Name this node as the holder. Raises ClusterError."""
    body = {"metadata": {"annotations": {_VIP_HOST: node}}}
    connection.send("PATCH", _path(ref), body, content_type=_MERGE, timeout=_TIMEOUT)


def clear_holder(connection: Client, ref: ServiceRef, node: str) -> None:
    """Take this node's name away, unless another's stands there by now. Raises ClusterError."""
    try:
        service = connection.get(_path(ref), timeout=_TIMEOUT)
        meta = service.get("metadata")
        annotations = meta.get("annotations") if isinstance(meta, dict) else None
        if not isinstance(annotations, dict) or annotations.get(_VIP_HOST) != node:
            return
        # Of this very version: the next holder may write its own name at the same moment.
        body = {
            "metadata": {
                "resourceVersion": meta.get("resourceVersion") if isinstance(meta, dict) else None,
                "annotations": {_VIP_HOST: None},
            }
        }
        connection.send("PATCH", _path(ref), body, content_type=_MERGE, timeout=_TIMEOUT)
    except RefusedError as error:
        if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            raise


def _path(ref: ServiceRef, more: str = "") -> str:
    return f"/api/v1/namespaces/{ref.namespace}/services/{ref.name}{more}?fieldManager={MANAGER}"
