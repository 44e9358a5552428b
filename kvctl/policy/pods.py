"""Which pod addresses belong to a Service."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from kvctl.model.net import Address, Family, family_of
from kvctl.model.objects import Endpoint, Objects, Pod, Service
from kvctl.model.ref import ServiceRef

_MOST_SAMPLES = 16
_LONGEST_LABEL = 63
"""What the API server accepts."""


class PodIndex(NamedTuple):
    """Pods by label, and the owner of each address, so that a Service is answered without reading all pods."""

    by_label: Mapping[tuple[str, str, str], list[Pod]]
    """(namespace, key, value) -> pods."""
    owners: Mapping[Address, Pod]
    """Who has an address: of several pods the newest without a deletion timestamp."""
    endpoints: Mapping[ServiceRef, list[Endpoint]]
    host_addresses: frozenset[Address] = frozenset()
    """Addresses of pods on the host's network: those of their nodes."""
    unusable: Mapping[str, list[tuple[Pod, str]]] = MappingProxyType({})
    """By namespace: pods that have no address of their own, and why."""
    samples: Mapping[str, list[Pod]] = MappingProxyType({})
    """By namespace: a few pods, by whose labels a selector is judged that matches none."""

    from_api: bool = False
    """Read through the API: there, what is no address of any Pod is nobody's to name."""

    @property
    def has_pods(self) -> bool:
        """Whether the source has any Pod at all."""
        return bool(self.by_label or self.owners or self.unusable)

    def why_unusable(self, service: Service, *, family: Family) -> str | None:
        """The sentence about a pod that the selector matches and that does not count; None: there is none."""
        sentences = [
            f"pod {pod.name} matches spec.selector, but {why}"
            for pod, why in self.unusable.get(service.ref.namespace, ())
            if service.selector.items() <= pod.labels.items()
        ] or [
            f"pod {pod.name} matches spec.selector, but it has no {family} address"
            for pod in selected_pods(service, self)
            if not any(family_of(address) is family for address in pod.addresses)
        ]
        return min(sentences, default=None)

    def nearly_selected(self, service: Service) -> tuple[Pod, str, str] | None:
        """A pod of the namespace that misses the selector by a letter or two, and its label; None: none is seen."""
        for pod in self.samples.get(service.ref.namespace, ()):
            missed = service.selector.items() - pod.labels.items()
            if len(missed) == 1 and (label := _near(*missed.pop(), pod.labels)) is not None:
                return pod, *label
        return None


class Members(NamedTuple):
    """The pod addresses of a Service in one family, before ranges are judged."""

    addresses: tuple[Member, ...] = ()
    elsewhere: tuple[str, ...] = ()
    """The nodes of pods left out because they run on another node than the one asked for."""
    refused: tuple[str, ...] = ()
    """A sentence for each endpoint that is nobody's to name, and for each pod whose address is another pod's."""


class Member(NamedTuple):
    """An address with the pod that has it."""

    address: Address
    name: str | None
    node: str | None
    from_endpoint: bool = False


def index_pods(objects: Objects) -> PodIndex:
    """Built once for all Services. Pods that have ended, or use the host's network, have no address of their own."""
    by_label: dict[tuple[str, str, str], list[Pod]] = {}
    owners: dict[Address, Pod] = {}
    host_addresses: set[Address] = set()
    unusable: dict[str, list[tuple[Pod, str]]] = {}
    samples: dict[str, list[Pod]] = {}
    for pod in objects.pods:
        why = _why_unusable(pod)
        if why is not None:
            unusable.setdefault(pod.namespace, []).append((pod, why))
            if pod.host_network and not pod.finished:
                host_addresses.update(pod.addresses)
            continue
        # The first by name, whatever order the source has them in.
        sample = samples.setdefault(pod.namespace, [])
        if len(sample) < _MOST_SAMPLES or pod.name < sample[-1].name:
            insort(sample, pod, key=_name)
            del sample[_MOST_SAMPLES:]
        for key, value in pod.labels.items():
            by_label.setdefault((pod.namespace, key, value), []).append(pod)
        for address in pod.addresses:
            other = owners.setdefault(address, pod)
            if other is not pod and _claim(pod) > _claim(other):
                owners[address] = pod
    endpoints: dict[ServiceRef, list[Endpoint]] = {}
    for endpoint in objects.endpoints:
        endpoints.setdefault(endpoint.service, []).append(endpoint)
    return PodIndex(
        by_label=by_label,
        owners=owners,
        endpoints=endpoints,
        host_addresses=frozenset(host_addresses),
        unusable=unusable,
        samples=samples,
        from_api=objects.from_api,
    )


def _why_unusable(pod: Pod) -> str | None:
    """Why a pod has no address of its own; None: it has one."""
    if pod.finished:
        return "it has finished"
    if pod.host_network:
        return "it uses the host's network, so its address is the node's"
    return None if pod.addresses else "it has no address yet: its status.podIP is empty"


def _name(pod: Pod) -> str:
    return pod.name


def _claim(pod: Pod) -> tuple[bool, int, str, str]:
    return (not pod.deleting, pod.created, pod.namespace, pod.name)


def members(service: Service, *, family: Family, index: PodIndex, node: str | None) -> Members:
    """The addresses of a Service's pods; with `node` only of pods there or on no node yet."""
    found = _selected(service, index) if service.selector else _listed(service.ref, index, node=node)
    mine = [member for member in found if family_of(member.address) is family]
    here = [member for member in mine if _is_on(member.node, node)]
    refused: Iterable[str | None]
    if service.selector:
        refused = _lost(service, index, family=family, node=node, here=here)
    else:
        listed = index.endpoints.get(service.ref, ())
        refused = (_refusal(e, index, node=node) for e in listed if family_of(e.address) is family)
    elsewhere = {member.node for member in mine if member.node} - {member.node for member in here}
    return Members(
        addresses=tuple(sorted(set(here), key=_place)),
        elsewhere=tuple(sorted(elsewhere)),
        refused=tuple(dict.fromkeys(sentence for sentence in refused if sentence is not None)),
    )


def _is_on(its: str | None, node: str | None) -> bool:
    """Whether what is on node `its` (None: on none yet) counts, where only pods of `node` do (None: all)."""
    return node is None or its is None or its == node


def _near(key: str, value: str, labels: Mapping[str, str]) -> tuple[str, str] | None:
    """The label that `key=value` may have been meant to match: a value of the key, or a key with the value."""
    from difflib import get_close_matches

    if len(value) > _LONGEST_LABEL:
        return None
    its = labels.get(key)
    if its is not None:
        return (key, its) if get_close_matches(value, [its[:_LONGEST_LABEL]]) else None
    keys = [other for other, same in labels.items() if same == value][:_MOST_SAMPLES]
    return next(((other, value) for other in get_close_matches(key, keys, n=1)), None)


def _place(member: Member) -> tuple[int, str]:
    return (int(member.address), member.name or "")


def selected_pods(service: Service, index: PodIndex) -> tuple[Pod, ...]:
    """The pods with an address of their own that the Service's selector matches; none without a selector."""
    if not service.selector:
        return ()
    namespace, wanted = service.ref.namespace, service.selector.items()
    candidates = [index.by_label.get((namespace, key, value), []) for key, value in wanted]
    return tuple(pod for pod in min(candidates, key=len) if wanted <= pod.labels.items())


def is_idle(service: Service, index: PodIndex) -> bool:
    """Whether no pod of the index belongs to a Service: none that goes on, with an address of its own or without."""
    if not service.selector:
        return service.ref not in index.endpoints
    unusable = (pod for pod, _ in index.unusable.get(service.ref.namespace, ()) if not pod.finished)
    wanted = service.selector.items()
    return not selected_pods(service, index) and not any(wanted <= pod.labels.items() for pod in unusable)


def _selected(service: Service, index: PodIndex) -> Iterable[Member]:
    for pod in selected_pods(service, index):
        for address in pod.addresses:
            if index.owners.get(address) is pod:
                yield Member(address=address, name=pod.name, node=pod.node)


def _lost(
    service: Service, index: PodIndex, *, family: Family, node: str | None, here: Collection[Member]
) -> Iterable[str]:
    """A sentence for each address of a pod that is another pod's; of one that goes only where no other counts."""
    counted = {member.address for member in here}
    for pod in sorted(selected_pods(service, index), key=_name):
        if not _is_on(pod.node, node) or (pod.deleting and here):
            continue
        for address in pod.addresses:
            owner = index.owners[address]
            if owner is not pod and family_of(address) is family and address not in counted:
                who = f"pod {owner.namespace}/{owner.name}"
                yield f"pod {pod.name} has {address}, which {who} has too: {_why_lost(pod, owner)}"


def _why_lost(pod: Pod, owner: Pod) -> str:
    if pod.deleting and not owner.deleting:
        return "this one is being deleted"
    return "that one is newer" if owner.created > pod.created else "only one of them can count"


def _listed(ref: ServiceRef, index: PodIndex, *, node: str | None) -> Iterable[Member]:
    """The addresses of EndpointSlices: anybody may write one, so another namespace's pod never counts."""
    seen: set[Address] = set()
    for endpoint in index.endpoints.get(ref, []):
        if endpoint.address in seen or _refusal(endpoint, index, node=node) is not None:
            continue
        owner = index.owners.get(endpoint.address)
        seen.add(endpoint.address)
        yield Member(
            address=endpoint.address,
            name=owner.name if owner else endpoint.pod,
            node=owner.node if owner and owner.node else endpoint.node,
            from_endpoint=True,
        )


def _refusal(endpoint: Endpoint, index: PodIndex, *, node: str | None) -> str | None:
    """Why an endpoint does not count, whoever wrote it; None: as far as pods tell, it does."""
    address = endpoint.address
    if address in index.host_addresses:
        return f"endpoint {address} is the address of a pod on the host's network: left out"
    owner = index.owners.get(address)
    if owner is not None and owner.namespace != endpoint.service.namespace:
        return f"endpoint {address} is a pod of another namespace: left out"
    if owner is None and index.from_api and endpoint.node in (None, node):
        # Else the next pod of anybody that gets this address would leave by this Service until it is known.
        return f"endpoint {address} is no address of a Pod: left out"
    return None
