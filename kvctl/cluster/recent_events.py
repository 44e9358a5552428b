"""The last Events about a Service, whoever wrote them: a tenant may write any Event of its namespace.

core/v1 has those of events.k8s.io too: it is one store with two faces. The selector's fields are those of
kubernetes pkg/registry/core/event/strategy.go; it takes the verb list.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

from kvctl.model.ref import ServiceRef

_MOST_READ = 500


class Getter(Protocol):
    """What is needed of a connection."""

    def get(self, path: str, *, timeout: float, overall: float | None = None) -> Mapping[str, Any]:
        """The object at `path`; raises RefusedError for a status but 200, else ClusterError."""


class RecentEvent(NamedTuple):
    """One Event; nothing in it is more than its writer's word, and none of it fit to print as it is."""

    at: float | None
    """When it happened last, in seconds since the epoch by somebody's clock; None: it does not say."""
    type: str
    reason: str
    message: str
    times: int
    by: str
    """The component that wrote it."""


def recent_events(connection: Getter, ref: ServiceRef, *, most: int, timeout: float) -> list[RecentEvent]:
    """The newest `most`, the newest first. Raises ClusterError; `timeout` in seconds."""
    about = f"involvedObject.kind=Service,involvedObject.name={ref.name}"
    query = urlencode({"fieldSelector": about, "limit": _MOST_READ})
    answer = connection.get(
        f"/api/v1/namespaces/{ref.namespace}/events?{query}", timeout=timeout, overall=timeout
    )
    items = answer.get("items")
    found = [_event(raw) for raw in items if isinstance(raw, dict)] if isinstance(items, list) else []
    return sorted(found, key=lambda event: event.at or 0.0, reverse=True)[:most]


def _event(raw: Mapping[str, Any]) -> RecentEvent:
    series, source, meta = (_mapping(raw.get(key)) for key in ("series", "source", "metadata"))
    times = (
        _time(value)
        for value in (
            series.get("lastObservedTime"),
            raw.get("lastTimestamp"),
            raw.get("eventTime"),
            meta.get("creationTimestamp"),
        )
    )
    counts = (
        value for value in (series.get("count"), raw.get("count")) if isinstance(value, int) and value > 0
    )
    return RecentEvent(
        at=next((at for at in times if at is not None), None),
        type=_text(raw.get("type")),
        reason=_text(raw.get("reason")),
        message=_text(raw.get("message")),
        times=next(counts, 1),
        by=_text(raw.get("reportingComponent")) or _text(source.get("component")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.upper())
        return found.timestamp() if found.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):
        return None
