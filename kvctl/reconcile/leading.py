"""Services that name an interface which the routing table would not use: their marks, and the ways that these lead to.

Routes and routing rules are there before anything is marked for them, and go when nothing is any more. Where a Service
names an interface by which there is no way, what is marked is led to a table that refuses: nothing leaves by another.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, Network, family_of
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Mark
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, Way, way_name
from kvctl.node.routing import carry_out, read_own_routing, read_routing
from kvctl.node.routing_plan import Found, RoutingPlan, plan
from kvctl.node.sysctls import checks
from kvctl.policy.annotations import GATEWAY, Annotations, Problem, read_annotations
from kvctl.policy.resolution import Resolution
from kvctl.policy.verdict import Wanted
from kvctl.policy.ways import GatewayError, needs_way, shut_way, way_of

_NO_GATEWAY_BY_SETTING = (
    "traffic leaves as the routing table says, not by {}, which has no gateway: set kvctl.io/gateway, or name the "
    "interface in the Service (kube-vip.io/serviceInterface) to reach its own networks and no others"
)


class Led(NamedTuple):
    """A resolution whose policies have their marks, and what these need of the routing."""

    resolution: Resolution
    ways: tuple[Way, ...] = ()
    space: MarkSpace = DEFAULT_SPACE
    warnings: tuple[str, ...] = ()
    """What in this host's settings keeps answers from coming back by these ways; each once, with its mend."""

    @property
    def exclusions(self) -> Mapping[Family, Collection[Network]]:
        """What no mark may lead astray."""
        networks = self.resolution.networks.exclusions
        return {family: [exclusion.network for exclusion in networks[family]] for family in Family}

    def plan(self, *, whole: bool = True) -> RoutingPlan:
        """What differs from it in the kernel; not `whole`: what is there besides stays. Raises KvctlError."""
        found = plan(self.ways, read_own_routing(), exclusions=self.exclusions, space=self.space)
        return found if whole else found._replace(remove_leads=(), remove_guards=(), remove_routes=())

    def open(self) -> list[KvctlError]:
        """Before the rules are written: what they will mark has its way. Nothing is taken away."""
        try:
            return carry_out(self.plan(whole=False))
        except KvctlError as error:
            return [error]

    def close(self) -> list[KvctlError]:
        """After the rules were written: what nothing is marked for any more goes."""
        try:
            return carry_out(self.plan())
        except KvctlError as error:
            return [error]


def sweep(space: MarkSpace = DEFAULT_SPACE) -> list[KvctlError]:
    """Remove every way: nothing is marked any more."""
    try:
        return carry_out(plan((), read_own_routing(), exclusions={}, space=space))
    except KvctlError as error:
        return [error]


def lead(
    resolution: Resolution, *, host: Host, found: Found | None = None, space: MarkSpace = DEFAULT_SPACE
) -> Led:
    """Give each policy that needs it the mark of its way out. `found`: the routing, if it was read already."""
    if not any(wanted.policy.interface for wanted in resolution.wanted):
        return Led(resolution, space=space)
    leader = _Leader(resolution, host, read_routing(space) if found is None else found, space)
    wanted = tuple(leader.led(each) for each in resolution.wanted)
    marked = {(each.policy.family, each.policy.mark) for each in wanted if each.policy.mark is not None}
    ways = (way for way in leader.ways.values() if way is not None)
    used = tuple(way for way in ways if (way.family, Mark(way.mark, space.mask)) in marked)
    return Led(replace(resolution, wanted=wanted), used, space, _against(used))


def _against(ways: Collection[Way]) -> tuple[str, ...]:
    """What this host's settings have against them."""
    links = dict.fromkeys((way.interface, way.family) for way in ways if not way.is_shut)
    return tuple(dict.fromkeys(text for name, family in links for text in checks(name, family)))


class _Asked(NamedTuple):
    """A way as Services ask for it: all that ask for the same share it, and nobody else's next hop is theirs."""

    interface: str
    family: Family
    gateway: Address | None


class _Leader:
    def __init__(self, resolution: Resolution, host: Host, found: Found, space: MarkSpace) -> None:
        self._services = resolution.services
        self._host = host
        self._space = space
        self._in_the_way = found.in_the_way
        self._own: dict[_Asked, Way | KvctlError] = {}
        self.ways: dict[_Asked, Way | None] = {}
        """None: the traffic goes as the routing table says."""
        needing: dict[_Asked, list[EgressPolicy]] = {}
        exclusions = {f: [e.network for e in resolution.networks.exclusions[f]] for f in Family}
        # Where marks run out, it is the youngest that get none.
        for policy in sorted((wanted.policy for wanted in resolution.wanted), key=_age):
            asked = self._asked(policy)
            if asked is not None and needs_way(
                asked.interface,
                asked.family,
                policy.allowed,
                host=host,
                exclusions=exclusions[policy.family],
            ):
                needing.setdefault(asked, []).append(policy)
        names = sorted({way_name(asked.interface, asked.gateway) for asked in needing})
        self._used = found.marks(space, names=names)
        self._needing = {asked: {policy.ref for policy in its} for asked, its in needing.items()}
        for asked, its in needing.items():
            self.ways[asked] = self._way(asked, its)

    def led(self, wanted: Wanted) -> Wanted:
        """With its mark, if it needs one; with what is wrong with its way, or why it has none."""
        policy, asked = wanted.policy, self._asked(wanted.policy)
        if asked is None or policy.ref not in self._needing.get(asked, ()):
            return wanted
        own, way = self._own[asked], self.ways[asked]
        if way is not None and way.gateway is None and not self._follows(policy, way):
            way = None
        said = _said(policy, own, way)
        warnings = [
            text for text in wanted.warnings if not (isinstance(own, KvctlError) and text == own.message)
        ]
        problems = wanted.problems
        if isinstance(own, GatewayError):
            problems = (*problems, Problem(GATEWAY, str(asked.gateway), own.why, own.hint))
        if way is not None:
            policy = policy._replace(mark=Mark(way.mark, self._space.mask))
            warnings += self._in_the_way
        return wanted._replace(
            policy=policy,
            warnings=(*warnings, said) if said is not None else tuple(warnings),
            problems=problems,
        )

    def _way(self, asked: _Asked, policies: Sequence[EgressPolicy]) -> Way | None:
        """What is asked for; where there is no such way, a shut one if somebody insists."""
        interface, family, gateway = asked
        own = way_of(interface, family, host=self._host, gateway=gateway, used=self._used, space=self._space)
        self._own[asked] = own
        way = own if isinstance(own, Way) else None
        if way is None and any(map(self._insists, policies)):
            way = shut_way(interface, family, used=self._used, gateway=gateway, space=self._space)
        if way is not None:
            self._used[way.name] = way.mark
        return way

    def _follows(self, policy: EgressPolicy, way: Way) -> bool:
        """Whether it is led by a way that does not reach everything.

        The setting says where VIPs live; that nothing else is to be reached it does not say.
        """
        return self._insists(policy) or (bool(policy.allowed) and not way.is_shut)

    def _insists(self, policy: EgressPolicy) -> bool:
        """Whether the Service itself says by which way it is to leave, and not the setting for all."""
        return self._read(policy).interface is not None or self._gateway(policy) is not None

    def _asked(self, policy: EgressPolicy) -> _Asked | None:
        if policy.interface is None:
            return None
        return _Asked(policy.interface, policy.family, self._gateway(policy))

    def _gateway(self, policy: EgressPolicy) -> Address | None:
        return next((g for g in self._read(policy).gateways if family_of(g) is policy.family), None)

    def _read(self, policy: EgressPolicy) -> Annotations:
        service = self._services.get(policy.ref)
        return read_annotations(service.annotations if service is not None else {})


def _age(policy: EgressPolicy) -> tuple[int, ServiceRef]:
    return (policy.created or sys.maxsize, policy.ref)


def _said(policy: EgressPolicy, own: Way | KvctlError, way: Way | None) -> str | None:
    """What there is to say about the way of a policy: `own` is what it would be by its own word, `way` what it is."""
    interface = policy.interface
    if isinstance(own, KvctlError):
        why = f"{own.message}: {own.hint}" if own.hint else own.message
        if way is None:
            return f"traffic leaves as the routing table says, not by {interface}: {why}"
        return f"nothing leaves with {policy.vip}: {why}"
    if way is None:
        return _NO_GATEWAY_BY_SETTING.format(interface)
    if way.gateway is None and not policy.allowed:
        return (
            f"{interface} has no gateway, so only its own networks are reached by it: set kvctl.io/gateway, or "
            "kube-vip.io/egress-allowed-networks to what is meant"
        )
    return None
