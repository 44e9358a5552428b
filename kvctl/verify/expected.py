"""Which source the other end has to see, by the rules that are in the kernel; and whose address another one is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.flows import Flow, Tuple
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, family_of, within
from kvctl.model.policy import PortMatch
from kvctl.model.ref import ServiceRef
from kvctl.policy import layout
from kvctl.policy.compile import Entry
from kvctl.policy.connections import ConnectionJudge, judge_of
from kvctl.policy.decode import InstalledService
from kvctl.reconcile.look import Look
from kvctl.verify.faults import fault_of_chains, fault_of_dispatch


class Kind(StrEnum):
    """What is expected."""

    VIP = "vip"
    """The VIP of the Service whose rules name the pod."""
    TOLD = "told"
    """What the caller says."""
    NOT_VIP = "not-vip"
    """A Service's rules name the pod, and leave such traffic alone."""
    SILENCE = "silence"
    """It is dropped here, because its Service wants that."""
    BROKEN = "broken"
    """A Service's rules name the pod, and no longer tell what was wanted: whatever is seen, it is not right."""
    NOTHING = "nothing"
    """No rules name the pod: whatever is seen, nobody has asked for it."""


class Expectation(NamedTuple):
    """What has to be seen of one pod's traffic by one protocol."""

    kind: Kind
    address: Address | None = None
    service: ServiceRef | None = None
    vips: frozenset[Address] = frozenset()
    """Of NOT_VIP: what must not be seen."""
    fault: str = ""
    """What is wrong with the rules that it comes from; empty: nothing is known to be."""

    def allows(self, seen: Address) -> bool:
        """Whether it is right that the other end saw this source."""
        if self.kind is Kind.NOT_VIP:
            return seen not in self.vips
        return self.kind is not Kind.SILENCE and seen == self.address

    def __str__(self) -> str:
        if self.kind is Kind.SILENCE:
            return f"silence: {self.service} wants none of it where its VIP is not (kvctl.io/without-vip)"
        if self.kind is Kind.NOT_VIP:
            return f"not the VIP: {self.service} does not rewrite this"
        if self.kind is Kind.BROKEN:
            return f"the VIP of {self.service}, but its rules are broken: {self.fault}"
        if self.kind is Kind.NOTHING:
            why = f": {self.fault}" if self.fault else ""
            return f"a VIP, but no Service's rules on this node name the pod{why}"
        return f"{self.address}, the VIP of {self.service}" if self.service is not None else str(self.address)


class NamedPod(NamedTuple):
    """A pod that rules name."""

    address: Address
    name: str
    """As far as the rules tell it; empty: they do not."""


class Rules:
    """The rules of kvctl's that were found, asked about pods."""

    def __init__(self, found: Look, host: Host) -> None:
        self._host = host
        self._sites = found.sites
        self._installed = [site.installed for site in found.sites.values()]
        self._judges = {
            family: judge_of(site.installed, is_local=host.is_local) for family, site in found.sites.items()
        }

    def pods_of(self, ref: ServiceRef) -> list[NamedPod]:
        """The pods that a Service's rules name, those that drop, too."""
        return [
            NamedPod(entry.address, _name(entry))
            for installed in self._installed
            for part in (installed, installed.drops)
            for entry in part.entries_of(ref)
        ]

    def why_led_nowhere(self, ref: ServiceRef, family: Family) -> str | None:
        """Why no rule names a pod for a Service that has rules in this family; None: it has none."""
        site = self._sites.get(family)
        every = (layout.REWRITING, layout.DROPPING)
        # Where its chain is empty too, nothing but the name of the chain tells whose it is.
        names = next((n for n in every if site and n.service_chain(ref) in site.snapshot.chains), None)
        if site is None or names is None:
            return None
        return fault_of_dispatch(names, site.snapshot) or f"nothing jumps to {names.service_chain(ref)}"

    def flushed(self, families: Iterable[Family]) -> list[str]:
        """Chains that lead pods to their Services and are empty, in sentences."""
        snapshots = [self._sites[family].snapshot for family in families if family in self._sites]
        faults = (fault_of_dispatch(n, s) for s in snapshots for n in (layout.REWRITING, layout.DROPPING))
        return [fault for fault in faults if fault is not None]

    def has_fence(self, ref: ServiceRef) -> bool:
        """Whether a Lease decides which node has the VIP of a Service."""
        policies = (i.services[ref].policy for i in self._installed if ref in i.services)
        return any(policy is not None and policy.fence is not None for policy in policies)

    def ports_of(self, ref: ServiceRef, source: Address, destination: Address) -> tuple[PortMatch, ...]:
        """The ports that a Service rewrites of what this pod sends there; none where it is not for the ports' sake."""
        judge = self._judges.get(family_of(source))
        if judge is None or within(destination, judge.excluded):
            return ()
        return tuple(
            match
            for policy in judge.policies.get(source, ())
            for match in policy.ports
            if policy.ref == ref
            and _sure(
                judge, _new_flow(source, destination, protocol=match.protocol, port=match.first)
            ).service
            == ref
        )

    def name_of(self, address: Address) -> str:
        """What the rules call the pod; empty: nothing."""
        entries = (e for i in self._installed for e in (*i.entries, *i.drops.entries))
        return next((_name(entry) for entry in entries if entry.address == address), "")

    def expected(self, source: Address, destination: Address, *, protocol: str, port: int) -> Expectation:
        """What has to be seen of a new connection of the pod at `source`."""
        judge = self._judges.get(family_of(source))
        services = list(self._services_of(source))
        if judge is None or not services:
            return Expectation(Kind.NOTHING, fault=next(iter(self.flushed((family_of(source),))), ""))
        spared = Expectation(Kind.NOT_VIP, service=services[0], vips=judge.vips)
        if within(destination, judge.excluded):
            return spared
        sure = _sure(judge, _new_flow(source, destination, protocol=protocol, port=port))
        if source in judge.unsure:
            return self._of_changed(services, family_of(source), sure) or spared
        return sure if sure.service is not None else spared

    def whose(self, address: Address, *, pod: Address) -> str:
        """Whose address it is that the other end saw, in words."""
        if address == pod:
            return "the pod's own address"
        services = (s for i in self._installed for s in i.services.values() if address in s.vips)
        service = next(services, None)
        if service is not None:
            return f"the VIP of {service.ref}"
        held = next(iter(self._host.having(address)), None)
        if held is not None:
            return f"this node's address on {held.interface}"
        return "no address of this node"

    def _services_of(self, source: Address) -> Iterable[ServiceRef]:
        ranks = {
            entry.rank
            for installed in self._installed
            for entry in (*installed.entries, *installed.drops.entries)
            if entry.address == source
        }
        return (rank.ref for rank in sorted(ranks))

    def _of_changed(
        self, services: Iterable[ServiceRef], family: Family, sure: Expectation
    ) -> Expectation | None:
        """Of a pod with a Service whose rules somebody has changed; `sure`: what is wanted by those of the others."""
        site = self._sites[family]
        for ref in services:
            if ref == sure.service:
                return sure
            drops, rewrites = site.installed.drops.services.get(ref), site.installed.services.get(ref)
            if not (_is_broken(drops) or _is_broken(rewrites)):
                continue
            fault = fault_of_chains(ref, site.snapshot)
            if rewrites is not None and rewrites.vips:
                # The VIP that they speak of is what was wanted.
                return Expectation(Kind.VIP, address=rewrites.vips[0], service=ref, fault=fault)
            return Expectation(Kind.BROKEN, service=ref, fault=fault)
        return None


def _is_broken(service: InstalledService | None) -> bool:
    return service is not None and (service.policy is None or not service.intact)


def _sure(judge: ConnectionJudge, flow: Flow) -> Expectation:
    """What the rules want that are as they were written; of no Service: nothing in particular."""
    source = flow.original.source
    if judge.is_dropped(flow):
        return Expectation(Kind.SILENCE, service=judge.dropped[source][0].ref)
    vip = judge.wanted_source(flow)
    if vip is None:
        return Expectation(Kind.NOT_VIP)
    return Expectation(Kind.VIP, address=vip, service=_with(judge, source, vip))


def _name(entry: Entry) -> str:
    return "" if entry.label == "-" else entry.label


def _with(judge: ConnectionJudge, source: Address, vip: Address) -> ServiceRef:
    return next(policy.ref for policy in judge.policies[source] if policy.vip == vip)


def _new_flow(source: Address, destination: Address, *, protocol: str, port: int) -> Flow:
    """As if nobody had translated anything."""
    return Flow(
        family=family_of(source),
        protocol=protocol,
        original=Tuple(source, destination, 0, port),
        reply=Tuple(destination, source, port, 0),
    )
