"""What there is to say about each Service: one item a Service and family, for every command alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from kvctl.model.net import Address, Family, Network
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import HOOK_CHAINS, Mark
from kvctl.netfilter.diff import Change
from kvctl.reconcile.target import Scope

if TYPE_CHECKING:
    from kvctl.model.flows import Flow
    from kvctl.model.lease import LeaseKey
    from kvctl.policy.resolution import Resolution
    from kvctl.policy.verdict import Skipped


class Status(StrEnum):
    """How wanted and found compare, in the words of kvctl(1)."""

    WANTED = "wanted"
    APPLIED = "applied"
    MISSING = "missing"
    DRIFTED = "drifted"
    RETIRING = "retiring"
    ORPHANED = "orphaned"
    SKIPPED = "skipped"
    ELSEWHERE = "elsewhere"
    OVERRIDDEN = "overridden"
    FOREIGN = "foreign"


class Item(NamedTuple):
    """One Service in one family. What cannot be known is None."""

    namespace: str | None
    service: str | None
    family: Family | None
    vip: Address | None
    status: Status
    reason: str | None = None
    interface: str | None = None
    pods: tuple[EgressPod, ...] = ()
    ports: tuple[str, ...] = ()
    allowed: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    excluded: tuple[Network, ...] = ()
    warnings: tuple[str, ...] = ()
    connections: int | None = None
    changes: tuple[Change, ...] | None = None
    """None: the command does not compare."""
    flows: tuple[Flow, ...] | None = None
    problems: tuple[str, ...] | None = None
    drops: bool = False
    """Its pods' traffic is dropped, or is to be, because its VIP is elsewhere."""
    holder: str | None = None
    """The node that has the VIP, where a command has looked."""
    vip_interface: str | None = None
    """The interface of this node that has it."""
    mark: Mark | None = None
    """What leads its traffic out by its interface."""
    lease: LeaseKey | None = None
    """By which it is held, where the source says that it is."""

    @property
    def ref(self) -> ServiceRef | None:
        """Which Service, where it is one."""
        if self.namespace is None or self.service is None:
            return None
        return ServiceRef(self.namespace, self.service)


def policy_item(
    policy: EgressPolicy,
    *,
    status: Status,
    exclusions: Sequence[Exclusion],
    warnings: tuple[str, ...] = (),
    pods: tuple[EgressPod, ...] | None = None,
    connections: int | None = None,
) -> Item:
    """The item of a policy; `pods`: instead of the policy's own."""
    return Item(
        namespace=policy.ref.namespace,
        service=policy.ref.name,
        family=policy.family,
        vip=policy.vip,
        status=status,
        interface=policy.interface,
        mark=policy.mark,
        pods=policy.pods if pods is None else pods,
        ports=tuple(map(str, policy.ports)),
        allowed=policy.allowed,
        denied=policy.denied,
        excluded=tuple(e.network for e in exclusions),
        warnings=warnings,
        connections=connections,
    )


def skipped_item(skip: Skipped, *, changes: tuple[Change, ...] | None = None) -> Item:
    """The item of a Service that gets no rules; `changes`: what a comparison found of it."""
    return Item(
        namespace=skip.ref.namespace,
        service=skip.ref.name,
        family=skip.family,
        vip=skip.vip,
        status=Status(skip.status.value),
        reason=skip.reason,
        warnings=skip.warnings,
        changes=changes,
        drops=skip.drop is not None,
    )


def computed_items(resolution: Resolution, scope: Scope) -> list[Item]:
    """The items of `compute`: what is wanted, with no look at any kernel."""
    items = [
        policy_item(
            wanted.policy,
            status=Status.WANTED,
            exclusions=resolution.networks.exclusions[wanted.policy.family],
            warnings=wanted.warnings,
        )
        for wanted in resolution.wanted
    ]
    items += [skipped_item(skip) for skip in resolution.skipped]
    return in_order(item for item in items if covered(item, scope))


def drift_reason(changes: Sequence[Change]) -> str:
    """One sentence about what differs."""
    hook = [change for change in changes if change.chain in HOOK_CHAINS]
    inserted = next((change.chain for change in hook if change.op == "insert"), None)
    if inserted is not None:
        if any(change.op == "remove" and change.chain == inserted for change in hook):
            return f"the jump in {inserted} is not where it has to be: another program's rule comes first"
        return f"the jump in {inserted} is missing"
    missing = sum(change.op == "add" for change in changes)
    surplus = sum(change.op == "remove" for change in changes)
    if not changes:
        return "the rules are not as kvctl writes them"
    return f"the rules differ: {missing} missing, {surplus} not wanted; diff shows them, apply mends them"


def covered(item: Item, scope: Scope) -> bool:
    """Whether a run is about this item."""
    return item.ref is None or scope.covers(item.ref)


def in_order(items: Iterable[Item]) -> list[Item]:
    """By namespace, name and family."""
    # Of one family, addresses are in order as numbers are.
    return sorted(
        items, key=lambda i: (i.namespace or "", i.service or "", i.family or "", int(i.vip) if i.vip else 0)
    )
