"""On which nodes a Service's pods run, asked for one Service alone: what is needed before its VIP is sent to a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol
from urllib.parse import quote as quoted

from kvctl.cluster import kinds, views
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.kinds import Kind, examine
from kvctl.cluster.leases import is_absence
from kvctl.cluster.listing import read_list
from kvctl.model.objects import Endpoint, Pod, Service

_FORBIDDEN = 403


class Asker(Protocol):
    """What is needed of a connection."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def get(self, path: str, *, timeout: float) -> Mapping[str, Any]:
        """The object at `path`; raises RefusedError for a status but 200, else ClusterError."""

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""


class Whereabouts:
    """Answers of one cluster. All raise ClusterError; `timeout` bounds each request, in seconds."""

    def __init__(self, connection: Asker, *, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self.name = connection.name

    def get(self, path: str) -> Mapping[str, Any]:
        """The object at `path`; raises RefusedError for a status but 200, else ClusterError."""
        return self._connection.get(path, timeout=self._timeout)

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""
        self._connection.no_sense(path)

    def has_node(self, name: str) -> bool | None:
        """Whether there is a Node of this name; None: it may not be read."""
        try:
            self.get(f"{kinds.NODE.path}/{quoted(name, safe='')}")
        except RefusedError as error:
            if is_absence(error):
                return False
            if error.status == _FORBIDDEN:
                return None
            raise
        return True

    def nodes_of(self, service: Service) -> frozenset[str] | None:
        """The nodes with a pod of the Service that has an address of its own; None: they may not be listed.

        Of a Service without a selector the nodes that its EndpointSlices name.
        """
        try:
            if service.selector:
                pods = self._listed(kinds.POD, service, labels=service.selector)
                return frozenset(pod.node for pod in pods if isinstance(pod, Pod) and pod.node is not None)
            slices = self._listed(
                kinds.ENDPOINT_SLICE, service, labels={views.SERVICE_OF_SLICE: service.ref.name}
            )
            return frozenset(end.node for end in slices if isinstance(end, Endpoint) and end.node is not None)
        except RefusedError as error:
            if error.status == _FORBIDDEN:
                return None
            raise

    def _listed(self, kind: Kind, service: Service, *, labels: Mapping[str, str]) -> list[Pod | Endpoint]:
        found: list[Pod | Endpoint] = []
        path, _, plural = kind.path.rpartition("/")

        def take(raw: object) -> None:
            _, kept = examine(raw, kind) if isinstance(raw, dict) else (None, kinds.Kept(None))
            match kept.view:
                case views.PodView(pod=pod) if labels.items() <= pod.labels.items() and _counts(pod):
                    found.append(pod)
                case views.EndpointsView(service=ref, endpoints=its) if ref == service.ref:
                    found.extend(its)

        read_list(
            self,
            f"{path}/namespaces/{service.ref.namespace}/{plural}",
            query={"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())},
            begin=found.clear,
            take=take,
        )
        return found


def _counts(pod: Pod) -> bool:
    """Whether an agent on its node contends for the VIP because of it."""
    return bool(pod.addresses) and not (pod.finished or pod.host_network)
