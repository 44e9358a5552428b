"""From rules found in the kernel back to policies: what `list`, `show`, `flush` and `apply SERVICE` build on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Address, Family, Network
from kvctl.model.policy import EgressPolicy, Exclusion, ExclusionKind, Fence, PortMatch, canonical
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Rule, Verb
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.policy import comments, layout
from kvctl.policy.compile import Entry, entries_of, pod_of
from kvctl.policy.dispatch import NO_HINTS, Hints, asides, dispatching
from kvctl.policy.service_chains import compile_drop, compile_service


class Retiring(NamedTuple):
    """A VIP whose rules are gone and whose connections are still to be dropped."""

    ref: ServiceRef
    vip: Address


class InstalledService(NamedTuple):
    """A Service as the kernel has it; `policy` is None where its chain does not tell an address."""

    ref: ServiceRef
    policy: EgressPolicy | None
    intact: bool
    """Its own chains hold exactly what this version of kvctl writes for `policy`."""
    connections: int | None
    """Connections begun under the present rules (nat counts first packets); None: not counted."""
    vips: tuple[Address, ...] = ()
    """Every address its rules rewrite to: several only where somebody changed them."""


class Part:
    """The Services of one table, and the jumps of their pods."""

    def __init__(self, services: Mapping[ServiceRef, InstalledService], entries: tuple[Entry, ...]) -> None:
        self.services = services
        self.entries = entries

    def entries_of(self, ref: ServiceRef) -> list[Entry]:
        """The jumps of one Service's pods."""
        return self._entries_by_ref.get(ref, [])

    @cached_property
    def _entries_by_ref(self) -> dict[ServiceRef, list[Entry]]:
        by_ref: dict[ServiceRef, list[Entry]] = defaultdict(list)
        for item in self.entries:
            by_ref[item.rank.ref].append(item)
        return dict(by_ref)


class Installed(Part):
    """Everything of ours in one family; the Services and jumps of its own are those that rewrite.

    `drops` is what is dropped because its VIP was not here.
    """

    def __init__(
        self,
        family: Family,
        rewrites: Part,
        *,
        drops: Part,
        exclusions: tuple[Exclusion, ...],
        retiring: tuple[Retiring, ...],
        guards: tuple[tuple[Entry, str], ...] = (),
        marks: tuple[tuple[Entry, str], ...] = (),
    ) -> None:
        super().__init__(rewrites.services, rewrites.entries)
        self.family = family
        self.drops = drops
        self.exclusions = exclusions
        self.retiring = retiring
        self.guards = guards
        """Jumps of pods to what is dropped while heartbeats are late, each with the chain that it leads to."""
        self.marks = marks
        """The same to what is marked."""

    @cached_property
    def refs(self) -> frozenset[ServiceRef]:
        """Every Service that has rules."""
        return frozenset((*self.services, *self.drops.services))

    @property
    def pod_networks(self) -> tuple[Network, ...]:
        """The pod CIDRs that the rules exclude."""
        return tuple(e.network for e in self.exclusions if e.kind is ExclusionKind.POD)


def decode(snapshot: Snapshot, *, hints: Hints = NO_HINTS) -> Installed:
    """Read everything of ours; what is not understood is left out here and found by the comparison of rules."""
    exclusions: dict[Network, Exclusion] = {}
    rewritten, retiring = _decode_table(snapshot, layout.REWRITING, exclusions, hints)
    dropped, _ = _decode_table(snapshot, layout.DROPPING, exclusions, NO_HINTS)
    return Installed(
        snapshot.family,
        rewritten,
        drops=dropped,
        exclusions=canonical(exclusions.values()),
        retiring=tuple(retiring),
        guards=asides(snapshot, layout.DROPPING),
        marks=asides(snapshot, layout.MARKING),
    )


def _decode_table(
    snapshot: Snapshot, names: layout.Names, exclusions: dict[Network, Exclusion], hints: Hints
) -> tuple[Part, list[Retiring]]:
    entries: list[Entry] = []
    by_service: dict[ServiceRef, list[Entry]] = defaultdict(list)
    last: tuple[tuple[Network, Exclusion], ...] = ()
    for read in dispatching(snapshot, names, hints=hints):
        if read.exclusions and read.exclusions is not last:
            last = read.exclusions
            exclusions.update(last)
        for item, chain in read.pods:
            # A jump to a chain that is not there does nothing.
            if chain in snapshot.chains:
                entries.append(item)
                by_service[item.rank.ref].append(item)
    chains = {names.service_chain(ref): ref for ref in by_service}
    # Most nodes have none, and to tell how each Service's would be called takes a hash.
    has_out = any(map(names.is_out, snapshot.chains))
    services: dict[ServiceRef, InstalledService] = {}
    retiring: list[Retiring] = []
    for name, rules in snapshot.chains.items():
        if not names.is_service(name):
            continue
        marks = list(_retiring_in(rules))
        retiring += marks
        ref = chains.get(name) or _owner(rules)
        if ref is not None and len(marks) < len(rules):
            services[ref] = _read_service(
                ref, snapshot, names, by_service.get(ref, []), hints, has_out=has_out
            )
    for ref, items in by_service.items():
        if ref not in services:
            services[ref] = _read_service(ref, snapshot, names, items, hints, has_out=has_out)
    return Part(services=services, entries=tuple(entries)), retiring


def _retiring_in(rules: Iterable[FoundRule]) -> Iterable[Retiring]:
    for found in rules:
        mark = comments.read_retiring(found.rule) if found.rule else None
        if mark is not None:
            yield Retiring(*mark)


def _owner(rules: Iterable[FoundRule]) -> ServiceRef | None:
    for found in rules:
        text = (comments.comment_text(found.rule) or "") if found.rule else ""
        said = _said_in(text)
        if said is not None:
            return said.ref
    return None


def _said_in(text: str) -> comments.Said | None:
    return comments.read_service(text) or comments.read_dropped(text)


_services: ByKey[tuple[Family, str, ServiceRef], InstalledService] = ByKey()


def _read_service(
    ref: ServiceRef,
    snapshot: Snapshot,
    names: layout.Names,
    items: Sequence[Entry],
    hints: Hints,
    *,
    has_out: bool,
) -> InstalledService:
    chain = snapshot.chains.get(names.service_chain(ref), ())
    out = snapshot.chains.get(names.out_chain(ref), ()) if has_out else ()
    hint = hints.policies.get(ref)

    def make() -> InstalledService:
        acting = (_acting(chain), _acting(out))
        if hint is not None and tuple(items) == entries_of(hint) and _same_rules(hint, acting, names):
            return _as_expected(hint, items, chain, out)
        return _read_rules(ref, snapshot.family, names, items, acting, connections=_count(chain, out))

    return _services.get((snapshot.family, names.service, ref), (chain, out, *items), make)


def _as_expected(
    policy: EgressPolicy, items: Sequence[Entry], chain: Sequence[FoundRule], out: Sequence[FoundRule]
) -> InstalledService:
    return InstalledService(
        ref=policy.ref,
        # What the rules do not say of a pod is not known of it either.
        policy=policy._replace(pods=tuple(map(pod_of, items))),
        intact=True,
        connections=_count(chain, out),
        vips=(policy.vip,),
    )


def _count(chain: Sequence[FoundRule], out: Sequence[FoundRule]) -> int | None:
    """Connections that the rules which rewrite have begun; None: the counters are not known."""
    counts = [f.packets for f in (*chain, *out) if f.rule and f.rule.target.verb is Verb.SNAT]
    return None if None in counts else sum(count or 0 for count in counts)


_Acting = tuple[list[Rule | None], list[Rule | None]]
"""The rules of a Service's chain, and of the one with its ports, but for marks; None: one that is not ours."""


def _acting(chain: Sequence[FoundRule]) -> list[Rule | None]:
    return [found.rule for found in chain if found.rule is None or comments.read_retiring(found.rule) is None]


def _read_rules(
    ref: ServiceRef,
    family: Family,
    names: layout.Names,
    items: Sequence[Entry],
    acting: _Acting,
    *,
    connections: int | None,
) -> InstalledService:
    rules = [rule for its in acting for rule in its if rule is not None]
    vips = tuple(dict.fromkeys([vip for vip in map(_vip_of, rules) if vip is not None]))
    policy = _policy(ref, family, rules, items, vips[0]) if vips else None
    return InstalledService(
        ref=ref,
        policy=policy,
        intact=policy is not None and _same_rules(policy, acting, names),
        connections=connections if names is layout.REWRITING else None,
        vips=vips,
    )


def _vip_of(rule: Rule) -> Address | None:
    """What a rule rewrites to, or would if it did not drop."""
    if rule.target.verb is not Verb.DROP:
        return rule.target.address
    dropped = comments.read_dropped(comments.comment_text(rule) or "")
    return dropped.vip if dropped is not None else None


def _fence_of(rules: Sequence[Rule], said: comments.Said | None) -> Fence | None:
    """The fence of rules that rewrite, or that would if they did not drop."""
    beats = (rule.heartbeat for rule in rules if rule.heartbeat is not None)
    return next((Fence(beat.name, beat.seconds) for beat in beats), said.fence if said is not None else None)


def _policy(
    ref: ServiceRef, family: Family, rules: Sequence[Rule], items: Sequence[Entry], vip: Address
) -> EgressPolicy:
    said = next(filter(None, (_said_in(comments.comment_text(rule) or "") for rule in rules)), None)
    ports: list[PortMatch] = []
    allowed: list[Network] = []
    denied: list[Network] = []
    for rule in rules:
        if rule.protocol is not None:
            ports += [PortMatch(rule.protocol, first, last) for first, last in rule.ports]
        if rule.destination is not None:
            (denied if rule.target.verb is Verb.RETURN else allowed).append(rule.destination)
    return EgressPolicy(
        ref=ref,
        family=family,
        vip=vip,
        pods=tuple([pod_of(item) for item in _by_address(items)]),
        ports=tuple(ports),
        allowed=tuple(allowed),
        denied=tuple(denied),
        interface=said.interface if said is not None else None,
        created=items[0].rank.created if items else 0,
        fence=_fence_of(rules, said),
        drops_without_vip=said is not None and said.drops_without_vip,
        mark=said.mark if said is not None else None,
    )


def _by_address(items: Sequence[Entry]) -> Sequence[Entry]:
    return sorted(items, key=lambda item: int(item.address)) if len(items) > 1 else items


def _same_rules(policy: EgressPolicy, acting: _Acting, names: layout.Names) -> bool:
    wanted = compile_service(policy) if names is layout.REWRITING else compile_drop(policy)
    # First the Service's chain, then, where there is to be one, that with its ports.
    return all(list(rules) == found for rules, found in zip(wanted.values(), acting, strict=False))
