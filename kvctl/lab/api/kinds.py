"""The kinds that the API server knows, and where the API has them."""

from __future__ import annotations

from typing import Any, NamedTuple

Object = dict[str, Any]

_NAMES = frozenset(("metadata.name", "metadata.namespace"))


class Kind(NamedTuple):
    """A kind and where the API has it."""

    name: str
    resource: str
    """Its plural, in paths."""
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    with_status: bool = False
    """`status` is written by the subresource alone."""
    custom: bool = False
    """Of a CustomResourceDefinition."""
    fields: frozenset[str] = _NAMES
    """What a field selector may name."""

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS = {
    (kind.group, kind.version, kind.resource): kind
    for kind in (
        Kind("Service", "services", with_status=True),
        Kind("Pod", "pods", with_status=True, fields=_NAMES | {"spec.nodeName", "status.phase"}),
        Kind("Node", "nodes", namespaced=False, with_status=True, fields=frozenset(("metadata.name",))),
        Kind("ConfigMap", "configmaps"),
        Kind("Event", "events", fields=_NAMES | {"involvedObject.kind", "involvedObject.name"}),
        Kind("Event", "events", group="events.k8s.io"),
        Kind("EndpointSlice", "endpointslices", group="discovery.k8s.io"),
        Kind("ServiceCIDR", "servicecidrs", group="networking.k8s.io", namespaced=False),
        Kind("Lease", "leases", group="coordination.k8s.io"),
        Kind("ServiceL2Status", "servicel2statuses", group="metallb.io", version="v1beta1", custom=True),
    )
}
_FIRST = {kind.resource: kind for kind in reversed(KINDS.values())}


def kind_of(resource: str) -> Kind:
    """The kind of this plural, where two groups have it that of the core; KeyError: there is none."""
    return _FIRST[resource]
