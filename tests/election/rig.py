"""Electorates on one API server, as several nodes have them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.leases import Leases
from kvctl.election.electorate import Candidacy, Electorate, Holding
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey
from tests.apiserver import ApiServer, Match, Object, Request

KEY = LeaseKey("sip", "kubevip-sip-client")
READY = Candidacy(ready=True)
EASY = Terms(duration=20.0, renew_deadline=15.0, retry_period=0.15)
"""No deadline passes, however slow the machine."""
QUICK = Terms(duration=1.6, renew_deadline=0.6, retry_period=0.15)
"""So short that a deadline is worth waiting for; what is written is whole seconds."""


class Node:
    """One node: its electorate, and what it was told."""

    def __init__(
        self,
        server: ApiServer,
        directory: Path,
        *,
        name: str,
        terms: Terms = EASY,
        clock: Callable[[], float] | None = None,
        renewed: Callable[[Holding], None] = lambda holding: None,
    ) -> None:
        self.name = name
        self.renewals: list[Holding] = []
        self.complaints: list[str] = []
        self.notified = threading.Event()
        self._renewed = renewed
        config = server.kubeconfig(directory / f"config-{name}")
        self.connection: Connection = open_connection(kubeconfig=config, context=None)
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        self.electorate = Electorate(
            Leases(self.connection),
            node=name,
            terms=terms,
            notify=self.notified.set,
            renewed=self._hear,
            complain=self.complaints.append,
            **more,
        )
        self.electorate.start()

    def _hear(self, holding: Holding) -> None:
        self.renewals.append(holding)
        self._renewed(holding)

    def want(self, *keys: LeaseKey, ready: bool = True) -> None:
        self.electorate.contend({key: Candidacy(ready=ready) for key in keys or (KEY,)})

    def unwant(self) -> None:
        self.electorate.contend({})

    def holds(self, key: LeaseKey = KEY) -> bool:
        return key in self.electorate.held()

    def why(self, key: LeaseKey = KEY) -> str | None:
        return self.electorate.leaving().get(key)

    def tear_down(self, key: LeaseKey = KEY) -> None:
        self.electorate.torn_down(key)

    def stop(self) -> None:
        self.electorate.stop()
        self.connection.close()


@contextmanager
def nodes(server: ApiServer, directory: Path) -> Iterator[Callable[..., Node]]:
    """A maker of nodes, which end with the test."""
    made: list[Node] = []

    def make(name: str = "worker", **more: Any) -> Node:
        made.append(Node(server, directory, name=name, **more))
        return made[-1]

    try:
        yield make
    finally:
        # A request that hangs would be waited for.
        server.close()
        for node in made:
            node.stop()


def record(server: ApiServer, key: LeaseKey = KEY) -> Mapping[str, Any]:
    """The spec of a Lease; empty: there is none."""
    found = server.get("leases", key.name, namespace=key.namespace)
    return {} if found is None else found["spec"]


def lease(key: LeaseKey = KEY, *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """A Lease as others write it."""
    meta: Object = {"name": key.name, "namespace": key.namespace, "annotations": dict(annotations or {})}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def of(name: str, *methods: str) -> Match:
    """Requests for Leases of a node: those that name it as holder, or (GET) any."""

    def match(request: Request) -> bool:
        if request.resource != "leases" or (methods and request.method not in methods):
            return False
        spec = (request.body or {}).get("spec", {}) if request.method != "GET" else {}
        return request.method == "GET" or spec.get("holderIdentity") == f"kvctl/{name}"

    return match


def writes(request: Request) -> bool:
    """Requests that change a Lease."""
    return request.resource == "leases" and request.method in ("POST", "PATCH")
