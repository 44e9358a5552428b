"""What one family of the kernel should hold in the end. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple

from kvctl.model.net import Family
from kvctl.model.policy import EgressPolicy, Exclusion
from kvctl.model.ref import ServiceRef
from kvctl.policy.compile import Entry
from kvctl.policy.decode import Installed, Part

if TYPE_CHECKING:
    from kvctl.policy.verdict import Skipped


class Scope(NamedTuple):
    """Which Services a run is about."""

    named: frozenset[ServiceRef] | None = None
    """None: all of them."""
    prune: bool = False
    """Services that are absent from the source go."""

    def covers(self, ref: ServiceRef) -> bool:
        """Whether `ref` may be changed by this run."""
        return self.named is None or ref in self.named


class Share(NamedTuple):
    """What one table should hold."""

    policies: tuple[EgressPolicy, ...] = ()
    """Services whose chains are written."""
    held: frozenset[ServiceRef] = frozenset()
    """Services whose chains stay as they are in the kernel."""
    entries: tuple[Entry, ...] = ()

    @property
    def refs(self) -> frozenset[ServiceRef]:
        """Every Service that has rules in it."""
        return self.held.union(policy.ref for policy in self.policies)

    def and_more(
        self, policies: Sequence[EgressPolicy], *, held: AbstractSet[ServiceRef], entries: Sequence[Entry]
    ) -> Share:
        """With these as well; what has none of them more is the very same value."""
        return Share(
            policies=(*self.policies, *policies) if policies else self.policies,
            held=self.held | held,
            entries=(*self.entries, *entries) if entries else self.entries,
        )


NOTHING = Share()


class Target(NamedTuple):
    """What a family should hold in the end. Its own policies, held Services and jumps are those that rewrite."""

    family: Family
    policies: tuple[EgressPolicy, ...] = ()
    """Services whose chains are written."""
    held: frozenset[ServiceRef] = frozenset()
    """Services whose chains stay as they are in the kernel."""
    entries: tuple[Entry, ...] = ()
    drops: Share = NOTHING
    """What is dropped, because the VIP is not here."""
    exclusions: tuple[Exclusion, ...] = ()
    lost: Mapping[ServiceRef, str] = {}
    """Services that lose the rules they have, and why."""
    kept: Mapping[ServiceRef, Skipped] = {}
    """Services whose input is faulty and whose rules stay."""
    orphans: frozenset[ServiceRef] = frozenset()
    """Services in the kernel that are absent from the source and stay."""

    @property
    def rewrites(self) -> Share:
        """What is rewritten, in the form of what is dropped."""
        return Share(policies=self.policies, held=self.held, entries=self.entries)


def without(installed: Installed, refs: Collection[ServiceRef] | None) -> Target:
    """The target of `flush`: everything installed but `refs` (None: nothing at all stays)."""
    going = installed.refs if refs is None else frozenset(refs)
    rewrites, drops = _without(installed, going), _without(installed.drops, going)
    return Target(
        family=installed.family,
        held=rewrites.held,
        entries=rewrites.entries,
        drops=drops,
        exclusions=installed.exclusions,
        lost={ref: "flushed" for ref in installed.refs if ref in going},
    )


def _without(part: Part, going: Collection[ServiceRef]) -> Share:
    return Share(
        held=frozenset(ref for ref in part.services if ref not in going),
        entries=tuple(item for item in part.entries if item.rank.ref not in going),
    )


def as_it_is(installed: Installed) -> Target:
    """The target of a look at the kernel alone: what is there, as this version of kvctl writes it."""
    rewrites = _as_it_is(installed)
    return Target(
        family=installed.family,
        policies=rewrites.policies,
        held=rewrites.held,
        entries=rewrites.entries,
        drops=_as_it_is(installed.drops),
        exclusions=installed.exclusions,
    )


def _as_it_is(part: Part) -> Share:
    services = part.services
    return Share(
        policies=tuple(s.policy for s in services.values() if s.policy is not None and not s.intact),
        held=frozenset(ref for ref, s in services.items() if s.policy is None or s.intact),
        entries=part.entries,
    )
