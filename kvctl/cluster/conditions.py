"""The condition of a Pod that its readiness gate waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from kvctl.cluster.events import Sender

CONDITION = "kube-vip.io/egress-enabled"
_TIMEOUT = 10.0


class PodCondition(NamedTuple):
    """What is said of one Pod."""

    namespace: str
    pod: str
    uid: str
    """The server refuses it (409) for another Pod of that name; empty: unknown."""
    status: bool
    reason: str
    message: str
    changed: bool = True
    """The status is another than before, so that its time of transition is now."""


def patch_condition(connection: Sender, condition: PodCondition, *, at: float) -> None:
    """Set the condition, and no other; `at` in seconds since the epoch. Raises ClusterError.

    A strategic merge, in which conditions are merged by their type (core/v1 PodStatus); of the status alone, so
    that `patch` of pods/status is all it takes.
    """
    now = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said: dict[str, Any] = {
        "type": CONDITION,
        "status": "True" if condition.status else "False",
        "reason": condition.reason,
        "message": condition.message,
    }
    if condition.changed:
        said["lastTransitionTime"] = now
    body: dict[str, Any] = {"status": {"conditions": [said]}}
    if condition.uid:
        # Another uid than the object's is a change of a field that cannot change: 409 Conflict.
        body["metadata"] = {"uid": condition.uid}
    connection.send(
        "PATCH",
        f"/api/v1/namespaces/{condition.namespace}/pods/{condition.pod}/status",
        body,
        content_type="application/strategic-merge-patch+json",
        timeout=_TIMEOUT,
    )
