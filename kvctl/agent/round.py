"""One round of the agent's loop as a value: what journal, Events, gates and metrics are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from kvctl.errors import InputError, KvctlError, ProcessError
from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family
from kvctl.model.objects import Objects, Pod, Service
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import Problem, read_annotations
from kvctl.policy.holder import disagreement
from kvctl.policy.resolve import Resolution
from kvctl.reconcile.changed import Action, action_on, changed_items
from kvctl.reconcile.report import Item, Status

if TYPE_CHECKING:
    from kvctl.reconcile.run import Applied
    from kvctl.reconcile.wish import Wish


class Cause(StrEnum):
    """Why a round was made."""

    START = "start"
    OBJECTS = "objects"
    ADDRESSES = "addresses"
    KERNEL = "kernel"
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
    """What the loop did and found. Made by `round_of`, or by `failed_round` where nothing could be done."""

    causes: frozenset[Cause]
    ended: float
    """Seconds since the epoch."""
    duration: float
    """Seconds, from the first mark that was drained."""
    items: tuple[Item, ...] = ()
    """One a Service and family, with its status after the round."""
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
        """By namespace: the Services that ask for egress, whether they can have it, are to be ignored, or not."""
        if self.resolution is None:
            return {}
        refs = {w.policy.ref for w in self.resolution.wanted} | {s.ref for s in self.resolution.skipped}
        found: dict[str, set[ServiceRef]] = {}
        for ref in refs:
            found.setdefault(ref.namespace, set()).add(ref)
        return {namespace: frozenset(its) for namespace, its in found.items()}

    def asks(self, ref: ServiceRef) -> bool:
        """Whether a Service asks for egress and is not to be ignored."""
        service = self.services.get(ref)
        ignored = service is not None and read_annotations(service.annotations).ignore
        return ref in self.asking.get(ref.namespace, ()) and not ignored

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


def round_of(
    applied: Applied,
    wish: Wish,
    *,
    objects: Objects,
    previous: Round | None,
    causes: Iterable[Cause],
    duration: float,
    ended: float,
    contested: str | None = None,
) -> Round:
    """The round in which `wish` (of `objects`) was applied.

    `previous`: the one before, for what is new; `duration` in seconds, `ended` in seconds since the epoch.
    """
    outcomes = applied.outcomes
    flows = [flow for outcome in outcomes for flow in outcome.dropped]
    return Round(
        causes=frozenset(causes),
        ended=ended,
        duration=duration,
        items=tuple(applied.after.items),
        turns=tuple(_turns(applied, flows, previous=previous)),
        objects=objects,
        resolution=wish.resolution,
        restores=applied.restores,
        restores_refused=sum(outcome.refused for outcome in outcomes),
        restore_failures=sum(isinstance(e, ProcessError) for outcome in outcomes for e in outcome.errors),
        dropped=len(flows),
        warnings=_warnings(applied, objects, wish.resolution),
        errors=tuple(error for outcome in outcomes for error in outcome.errors),
        backend=str(applied.found.choice.backend),
        why_backend=applied.found.choice.why,
        contested=contested,
        disagreements=_disagreements(applied.after.items, wish),
        before=tuple(applied.before.items),
    )


def failed_round(
    error: KvctlError, *, previous: Round | None, causes: Iterable[Cause], duration: float, ended: float
) -> Round:
    """A round that could not even look: what is known stays what the round before knew."""
    known = previous or Round(causes=frozenset(), ended=ended, duration=0)
    return replace(
        known,
        causes=frozenset(causes),
        ended=ended,
        duration=duration,
        turns=(),
        restores=0,
        restores_refused=0,
        restore_failures=0,
        dropped=0,
        errors=(error,),
        before=(),
        complete=False,
    )


def _turns(applied: Applied, flows: Sequence[Flow], *, previous: Round | None) -> Iterable[Turn]:
    last = {Subject(i.ref, i.family): i for i in previous.items if i.ref} if previous is not None else {}
    found = {Subject(i.ref, i.family): i for i in applied.before.items if i.ref}
    items = [item for item in changed_items(applied) if item.ref is not None]
    dropped = _dropped(flows, (*items, *applied.before.items))
    for item in items:
        assert item.ref is not None
        subject = Subject(item.ref, item.family)
        action, before = action_on(item, applied), last.get(subject)
        turn = Turn(
            item=item,
            before=before,
            action=action,
            repaired=before is not None and action is not None and _asks_the_same(before, item),
            found=found[subject].reason if action is not None and subject in found else None,
            dropped=dropped[subject],
        )
        if action is not None or turn.dropped or not turn.told_before:
            yield turn


def _asks_the_same(before: Item, item: Item) -> bool:
    """Whether what was right before is right still, so that a change can only be a repair."""
    rewriting = (Status.APPLIED, Status.OVERRIDDEN)
    same = before.status is item.status is Status.ELSEWHERE or (
        before.status in rewriting and item.status in rewriting
    )
    return same and before._replace(status=item.status, **_STATE) == item._replace(**_STATE)


_STATE: Mapping[str, Any] = {"reason": None, "warnings": (), "connections": None, "changes": None}
"""What an item says of its state, not of what is asked for."""


def _dropped(flows: Sequence[Flow], items: Iterable[Item]) -> Counter[Subject]:
    """Connections by the Service that they had the VIP of, or whose pod began them."""
    if not flows:
        return Counter()
    owners: dict[Address, Subject] = {}
    for item in items:
        if item.ref is not None:
            mine = Subject(item.ref, item.family)
            owners.update({pod.address: mine for pod in item.pods if pod.address not in owners})
            if item.vip is not None:
                owners[item.vip] = mine
    found = (owners.get(f.reply.destination) or owners.get(f.original.source) for f in flows)
    return Counter(subject for subject in found if subject is not None)


def _warnings(applied: Applied, objects: Objects, resolution: Resolution) -> tuple[str, ...]:
    """Each once, in the order of cause: the source, the look at the kernel, the writing."""
    written = (text for outcome in applied.outcomes for text in outcome.warnings)
    said = (*objects.warnings, *resolution.networks.warnings, *applied.found.warnings, *written)
    return tuple(dict.fromkeys(said))


def _disagreements(items: Iterable[Item], wish: Wish) -> Mapping[ServiceRef, str]:
    found: dict[ServiceRef, str] = {}
    for item in items:
        if item.ref is None or item.vip is None or item.status is Status.SKIPPED:
            continue
        evidence = wish.resolution.evidence(item.ref, node=wish.settings.this_node)
        sentence = disagreement(item.vip, host=wish.host, evidence=evidence)
        if sentence is not None:
            found.setdefault(item.ref, sentence)
    return found
