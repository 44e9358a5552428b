"""Which address a Service may use as source, and who has it where several Services claim one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from ipaddress import IPv6Address
from typing import NamedTuple

from kvctl.model.net import Address, Family, family_of, parse_address, within
from kvctl.model.objects import Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.annotations import ADDRESSES, Problem
from kvctl.policy.cidrs import ClusterNetworks
from kvctl.policy.management import wrote_status_alone

STATUS_FIELD = "status.loadBalancer.ingress"
SPEC_FIELD = "spec.loadBalancerIP"


class Standing(IntEnum):
    """How good a claim is: only status is out of a tenant's reach."""

    STATUS = 0
    TENANT = 1


class Vip(NamedTuple):
    """An address a Service names, and where it does."""

    address: Address
    field: str
    standing: Standing


class Vips(NamedTuple):
    """What a Service names, sorted out. A family is in at most one of `accepted` and `refused`."""

    accepted: Mapping[Family, Vip]
    refused: Mapping[Family, str]
    """Why the address of a family does not count although nothing is wrong with it."""
    claims: tuple[Vip, ...]
    """What is the Service's: every address of its status, used here or not, and accepted ones a tenant named."""
    problems: tuple[Problem, ...]
    """Addresses that are none, or that nobody may have as VIP."""
    warnings: tuple[str, ...]
    held: Mapping[Family, Vip] = {}
    """Of a status that kvctl itself wrote: what the Service has, where it asks for another one by now."""


class VipRules(NamedTuple):
    """What an address has to satisfy, whoever names it."""

    networks: ClusterNetworks
    node_addresses: Mapping[Address, str]
    """Address -> the name of the Node that has it."""

    def fault(self, address: Address) -> str | None:
        """Why `address` can be nobody's VIP, as the rest of a sentence; None: it can."""
        if address.is_unspecified:
            return "is the unspecified address"
        if address.is_loopback:
            return "is a loopback address"
        if address.is_link_local:
            return "is a link-local address"
        if address.is_multicast:
            return "is a multicast address"
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return "is an IPv4-mapped address"
        family = family_of(address)
        if within(address, self.networks.pod[family].networks):
            return f"lies in the pod CIDR {self.networks.pod[family]}"
        if within(address, self.networks.service[family].networks):
            return f"lies in the service CIDR {self.networks.service[family]}"
        node = self.node_addresses.get(address)
        return f"is an address of Node {node}" if node is not None else None


def find_vips(
    service: Service,
    *,
    annotated: Collection[Address],
    rules: VipRules,
    settings: Settings,
    from_api: bool,
) -> Vips:
    """The VIPs of a Service: from its status, else its annotation, else its spec; the first of each family.

    Where kvctl places the VIPs and has written the status itself, that is no more than what it has done so far: then
    what annotation or spec ask for comes first, if it may be had.
    """
    judge = _Judge(rules=rules, settings=settings, from_api=from_api)
    in_status, problems = _in_status(service)
    asked, faults = _asked_for(service, annotated)
    if not in_status and not problems:
        found = judge.sorted_out(asked, faults)
    elif (asked or faults) and settings.elects and wrote_status_alone(service):
        found = judge.moved(in_status, asked, faults)
    else:
        found = judge.sorted_out(in_status, problems)
    by_tenant = [vip for vip in found.accepted.values() if vip.standing is Standing.TENANT]
    claimed, _ = _parsed([i.ip for i in service.ingress], field=STATUS_FIELD, standing=Standing.STATUS)
    return found._replace(claims=(*claimed, *by_tenant))


class _Judge(NamedTuple):
    """By which rules addresses are accepted or refused."""

    rules: VipRules
    settings: Settings
    from_api: bool

    def sorted_out(self, named: Iterable[Vip], problems: Iterable[Problem] = ()) -> Vips:
        """The first of each family, judged; without claims."""
        first: dict[Family, Vip] = {}
        further: list[Vip] = []
        for vip in named:
            if first.setdefault(family_of(vip.address), vip) is not vip:
                further.append(vip)
        accepted: dict[Family, Vip] = {}
        refused: dict[Family, str] = {}
        faults = list(problems)
        for family, vip in first.items():
            fault = self.rules.fault(vip.address)
            if fault is not None:
                faults.append(Problem(annotation=vip.field, value=str(vip.address), why=f"{fault}: no VIP"))
            elif self._is_outside(vip):
                refused[family] = _outside_ranges(vip, self.settings)
            else:
                accepted[family] = vip
        warnings = [
            f"{v.field} has a further {family_of(v.address)} address, {v.address}: not used" for v in further
        ]
        return Vips(
            accepted=accepted, refused=refused, claims=(), problems=tuple(faults), warnings=tuple(warnings)
        )

    def moved(self, in_status: Sequence[Vip], asked: Sequence[Vip], faults: Iterable[Problem]) -> Vips:
        """What is asked for, and what is held where that cannot be had: a mistake takes nothing away."""
        written = {vip.address: vip for vip in in_status}
        # What kvctl has written it has judged before; the ranges may have been made narrower since.
        wish = self.sorted_out([written.get(vip.address, vip) for vip in asked], faults)
        held = self.sorted_out(in_status).accepted
        if not (wish.refused or wish.problems):
            return wish._replace(held={f: v for f, v in held.items() if f in wish.accepted})
        kept = {family: vip for family, vip in held.items() if family not in wish.accepted}
        told = [
            f"{why}; it keeps {kept[family].address}"
            for family, why in wish.refused.items()
            if family in kept
        ]
        return wish._replace(
            accepted={**wish.accepted, **kept},
            refused={family: why for family, why in wish.refused.items() if family not in kept},
            warnings=(*wish.warnings, *told),
            held=held,
        )

    def _is_outside(self, vip: Vip) -> bool:
        by_tenant = self.from_api and vip.standing is Standing.TENANT
        return by_tenant and not within(vip.address, self.settings.vip_ranges)


def _outside_ranges(vip: Vip, settings: Settings) -> str:
    ranges = ", ".join(map(str, settings.vip_ranges)) or "none set"
    return (
        f"the VIP {vip.address} of {vip.field} is outside --vip-range ({ranges}): what a tenant writes counts "
        "only inside it; set --vip-range or egress_vipranges, or have the load balancer set the status"
    )


def _in_status(service: Service) -> tuple[list[Vip], list[Problem]]:
    texts = [ingress.ip for ingress in service.ingress if ingress.ip_mode != "Proxy"]
    return _parsed(texts, field=STATUS_FIELD, standing=Standing.STATUS)


def _asked_for(service: Service, annotated: Collection[Address]) -> tuple[list[Vip], list[Problem]]:
    """What the Service itself names, in annotation or spec."""
    if annotated:
        return [Vip(address, ADDRESSES, Standing.TENANT) for address in annotated], []
    if service.load_balancer_ip:
        return _parsed([service.load_balancer_ip], field=SPEC_FIELD, standing=Standing.TENANT)
    return [], []


def _parsed(texts: Iterable[str], *, field: str, standing: Standing) -> tuple[list[Vip], list[Problem]]:
    vips, problems = [], []
    for text in dict.fromkeys(texts):
        try:
            vips.append(Vip(parse_address(text), field, standing))
        except ValueError:
            problems.append(Problem(annotation=field, value=text, why="is not an IP address"))
    return vips, problems


class Claim(NamedTuple):
    """One Service's claim of a VIP. Claims of one namespace do not compete."""

    ref: ServiceRef
    vip: Vip
    created: int

    @property
    def strength(self) -> tuple[int, float, ServiceRef]:
        """Smaller is stronger: status before what a tenant wrote, older before younger, then the name."""
        return (self.vip.standing, self.created or float("inf"), self.ref)


def winners(claims: Iterable[Claim]) -> dict[Address, Claim]:
    """For each address the strongest claim."""
    best: dict[Address, Claim] = {}
    for claim in claims:
        other = best.get(claim.vip.address)
        if other is None or claim.strength < other.strength:
            best[claim.vip.address] = claim
    return best
