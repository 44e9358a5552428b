"""Any sequence of changes and faults, then quiet: what is watched equals what a fresh reading gives."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from kvctl.cluster.api import read_cluster
from kvctl.cluster.connection import open_connection
from kvctl.cluster.watched import WatchedCluster
from kvctl.model.objects import Objects, Service
from tests.apiserver import (
    ApiServer,
    Body,
    Cut,
    Drop,
    End,
    Fault,
    Request,
    Status,
    serving,
)
from tests.cluster.watching import QUICK, Marks, endpoint_slice, node, pod, service
from tests.waiting import until

NODE = "n1"
KINDS = ("services", "pods", "nodes", "endpointslices")
NAMES = st.sampled_from("abc")
FAULTS: st.SearchStrategy[Fault] = st.sampled_from(
    [
        Drop(),
        Cut(),
        End(),
        Status(500),
        Status(429, "TooManyRequests"),
        Status(401),
        Status(410, "Expired"),
        Status(504, "Timeout"),
        Body(b"{nonsense"),
        Body(b""),
    ]
)


class Histories(RuleBasedStateMachine):
    """A cluster, its faults, and one node that watches from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.server: ApiServer = self._stack.enter_context(serving(bookmark_seconds=0.02))
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.config = self.server.kubeconfig(directory / "config")

    @initialize(services=st.integers(0, 2))
    def begin(self, services: int) -> None:
        for i in range(services):
            self.server.put("services", service("abc"[i]))
        pace = replace(QUICK, silence=0.3, answer=0.3, first_delay=0.002, longest_delay=0.02)
        self.marks = Marks()
        self.watched = WatchedCluster(
            open_connection(kubeconfig=self.config, context=None), node=NODE, notify=self.marks, pace=pace
        )
        self.watched.start()

    @rule(name=NAMES, egress=st.booleans(), selector=st.booleans(), broken=st.booleans())
    def put_service(self, name: str, *, egress: bool, selector: bool, broken: bool) -> None:
        spec: dict[str, Any] = {} if selector else {"selector": None}
        if broken:
            spec["loadBalancerIP"] = 5
        self.server.put("services", service(name, egress=egress, **spec))

    @rule(name=NAMES, ip=st.sampled_from(["10.0.0.1", "10.0.0.2"]), here=st.booleans())
    def put_pod(self, name: str, ip: str, *, here: bool) -> None:
        self.server.put("pods", pod(name, ip=ip, node=NODE if here else "n2"))

    @rule(name=NAMES, ip=st.sampled_from(["192.168.0.1", "192.168.0.2"]))
    def put_node(self, name: str, ip: str) -> None:
        self.server.put("nodes", node(name, ip))

    @rule(owner=NAMES, ips=st.lists(st.sampled_from(["10.0.0.7", "10.0.0.8"]), unique=True))
    def put_slice(self, owner: str, ips: list[str]) -> None:
        self.server.put("endpointslices", endpoint_slice(owner, *ips))

    @rule(kind=st.sampled_from(KINDS), name=NAMES)
    def remove(self, kind: str, name: str) -> None:
        self._delete(kind, name, again=False)

    @rule(kind=st.sampled_from(KINDS), name=NAMES)
    def recreate(self, kind: str, name: str) -> None:
        self._delete(kind, name, again=True)

    def _delete(self, kind: str, name: str, *, again: bool) -> None:
        name = f"{name}-1" if kind == "endpointslices" else name
        namespace = "" if kind == "nodes" else "sip"
        value = self.server.get(kind, name, namespace=namespace)
        if value is None:
            return
        self.server.delete(kind, name, namespace=namespace)
        if again:
            del value["metadata"]["uid"]
            self.server.put(kind, value)

    @rule(kind=st.sampled_from(KINDS), fault=FAULTS, times=st.integers(1, 3))
    def fail(self, kind: str, fault: Fault, times: int) -> None:
        def on(request: Request) -> bool:
            blank = isinstance(fault, Body) and not fault.content
            return request.resource == kind and not (blank and not request.is_watch)

        self.server.fail(fault, on=on, times=times)

    @rule(kind=st.sampled_from(KINDS), fault=FAULTS)
    def upset(self, kind: str, fault: Fault) -> None:
        self.server.upset(kind, fault)

    @rule()
    def compact(self) -> None:
        self.server.compact()

    @rule()
    def quiet(self) -> None:
        """In the middle of the history too: what follows meets a watch that runs."""
        self._agrees()

    def teardown(self) -> None:
        try:
            if hasattr(self, "watched"):
                self._agrees()
        finally:
            if hasattr(self, "watched"):
                self.watched.stop()
            self._stack.close()

    def _agrees(self) -> None:
        self.server.mend()
        wanted = as_watched(read_cluster(kubeconfig=self.config, context=None))

        def seen() -> Objects:
            return in_order(self.watched.objects())

        try:
            until(lambda: self.watched.synced and seen() == wanted)
        except AssertionError:
            assert seen() == wanted
            raise


def as_watched(objects: Objects) -> Objects:
    """A fresh reading as far as one node watches it."""
    return in_order(
        objects._replace(
            services=tuple(
                service if service.annotations or service.type == "LoadBalancer" else Service(ref=service.ref)
                for service in objects.services
            ),
            pods=tuple(pod for pod in objects.pods if pod.node == NODE),
            nodes_known=True,  # who reads once does not ask for it
        )
    )


def in_order(objects: Objects) -> Objects:
    """Lists come sorted by name, watches as things happen; nobody minds."""
    return objects._replace(
        services=tuple(sorted(objects.services, key=lambda s: s.ref)),
        pods=tuple(sorted(objects.pods, key=lambda p: (p.namespace, p.name))),
        endpoints=tuple(sorted(objects.endpoints, key=lambda e: (e.service, str(e.address)))),
        nodes=tuple(sorted(objects.nodes, key=lambda n: n.name)),
        errors=(),
    )


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
