"""A request as the API server reads it: what its path names, what its query and body say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kvctl.lab.api.kinds import KINDS, Kind

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.]+)/(?P<version>v\w+))"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?/(?P<resource>[a-z0-9]+)"
    r"(?:/(?P<name>[a-z0-9.-]+))?(?:/(?P<part>status))?"
)


class Target(NamedTuple):
    """What a path names."""

    kind: Kind
    namespace: str
    """Empty: all."""
    name: str
    """Empty: the list."""
    part: str
    """`status`, or empty: the object."""


class Request(NamedTuple):
    """A request."""

    method: str
    path: str
    target: Target | None
    """None: no such path."""
    query: Mapping[str, str]
    content_type: str | None
    body: Any
    """None also for what is no JSON."""
    accept: str | None = None
    token: str = ""
    agent: str = ""

    @property
    def resource(self) -> str:
        """The plural of its kind; empty: no such path."""
        return self.target.kind.resource if self.target is not None else ""

    @property
    def is_watch(self) -> bool:
        """Whether it asks for events."""
        return self.query.get("watch") in ("true", "1")


def read_path(path: str) -> Target | None:
    """What it names; None: nothing that this server has."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    kind = KINDS.get((found["group"] or "", found["version"] or "v1", found["resource"]))
    if kind is None or (found["part"] and not kind.with_status):
        return None
    return Target(kind, found["namespace"] or "", found["name"] or "", found["part"] or "")
