"""The kinds of objects that are read: how each is recognised, named and cut to what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kvctl.cluster import views
from kvctl.cluster.fields import A_LABEL, A_SUBDOMAIN, Field, Record, describe, is_label, is_subdomain
from kvctl.errors import InputError


class Kind(NamedTuple):
    """One kind of object and where the API has it."""

    name: str
    resource: str
    """As RBAC calls it, without the group."""
    read: Callable[[Field, views.Name], views.View | None]
    group: str = ""
    version: str = "v1"
    label_name: bool = False
    """Names are labels, not subdomains."""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where all namespaces' objects are listed."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}/{self.resource}"

    @property
    def called(self) -> str:
        """As RBAC and kubectl call it."""
        return f"{self.resource}.{self.group}" if self.group else self.resource


SERVICE = Kind("Service", "services", views.service, label_name=True)
POD = Kind("Pod", "pods", views.pod)
ENDPOINT_SLICE = Kind("EndpointSlice", "endpointslices", views.endpoint_slice, group="discovery.k8s.io")
ENDPOINTS = Kind("Endpoints", "endpoints", views.endpoints)
NODE = Kind("Node", "nodes", views.node, namespaced=False)
SERVICE_CIDR = Kind(
    "ServiceCIDR", "servicecidrs", views.service_cidr, group="networking.k8s.io", namespaced=False
)
L2_STATUS = Kind(
    "ServiceL2Status", "servicel2statuses", views.l2_status, group="metallb.io", version="v1beta1"
)
"""MetalLB's word on which node announces a Service (api/v1beta1/servicel2status_types.go)."""

IN_FILES: Mapping[str, Kind] = {
    kind.name: kind for kind in (SERVICE, POD, ENDPOINT_SLICE, ENDPOINTS, NODE, SERVICE_CIDR, L2_STATUS)
}


class Kept(NamedTuple):
    """One object: what it says (None: nothing of use), or what is wrong with it."""

    view: views.View | None
    errors: tuple[InputError, ...] = ()


def examine(raw: dict[str, object], kind: Kind, *, where: str = "") -> tuple[views.Name | None, Kept]:
    """The name of a raw object (None: it has no usable one) and what is kept of it.

    `where`, in words that are safe to print, says in messages where it was read.
    """
    record = Record()
    root = Field(record, raw)
    name = _name(root, kind)
    view = kind.read(root, name) if name is not None else None
    if not record.problems:
        return name, Kept(view)
    return name, Kept(None, record.errors(f"{kind.name} {_shown(raw, name, kind)}{where}"))


def _name(root: Field, kind: Kind) -> views.Name | None:
    """The object's name and namespace, or None with the problems reported."""
    accepted, fits = (A_LABEL, is_label) if kind.label_name else (A_SUBDOMAIN, is_subdomain)
    name = _checked(root.at("metadata", "name"), accepted, fits, default="")
    if not kind.namespaced:
        return None if name is None else views.Name("", name)
    namespace = _checked(root.at("metadata", "namespace"), A_LABEL, is_label, default="default")
    return None if name is None or namespace is None else views.Name(namespace, name)


def _checked(place: Field, accepted: str, fits: Callable[[str], bool], *, default: str) -> str | None:
    text = place.value or default
    if isinstance(text, str) and fits(text):
        return text
    place.wrong(accepted)
    return None


def _shown(raw: dict[str, object], name: views.Name | None, kind: Kind) -> str:
    """How messages call an object, also one whose name is no name."""
    if name is not None:
        return f"{name.namespace}/{name.name}" if kind.namespaced else name.name
    meta = raw.get("metadata")
    written = meta.get("name") if isinstance(meta, dict) else None
    return describe(written) if isinstance(written, str) else "without a name"
