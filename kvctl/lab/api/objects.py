"""The objects of the API server, in memory: versions, lists by page, watches, writes.

Facts: kubernetes.io/docs/reference/using-api/api-concepts; staging/src/k8s.io/apiserver (cacher.go, watch.go).
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from kvctl.lab.api.kinds import Kind, Object, kind_of
from kvctl.lab.api.patches import patched
from kvctl.lab.api.refusals import RefusedError, bad, conflict, expired, invalid, not_found, unsupported
from kvctl.lab.api.requests import Request, Target
from kvctl.lab.api.selectors import selector
from kvctl.lab.api.watches import Change, Watcher, WatchOverError, bookmark

_FIRST_VERSION = 1000


class _Key(NamedTuple):
    kind: Kind
    namespace: str
    name: str


class _Page(NamedTuple):
    """What a continue token stands for: the rest of a list, as it was."""

    version: int
    rest: list[Object]


class ApiObjects:
    """The objects and their history. All methods may be called from any thread.

    Objects that are stored are never changed, only replaced: what answers a request needs no copy.
    """

    def __init__(self, *, bookmark_seconds: float = 5.0) -> None:
        self.bookmark_seconds = bookmark_seconds
        """How often a watch without events is told how far it has come."""
        self.closing = threading.Event()
        """Set by `close`."""
        self._lock = threading.RLock()
        self._version = _FIRST_VERSION
        self._oldest = _FIRST_VERSION
        """Watches from before this version are 410."""
        self._objects: dict[_Key, Object] = {}
        self._history: list[Change] = []
        self._pages: dict[str, _Page] = {}
        self._watchers: list[Watcher] = []

    def close(self) -> None:
        """End all watches, also those to come."""
        with self._lock:
            self.closing.set()
            for watcher in self._watchers:
                watcher.tell(WatchOverError())

    # For who has the server.

    def put(self, resource: str, value: Mapping[str, Any]) -> Object:
        """Make or replace an object; returns it as stored. A new `uid` unless it exists or has one."""
        kind, after = kind_of(resource), copy.deepcopy(dict(value))
        if kind.namespaced:
            after["metadata"].setdefault("namespace", "default")
        with self._lock:
            before = self._objects.get(_key(kind, after["metadata"]))
            return copy.deepcopy(self._write(kind, before, after))

    def delete(self, resource: str, name: str, *, namespace: str = "") -> None:
        """Delete an object; KeyError if there is none."""
        with self._lock:
            key = _named(resource, name, namespace)
            before = self._objects.pop(key)
            self._version += 1
            meta = {**before["metadata"], "resourceVersion": str(self._version)}
            self._tell(key.kind, before, None, {**before, "metadata": meta})

    def get(self, resource: str, name: str, *, namespace: str = "") -> Object | None:
        """A copy of an object; None: there is none."""
        with self._lock:
            return copy.deepcopy(self._objects.get(_named(resource, name, namespace)))

    def objects(self, resource: str) -> list[Object]:
        """Copies of all objects of a resource. `events` are those of both groups."""
        with self._lock:
            return [copy.deepcopy(it) for key, it in self._objects.items() if key.kind.resource == resource]

    def changes(self, resource: str, name: str, *, namespace: str = "") -> list[Change]:
        """All writes of an object since the last `compact`, oldest first."""
        key = _named(resource, name, namespace)
        with self._lock:
            return [each for each in self._history if _key(each.kind, each.shown["metadata"]) == key]

    def compact(self) -> None:
        """Forget history: older versions and continue tokens are 410 from now on."""
        with self._lock:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self._pages.clear()

    def watchers(self, resource: str) -> list[Watcher]:
        """The watches of a resource that are open."""
        with self._lock:
            return [watcher for watcher in self._watchers if watcher.kind.resource == resource]

    # Requests.

    def collection(self, target: Target, query: Mapping[str, str]) -> Object:
        """The answer to a list, or to the rest of one."""
        matches = selector(target.kind, target.namespace, query)
        limit, token = _whole(query.get("limit", "0")), query.get("continue")
        if token is not None and query.get("resourceVersion"):
            raise bad("resourceVersion with continue")
        with self._lock:
            version, found = self._matching(target.kind, matches) if token is None else self._page(token)
            meta: Object = {"resourceVersion": str(version)}
            if limit and len(found) > limit:
                found, rest = found[:limit], found[limit:]
                meta["continue"] = f"{version}-{uuid.uuid4().hex}"
                self._pages[meta["continue"]] = _Page(version, rest)
                if not (query.get("fieldSelector") or query.get("labelSelector")):
                    meta["remainingItemCount"] = len(rest)
        return {
            "kind": f"{target.kind.name}List",
            "apiVersion": target.kind.api_version,
            "metadata": meta,
            "items": found,
        }

    def _matching(self, kind: Kind, matches: Callable[[Object], bool]) -> _Page:
        found = [(key, it) for key, it in self._objects.items() if key.kind == kind and matches(it)]
        found.sort(key=lambda each: each[0][1:])
        return _Page(self._version, [it for _, it in found])

    def _page(self, token: str) -> _Page:
        if token not in self._pages:
            raise expired("the continue token is too old")
        return self._pages[token]

    @contextmanager
    def watch(self, target: Target, query: Mapping[str, str]) -> Iterator[Watcher]:
        """A watcher that has everything since its version in its inbox, or what to say instead."""
        since = _whole(query.get("resourceVersion", "0"))
        if not since:
            raise bad("a watch from no version, which misses deletions")
        watcher = Watcher(target.kind, selector(target.kind, target.namespace, query))
        try:
            with self._lock:
                for item in self._since(since, target.kind):
                    watcher.tell(item)
                self._watchers.append(watcher)
            yield watcher
        finally:
            with self._lock:
                self._watchers = [each for each in self._watchers if each is not watcher]
                watcher.close()

    def _since(self, version: int, kind: Kind) -> Sequence[Change | Exception]:
        if version < self._oldest:
            return [expired("too old resource version")]
        if version > self._version:
            return [RefusedError(504, "Timeout", "Too large resource version")]
        if self.closing.is_set():
            return [WatchOverError()]
        first = bisect_right(self._history, version, key=lambda change: change.version)
        return [change for change in self._history[first:] if change.kind == kind]

    def bookmark(self, watcher: Watcher) -> Object | None:
        """The event for a watcher that has been told all there is; None while something is on its way."""
        with self._lock:
            return bookmark(watcher.kind, self._version) if watcher.is_empty else None

    def read(self, target: Target) -> Object:
        """One object; 404: there is none."""
        with self._lock:
            found = self._objects.get(_Key(target.kind, target.namespace, target.name))
        if found is None:
            raise not_found(f"{target.kind.resource} {target.name}")
        return found

    def create(self, target: Target, request: Request) -> Object:
        """Make an object; 409: there is one of that name."""
        body = _checked(target, request)
        meta = body["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
        if not meta.get("name"):
            raise invalid("no name")
        if meta.get("resourceVersion"):
            raise invalid("a new object with a resourceVersion")
        meta.pop("uid", None)
        with self._lock:
            if _key(target.kind, meta) in self._objects:
                raise conflict("AlreadyExists", meta["name"])
            return self._write(target.kind, None, body)

    def replace(self, target: Target, request: Request) -> Object:
        """Replace an object; 409: the version or uid is another's by now."""
        body = _checked(target, request)
        if not body["metadata"].get("resourceVersion"):
            raise invalid("no resourceVersion")
        with self._lock:
            before = self.read(target)
            _compare(before, body["metadata"])
            return self._change(target, before, body)

    def patch(self, target: Target, request: Request) -> Object:
        """Patch an object; 409: the version or uid that the patch names is another's by now."""
        with self._lock:
            before = self.read(target)
            if isinstance(request.body, dict):
                _compare(before, request.body.get("metadata") or {})
            after = patched(target.kind, before, request.body, content_type=request.content_type)
            return self._change(target, before, after)

    def _change(self, target: Target, before: Object, wanted: Object) -> Object:
        """With the lock held."""
        if target.part:
            wanted = {**before, "status": wanted.get("status")}
        elif target.kind.with_status:
            wanted = {key: value for key, value in wanted.items() if key != "status"}
            wanted |= {"status": before["status"]} if "status" in before else {}
        if _key(target.kind, wanted["metadata"]) != _key(target.kind, before["metadata"]):
            raise bad("an object keeps its name")
        return before if wanted == before else self._write(target.kind, before, wanted)

    def _write(self, kind: Kind, before: Object | None, wanted: Object) -> Object:
        """With the lock held."""
        known = before["metadata"] if before is not None else {}
        self._version += 1
        meta = {**wanted["metadata"], "resourceVersion": str(self._version)}
        for name, fresh in (("uid", str(uuid.uuid4())), ("creationTimestamp", _now())):
            meta[name] = meta.get(name) or known.get(name) or fresh
        after = {**wanted, "metadata": meta}
        self._objects[_key(kind, meta)] = after
        self._tell(kind, before, after, after)
        return after

    def _tell(self, kind: Kind, before: Object | None, after: Object | None, shown: Object) -> None:
        change = Change(time.monotonic(), self._version, kind, before, after, shown)
        self._history.append(change)
        for watcher in self._watchers:
            if watcher.kind == kind:
                watcher.tell(change)


def _key(kind: Kind, meta: Mapping[str, Any]) -> _Key:
    return _Key(kind, meta.get("namespace", "") if kind.namespaced else "", meta["name"])


def _named(resource: str, name: str, namespace: str) -> _Key:
    kind = kind_of(resource)
    return _Key(kind, namespace or "default" if kind.namespaced else "", name)


def _checked(target: Target, request: Request) -> Object:
    """The body of a POST or PUT, which says of itself what the path says of it."""
    body = request.body
    if request.content_type != "application/json":
        raise unsupported(request.content_type)
    if not isinstance(body, dict) or not isinstance(body.setdefault("metadata", {}), dict):
        raise bad("the body is no object")
    if (body.get("kind"), body.get("apiVersion")) != (target.kind.name, target.kind.api_version):
        raise bad(f"{body.get('apiVersion')} {body.get('kind')} at {request.path}")
    meta: Object = body["metadata"]
    if target.kind.namespaced and meta.setdefault("namespace", target.namespace) != target.namespace:
        raise bad("the namespace is not that of the path")
    return body


def _compare(before: Object, meta: Mapping[str, Any]) -> None:
    """Raises RefusedError (409) where the writer means another version or object."""
    if any(meta.get(key) not in (None, before["metadata"][key]) for key in ("resourceVersion", "uid")):
        raise conflict("Conflict", before["metadata"]["name"])


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise bad(f"{text} is no number")
    return int(text)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
