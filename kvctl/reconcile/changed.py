"""What a run changed, Service by Service, for everybody who reports it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import product

from kvctl.model.net import Address, Family
from kvctl.model.ref import ServiceRef
from kvctl.netfilter.diff import Change
from kvctl.policy.decode import Installed
from kvctl.reconcile.report import Item, Status, in_order
from kvctl.reconcile.run import Applied


class Action(StrEnum):
    """What happened to the rules of a Service in one family."""

    ADDED = "added"
    UPDATED = "updated"
    MOVED = "moved"
    """From the other back end."""
    DROPPING = "dropping"
    """Its VIP is elsewhere, and its pods' traffic is dropped."""
    REMOVED = "removed"
    FAILED = "failed"


def changed_items(applied: Applied) -> list[Item]:
    """The items as they are now, each with the changes that made it so."""
    changes: dict[_Key, list[Change]] = defaultdict(list)
    for item in applied.before.items:
        if item.changes:
            changes[_key(item)] += item.changes
    now = {_key(item) for item in applied.after.items} if changes else set()
    gone = [
        item._replace(
            status=Status.SKIPPED if item.status is Status.ORPHANED else item.status, connections=None
        )
        for item in applied.before.items
        if item.changes and _key(item) not in now
    ]
    refs_gone = {item.ref for item in gone}
    items = [
        _with_changes(item, changes.get(_key(item), ()))
        for item in applied.after.items
        # Refused before its families are known, and said better by the family that lost its rules.
        if item.family is not None or item.ref not in refs_gone
    ]
    return in_order([*items, *gone]) if gone else items


_Key = tuple[str | None, str | None, Family | None]


def _key(item: Item) -> _Key:
    return (item.namespace, item.service, item.family)


def _with_changes(item: Item, changes: Sequence[Change]) -> Item:
    """The very same item where it says so already: whoever keeps the last one sees at once that nothing happened."""
    its = tuple(changes) if item.ref is not None else ()
    return item if item.changes == its else item._replace(changes=its)


def action_on(item: Item, applied: Applied) -> Action | None:
    """What happened to an item of `changed_items`; None: nothing."""
    if not item.changes or item.ref is None:
        return None
    if not applied.restores and not any(outcome.errors for outcome in applied.outcomes):
        return None
    if any(outcome.errors and item.family in (None, outcome.family) for outcome in applied.outcomes):
        return Action.FAILED
    if not applied.has(item.ref, item.family):
        if not applied.has_drop(item.ref, item.family):
            return Action.REMOVED
        had_only_drop = applied.had_drop(item.ref, item.family) and not applied.had(item.ref, item.family)
        return Action.UPDATED if had_only_drop else Action.DROPPING
    if applied.had(item.ref, item.family):
        return Action.UPDATED
    return Action.MOVED if applied.had_in_other(item.ref, item.family) else Action.ADDED


def taken_over(before: Iterable[Installed], items: Sequence[Item]) -> list[str]:
    """The pods that one Service loses to another and keeps its rules, a sentence for each two Services.

    `before`: what there was; `items`: what there is after it, or is to be.
    """
    stays = {item.ref for item in items if item.status in (Status.APPLIED, Status.ORPHANED)}
    leads: dict[Address, set[ServiceRef]] = defaultdict(set)
    for item in items:
        if item.ref is not None and not item.drops:
            for pod in item.pods:
                leads[pod.address].add(item.ref)
    had: dict[Address, set[ServiceRef]] = defaultdict(set)
    for entry in (entry for installed in before for entry in installed.entries):
        had[entry.address].add(entry.rank.ref)
    moved: dict[tuple[ServiceRef, ServiceRef], list[Address]] = defaultdict(list)
    for address, refs in had.items():
        for loser, winner in product((refs - leads[address]) & stays, leads[address] - refs):
            moved[loser, winner].append(address)
    return [
        f"{addresses[0]}{f' and {len(addresses) - 1} more' if addresses[1:] else ''} "
        f"{'go' if addresses[1:] else 'goes'} over from {loser} to {winner}"
        for (loser, winner), addresses in sorted(moved.items())
    ]
