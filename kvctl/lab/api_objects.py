"""The objects of the lab's API server, in memory: what an agent reads and writes.

Lists and watches (the whole history is kept), writes by POST, PUT and merge patch, 409 where a version or uid is not
that of now. Events are taken and forgotten. Source: kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

Object = dict[str, Any]

_BOOKMARK_SECONDS = 5.0
_LONGEST_WATCH = 600.0


class Kind(NamedTuple):
    """A kind and where the API has it."""

    name: str
    resource: str
    group: str = ""
    namespaced: bool = True
    with_status: bool = False
    """`status` is written by the subresource alone."""

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/v1" if self.group else "v1"


_EVENT = Kind("Event", "events")
KINDS = {
    (kind.group, kind.resource): kind
    for kind in (
        Kind("Service", "services", with_status=True),
        Kind("Pod", "pods", with_status=True),
        Kind("Node", "nodes", namespaced=False, with_status=True),
        Kind("Lease", "leases", group="coordination.k8s.io"),
        _EVENT,
    )
}
_BY_RESOURCE = {kind.resource: kind for kind in KINDS.values()}


class Change(NamedTuple):
    """One write."""

    at: float
    """Monotonic seconds."""
    version: int
    kind: Kind
    before: Object | None
    after: Object


class Target(NamedTuple):
    """What a path names."""

    kind: Kind
    namespace: str
    """Empty: all."""
    name: str
    """Empty: the list."""
    part: str
    """`status`, or empty: the object."""


class RefusedError(Exception):
    """What the client is told."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": status.value,
            "reason": reason,
            "message": message,
        }


def not_found(what: str) -> RefusedError:
    return RefusedError(HTTPStatus.NOT_FOUND, "NotFound", f"{what} not found")


def bad(what: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", what)


def _conflict(reason: str, name: str) -> RefusedError:
    return RefusedError(HTTPStatus.CONFLICT, reason, f"{name} is not as you think")


class ApiObjects:
    """The objects and their history. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._objects: dict[tuple[Kind, str, str], Object] = {}
        self._history: list[Change] = []
        self._changed = threading.Condition()
        self._closing = False

    def close(self) -> None:
        """End all watches, also those to come."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def put(self, resource: str, value: Mapping[str, Any]) -> None:
        """Make or replace an object."""
        kind, after = _BY_RESOURCE[resource], copy.deepcopy(dict(value))
        with self._changed:
            key = _key(kind, after["metadata"])
            self._write(kind, self._objects.get(key), after)

    def get(self, resource: str, name: str, *, namespace: str = "") -> Object | None:
        """A copy of an object; None: there is none."""
        with self._changed:
            return copy.deepcopy(self._objects.get((_BY_RESOURCE[resource], namespace, name)))

    def changes(self, resource: str, name: str, *, namespace: str = "") -> list[Change]:
        """All writes of an object, oldest first."""
        with self._changed:
            return [
                change
                for change in self._history
                if change.kind.resource == resource
                and _key(change.kind, change.after["metadata"])[1:] == (namespace, name)
            ]

    def _write(self, kind: Kind, before: Object | None, after: Object) -> None:
        """With the lock held."""
        version = self._version + 1
        known = before["metadata"] if before is not None else {}
        meta = after["metadata"]
        meta["uid"] = known.get("uid") or str(uuid.uuid4())
        meta.setdefault("creationTimestamp", known.get("creationTimestamp") or _now())
        meta["resourceVersion"] = str(version)
        after |= {"kind": kind.name, "apiVersion": kind.api_version}
        self._objects[_key(kind, meta)] = after
        self._history.append(Change(time.monotonic(), version, kind, before, after))
        self._changed.notify_all()

    @property
    def _version(self) -> int:
        return self._history[-1].version if self._history else 1

    # Requests. Objects that are stored are never changed, only replaced: what is returned needs no copy.

    def collection(self, target: Target, query: Mapping[str, str]) -> Object:
        """The answer to a list."""
        matches = _selector(target, query)
        with self._changed:
            items = [it for (kind, *_), it in self._objects.items() if kind == target.kind and matches(it)]
            version = self._version
        return {
            "kind": f"{target.kind.name}List",
            "apiVersion": target.kind.api_version,
            "metadata": {"resourceVersion": str(version)},
            "items": items,
        }

    def watch(self, target: Target, query: Mapping[str, str]) -> Iterator[Object]:
        """The events since the version asked for, as they come, until the watch's time is over."""
        seconds = min(_whole(query.get("timeoutSeconds", "600")), _LONGEST_WATCH)
        seen = _whole(query.get("resourceVersion", "0"))
        # What is wrong with the request is said before the first event.
        return self._events(target.kind, _selector(target, query), seen, end=time.monotonic() + seconds)

    def _events(
        self, kind: Kind, matches: Callable[[Object], bool], seen: int, *, end: float
    ) -> Iterator[Object]:
        if seen > self._version:
            yield {
                "type": "ERROR",
                "object": RefusedError(HTTPStatus.GONE, "Expired", "no such version").body,
            }
            return
        due = time.monotonic() + _BOOKMARK_SECONDS
        while not self._closing and (now := time.monotonic()) < end:
            for change in self._since(seen, patience=min(due, end) - now):
                seen = change.version
                if change.kind == kind and (event := _event(change, matches)) is not None:
                    yield event
            if time.monotonic() >= due:
                due = time.monotonic() + _BOOKMARK_SECONDS
                yield {"type": "BOOKMARK", "object": _bookmark(kind, seen)}

    def _since(self, version: int, *, patience: float) -> list[Change]:
        """The changes after a version; waits for one."""
        with self._changed:
            if self._version <= version and not self._closing:
                self._changed.wait(max(0.0, patience))
            # Versions are counted one by one, and the first is 2.
            return self._history[max(0, version - 1) :]

    def read(self, target: Target) -> Object:
        """One object; 404: there is none."""
        with self._changed:
            found = self._objects.get((target.kind, target.namespace, target.name))
        if found is None:
            raise not_found(f"{target.kind.resource} {target.name}")
        return found

    def create(self, target: Target, body: Object) -> Object:
        """Make an object; 409: there is one of that name."""
        meta = body.setdefault("metadata", {})
        if target.kind.namespaced:
            meta.setdefault("namespace", target.namespace)
        if not meta.get("name") or (target.kind.namespaced and meta["namespace"] != target.namespace):
            raise bad("no name, or not this namespace's")
        if target.kind is _EVENT:
            return body
        with self._changed:
            if _key(target.kind, meta) in self._objects:
                raise _conflict("AlreadyExists", meta["name"])
            self._write(target.kind, None, body)
        return body

    def change(self, target: Target, body: Object, *, merge: bool) -> Object:
        """Replace an object, or merge `body` into it (RFC 7386); 409: the version or uid is another's by now."""
        with self._changed:
            before = self.read(target)
            old, meta = before["metadata"], body.get("metadata") or {}
            if any(meta.get(key) not in (None, old[key]) for key in ("resourceVersion", "uid")):
                raise _conflict("Conflict", target.name)
            if not merge and not meta.get("resourceVersion"):
                raise bad("a PUT without metadata.resourceVersion")
            wanted: Object = _merged(before, body) if merge else body
            if target.part:
                wanted = {**before, "status": wanted.get("status")}
            elif target.kind.with_status and "status" in before:
                wanted = {**wanted, "status": before["status"]}
            if (wanted["metadata"].get("namespace", ""), wanted["metadata"].get("name")) != (
                target.namespace,
                target.name,
            ):
                raise bad("an object keeps its name")
            after = copy.deepcopy(wanted)
            if after != before:
                self._write(target.kind, before, after)
        return after


def _key(kind: Kind, meta: Mapping[str, Any]) -> tuple[Kind, str, str]:
    return (kind, meta["namespace"] if kind.namespaced else "", meta["name"])


def _event(change: Change, matches: Callable[[Object], bool]) -> Object | None:
    """As a watcher with this selector sees it: what no longer matches is deleted, for it."""
    before = change.before is not None and matches(change.before)
    after = matches(change.after)
    if not before and not after:
        return None
    return {"type": "DELETED" if not after else "MODIFIED" if before else "ADDED", "object": change.after}


def _bookmark(kind: Kind, version: int) -> Object:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta}


def _selector(target: Target, query: Mapping[str, str]) -> Callable[[Object], bool]:
    """Whether an object is asked for: `a.b=c` of fields, `a=b` of labels, and the namespace."""
    fields = [(path.split("."), value) for path, value in _equalities(query.get("fieldSelector", ""))]
    labels = _equalities(query.get("labelSelector", ""))

    def matches(value: Object) -> bool:
        meta = value["metadata"]
        return (
            target.namespace in ("", meta.get("namespace"))
            and all(_at(value, path) == wanted for path, wanted in fields)
            and all(_at(meta, ["labels", name]) == wanted for name, wanted in labels)
        )

    return matches


def _equalities(text: str) -> list[tuple[str, str]]:
    terms = [term.partition("=") for term in text.split(",") if term]
    if any(not equals or name.endswith("!") or " " in name for name, equals, _ in terms):
        raise bad(f"the lab's API server does not know the selector {text}")
    return [(name, value.removeprefix("=")) for name, _, value in terms]


def _at(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _merged(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise bad(f"{text} is no number")
    return int(text)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
