"""Gathering raw objects of all kinds into one `Objects`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from kvctl.cluster import cidr_hints, views
from kvctl.cluster.fields import A_LABEL, A_SUBDOMAIN, Field, Record, describe, is_label, is_subdomain
from kvctl.errors import InputError
from kvctl.model.objects import CidrKind, Endpoint, Node, Objects, Service
from kvctl.model.ref import ServiceRef

_View = TypeVar("_View")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How objects of one kind are recognised, named and read."""

    group: str
    read: Callable[[Field, views.Name], views.View | None]
    label_name: bool = False
    namespaced: bool = True


_KINDS: Mapping[str, _Kind] = {
    "Service": _Kind("", views.service, label_name=True),
    "Pod": _Kind("", views.pod),
    "EndpointSlice": _Kind("discovery.k8s.io", views.endpoint_slice),
    "Endpoints": _Kind("", views.endpoints),
    "Node": _Kind("", views.node, namespaced=False),
    "ServiceCIDR": _Kind("networking.k8s.io", views.service_cidr, namespaced=False),
}


@dataclass(frozen=True, slots=True)
class _Kept:
    """One object: what it says (None: nothing of use), or what is wrong with it."""

    view: views.View | None
    errors: tuple[InputError, ...] = ()


@dataclass(slots=True)
class ObjectsBuilder:
    """Takes raw objects one at a time and keeps only the few fields needed.

    Of two objects with the same kind and name the last counts. A malformed object becomes errors
    and is left out; the others are still good.
    """

    from_api: bool
    _kept: dict[str, dict[views.Name | int, _Kept]] = field(default_factory=dict)
    _kubeadm: cidr_hints.Found = field(default_factory=cidr_hints.Found)
    _warnings: list[str] = field(default_factory=list)
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
        rules = _KINDS.get(its_kind)
        if rules is None:
            return
        if version is not None and not isinstance(version, str):
            self._refuse(f"a {its_kind}{where}: apiVersion is {describe(version)}, not text", hint="write v1")
            return
        # Knative's Service is another kind of the same name: the group decides.
        group = (version or "").rpartition("/")[0]
        if version is not None and group != rules.group:
            return
        self._read(raw, its_kind, rules, where=where)

    def _read(self, raw: dict[str, object], kind: str, rules: _Kind, *, where: str) -> None:
        record = Record()
        root = Field(record, "", raw)
        name = _name(root, rules)
        view = rules.read(root, name) if name is not None else None
        errors = record.errors(f"{kind} {_shown(raw, name, rules)}{where}")
        self._keep(kind, name, _Kept(None if errors else view, errors))

    def _keep(self, kind: str, name: views.Name | None, kept: _Kept) -> None:
        of_kind = self._kept.setdefault(kind, {})
        of_kind[len(of_kind) if name is None else name] = kept

    def _refuse(self, message: str, *, hint: str) -> None:
        # By its text: five thousand empty entries are one line.
        self._keep("", views.Name("", message), _Kept(None, (InputError(message, hint=hint),)))

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

    def build(self) -> Objects:
        """Everything taken so far."""
        nodes = tuple(self._views("Node", Node))
        hints, warnings = cidr_hints.in_order(
            service_cidrs=[n for v in self._views("ServiceCIDR", views.ServiceCidr) for n in v.networks],
            flags=self._flags(),
            kubeadm=self._kubeadm,
            nodes=[network for node in nodes for network in node.pod_cidrs],
        )
        return Objects(
            services=tuple(self.services()),
            pods=tuple(view.pod for view in self._views("Pod", views.PodView)),
            endpoints=_endpoints(
                self._views("EndpointSlice", views.EndpointsView),
                self._views("Endpoints", views.EndpointsView),
            ),
            nodes=nodes,
            cidr_hints=hints,
            errors=tuple(
                e for of_kind in self._kept.values() for kept in of_kind.values() for e in kept.errors
            ),
            broken=frozenset(
                ServiceRef(name.namespace, name.name)
                for name, kept in self._kept.get("Service", {}).items()
                if kept.view is None and isinstance(name, views.Name)
            ),
            unidentified=bool(self._kept.get(""))
            or any(isinstance(name, int) for name in self._kept.get("Service", {})),
            endpoints_known=self._endpoints_known,
            warnings=(*self._warnings, *warnings),
            from_api=self.from_api,
        )

    def _flags(self) -> list[cidr_hints.Found]:
        return [view.flags for view in self._views("Pod", views.PodView) if view.flags is not None]

    def _views(self, kind: str, type_: type[_View]) -> Iterator[_View]:
        for kept in self._kept.get(kind, {}).values():
            if isinstance(kept.view, type_):
                yield kept.view


_NOT_AN_OBJECT = "give Kubernetes manifests: objects with apiVersion, kind and metadata"


def _name(root: Field, rules: _Kind) -> views.Name | None:
    """The object's name and namespace, or None with the problems reported."""
    accepted, fits = (A_LABEL, is_label) if rules.label_name else (A_SUBDOMAIN, is_subdomain)
    name = _checked(root.at("metadata", "name"), accepted, fits, default="")
    if not rules.namespaced:
        return None if name is None else views.Name("", name)
    namespace = _checked(root.at("metadata", "namespace"), A_LABEL, is_label, default="default")
    return None if name is None or namespace is None else views.Name(namespace, name)


def _checked(place: Field, accepted: str, fits: Callable[[str], bool], *, default: str) -> str | None:
    text = place.value or default
    if isinstance(text, str) and fits(text):
        return text
    place.wrong(accepted)
    return None


def _shown(raw: dict[str, object], name: views.Name | None, rules: _Kind) -> str:
    """How messages call an object, also one whose name is no name."""
    if name is not None:
        return f"{name.namespace}/{name.name}" if rules.namespaced else name.name
    meta = raw.get("metadata")
    written = meta.get("name") if isinstance(meta, dict) else None
    return describe(written) if isinstance(written, str) else "without a name"


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
