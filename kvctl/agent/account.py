"""From a run to the round that tells of it: what is new, what was repaired, whose connections were dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvctl.agent.round import Cause, Round, Subject, Turn
from kvctl.errors import KvctlError, ProcessError
from kvctl.model.flows import Flow
from kvctl.model.net import Address
from kvctl.model.objects import Objects
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.holder import disagreement
from kvctl.policy.resolution import Resolution
from kvctl.reconcile.changed import action_on, changed_items
from kvctl.reconcile.report import Item, Status

if TYPE_CHECKING:
    from kvctl.reconcile.run import Applied
    from kvctl.reconcile.wish import Wish


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
        turns=tuple(_turns(applied, flows, previous=previous, resolution=wish.resolution)),
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


def _turns(
    applied: Applied, flows: Sequence[Flow], *, previous: Round | None, resolution: Resolution
) -> Iterable[Turn]:
    known = previous.items if previous is not None else ()
    items = _to_tell(applied, flows, known=known)
    if not items:
        return
    refs = {item.ref for item in items if item.ref is not None}
    last, found = _by_subject(known, refs), _by_subject(applied.before.items, refs)
    dropped = _dropped(flows, (*items, *applied.before.items))
    asked_before = _asked(previous.resolution if previous is not None else None, refs)
    asked = _asked(resolution, refs)
    for item in items:
        assert item.ref is not None
        subject = Subject(item.ref, item.family)
        action, before = action_on(item, applied), last.get(subject)
        turn = Turn(
            item=item,
            before=before,
            action=action,
            repaired=before is not None
            and action is not None
            # By which mark or fence is not in an item, and changes as well: with a route, say.
            and asked_before.get(subject) == asked.get(subject)
            and _asks_the_same(before, item),
            found=found[subject].reason if action is not None and subject in found else None,
            dropped=dropped[subject],
        )
        if action is not None or turn.dropped or not turn.told_before:
            yield turn


def _to_tell(applied: Applied, flows: Sequence[Flow], *, known: Sequence[Item]) -> list[Item]:
    """The items that there may be something to tell of: not the very ones of the round before, if nothing happened."""
    at_rest = {id(item) for item in known if not item.changes} if not flows else frozenset[int]()
    return [item for item in changed_items(applied) if id(item) not in at_rest and item.ref is not None]


def _by_subject(items: Iterable[Item], refs: Container[ServiceRef]) -> Mapping[Subject, Item]:
    """The items of these Services."""
    # A ServiceRef is equal to the pair that it is.
    return {Subject(i.ref, i.family): i for i in items if (i.namespace, i.service) in refs and i.ref}


def _asked(resolution: Resolution | None, refs: Container[ServiceRef]) -> Mapping[Subject, EgressPolicy]:
    """What the rules of these Services are to do."""
    if resolution is None:
        return {}
    policies = (
        *(wanted.policy for wanted in resolution.wanted),
        *(skip.drop for skip in resolution.skipped if skip.drop is not None),
    )
    return {Subject(policy.ref, policy.family): policy for policy in policies if policy.ref in refs}


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
        if not wish.resolution.has_evidence(item.ref):
            continue
        evidence = wish.resolution.evidence(item.ref, node=wish.settings.this_node)
        if not evidence.announced and evidence.vip_host is None:
            continue
        sentence = disagreement(item.vip, host=wish.host, evidence=evidence)
        if sentence is not None:
            found.setdefault(item.ref, sentence)
    return found
