"""Services that name an interface which the routing table would not use: their marks, and the ways that these lead to.

Routes and routing rules are there before anything is marked for them, and go when nothing is any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, Network, family_of
from kvctl.model.policy import EgressPolicy
from kvctl.model.rules import Mark
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, Way
from kvctl.node.routing import carry_out, read_routing
from kvctl.node.routing_plan import Found, RoutingPlan, plan
from kvctl.policy.annotations import read_annotations
from kvctl.policy.resolve import Resolution
from kvctl.policy.verdict import Wanted
from kvctl.policy.ways import needs_way, shut_way, way_of

_NO_GATEWAY_BY_SETTING = (
    "traffic leaves as the routing table says, not by {}, which has no gateway: set kvctl.io/gateway, or name the "
    "interface in the Service (kube-vip.io/serviceInterface) to reach its own networks and no others"
)


class Led(NamedTuple):
    """A resolution whose policies have their marks, and what these need of the routing."""

    resolution: Resolution
    ways: tuple[Way, ...] = ()
    space: MarkSpace = DEFAULT_SPACE

    @property
    def exclusions(self) -> Mapping[Family, Collection[Network]]:
        """What no mark may lead astray."""
        networks = self.resolution.networks.exclusions
        return {family: [exclusion.network for exclusion in networks[family]] for family in Family}

    def plan(self, *, whole: bool = True) -> RoutingPlan:
        """What differs from it in the kernel; not `whole`: what is there besides stays. Raises KvctlError."""
        found = plan(self.ways, read_routing(self.space), exclusions=self.exclusions, space=self.space)
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
        return carry_out(plan((), read_routing(space), exclusions={}, space=space))
    except KvctlError as error:
        return [error]


def lead(
    resolution: Resolution, *, host: Host, found: Found | None = None, space: MarkSpace = DEFAULT_SPACE
) -> Led:
    """Give each policy that needs it the mark of its interface. `found`: the routing, if it was read already."""
    if not any(wanted.policy.interface for wanted in resolution.wanted):
        return Led(resolution, space=space)
    leader = _Leader(resolution, host, (found or read_routing(space)).marks(space), space)
    wanted = tuple(leader.led(each) for each in resolution.wanted)
    marks = {each.policy.mark.value for each in wanted if each.policy.mark is not None}
    ways = tuple(way for way in leader.ways.values() if way.mark in marks)
    return Led(replace(resolution, wanted=wanted), ways, space)


class _Leader:
    def __init__(self, resolution: Resolution, host: Host, used: dict[str, int], space: MarkSpace) -> None:
        self._resolution = resolution
        self._host = host
        self._used = used
        self._space = space
        self.ways: dict[tuple[str, Family], Way] = {}

    def led(self, wanted: Wanted) -> Wanted:
        """With its mark, if it needs one; with a warning, if it needs one that it cannot have."""
        policy = wanted.policy
        if policy.interface is None or not self._needs_way(policy, policy.interface):
            return wanted
        way, warning = self._way(policy, policy.interface)
        if way is not None and way.gateway is None and not policy.allowed and not self._is_named(policy):
            # The setting says where VIPs live; that nothing else is to be reached it does not say.
            way, warning = None, _NO_GATEWAY_BY_SETTING.format(policy.interface)
        warnings = (*wanted.warnings, warning) if warning is not None else wanted.warnings
        if way is not None:
            policy = policy._replace(mark=Mark(way.mark, self._space.mask))
        return replace(wanted, policy=policy, warnings=warnings)

    def _needs_way(self, policy: EgressPolicy, interface: str) -> bool:
        exclusions = [e.network for e in self._resolution.networks.exclusions[policy.family]]
        return needs_way(interface, policy.family, policy.allowed, host=self._host, exclusions=exclusions)

    def _way(self, policy: EgressPolicy, interface: str) -> tuple[Way | None, str | None]:
        key = (interface, policy.family)
        gateway = self._gateway(policy)
        known = self.ways.get(key)
        if known is not None:
            other = gateway is not None and known.gateway not in (None, gateway)
            text = f"another Service's gateway {known.gateway} counts on {interface}, not {gateway}"
            return known, text if other else None
        way = way_of(
            interface, policy.family, host=self._host, gateway=gateway, used=self._used, space=self._space
        )
        warning = None
        if isinstance(way, KvctlError):
            warning = f"traffic cannot be led out by {interface}: {way.message}" + (
                f" ({way.hint})" if way.hint else ""
            )
            shut = shut_way(interface, policy.family, used=self._used, space=self._space)
            if shut is None:
                return None, warning
            way = shut
        elif way.gateway is None and not policy.allowed:
            warning = (
                f"{interface} has no gateway, so only its own networks are reached by it: set kvctl.io/gateway, "
                "or kube-vip.io/egress-allowed-networks to what is meant"
            )
        self._used[interface] = way.mark
        self.ways[key] = way
        return way, warning

    def _is_named(self, policy: EgressPolicy) -> bool:
        """Whether the Service itself names the interface, and not the setting for all."""
        service = self._resolution.services.get(policy.ref)
        return service is not None and read_annotations(service.annotations).interface is not None

    def _gateway(self, policy: EgressPolicy) -> Address | None:
        service = self._resolution.services.get(policy.ref)
        gateways = read_annotations(service.annotations).gateways if service is not None else ()
        return next((g for g in gateways if family_of(g) is policy.family), None)
