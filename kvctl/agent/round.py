"""One round of the agent's loop as a value: what journal, Events, gates and metrics are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from kvctl.errors import InputError, KvctlError
from kvctl.model.net import Family
from kvctl.model.objects import Objects, Pod, Service
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import Problem, read_annotations
from kvctl.policy.resolution import Resolution
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Item


class Cause(StrEnum):
    """Why a round was made."""

    START = "start"
    OBJECTS = "objects"
    ELECTION = "election"
    ADDRESSES = "addresses"
    KERNEL = "kernel"
    ROUTES = "routes"
    TIMER = "timer"


class Subject(NamedTuple):
    """What there is one item of: a Service in one family (None: refused before its families were known)."""

    ref: ServiceRef
    family: Family | None


class Turn(NamedTuple):
    """One Service in one family that is not as it was after the round before."""

    item: Item
    before: Item | None
    """None: it is new here."""
    action: Action | None = None
    """What was done to its rules; None: nothing, only what there is to say has changed."""
    repaired: bool = False
    """Nobody asked for anything new: another program had changed the rules."""
    found: str | None = None
    """What the rules looked like before they were changed, in words."""
    dropped: int = 0
    """Connections with the wrong source that were dropped."""

    @property
    def told_before(self) -> bool:
        """Whether its status and reason are those of the round before."""
        return self.before is not None and (self.before.status, self.before.reason) == (
            self.item.status,
            self.item.reason,
        )


@dataclass(frozen=True)
class Round:
    """What the loop did and found; `account` makes it."""

    causes: frozenset[Cause]
    ended: float
    """Seconds since the epoch."""
    duration: float
    """Seconds, from the first mark that was drained."""
    items: tuple[Item, ...] = ()
    """One a Service and family that has rules or pods here, with its status after the round."""
    turns: tuple[Turn, ...] = ()
    """What is not as it was, in the order of the items; a Service that has gone for good is last seen here."""
    objects: Objects = field(default_factory=Objects)
    """What was read: of Pods those of this node."""
    resolution: Resolution | None = None
    """None: the round ended before anything was resolved."""
    restores: int = 0
    """How many times the kernel was written to, failures included."""
    restores_refused: int = 0
    """Of these, how many the kernel took nothing of; mostly the next try goes through."""
    restore_failures: int = 0
    """Families in which a program failed for good."""
    dropped: int = 0
    """Connections dropped, also those that no Service of today can be told for."""
    warnings: tuple[str, ...] = ()
    """About the node or the cluster as a whole."""
    errors: tuple[KvctlError, ...] = ()
    """What had to be done and could not be."""
    backend: str | None = None
    """The back end in use; None: not known yet."""
    why_backend: str = ""
    """The evidence for it, in words."""
    contested: str | None = None
    """The sentence about a program that keeps undoing what the agent writes."""
    disagreements: Mapping[ServiceRef, str] = field(default_factory=dict)
    """A sentence where the evidence about who holds the VIP does not agree."""
    unplaced: Mapping[ServiceRef, str] = field(default_factory=dict)
    """A sentence where a VIP is not where this node could put it (serviceElection)."""
    before: tuple[Item, ...] = ()
    """As the kernel was found, so that counters that the round reset are not lost."""
    complete: bool = True
    """False: the kernel could not be looked at, so `items` are those of an earlier round."""

    @property
    def cause(self) -> Cause:
        """The one that says most of several."""
        return next((cause for cause in Cause if cause in self.causes), Cause.TIMER)

    @property
    def failed(self) -> bool:
        """Whether something that had to be done could not be."""
        return bool(self.errors)

    @cached_property
    def problems(self) -> Sequence[InputError]:
        """Faults in the objects themselves, each once, as far as a pod of this node is concerned."""
        found = (
            InputError(f"{ref}: {problem}", hint=problem.hint)
            for ref, problems in sorted(self._faults.items())
            if self.concerns_this_node(ref)
            for problem in problems
        )
        return (*self.objects.errors, *found)

    @property
    def services(self) -> Mapping[ServiceRef, Service]:
        """All Services that could be read."""
        return self.resolution.services if self.resolution is not None else {}

    def faults(self, ref: ServiceRef) -> Sequence[Problem]:
        """What is not accepted of what the Service says, each once."""
        return self._faults.get(ref, ())

    @cached_property
    def _faults(self) -> Mapping[ServiceRef, Sequence[Problem]]:
        found: dict[ServiceRef, dict[Problem, None]] = {}
        for skip in self.resolution.skipped if self.resolution is not None else ():
            if skip.problems:
                found.setdefault(skip.ref, {}).update(dict.fromkeys(skip.problems))
        return {ref: tuple(problems) for ref, problems in found.items()}

    @cached_property
    def by_ref(self) -> Mapping[ServiceRef, list[Item]]:
        """The items of each Service."""
        found: dict[ServiceRef, list[Item]] = {}
        for item in self.items:
            if item.ref is not None:
                found.setdefault(item.ref, []).append(item)
        return found

    @cached_property
    def asking(self) -> Mapping[str, frozenset[ServiceRef]]:
        """By namespace: the Services that ask for egress of pods here, can have it or not, are ignored or not."""
        if self.resolution is None:
            return {}
        found: dict[str, set[ServiceRef]] = {}
        for ref in self.resolution.asking:
            found.setdefault(ref.namespace, set()).add(ref)
        return {namespace: frozenset(its) for namespace, its in found.items()}

    def asks(self, ref: ServiceRef) -> bool:
        """Whether a Service asks for egress and is not to be ignored."""
        service = self.services.get(ref)
        ignored = service is not None and read_annotations(service.annotations).ignore
        return self.resolution is not None and self.resolution.asks(ref) and not ignored

    @cached_property
    def _pods_by_namespace(self) -> Mapping[str, list[Pod]]:
        found: dict[str, list[Pod]] = {}
        for pod in self.objects.pods:
            found.setdefault(pod.namespace, []).append(pod)
        return found

    def pod(self, namespace: str, name: str) -> Pod | None:
        """A pod of this node."""
        return next((p for p in self._pods_by_namespace.get(namespace, ()) if p.name == name), None)

    def concerns_this_node(self, ref: ServiceRef) -> bool:
        """Whether a pod of this node belongs to the Service: of others' Services other nodes speak."""
        known = self._concerns.get(ref)
        if known is None:
            service = self.services.get(ref)
            pods = self._pods_by_namespace.get(ref.namespace, ()) if service is not None else ()
            known = service is not None and any(
                selects(service, pod, objects=self.objects) for pod in pods if not pod.finished
            )
            self._concerns[ref] = known
        return known

    @cached_property
    def _concerns(self) -> dict[ServiceRef, bool]:
        return {}


def selects(service: Service, pod: Pod, *, objects: Objects) -> bool:
    """Whether a pod belongs to a Service, with or without an address of its own."""
    if pod.namespace != service.ref.namespace:
        return False
    if service.selector:
        return service.selector.items() <= pod.labels.items()
    return any(
        endpoint.service == service.ref and (endpoint.pod == pod.name or endpoint.address in pod.addresses)
        for endpoint in objects.endpoints
    )
