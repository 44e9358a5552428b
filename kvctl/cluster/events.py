"""Kubernetes Events about a Service: told once, then counted.

core/v1, not events.k8s.io/v1: every kubectl since 1.0 shows it with its count, and the server lets the count be
patched (of an events.k8s.io/v1 Event only `series` may change; kubernetes pkg/apis/core/validation/events.go).
It takes the verbs create and patch, never get: what an Event says decides its name, so AlreadyExists tells
that it was told before, also by an agent that is no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from kvctl.cluster.failures import RefusedError
from kvctl.model.ref import ServiceRef

CONTROLLER = "kvctl.io/egress"
_TIMEOUT = 10.0
_LONGEST_MESSAGE = 1024
"""The server's limit for `note`, as which other clients read the message."""


class Sender(Protocol):
    """What is needed of a connection."""

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, content_type: str, timeout: float
    ) -> Mapping[str, Any]:
        """The answer; raises RefusedError for a status but 2xx, else ClusterError."""


class ServiceEvent(NamedTuple):
    """What is told about a Service; equal ones are the same Event in the cluster."""

    ref: ServiceRef
    uid: str
    """Of the Service; empty: unknown."""
    type: str
    """`Normal` or `Warning`."""
    reason: str
    """In CamelCase."""
    message: str
    node: str | None = None
    """The node that it is about; None: whichever node tells it, it is the same."""

    @property
    def name(self) -> str:
        """Its name as an object."""
        said = "\0".join((self.uid, self.reason, self.message, self.node or ""))
        return f"{self.ref.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def create_event(connection: Sender, event: ServiceEvent, *, teller: str, count: int, at: float) -> bool:
    """Tell it as node `teller`; False: it has been told before.

    `at` in seconds since the epoch. Raises ClusterError.
    """
    try:
        connection.send(
            "POST",
            _collection(event),
            _body(event, teller=teller, count=count, at=at),
            content_type="application/json",
            timeout=_TIMEOUT,
        )
    except RefusedError as error:
        if error.status != 409:
            raise
        return False
    return True


def count_event(connection: Sender, event: ServiceEvent, *, count: int | None, at: float) -> int | None:
    """Say that it happened again, now `count` times in all (None: leave the number); the number it has now.

    None: the server has forgotten it (it keeps Events for an hour). Raises ClusterError.
    """
    change = {"lastTimestamp": _time(at), **({} if count is None else {"count": count})}
    try:
        answer = connection.send(
            "PATCH",
            f"{_collection(event)}/{event.name}",
            change,
            content_type="application/merge-patch+json",
            timeout=_TIMEOUT,
        )
    except RefusedError as error:
        if error.status != 404:
            raise
        return None
    now = answer.get("count")
    return now if isinstance(now, int) and now > 0 else count or 1


def _collection(event: ServiceEvent) -> str:
    return f"/api/v1/namespaces/{event.ref.namespace}/events"


def _body(event: ServiceEvent, *, teller: str, count: int, at: float) -> dict[str, Any]:
    regarding = {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": event.ref.namespace,
        "name": event.ref.name,
        **({"uid": event.uid} if event.uid else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": event.ref.namespace, "name": event.name},
        "involvedObject": regarding,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_LONGEST_MESSAGE],
        "action": event.reason,
        "count": count,
        "firstTimestamp": _time(at),
        "lastTimestamp": _time(at),
        "source": {"component": CONTROLLER, "host": teller},
        "reportingComponent": CONTROLLER,
        "reportingInstance": teller,
    }


def _time(at: float) -> str:
    """RFC 3339 in whole seconds, as metav1.Time is."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
