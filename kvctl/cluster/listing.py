"""What is read through the API, page by page, and what follows where it is forbidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol
from urllib.parse import urlencode

from kvctl.cluster.collect import ObjectsBuilder
from kvctl.cluster.failures import OR_FILE, RefusedError, status_words
from kvctl.cluster.views import SERVICE_OF_SLICE
from kvctl.cluster.yaml_values import yaml_values
from kvctl.errors import ClusterError, InputError
from kvctl.model.objects import CidrKind, Objects
from kvctl.model.ref import ServiceRef

PAGE = 500
"""Objects a request, as kubectl asks for."""
MOST_LISTINGS = 4
"""How often a list that expires while it is read is begun."""

_KUBEADM_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"


@dataclass(frozen=True, slots=True)
class _Listing:
    """A kind that is listed in all namespaces."""

    kind: str
    resource: str
    """As RBAC calls it."""
    group: str = ""
    loss: str | None = None
    """What follows where it is forbidden; None: nothing can be done without."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def path(self) -> str:
        return f"/{'apis' if self.group else 'api'}/{self.api_version}/{self.resource}"


_SERVICES = _Listing("Service", "services")
_PODS = _Listing("Pod", "pods")
_NODES = _Listing(
    "Node",
    "nodes",
    loss="addresses of Nodes are not excluded, and their podCIDRs do not tell the pod CIDR",
)
_SERVICE_CIDRS = _Listing(
    "ServiceCIDR", "servicecidrs", "networking.k8s.io", loss="they do not tell the service CIDR"
)
_SLICES = _Listing(
    "EndpointSlice",
    "endpointslices",
    "discovery.k8s.io",
    loss="Services without a selector have no pods",
)


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
    _list(server, _SERVICES, builder)
    _list(server, _PODS, builder)
    # The one `default/kubernetes` has no selector in any cluster: ask only for Services that concern us.
    without_selector = {s.ref for s in builder.services() if not s.selector and s.annotations}
    if without_selector:
        _list(server, _SLICES, builder, wanted=lambda raw: _slice_owner(raw) in without_selector)
    _list(server, _SERVICE_CIDRS, builder)
    if builder.known_ranges() != set(CidrKind):
        _read_kubeadm(server, builder)
    _list(server, _NODES, builder)
    return builder.build()


def _slice_owner(raw: object) -> ServiceRef | None:
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    labels = meta.get("labels") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(labels, dict):
        return None
    return ServiceRef(str(meta.get("namespace")), str(labels.get(SERVICE_OF_SLICE)))


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
            _fail(server, f"cannot get {what}", error.status, hint=f"try again, {OR_FILE}")
    except InputError as error:
        builder.warn(f"{error.message}: it does not tell pod and service CIDR")


def _list(
    server: Server,
    listing: _Listing,
    builder: ObjectsBuilder,
    *,
    wanted: Callable[[object], bool] = lambda raw: True,
) -> None:
    """Give all objects of a kind to `builder`, those forbidden as a warning if they can be done without."""
    try:
        for _ in range(MOST_LISTINGS):
            builder.forget(listing.kind)
            if _pages(server, listing, builder, wanted):
                return
    except RefusedError as error:
        _refused(server, listing, builder, error.status)
        return
    raise ClusterError(
        f"cannot list {listing.resource} at {server.name}: the list expired {MOST_LISTINGS} times while"
        " it was read",
        hint=f"try again, {OR_FILE}",
    )


def _pages(
    server: Server, listing: _Listing, builder: ObjectsBuilder, wanted: Callable[[object], bool]
) -> bool:
    """Read page after page; False if the list has expired meanwhile (410) and must be begun again."""
    token = ""
    while True:
        query = {"limit": str(PAGE), **({"continue": token} if token else {})}
        try:
            page = server.get(f"{listing.path}?{urlencode(query)}")
        except RefusedError as error:
            if error.status == 410 and token:
                return False
            raise
        items, meta = page.get("items"), page.get("metadata")
        if not isinstance(items, list | None):
            server.no_sense(listing.path)
        for item in items or ():
            if wanted(item):
                builder.add(item, kind=listing.kind, api_version=listing.api_version)
        following = meta.get("continue") if isinstance(meta, dict) else None
        if not following:
            return True
        if not isinstance(following, str) or following == token:
            server.no_sense(listing.path)
        token = following


def _refused(server: Server, listing: _Listing, builder: ObjectsBuilder, status: int) -> None:
    called = f"{listing.resource}.{listing.group}" if listing.group else listing.resource
    builder.forget(listing.kind)
    if listing.loss is not None and status == 404:
        # An older server without this kind.
        return
    if listing.loss is not None and status == 403:
        builder.warn(f"cannot list {called} (403 Forbidden): {listing.loss}")
        if listing is _SLICES:
            builder.without_endpoints()
        return
    grant = f"grant the verb list on {called} in all namespaces, {OR_FILE}"
    _fail(server, f"cannot list {called}", status, hint=grant if status == 403 else None)


def _fail(server: Server, what: str, status: int, *, hint: str | None) -> NoReturn:
    """Raise for an answer that leaves no way on."""
    if status == 401:
        hint = f"the credentials are not accepted: log in again, choose another --context, {OR_FILE}"
    raise ClusterError(
        f"{what} at {server.name}: {status_words(status)}", hint=hint or f"try again, {OR_FILE}"
    )
