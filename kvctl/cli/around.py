"""What `show` tells of a Service besides its rules: who has the VIP, announces it, by which Lease, what fences it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kvctl.cli.inputs import Inputs
from kvctl.cli.output import Json
from kvctl.cli.settings import told_space
from kvctl.cli.ways_out import Announcer, WaysOut, look_at_ways_out, shut_warning
from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address
from kvctl.model.objects import Service
from kvctl.model.ref import ServiceRef
from kvctl.netfilter import fence
from kvctl.node.sysctls import checks
from kvctl.policy.holder import VIP_HOST, Evidence
from kvctl.reconcile.detail import Beat, Detail
from kvctl.reconcile.presence import with_holder
from kvctl.reconcile.problems import MEND, Mend, Problem, Weight

if TYPE_CHECKING:
    from kvctl.cli.leases import SeenLease
    from kvctl.cli.node import Wanted

Facts = list[tuple[str, str]]
"""Title and text, in order."""

_ANNOUNCED = {
    Announcer.ONCE: "once, when kvctl apply --with-vip placed it; the kernel answers for it",
    Announcer.NOBODY: "by nobody any more: its agent has ended; the kernel answers for it until its time is over",
    Announcer.OTHER: "by whoever has placed it",
}


class Around(NamedTuple):
    """What there is of kvctl's besides rules, and what the source says of it, where one was named."""

    host: Host
    node: str | None
    ways: WaysOut
    wanted: Wanted | None = None
    leases: Mapping[LeaseKey, SeenLease] = {}

    def judged(self, each: Detail, *, mend: Mend = MEND) -> Detail:
        """With who has the VIP, and with what keeps answers from coming back by the interface it is led to.

        `mend`: the command that the problems name.
        """
        item = each.item
        if self.wanted is not None:
            item = self.wanted.with_holder(item)
        else:
            item = with_holder(item, host=self.host, evidence=Evidence(node=self.node))
        more: tuple[str, ...] = ()
        if item.family is not None and item.interface is not None and item.mark is not None:
            fault = self.ways.fault(item, self.host)
            if fault is not None:
                more = (shut_warning(item) or mend.typed(fault),)
            more = (*more, *checks(item.interface, item.family))
        return replace(each, item=item).with_problems(*(Problem(Weight.WAY, text) for text in more))

    def facts(self, each: Detail) -> Facts:
        """What there is to say of VIP and interface."""
        item, service, lease = each.item, self._service(each.item.ref), self._lease(each.item.ref)
        facts = [("VIP", self._vip(item.vip))]
        announcer = self._announcer(item.vip, item.vip_interface)
        if announcer is not None:
            facts.append(("announced", announcer))
        if service is not None:
            facts.append(("Service says", self._said(service)))
        if lease is not None:
            facts.append(("Lease", str(lease)))
        beat = self._fence(item.vip, each.beat)
        if beat is not None:
            facts.append(("fence", beat))
        return [*facts, ("interface", self._interface(each))]

    def json(self, each: Detail) -> Json:
        """The same for programs; what cannot be known is null."""
        vip, service, lease = each.item.vip, self._service(each.item.ref), self._lease(each.item.ref)
        return {
            **self.ways.json(each.item),
            "address": self._address(vip, each.item.vip_interface),
            "vipHost": service.annotations.get(VIP_HOST) if service is not None else None,
            "statusAddresses": [ingress.ip for ingress in service.ingress] if service is not None else None,
            "lease": lease.json() if lease is not None else None,
            "fence": None if each.beat is None else _beat_json(each.beat),
        }

    def _service(self, ref: ServiceRef | None) -> Service | None:
        """What the source has of it."""
        return (
            self.wanted.resolution.services.get(ref) if self.wanted is not None and ref is not None else None
        )

    def _lease(self, ref: ServiceRef | None) -> SeenLease | None:
        """The Lease that there is; one that cannot be read only where the Service says that somebody holds it."""
        service = self._service(ref)
        if service is None or not self.leases:
            return None
        from kvctl.policy.lease import lease_of

        seen = self.leases.get(lease_of(service.ref, service.annotations))
        if seen is None:
            return None
        return seen if seen.lease is not None or VIP_HOST in service.annotations else None

    def _vip(self, vip: Address | None) -> str:
        """The VIP, where it is, and whether kvctl has put it there."""
        if vip is None:
            return "-"
        found, there = self.ways.placed.get(vip), self.host.holds(vip)
        if found is None:
            return (
                f"{vip} on {there}, placed by another program or by hand" if there is not None else str(vip)
            )
        until = (
            "for good"
            if found.lifetime is None
            else f"for {found.lifetime} s more, if its Lease is not renewed"
        )
        return f"{vip} on {found.interface}, placed by kvctl {until}"

    def _announcer(self, vip: Address | None, there: str | None) -> str | None:
        """Who tells the network where the VIP is; None: it is not here."""
        announcer = self.ways.announcer(vip, there)
        if announcer is Announcer.AGENT:
            return f"by the agent of this node ({self.ways.agent})"
        return _ANNOUNCED[announcer] if announcer is not None else None

    def _address(self, vip: Address | None, there: str | None) -> Json | None:
        announcer = self.ways.announcer(vip, there)
        if announcer is None:
            return None
        found = self.ways.placed.get(vip) if vip is not None else None
        return {
            "interface": there,
            "placedByKvctl": found is not None,
            "lifetimeSeconds": found.lifetime if found is not None else None,
            "announcedByAgent": announcer is Announcer.AGENT if found is not None else None,
        }

    def _said(self, service: Service) -> str:
        """What the cluster has been told of the VIP."""
        addresses = ", ".join(ingress.ip for ingress in service.ingress) or "none"
        holder = service.annotations.get(VIP_HOST)
        if holder is None and not self._somebody_elects:
            return f"{addresses} in its status"
        return f"{addresses} in its status, held by {holder or 'nobody'} ({VIP_HOST})"

    @property
    def _somebody_elects(self) -> bool:
        """Whether a holder is named at all: it is, by who elects."""
        agent = self.ways.agent
        elects = self.wanted is not None and self.wanted.settings.elects
        return elects or (agent is not None and agent.election is not None)

    def _fence(self, vip: Address | None, beat: Beat | None) -> str | None:
        """What ends the use of the VIP if the agent dies; None: nobody elects."""
        if beat is not None:
            return str(beat)
        found = self.ways.placed.get(vip) if vip is not None else None
        if found is None or found.lifetime is None:
            return None
        why = fence.obstacle() or "its rules were written without a fence"
        return f"of the address alone: {why}"

    def _interface(self, each: Detail) -> str:
        """The interface, and how traffic is led out by it."""
        name, mark = each.interface, each.item.mark
        if name is None:
            return "-"
        led = (
            f"led to by the mark {mark} and the routing table {self.ways.space.table(mark.value)}"
            if mark is not None
            else None
        )
        return ", ".join(filter(None, (name, led, self.host.fault_of(name))))


def look_around(
    inputs: Inputs, *, host: Host, node: str | None, wanted: Wanted | None, shown: frozenset[ServiceRef]
) -> Around:
    """Look at addresses, routing and the agent; `wanted`: what the source asks for, of which the Services `shown`."""
    leases: Mapping[LeaseKey, SeenLease] = {}
    if wanted is not None and not inputs.filenames:
        from kvctl.cli.leases import read_leases
        from kvctl.policy.lease import lease_of

        services = (wanted.resolution.services.get(ref) for ref in shown)
        keys = {lease_of(s.ref, s.annotations) for s in services if s is not None}
        leases = read_leases(keys, kubeconfig=inputs.kubeconfig, context=inputs.context)
    return Around(
        host=host,
        node=node,
        ways=look_at_ways_out(told_space()),
        wanted=wanted,
        leases=leases,
    )


def _beat_json(beat: Beat) -> Json:
    return {"seconds": beat.seconds, "heartbeatAge": beat.age, "late": beat.is_late}
