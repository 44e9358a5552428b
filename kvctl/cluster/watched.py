"""The cluster as the agent of one node sees it: every kind it needs, kept current by watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kvctl.cluster import kinds, views
from kvctl.cluster.collect import Key, Part, Ranges, assemble
from kvctl.cluster.connection import Connection
from kvctl.cluster.listing import forbidden, needs_slices, slice_owner
from kvctl.cluster.pace import Pace
from kvctl.cluster.ranges import RANGES, RangesReader
from kvctl.cluster.reflector import Reflector, Scope
from kvctl.cluster.source import Source, SourceState, Tell
from kvctl.cluster.store import Store
from kvctl.cluster.views import SERVICE_OF_SLICE
from kvctl.model.objects import Node, Objects, Service
from kvctl.model.ref import ServiceRef

MOST_NODES = 32
"""Up to so many Nodes are all watched; of more only this one is, the others stay as they were listed at start:
what one node asks of the API server must not grow with the cluster."""
MOST_NAMES = 50
"""Up to so many Services are named in the selector of EndpointSlices; a URL must not grow without end."""
MOST_ANNOTATIONS = 64
"""So many of a Service are kept, those of the first names: kube-vip and kvctl together have two dozen."""
LONGEST_ANNOTATION_NAME = 80
"""Characters; no name that means something to kvctl is longer."""
LONGEST_ANNOTATION = 16_500
"""Characters kept of a value: more than policy/annotations.py accepts (16,384), so that a value which is cut
here is refused there, and is never taken for a shorter list."""
_STOP_SECONDS = 0.5

_FORBIDDEN_OR_ABSENT = frozenset((403, 404))


class _Seen(NamedTuple):
    """What a picture is made of; two that are equal make equal pictures."""

    services: Part[Service]
    pods: Part[views.PodView]
    slices: Part[views.EndpointsView]
    nodes: Part[Node]
    l2: Part[views.L2Status]
    ranges: Ranges
    endpoints_known: bool
    nodes_known: bool
    warnings: tuple[str, ...]


class WatchedCluster:
    """Services, this node's Pods, EndpointSlices where they are needed, Nodes, ranges, MetalLB's announcements.

    `notify` is called, from any thread, when `objects()` or `synced` may have changed. `node`: the name of
    this node. Nothing here raises; what fails is told by `states()`, and at once to `tell`, and tried again.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        node: str,
        notify: Callable[[], None],
        pace: Pace | None = None,
        tell: Tell = lambda state: None,
    ) -> None:
        pace = Pace() if pace is None else pace
        self._node = node
        self._notify = notify
        self._lock = threading.Lock()
        self._picture: tuple[_Seen, Objects] | None = None
        self._synced = False
        self._needing: tuple[Part[Service], frozenset[ServiceRef]] = (Part(), frozenset())
        self._followed: frozenset[ServiceRef] = frozenset()
        self._stores = stores = _Stores()

        def watch(
            store: Store[Any],
            scope: Callable[[], Scope] = Scope,
            *,
            dispensable: frozenset[int] = frozenset(),
            then: Callable[[], None] = notify,
        ) -> Reflector:
            return Reflector(
                connection, store, notify=then, pace=pace, scope=scope, dispensable=dispensable, tell=tell
            )

        mine = Scope(query={"fieldSelector": f"spec.nodeName={node}"})
        self._services = watch(stores.services, then=self._services_changed)
        self._pods = watch(stores.pods, lambda: mine)
        self._slices = watch(stores.slices, self._slice_scope, dispensable=_FORBIDDEN_OR_ABSENT)
        self._nodes = watch(stores.nodes, self._node_scope, dispensable=_FORBIDDEN_OR_ABSENT)
        self._l2 = watch(stores.l2, dispensable=_FORBIDDEN_OR_ABSENT)
        self._ranges = RangesReader(connection, notify=notify, pace=pace, tell=tell)
        self._sources: tuple[Source, ...] = (
            self._services,
            self._pods,
            self._slices,
            self._nodes,
            self._l2,
            self._ranges,
        )

    def start(self) -> None:
        """Begin to list and watch."""
        for source in self._sources:
            source.start()

    def stop(self) -> None:
        """End within a second. Threads that wait for the server's first byte end by themselves, unheard."""
        for source in self._sources:
            source.stop()
        end = time.monotonic() + _STOP_SECONDS
        for source in self._sources:
            source.join(max(0.0, end - time.monotonic()))

    @property
    def synced(self) -> bool:
        """Whether the first full picture of every kind that matters is in. Never false again."""
        if not self._synced:
            # All of them: without MetalLB's word, say, a VIP that is here would be taken to be elsewhere.
            others = (source for source in self._sources if source is not self._slices)
            self._synced = all(source.synced for source in others) and self._slices_settled()
        return self._synced

    def objects(self) -> Objects:
        """The picture; the same value while nothing changes. Empty kinds before they are listed: see `synced`.

        Services that neither carry an annotation of ours nor are LoadBalancers are their name alone.
        """
        seen = self._look()
        with self._lock:
            if self._picture is None or not _same(self._picture[0], seen):
                self._picture = (seen, _assembled(seen))
            return self._picture[1]

    def states(self) -> tuple[SourceState, ...]:
        """How each source is doing, for metrics and readiness. EndpointSlices only while they are watched."""
        idle = not self._need_slices(self._stores.services.part())
        return tuple(source.state() for source in self._sources if not (idle and source is self._slices))

    def missing(self) -> str:
        """What the first full picture still lacks and why, in words; empty once `synced`."""
        if self.synced:
            return ""
        causes: dict[str, list[str]] = {}
        for state in self.states():
            if not state.synced:
                causes.setdefault(state.last_error or "not heard yet", []).append(_spoken(state.name))
        said = (f"{cause} ({', '.join(names)})" for cause, names in causes.items())
        return "; ".join(said) or f"not heard yet ({_spoken(kinds.ENDPOINT_SLICE.called)})"

    def _look(self) -> _Seen:
        stores = self._stores
        warnings = [
            forbidden(kind)
            for kind, source in ((kinds.NODE, self._nodes), (kinds.ENDPOINT_SLICE, self._slices))
            if source.refused == 403
        ]
        # Services first, slices last: slices that are said to be known are then those of these Services.
        services = stores.services.part()
        known = self._slices_settled(services) and self._slices.refused != 403
        return _Seen(
            services=services,
            pods=stores.pods.part(),
            slices=stores.slices.part(),
            nodes=stores.nodes.part(),
            l2=stores.l2.part(),
            ranges=self._ranges.ranges,
            endpoints_known=known,
            nodes_known=self._nodes.synced and self._nodes.refused is None,
            warnings=tuple(warnings),
        )

    def _services_changed(self) -> None:
        """Follow the Services without a selector; called by the thread that watches Services."""
        refs = self._need_slices(self._stores.services.part())
        if refs != self._followed:
            self._followed = refs
            self._slices.restart()
        self._notify()

    def _need_slices(self, services: Part[Service]) -> frozenset[ServiceRef]:
        """The Services whose pods EndpointSlices tell."""
        known, refs = self._needing
        if known is not services:
            refs = frozenset(service.ref for service in services.views if needs_slices(service))
            self._needing = (services, refs)
        return refs

    def _slices_settled(self, services: Part[Service] | None = None) -> bool:
        """Whether the EndpointSlices at hand are those of all Services that need them."""
        refs = self._need_slices(self._stores.services.part() if services is None else services)
        if not refs or self._slices.refused is not None:
            return True
        return self._slices.scope is not None and self._slices.scope.of == refs

    def _slice_scope(self) -> Scope:
        refs = self._need_slices(self._stores.services.part())
        names = sorted({ref.name for ref in refs})
        selector = f"{SERVICE_OF_SLICE} in ({','.join(names)})"
        return Scope(
            query={"labelSelector": selector if len(names) <= MOST_NAMES else SERVICE_OF_SLICE},
            wanted=lambda raw: slice_owner(raw) in refs,
            idle=not refs,
            of=refs,
        )

    def _node_scope(self) -> Scope:
        """All Nodes, or after many were listed this one alone."""
        if len(self._stores.nodes) > MOST_NODES:
            return Scope(query=self._own_node(), within=self._is_own_node)
        return Scope(watch=self._watched_nodes)

    def _watched_nodes(self) -> Mapping[str, str]:
        return self._own_node() if len(self._stores.nodes) > MOST_NODES else {}

    def _own_node(self) -> Mapping[str, str]:
        return {"fieldSelector": f"metadata.name={self._node}"}

    def _is_own_node(self, key: Key) -> bool:
        return isinstance(key, views.Name) and key.name == self._node


class _Stores:
    """What is known, by kind."""

    def __init__(self) -> None:
        self.services = Store(kinds.SERVICE, Service, slim=_slim)
        self.pods = Store(kinds.POD, views.PodView)
        self.nodes = Store(kinds.NODE, Node)
        self.slices = Store(kinds.ENDPOINT_SLICE, views.EndpointsView)
        self.l2 = Store(kinds.L2_STATUS, views.L2Status)


def _slim(service: Service) -> Service:
    """A Service that neither asks for egress nor can claim an address is its name: present, and no more.

    Of the others' annotations as much stays as can mean something: what a tenant writes must not fill the
    memory of every node's agent.
    """
    annotations = _bounded(service.annotations)
    if annotations or service.type == "LoadBalancer":
        return service._replace(annotations=annotations)
    return Service(ref=service.ref)


def _bounded(annotations: Mapping[str, str]) -> Mapping[str, str]:
    names = (name for name in annotations if len(name) <= LONGEST_ANNOTATION_NAME)
    # By name: which ones stay must not hang on the order in which the server writes them.
    return {name: annotations[name][:LONGEST_ANNOTATION] for name in sorted(names)[:MOST_ANNOTATIONS]}


def _spoken(name: str) -> str:
    """A source's name for people."""
    return "pod and service CIDRs" if name == RANGES else name


def _same(one: _Seen, other: _Seen) -> bool:
    """By identity where a store keeps its part while nothing changes: five thousand Services are not compared."""
    return (
        one.endpoints_known == other.endpoints_known
        and one.nodes_known == other.nodes_known
        and one.warnings == other.warnings
        and all(a is b for a, b in zip(one[:6], other[:6], strict=True))
    )


def _assembled(seen: _Seen) -> Objects:
    return assemble(
        services=seen.services,
        pods=seen.pods,
        slices=seen.slices,
        nodes=seen.nodes,
        ranges=seen.ranges,
        endpoints_known=seen.endpoints_known,
        nodes_known=seen.nodes_known,
        warnings=seen.warnings,
        l2=seen.l2,
        from_api=True,
    )
