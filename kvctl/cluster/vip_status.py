"""What the holder of a VIP writes into its Service: the address, and its own name.

`status` by the subresource, so that `patch` of services/status and of services is all it takes; the field
manager is `kvctl`, by which every node knows that it is kvctl that manages the address.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from kvctl.cluster.failures import RefusedError
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef

MANAGER = "kvctl"
_VIP_HOST = "kube-vip.io/vipHost"
_TIMEOUT = 10.0
_MERGE = "application/merge-patch+json"
_OPERATIONS = "application/json-patch+json"
# RFC 6901: in a pointer "/" is written "~1".
_HOLDER_POINTER = f"/metadata/annotations/{_VIP_HOST.replace('/', '~1')}"
# 422 is what the API server answers to a JSON patch whose test fails, also for want of such a member
# (kubernetes, apiserver/pkg/endpoints/handlers/patch.go); 409 where others kept writing.
_NOT_OURS = frozenset((HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND))


class Client(Protocol):
    """What is needed of a connection."""

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any],
        *,
        content_type: str,
        timeout: float,
    ) -> Mapping[str, Any]:
        """The answer; raises RefusedError for a status but 2xx, else ClusterError."""


def write_status(connection: Client, ref: ServiceRef, vips: Collection[Address]) -> None:
    """Make these addresses the Service's. Raises ClusterError."""
    body = {"status": {"loadBalancer": {"ingress": [{"ip": str(vip)} for vip in vips]}}}
    connection.send("PATCH", _path(ref, "/status"), body, content_type=_MERGE, timeout=_TIMEOUT)


def write_holder(connection: Client, ref: ServiceRef, node: str) -> None:
    """Name this node as the holder. Raises ClusterError."""
    body = {"metadata": {"annotations": {_VIP_HOST: node}}}
    connection.send("PATCH", _path(ref), body, content_type=_MERGE, timeout=_TIMEOUT)


def clear_holder(connection: Client, ref: ServiceRef, node: str) -> None:
    """Take this node's name away, unless another's stands there by now. Raises ClusterError."""
    # In one request: the next holder may write its own name at the same moment.
    body = [
        {"op": "test", "path": _HOLDER_POINTER, "value": node},
        {"op": "remove", "path": _HOLDER_POINTER},
    ]
    try:
        connection.send("PATCH", _path(ref), body, content_type=_OPERATIONS, timeout=_TIMEOUT)
    except RefusedError as error:
        if error.status not in _NOT_OURS:
            raise


def _path(ref: ServiceRef, more: str = "") -> str:
    return f"/api/v1/namespaces/{ref.namespace}/services/{ref.name}{more}?fieldManager={MANAGER}"
