"""Which Service: the one name that rules, policies and objects share."""

from __future__ import annotations

from typing import NamedTuple


class ServiceRef(NamedTuple):
    """Which Service: prints as `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
