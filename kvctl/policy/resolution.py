"""What the source says, judged: what is wanted, what is skipped and why, and the means to judge what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from kvctl.model.net import Address, Family
from kvctl.model.objects import Service
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.cidrs import ClusterNetworks
from kvctl.policy.compile import Entry, entries_of
from kvctl.policy.holder import VIP_HOST, Evidence, evidence_of
from kvctl.policy.pods import PodIndex
from kvctl.policy.verdict import Skipped, Wanted
from kvctl.policy.vips import Claim, VipRules


@dataclass(frozen=True)
class Resolution:
    """Everything the source says, and the means to judge what is kept from before."""

    wanted: tuple[Wanted, ...]
    skipped: tuple[Skipped, ...]
    present: AbstractSet[ServiceRef]
    """All Services of the source, also those that ask for nothing."""
    networks: ClusterNetworks
    claims: Mapping[Address, Claim]
    """Of each address the strongest claim."""
    rules: VipRules
    index: PodIndex
    services: Mapping[ServiceRef, Service] = field(default_factory=dict)
    announced: Mapping[ServiceRef, frozenset[str]] = field(default_factory=dict)
    unidentified: bool = False
    """An object of the source could not be told by name: then no Service is known to be absent."""
    node_is_unknown: bool = False
    """Which pods are here cannot be told: the source has Nodes, but none of this name."""
    idle: Mapping[ServiceRef, tuple[Skipped, ...]] = field(default_factory=dict)
    """Services that ask, and of which this node has no pod: not in `skipped` where only this node is of interest."""

    def policies(self, family: Family) -> tuple[EgressPolicy, ...]:
        """The policies of one family; the very same value each time."""
        return self._policies[family]

    def entries(self, family: Family) -> tuple[Entry, ...]:
        """The jumps of their pods; the very same value each time."""
        return self._entries[family]

    @cached_property
    def _policies(self) -> Mapping[Family, tuple[EgressPolicy, ...]]:
        policies = [wanted.policy for wanted in self.wanted]
        return {family: tuple(p for p in policies if p.family is family) for family in Family}

    @cached_property
    def _entries(self) -> Mapping[Family, tuple[Entry, ...]]:
        return {
            family: tuple(item for policy in policies for item in entries_of(policy))
            for family, policies in self._policies.items()
        }

    def drops(self, family: Family) -> tuple[EgressPolicy, ...]:
        """What is dropped in one family, because the VIP is not here."""
        return tuple(skip.drop for skip in self.skipped if skip.drop is not None and skip.family is family)

    def skips(self, ref: ServiceRef) -> tuple[Skipped, ...]:
        """Why a Service has nothing rewritten, in some family or in all."""
        return self._skipped_by_ref.get(ref) or self.idle.get(ref, ())

    @cached_property
    def _skipped_by_ref(self) -> Mapping[ServiceRef, tuple[Skipped, ...]]:
        found: dict[ServiceRef, tuple[Skipped, ...]] = {}
        for skip in self.skipped:
            found[skip.ref] = (*found.get(skip.ref, ()), skip)
        return found

    @cached_property
    def asking(self) -> AbstractSet[ServiceRef]:
        """The Services that ask for egress and that a pod of this node may belong to."""
        return {wanted.policy.ref for wanted in self.wanted} | self._skipped_by_ref.keys()

    def asks(self, ref: ServiceRef) -> bool:
        """Whether a Service asks for egress, whether it can have it or not."""
        return ref in self.asking or ref in self.idle

    def has_evidence(self, ref: ServiceRef) -> bool:
        """Whether anybody says who holds the VIP of a Service, true or not."""
        service = self.services.get(ref)
        return ref in self.announced or (service is not None and VIP_HOST in service.annotations)

    def evidence(self, ref: ServiceRef, *, node: str | None) -> Evidence:
        """What is said about who holds the VIP of a Service; `node` is the name of this one."""
        service = self.services.get(ref)
        announced = self.announced.get(ref, frozenset())
        return evidence_of(service.annotations if service else {}, announced=announced, node=node)
