"""What is read through the API, page by page, and what follows where it is forbidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol
from urllib.parse import urlencode

from kvctl.cluster import kinds
from kvctl.cluster.cidr_hints import CONTROLLER_MANAGER, SYSTEM_NAMESPACE
from kvctl.cluster.collect import ObjectsBuilder, Ranges
from kvctl.cluster.failures import RefusedError, status_words
from kvctl.cluster.kinds import Kind
from kvctl.cluster.views import SERVICE_OF_SLICE
from kvctl.cluster.yaml_values import yaml_values
from kvctl.errors import ClusterError, InputError
from kvctl.model.objects import CidrKind, Objects, Service
from kvctl.model.ref import ServiceRef

PAGE = 500
"""Objects a request, as kubectl asks for."""
MOST_LISTINGS = 4
"""How often a list that expires while it is read is begun."""

LOSSES = {
    kinds.NODE.name: "addresses of Nodes are not excluded, and their podCIDRs do not tell the pod CIDR",
    kinds.SERVICE_CIDR.name: "they do not tell the service CIDR",
    kinds.ENDPOINT_SLICE.name: "Services without a selector have no pods",
}
"""What follows where a kind is forbidden; those not named are indispensable."""

_KUBEADM_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
_CONTROLLER_MANAGERS = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods"
_LABEL_OF_MANAGERS = f"component={CONTROLLER_MANAGER}"
"""As kubeadm, kOps and others label the static Pod."""


class Server(Protocol):
    """Answers GET requests."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`. Raises RefusedError for a status but 200, else ClusterError."""

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""


def read_objects(server: Server) -> Objects:
    """All kinds. Raises ClusterError unless what fails is dispensable, and forbidden or unknown."""
    builder = ObjectsBuilder(from_api=True)
    _list(server, kinds.SERVICE, builder)
    _list(server, kinds.POD, builder)
    without_selector = {service.ref for service in builder.services() if needs_slices(service)}
    if without_selector:
        _list(
            server,
            kinds.ENDPOINT_SLICE,
            builder,
            wanted=lambda raw: slice_owner(raw) in without_selector,
        )
    _list(server, kinds.SERVICE_CIDR, builder)
    if builder.known_ranges() != set(CidrKind):
        _read_kubeadm(server, builder)
    _list(server, kinds.NODE, builder)
    if any(service.annotations for service in builder.services()):
        _list(server, kinds.L2_STATUS, builder)
    return builder.build()


def read_ranges(server: Server) -> Ranges:
    """What tells the cluster's ranges, without reading every Pod for it. Fails as `read_objects` does."""
    builder = ObjectsBuilder(from_api=True)
    _list(server, kinds.SERVICE_CIDR, builder)
    query = {"labelSelector": _LABEL_OF_MANAGERS}
    _list(server, kinds.POD, builder, path=_CONTROLLER_MANAGERS, query=query)
    if builder.known_ranges() != set(CidrKind):
        _read_kubeadm(server, builder)
    return builder.ranges()


def needs_slices(service: Service) -> bool:
    """Whether its EndpointSlices tell the pods of a Service that may ask for egress.

    The one `default/kubernetes` has no selector in any cluster: it has no annotation of ours either.
    """
    return not service.selector and bool(service.annotations)


def slice_owner(raw: object) -> ServiceRef | None:
    """The Service that a raw EndpointSlice names by its label."""
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    labels = meta.get("labels") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(labels, dict):
        return None
    return ServiceRef(str(meta.get("namespace")), str(labels.get(SERVICE_OF_SLICE)))


def read_list(
    server: Server,
    path: str,
    *,
    query: Mapping[str, str],
    begin: Callable[[], None],
    take: Callable[[object], None],
    page: int = PAGE,
) -> str:
    """Give every item of a list to `take`, and return its resource version (empty: it has none).

    `page` objects are asked for at a time. `begin` is called first, and again whenever the list has expired
    while it was read (410): then what was taken is of yesterday. Raises ClusterError, RefusedError too.
    """
    for _ in range(MOST_LISTINGS):
        begin()
        version = _pages(server, path, {**query, "limit": str(page)}, take)
        if version is not None:
            return version
    raise ClusterError(
        f"cannot list {path.rpartition('/')[2]} at {server.name}: the list expired {MOST_LISTINGS} times"
        " while it was read",
        hint="try again",
    )


def _pages(server: Server, path: str, query: Mapping[str, str], take: Callable[[object], None]) -> str | None:
    """Read page after page; None if the list has expired meanwhile and must be begun again."""
    token = ""
    while True:
        asked = {**query, **({"continue": token} if token else {})}
        try:
            page = server.get(f"{path}?{urlencode(asked)}")
        except RefusedError as error:
            if error.status == 410 and token:
                return None
            raise
        items, meta = page.get("items"), page.get("metadata")
        if not isinstance(items, list | None):
            server.no_sense(path)
        for item in items or ():
            take(item)
        meta = meta if isinstance(meta, dict) else {}
        following = meta.get("continue")
        if not following:
            version = meta.get("resourceVersion")
            return version if isinstance(version, str) else ""
        if not isinstance(following, str) or following == token:
            server.no_sense(path)
        token = following


def _list(
    server: Server,
    kind: Kind,
    builder: ObjectsBuilder,
    *,
    path: str | None = None,
    query: Mapping[str, str] | None = None,
    wanted: Callable[[object], bool] = lambda raw: True,
) -> None:
    """Give all objects of a kind to `builder`, those forbidden as a warning if they can be done without."""

    def take(item: object) -> None:
        if wanted(item):
            builder.add(item, kind=kind.name, api_version=kind.api_version)

    try:
        read_list(
            server,
            path or kind.path,
            query=query or {},
            begin=lambda: builder.forget(kind.name),
            take=take,
        )
    except RefusedError as error:
        _refused(server, kind, builder, error.status)


def _refused(server: Server, kind: Kind, builder: ObjectsBuilder, status: int) -> None:
    builder.forget(kind.name)
    if kind is kinds.L2_STATUS and status in (403, 404):
        # Most clusters have no MetalLB, and where an account may not list what is not there, it is forbidden, too.
        return
    loss = LOSSES.get(kind.name)
    if loss is not None and status == 404:
        # An older server without this kind.
        return
    if loss is not None and status == 403:
        builder.warn(forbidden(kind))
        if kind is kinds.ENDPOINT_SLICE:
            builder.without_endpoints()
        return
    grant = f"grant the verb list on {kind.called} in all namespaces"
    _fail(server, f"cannot list {kind.called}", status, hint=grant if status == 403 else None)


def forbidden(kind: Kind) -> str:
    """The warning about a dispensable kind that must not be listed."""
    return f"cannot list {kind.called} (403 Forbidden): {LOSSES[kind.name]}"


def _read_kubeadm(server: Server, builder: ObjectsBuilder) -> None:
    what = "the ConfigMap kube-system/kubeadm-config"
    try:
        data = server.get(_KUBEADM_CONFIG).get("data")
        text = data.get("ClusterConfiguration") if isinstance(data, dict) else None
        if isinstance(text, str):
            builder.kubeadm(next(yaml_values(text, name="kubeadm-config"), None))
    except RefusedError as error:
        if error.status == 403:
            builder.warn(f"cannot get {what} (403 Forbidden): it does not tell pod and service CIDR")
        elif error.status != 404:
            _fail(server, f"cannot get {what}", error.status, hint="try again")
    except InputError as error:
        builder.warn(f"{error.message}: it does not tell pod and service CIDR")


def _fail(server: Server, what: str, status: int, *, hint: str | None) -> NoReturn:
    """Raise for an answer that leaves no way on."""
    if status == 401:
        hint = "the credentials are not accepted: log in again, choose another --context"
    raise ClusterError(f"{what} at {server.name}: {status_words(status)}", hint=hint or "try again")
