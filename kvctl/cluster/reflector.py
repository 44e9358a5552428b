"""One kind of object kept current: a list, then a watch from where the list ended, for ever.

The rules are those of client-go's reflector (tools/cache/reflector.go): a list is complete or does not
count; a watch goes on from the version of the last event or bookmark; only a version that the server no
longer has (410) calls for a new list; everything else is waited for with growing patience.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlencode

from kvctl.cluster.collect import Key
from kvctl.cluster.connection import Connection, refusal
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.kinds import Kept
from kvctl.cluster.listing import read_list
from kvctl.cluster.pace import Pace
from kvctl.cluster.source import Source, Tell, UnexpectedError
from kvctl.cluster.store import Store
from kvctl.errors import ClusterError

MOST_FRUITLESS = 3
"""Watches in a row that the server ends with nonsense, or with an error about our version, before we list anew."""
PAGE = 100
"""Objects a request. An object may be as large as etcd takes (1.5 MiB), a tenant's too, and a page is in memory
whole, as text and as values."""
_IDLE = 86400.0
_ABOUT_OUR_VERSION = frozenset((400, 404, 504))
"""504: our version lies in the server's future, as after etcd was restored from a backup."""


class Scope(NamedTuple):
    """Which objects of the kind are asked for."""

    query: Mapping[str, str] = {}
    """Field and label selector."""
    wanted: Callable[[object], bool] | None = None
    """Whether a raw object is kept, where selectors cannot say it; None: all are."""
    within: Callable[[Key], bool] | None = None
    """Which known objects a list replaces; None: all."""
    watch: Callable[[], Mapping[str, str]] | None = None
    """The selectors of each watch; None: those of the list."""
    idle: bool = False
    """Nothing is asked for, until the scope changes."""
    of: object = None
    """What the scope was made of, for who made it."""


class _NonsenseError(ClusterError):
    """An event that is none of the API's."""


class Reflector(Source):
    """Keeps `store` equal to what the server has.

    `scope` is asked before each list and watch. A status in `dispensable` is an answer: there is nothing
    to have, for now. Once something was read it is a failure like any other, and what was read stays, until
    the server has said nothing else for `pace.refused_for` seconds.
    """

    def __init__(
        self,
        connection: Connection,
        store: Store[Any],
        *,
        notify: Callable[[], None],
        pace: Pace,
        scope: Callable[[], Scope] = Scope,
        dispensable: frozenset[int] = frozenset(),
        tell: Tell = lambda state: None,
    ) -> None:
        super().__init__(store.kind.called, notify=notify, pace=pace, tell=tell)
        self.scope: Scope | None = None
        """That of the list which is in; None: none is."""
        self._connection = connection
        self._store = store
        self._next_scope = scope
        self._dispensable = dispensable
        self._version: str | None = None
        self._relist = False
        self._fruitless = 0
        self._was_read = False
        self._refused_since: float | None = None

    def restart(self) -> None:
        """List anew, because the scope has changed; what is known stays until the new list is in."""
        self._relist = True
        self._wake()

    def _round(self) -> float:
        if self._relist:
            self._relist, self._version = False, None
        if self._version is None:
            scope = self._next_scope()
            if scope.idle:
                self._nothing_to_have(scope, refused=None)
                return _IDLE
            try:
                self._version = self._list(scope)
            except RefusedError as error:
                if error.status not in self._dispensable or (self._was_read and not self._refused_long()):
                    raise
                self._nothing_to_have(scope, refused=error.status)
                return self._pace.spread(self._pace.ask_again)
        if not (self._stopping or self._relist):
            self._watch(self._version)
        return 0.0

    def _refused_long(self) -> bool:
        since = self._refused_since
        return since is not None and self._pace.now() - since >= self._pace.refused_for

    def _list(self, scope: Scope) -> str:
        """Read the whole list; then, and only then, put it in the place of what was known."""
        fresh: dict[Key, Kept] = {}

        def take(raw: object) -> None:
            if scope.wanted is None or scope.wanted(raw):
                name, kept = self._store.read(raw)
                fresh[len(fresh) if name is None else name] = kept

        version = read_list(
            Getter(self._connection, timeout=self._pace.answer),
            self._store.kind.path,
            query=scope.query,
            begin=fresh.clear,
            take=take,
            page=PAGE,
        )
        if not version:
            self._connection.no_sense(self._store.kind.path)
        if not self._stopping:
            self._store.replace(fresh, within=scope.within)
            self._was_read = True
            self._lists += 1
            self._in(scope, refused=None)
        return version

    def _nothing_to_have(self, scope: Scope, *, refused: int | None) -> None:
        if not self._stopping:
            self._store.replace({})
            self._was_read = False
            self._in(scope, refused=refused)

    def _in(self, scope: Scope, *, refused: int | None) -> None:
        self.scope, self.refused, self.synced = scope, refused, True
        self._fruitless = 0
        self._contact()
        self._notify()

    def _watch(self, version: str | None) -> None:
        scope = self.scope or Scope()
        query = {
            **(scope.query if scope.watch is None else scope.watch()),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": self._pace.watch_seconds(),
        }
        began, events = self._pace.now(), self._events
        path = f"{self._store.kind.path}?{urlencode(query)}"
        with self._connection.stream(path, timeout=self._pace.silence) as lines:
            with self._lock:
                self._lines = lines
                if self._woken.is_set():
                    lines.interrupt()
            try:
                self._watches += 1
                self._contact()
                for line in lines:
                    if line.strip():
                        self._take(line)
            finally:
                with self._lock:
                    self._lines = None
        short = self._pace.now() - began < self._pace.at_once
        if short and events == self._events and not self._woken.is_set():
            raise ClusterError(f"{self._connection.name} ended the watch of {self.name} at once")

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            self._nonsense()
        kind, raw = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
        if not isinstance(raw, dict):
            self._nonsense()
        if kind == "ERROR":
            raise refusal(raw, server=self._connection.name)
        meta = raw.get("metadata")
        version = meta.get("resourceVersion") if isinstance(meta, dict) else None
        if not isinstance(version, str) or not version:
            self._nonsense()
        if self._stopping:
            return
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self._take_object(raw, deleted=kind == "DELETED")
        elif kind != "BOOKMARK":
            self._nonsense()
        self._version = version
        self._fruitless = 0
        self._contact()

    def _take_object(self, raw: dict[str, Any], *, deleted: bool) -> None:
        name, kept = self._store.read(raw)
        if name is None:
            self._nonsense()
        self._events += 1
        scope = self.scope
        unwanted = scope is not None and scope.wanted is not None and not scope.wanted(raw)
        changed = self._store.drop(name) if deleted or unwanted else self._store.put(name, kept)
        if changed:
            self._notify()

    def _nonsense(self) -> NoReturn:
        message = f"{self._connection.name} sent an event of {self.name} that is not the API's"
        raise _NonsenseError(message) from None

    def _failed(self, error: ClusterError) -> float:
        refused = error.status if isinstance(error, RefusedError) else None
        if isinstance(error, _NonsenseError | UnexpectedError) or refused in _ABOUT_OUR_VERSION:
            self._fruitless += 1
        self._note_refusal(refused)
        gone = refused == 410 or (isinstance(error, RefusedError) and error.reason in ("Expired", "Gone"))
        # A watch that is refused for long: the list decides whether there is something to have.
        if gone or self._fruitless >= MOST_FRUITLESS or self._refused_long():
            self._version = None
        return super()._failed(error)

    def _note_refusal(self, status: int | None) -> None:
        """Any other failure is a break: a server that comes and goes has not made up its mind."""
        if status not in self._dispensable:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._pace.now()

    def _contact(self) -> None:
        self._refused_since = None
        super()._contact()


class Getter:
    """The connection as `read_list` wants it."""

    def __init__(self, connection: Connection, *, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self.name = connection.name

    def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`."""
        return self._connection.get(path, timeout=self._timeout)

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError."""
        self._connection.no_sense(path)
