"""What the lab's API server lets pass and the tests do not: a client at fault, as a real server might show it late."""

from __future__ import annotations

import re

from kvctl.lab.api.kinds import Kind, Object
from kvctl.lab.api.refusals import FaultyRequestError, bad, invalid
from kvctl.lab.api.requests import Request

_QUERY_BOTH = {"resourceVersion", "fieldSelector", "labelSelector"}
_QUERY_LIST = _QUERY_BOTH | {"limit", "continue", "resourceVersionMatch"}
_QUERY_WATCH = _QUERY_BOTH | {"watch", "allowWatchBookmarks", "timeoutSeconds"}


def objection(request: Request) -> FaultyRequestError | None:
    """Why a request is not to be answered."""
    if request.target is None:
        return None
    if request.method == "GET" and not request.target.name:
        extra = set(request.query) - (_QUERY_WATCH if request.is_watch else _QUERY_LIST)
        return bad(f"{extra} in the query") if extra else None
    if request.method == "POST" and request.target.kind.name == "Event" and isinstance(request.body, dict):
        fault = event_fault(request.target.kind, request.target.namespace, request.body)
        return invalid(f"Event: {fault}") if fault else None
    return None


def event_fault(kind: Kind, namespace: str, body: Object) -> str:
    """What validation says of an Event (pkg/apis/core/validation/events.go); empty: nothing."""
    regarding = body.get("regarding" if kind.group else "involvedObject") or {}
    text = body.get("note" if kind.group else "message", "")
    if regarding.get("namespace", "") != namespace and (regarding.get("namespace") or namespace != "default"):
        return "the object's namespace is not the Event's"
    if len(text.encode()) > 1024:
        return "the text has more than 1024 bytes"
    if len(body.get("reason", "")) > 128:
        return "the reason has more than 128 characters"
    return _newer_fault(body) if kind.group else ""


def _newer_fault(body: Object) -> str:
    """The same for what events.k8s.io adds."""
    needed = ("eventTime", "reportingController", "reportingInstance", "action", "reason")
    missing = [name for name in needed if not body.get(name)]
    if missing:
        return f"{', '.join(missing)}: required"
    if body.get("type") not in ("Normal", "Warning"):
        return "type is neither Normal nor Warning"
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["eventTime"]):
        return "eventTime is not a MicroTime"
    return ""
