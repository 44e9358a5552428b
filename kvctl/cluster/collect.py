"""Gathering raw objects of all kinds into one `Objects`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from kvctl.cluster import cidr_hints, views
from kvctl.cluster.fields import describe
from kvctl.cluster.kinds import IN_FILES, Kept, examine
from kvctl.errors import InputError
from kvctl.model.net import Network
from kvctl.model.objects import CidrKind, Endpoint, Node, Objects, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.text import quote

_View = TypeVar("_View", bound=views.View)
Key = views.Name | int
"""What an object is kept by; a number where it has no usable name."""


class Part(NamedTuple, Generic[_View]):
    """What is known of one kind."""

    views: tuple[_View, ...] = ()
    errors: tuple[InputError, ...] = ()
    broken: frozenset[views.Name] = frozenset()
    unnamed: bool = False
    """Something was there that could not be told by name."""


def part_of(kept: Mapping[Key, Kept], type_: type[_View]) -> Part[_View]:
    """The objects of one kind, sorted out."""
    faulty = {key: one.errors for key, one in kept.items() if one.errors}
    return Part(
        views=tuple(one.view for one in kept.values() if isinstance(one.view, type_)),
        errors=tuple(error for errors in faulty.values() for error in errors),
        broken=frozenset(key for key in faulty if isinstance(key, views.Name)),
        unnamed=any(isinstance(key, int) for key in faulty),
    )


class Ranges(NamedTuple):
    """What names the cluster's pod and service ranges, besides the Nodes."""

    service_cidrs: tuple[Network, ...] = ()
    flags: tuple[cidr_hints.Found, ...] = ()
    kubeadm: cidr_hints.Found = cidr_hints.Found()
    errors: tuple[InputError, ...] = ()
    warnings: tuple[str, ...] = ()


def assemble(
    *,
    services: Part[Service],
    pods: Part[views.PodView],
    slices: Part[views.EndpointsView],
    older_endpoints: Part[views.EndpointsView] = Part(),  # noqa: B008 - immutable
    nodes: Part[Node],
    ranges: Ranges,
    endpoints_known: bool = True,
    nodes_known: bool = False,
    warnings: Iterable[str] = (),
    l2: Part[views.L2Status] = Part(),  # noqa: B008 - immutable
    from_api: bool,
) -> Objects:
    """One picture of all kinds."""
    hints, hint_warnings = cidr_hints.in_order(
        service_cidrs=ranges.service_cidrs,
        flags=ranges.flags,
        kubeadm=ranges.kubeadm,
        nodes=[network for node in nodes.views for network in node.pod_cidrs],
    )
    return Objects(
        services=services.views,
        pods=tuple(view.pod for view in pods.views),
        endpoints=_endpoints(slices.views, older_endpoints.views),
        nodes=nodes.views,
        nodes_known=nodes_known,
        cidr_hints=hints,
        errors=(
            *services.errors,
            *pods.errors,
            *slices.errors,
            *older_endpoints.errors,
            *nodes.errors,
            *ranges.errors,
        ),
        broken=frozenset(ServiceRef(name.namespace, name.name) for name in services.broken),
        unidentified=services.unnamed,
        endpoints_known=endpoints_known,
        warnings=(*warnings, *ranges.warnings, *hint_warnings),
        from_api=from_api,
        announced=_announced(l2.views),
    )


@dataclass(slots=True)
class ObjectsBuilder:
    """Takes raw objects one at a time and keeps only the few fields needed.

    Of two objects with the same kind and name the last counts. A malformed object becomes errors
    and is left out; the others are still good.
    """

    from_api: bool
    _kept: dict[str, dict[Key, Kept]] = field(default_factory=dict)
    _kubeadm: cidr_hints.Found = field(default_factory=cidr_hints.Found)
    _warnings: list[str] = field(default_factory=list)
    _passed_over: dict[str, None] = field(default_factory=dict)
    _endpoints_known: bool = True

    def add(
        self,
        raw: object,
        *,
        kind: str | None = None,
        api_version: str | None = None,
        origin: str | None = None,
    ) -> None:
        """Take one object; kinds that are not read are passed over.

        `kind` and `api_version` hold where the object itself has none (items of a list); `origin`, in
        words that are safe to print, says in messages where it was read.
        """
        where = f" in {origin}" if origin else ""
        if not isinstance(raw, dict):
            self._refuse(f"an entry{where}: it is {describe(raw)}, not an object", hint=_NOT_AN_OBJECT)
            return
        its_kind, version = raw.get("kind", kind), raw.get("apiVersion", api_version)
        if not isinstance(its_kind, str):
            self._refuse(f"an object{where}: kind is {describe(its_kind)}, not text", hint=_NOT_AN_OBJECT)
            return
        rules = IN_FILES.get(its_kind)
        if rules is None:
            self._pass_over(its_kind)
            return
        if version is not None and not isinstance(version, str):
            self._refuse(f"a {its_kind}{where}: apiVersion is {describe(version)}, not text", hint="write v1")
            return
        # Knative's Service is another kind of the same name: the group decides.
        group = (version or "").rpartition("/")[0]
        if version is not None and group != rules.group:
            self._pass_over(f"{its_kind} of {version}")
            return
        name, kept = examine(raw, rules, where=where)
        self._keep(its_kind, name, kept)

    def _keep(self, kind: str, name: views.Name | None, kept: Kept) -> None:
        of_kind = self._kept.setdefault(kind, {})
        of_kind[len(of_kind) if name is None else name] = kept

    def _pass_over(self, kind: str) -> None:
        if len(self._passed_over) < _MOST_NAMED:
            self._passed_over[quote(kind)] = None

    def _refuse(self, message: str, *, hint: str) -> None:
        # By its text: five thousand empty entries are one line.
        self._keep("", views.Name("", message), Kept(None, (InputError(message, hint=hint),)))

    def forget(self, kind: str) -> None:
        """Drop every object of `kind`: its list has to be read anew."""
        self._kept.pop(kind, None)

    def warn(self, text: str) -> None:
        """Add a warning about the source."""
        self._warnings.append(text)

    def without_endpoints(self) -> None:
        """EndpointSlices cannot be read."""
        self._endpoints_known = False

    def kubeadm(self, configuration: object) -> None:
        """Take kubeadm's ClusterConfiguration, already parsed."""
        self._kubeadm = cidr_hints.from_kubeadm(configuration)

    def services(self) -> Iterator[Service]:
        """The Services taken so far."""
        return self._views("Service", Service)

    def known_ranges(self) -> set[CidrKind]:
        """For what the objects taken so far name a range, by better evidence than kubeadm-config."""
        kinds = {kind for found in self._flags() for kind, _ in found.networks}
        if any(view.networks for view in self._views("ServiceCIDR", views.ServiceCidr)):
            kinds.add(CidrKind.SERVICE)
        return kinds

    def ranges(self) -> Ranges:
        """What the objects taken so far say of the cluster's ranges, and every warning so far."""
        cidrs = self._part("ServiceCIDR", views.ServiceCidr)
        return Ranges(
            service_cidrs=tuple(network for view in cidrs.views for network in view.networks),
            flags=tuple(self._flags()),
            kubeadm=self._kubeadm,
            errors=cidrs.errors,
            warnings=tuple(self._warnings),
        )

    def build(self) -> Objects:
        """Everything taken so far."""
        objects = assemble(
            services=self._part("Service", Service),
            pods=self._part("Pod", views.PodView),
            slices=self._part("EndpointSlice", views.EndpointsView),
            older_endpoints=self._part("Endpoints", views.EndpointsView),
            nodes=self._part("Node", Node),
            l2=self._part("ServiceL2Status", views.L2Status),
            ranges=self.ranges(),
            endpoints_known=self._endpoints_known,
            from_api=self.from_api,
        )
        if self._passed_over:
            objects = objects._replace(passed_over=tuple(self._passed_over))
        refused = [error for kept in self._kept.get("", {}).values() for error in kept.errors]
        if not refused:
            return objects
        return objects._replace(errors=(*objects.errors, *refused), unidentified=True)

    def _flags(self) -> list[cidr_hints.Found]:
        return [view.flags for view in self._views("Pod", views.PodView) if view.flags is not None]

    def _part(self, kind: str, type_: type[_View]) -> Part[_View]:
        return part_of(self._kept.get(kind, {}), type_)

    def _views(self, kind: str, type_: type[_View]) -> Iterator[_View]:
        return iter(self._part(kind, type_).views)


_MOST_NAMED = 8
"""Kinds that are passed over: how many are kept."""
_NOT_AN_OBJECT = "give Kubernetes manifests: objects with apiVersion, kind and metadata"


def _announced(statuses: Iterable[views.L2Status]) -> Mapping[ServiceRef, frozenset[str]]:
    """The nodes that announce each Service by MetalLB's word."""
    found: dict[ServiceRef, set[str]] = {}
    for status in statuses:
        found.setdefault(status.service, set()).add(status.node)
    return {ref: frozenset(nodes) for ref, nodes in found.items()}


def _endpoints(
    slices: Iterable[views.EndpointsView], older: Iterable[views.EndpointsView]
) -> tuple[Endpoint, ...]:
    """The union over slices; Endpoints objects only of Services without any slice.

    One endpoint may stand in two slices while it moves between them, and a control plane mirrors
    Endpoints objects into slices.
    """
    several = list(slices)
    sliced = {view.service for view in several}
    several += [view for view in older if view.service not in sliced]
    union: dict[tuple[ServiceRef, object, str | None], Endpoint] = {}
    for view in several:
        for endpoint in view.endpoints:
            union.setdefault((endpoint.service, endpoint.address, endpoint.pod), endpoint)
    return tuple(union.values())
