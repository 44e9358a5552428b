"""From rules found in the kernel back to policies: what `list`, `show`, `flush` and `apply SERVICE` build on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from kvctl.model.memo import ByKey
from kvctl.model.net import Address, Family, Network
from kvctl.model.policy import EgressPolicy, Exclusion, ExclusionKind, Fence, PortMatch, Rank, canonical
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Rule, Verb
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.policy import comments, layout
from kvctl.policy.compile import Entry, pod_of
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


def decode(snapshot: Snapshot) -> Installed:
    """Read everything of ours; what is not understood is left out here and found by the comparison of rules."""
    exclusions: dict[Network, Exclusion] = {}
    rewritten, retiring = _decode_table(snapshot, layout.REWRITING, exclusions)
    dropped, _ = _decode_table(snapshot, layout.DROPPING, exclusions)
    return Installed(
        snapshot.family,
        rewritten,
        drops=dropped,
        exclusions=canonical(exclusions.values()),
        retiring=tuple(retiring),
        guards=_asides(snapshot, layout.DROPPING),
        marks=_asides(snapshot, layout.MARKING),
    )


def _decode_table(
    snapshot: Snapshot, names: layout.Names, exclusions: dict[Network, Exclusion]
) -> tuple[Part, list[Retiring]]:
    entries: list[Entry] = []
    by_service: dict[ServiceRef, list[Entry]] = defaultdict(list)
    for read in _dispatching(snapshot, names):
        exclusions.update(read.exclusions)
        for item, chain in read.pods:
            # A jump counts only if it leads to the chain of its Service, and there is one: else it does nothing.
            if chain in snapshot.chains and _leads_to(chain, item.rank.ref, names):
                entries.append(item)
                by_service[item.rank.ref].append(item)
    chains = {names.service_chain(ref): ref for ref in by_service}
    services: dict[ServiceRef, InstalledService] = {}
    retiring: list[Retiring] = []
    for name in snapshot.chains:
        if not names.is_service(name):
            continue
        own = _read_own(name, snapshot)
        retiring.extend(own.retiring)
        ref = chains.get(name) or own.owner
        if ref is not None and own.acts:
            services[ref] = _read_service(ref, snapshot, names, by_service.get(ref, []))
    for ref, items in by_service.items():
        if ref not in services:
            services[ref] = _read_service(ref, snapshot, names, items)
    return Part(services=services, entries=tuple(entries)), retiring


def _leads_to(chain: str, ref: ServiceRef, names: layout.Names) -> bool:
    by_way = names is layout.DROPPING and layout.is_pass_chain(chain)
    return by_way or chain == names.service_chain(ref)


class _Dispatch(NamedTuple):
    """What a chain between a hook and the Services says."""

    onward: tuple[str, ...]
    """Every chain that it leads to."""
    pods: tuple[tuple[Entry, str], ...]
    """Jumps of pods, each with the chain that it leads to."""
    asides: tuple[tuple[Entry, str], ...]
    """The same to what guards or marks."""
    exclusions: tuple[tuple[Network, Exclusion], ...]


_dispatches: ByKey[tuple[Family, str], _Dispatch] = ByKey()


def _dispatching(snapshot: Snapshot, names: layout.Names) -> list[_Dispatch]:
    """The dispatch chains that packets come through, in order; then those behind gates that somebody removed."""
    found: dict[str, _Dispatch] = {}
    todo = [*(name for name in snapshot.chains if name.startswith(names.gated)), names.root]
    while todo:
        name = todo.pop()
        rules = snapshot.chains.get(name)
        if name in found or rules is None:
            continue
        read = _dispatches.get((snapshot.family, name), (rules,), partial(_read_dispatch, rules))
        found[name] = read
        todo.extend(chain for chain in reversed(read.onward) if names.is_dispatch(chain))
    return list(found.values())


def _read_dispatch(found: Sequence[FoundRule]) -> _Dispatch:
    rules = [each.rule for each in found if each.rule is not None]
    read = [one for rule in rules if (one := _read_dispatch_rule(rule)) is not None]
    return _Dispatch(
        onward=tuple(dict.fromkeys(rule.target.chain for rule in rules if rule.target.chain)),
        pods=tuple(one for one in read if isinstance(one, tuple) and isinstance(one[0], Entry)),
        asides=tuple(aside for rule in rules if (aside := _aside_in(rule)) is not None),
        exclusions=tuple((one.network, one) for one in read if isinstance(one, Exclusion)),
    )


def _read_dispatch_rule(rule: Rule) -> Exclusion | tuple[Entry, str] | None:
    text = comments.comment_text(rule)
    if text is None:
        return None
    excluded = rule.destination or rule.original_destination
    kind = comments.read_exclusion(text)
    if kind is not None and excluded is not None and excluded.prefixlen and rule.target.verb is Verb.RETURN:
        return Exclusion(excluded, kind)
    pod = comments.read_pod(text) if _is_jump_of_one(rule) else None
    if pod is None or rule.source is None or rule.target.chain is None:
        return None
    return Entry(rule.source.network_address, *pod), rule.target.chain


def _asides(snapshot: Snapshot, names: layout.Names) -> tuple[tuple[Entry, str], ...]:
    return tuple(
        (item, chain)
        for read in _dispatching(snapshot, names)
        for item, chain in read.asides
        if chain in snapshot.chains
    )


def _aside_in(rule: Rule) -> tuple[Entry, str] | None:
    pod = comments.read_aside_pod(comments.comment_text(rule) or "") if _is_jump_of_one(rule) else None
    if pod is None or rule.source is None or rule.target.chain is None:
        return None
    return Entry(rule.source.network_address, *pod), rule.target.chain


def _is_jump_of_one(rule: Rule) -> bool:
    """Whether a rule is a jump, of one address."""
    of_one = rule.source is not None and rule.source.num_addresses == 1
    return of_one and rule.target.verb is Verb.JUMP


class _Own(NamedTuple):
    """What a Service's chain says of itself."""

    owner: ServiceRef | None
    retiring: tuple[Retiring, ...]
    acts: bool
    """It holds more than marks of what is being retired."""


_own: ByKey[tuple[Family, str], _Own] = ByKey()


def _read_own(name: str, snapshot: Snapshot) -> _Own:
    rules = snapshot.chains[name]

    def make() -> _Own:
        acts = any(f.rule is None or comments.read_retiring(f.rule) is None for f in rules)
        return _Own(_owner(rules), tuple(_retiring_in(rules)), acts)

    return _own.get((snapshot.family, name), (rules,), make)


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
    ref: ServiceRef, snapshot: Snapshot, names: layout.Names, items: Sequence[Entry]
) -> InstalledService:
    chain = snapshot.chains.get(names.service_chain(ref), ())
    out = snapshot.chains.get(names.out_chain(ref), ())
    make = partial(_read_rules, ref, snapshot, names, items, chain, out)
    return _services.get((snapshot.family, names.service, ref), (chain, out, *items), make)


def _read_rules(
    ref: ServiceRef,
    snapshot: Snapshot,
    names: layout.Names,
    items: Sequence[Entry],
    chain: Sequence[FoundRule],
    out: Sequence[FoundRule],
) -> InstalledService:
    rules = [
        found.rule
        for found in (*chain, *out)
        if found.rule is not None and comments.read_retiring(found.rule) is None
    ]
    snats = [found for found in (*chain, *out) if found.rule and found.rule.target.verb is Verb.SNAT]
    counts = [found.packets for found in snats]
    vips = tuple(dict.fromkeys(vip for vip in map(_vip_of, rules) if vip is not None))
    policy = _policy(ref, snapshot.family, rules, items, vips[0]) if vips else None
    counted = names is layout.REWRITING and None not in counts
    return InstalledService(
        ref=ref,
        policy=policy,
        intact=policy is not None and _same_rules(policy, snapshot, names),
        connections=sum(count or 0 for count in counts) if counted else None,
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
    ranks: list[Rank] = [item.rank for item in items]
    said = next(filter(None, (_said_in(comments.comment_text(rule) or "") for rule in rules)), None)
    fence = _fence_of(rules, said)
    return EgressPolicy(
        ref=ref,
        family=family,
        vip=vip,
        pods=tuple(pod_of(item) for item in sorted(items, key=lambda i: int(i.address))),
        ports=tuple(
            PortMatch(rule.protocol, first, last)
            for rule in rules
            if rule.protocol is not None
            for first, last in rule.ports
        ),
        allowed=tuple(
            rule.destination
            for rule in rules
            if rule.destination is not None and rule.target.verb is not Verb.RETURN
        ),
        denied=tuple(
            rule.destination
            for rule in rules
            if rule.destination is not None and rule.target.verb is Verb.RETURN
        ),
        interface=said.interface if said is not None else None,
        created=ranks[0].created if ranks else 0,
        fence=fence,
        drops_without_vip=said is not None and said.drops_without_vip,
        mark=said.mark if said is not None else None,
    )


def _same_rules(policy: EgressPolicy, snapshot: Snapshot, names: layout.Names) -> bool:
    wanted = compile_service(policy) if names is layout.REWRITING else compile_drop(policy)
    for chain, rules in wanted.items():
        found = [
            f.rule
            for f in snapshot.chains.get(chain, ())
            if f.rule is None or comments.read_retiring(f.rule) is None
        ]
        if found != list(rules):
            return False
    return True
