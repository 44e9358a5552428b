"""What `show` adds to an item: the rules in the kernel, live connections, and every problem in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.flows import Flow
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, host_network, within
from kvctl.model.ref import ServiceRef
from kvctl.model.text import plural
from kvctl.netfilter import conntrack, fence
from kvctl.netfilter.diff import Plan
from kvctl.policy.connections import ConnectionJudge, judge_of
from kvctl.policy.decode import Installed
from kvctl.policy.holder import not_here
from kvctl.reconcile.compare import Compared
from kvctl.reconcile.drift import Drift
from kvctl.reconcile.look import Look
from kvctl.reconcile.port_use import PortUse, busiest
from kvctl.reconcile.presence import ending
from kvctl.reconcile.problems import MEND, Mend, Problem, Weight, in_order
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.rivals import find_rival
from kvctl.reconcile.side_by_side import Row
from kvctl.reconcile.site import Site


class Beat(NamedTuple):
    """The heartbeat that a Service's rules need."""

    seconds: int
    """How long one counts."""
    age: float | None
    """Seconds since the last one, to about a second; None: none has come."""
    drops_without_vip: bool

    @property
    def is_late(self) -> bool:
        """Whether the rules do not act for lack of one."""
        return self.age is None or self.age > self.seconds

    def __str__(self) -> str:
        ago = "no heartbeat has come" if self.age is None else f"the last heartbeat came {self.age:.0f} s ago"
        return f"{ago}, and it counts for {self.seconds} s"

    @property
    def consequence(self) -> str:
        """What follows where it is late."""
        becomes = "is dropped" if self.drops_without_vip else "leaves without the VIP or not at all"
        return f"{self}: its pods' traffic {becomes} until the agent renews"


@dataclass(frozen=True, slots=True)
class Detail:
    """One item in depth."""

    item: Item
    """With its flows and problems."""
    interface: str | None
    """The interface the VIP belongs to: named, else the one that has it, else that of the route to it."""
    rows: tuple[Row, ...] = ()
    """The Service's rules, wanted beside actual."""
    beat: Beat | None = None
    """None: its rules act without one."""
    problems: tuple[Problem, ...] = ()
    wrong: frozenset[Flow] = frozenset()
    """Those of the flows whose source is not what the rules give to new ones."""
    ports: PortUse | None = None
    """The source ports of its VIP towards the destination that has the fewest left; None: none is in use."""
    unlisted: tuple[Flow, ...] = ()
    """Flows of its pods that leave without a VIP because no Service lists their port or network."""

    def with_problems(self, *more: Problem) -> Detail:
        """The same with these, too."""
        problems = (*self.problems, *more)
        item = self.item._replace(problems=in_order(problems))
        return replace(self, problems=problems, item=item)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The problems, the worst first."""
        return self.item.problems or ()


def detail(
    found: Look, compared: Compared, *, host: Host, assume_vip: bool, mend: Mend = MEND
) -> list[Detail]:
    """Every item of a comparison in depth. `mend`: the command that the problems name."""
    asked = _Asked(found, compared, host=host, mend=mend)
    views = {
        family: _FamilyView.of(site, compared.plans.get(family), asked)
        for family, site in found.sites.items()
    }
    others: dict[Family, _FamilyView] = {}
    result = []
    for item in compared.items:
        view = views.get(item.family) if item.family is not None else None
        other = found.others.get(item.family) if item.family is not None else None
        if other is not None and _is_of(other, item):
            view = others.get(other.family)
            if view is None:
                plan = compared.other_plans.get(other.family)
                view = others[other.family] = _FamilyView.of(other, plan, asked)
        if view is None or item.status is Status.FOREIGN:
            result.append(
                Detail(item._replace(changes=None, flows=()), item.interface).with_problems(*_said(item))
            )
        else:
            result.append(view.detail(item, assume_vip=assume_vip))
    return result


def _is_of(other: Site, item: Item) -> bool:
    """Whether an item is about rules in the back end that is not in use: its reason begins with where they are."""
    where = f"in the {other.kernel.backend} back end"
    return item.status is Status.ORPHANED and item.reason is not None and item.reason.startswith(where)


def _said(item: Item) -> tuple[Problem, ...]:
    """What its own reason and warnings say."""
    weight = Weight.WARNING if item.status is Status.FOREIGN else Weight.RULES
    reason = () if item.reason is None else (Problem(weight, item.reason),)
    return (*reason, *(Problem(Weight.WARNING, text) for text in item.warnings))


class _Asked(NamedTuple):
    """What all families are looked at with."""

    found: Look
    compared: Compared
    host: Host
    mend: Mend


@dataclass(frozen=True, slots=True)
class _FamilyView:
    judge: ConnectionJudge
    flows: Sequence[Flow]
    failure: str | None
    beats: Mapping[ServiceRef, Beat]
    """Of the Services whose rules need one."""
    drift: Drift
    rival: str | None
    """Who else may translate what these pods send."""
    host: Host
    mend: Mend

    @classmethod
    def of(cls, site: Site, plan: Plan | None, asked: _Asked) -> _FamilyView:
        host, compared = asked.host, asked.compared
        judge = judge_of(site.installed, is_local=host.is_local, may_masquerade_as=host.may_masquerade_as)
        items = [item for item in compared.items if item.family is site.family]
        flows, failure = _flows(site.family, {pod.address for item in items for pod in item.pods}, judge)
        return cls(
            judge=judge,
            flows=flows,
            failure=failure,
            beats=_beats(site.installed),
            drift=Drift.of(site, compared, plan),
            rival=find_rival(asked.found, site),
            host=host,
            mend=asked.mend,
        )

    def detail(self, item: Item, *, assume_vip: bool) -> Detail:
        """One item of this family."""
        pods = {pod.address for pod in item.pods}
        flows = [
            flow
            for flow in self.flows
            if flow.original.source in pods or (item.vip is not None and flow.reply.destination == item.vip)
        ]
        wrong = [flow for flow in flows if self.judge.is_wrong(flow)]
        ports = busiest(self.flows, item.vip) if item.vip is not None else None
        rows = self.drift.rows(item)
        beat = self.beats.get(item.ref) if item.ref is not None else None
        interface = item.interface
        if interface is None and item.vip is not None:
            interface = self.host.holds(item.vip) or self.host.interface_for(item.vip)
        away = None
        if item.vip is not None and _acts(item):
            # Only who elects writes a fence.
            away = not_here(item.vip, host=self.host, assume=assume_vip, elected=beat is not None)
        mend = self.mend._replace(with_vip=away is not None and beat is None)
        problems = self.drift.problems(item, rows, mend=mend)
        if away is not None:
            text = f"{away}: replies will not come back here{ending(elected=beat is not None)}"
            problems.append(Problem(Weight.WAY, text))
        problems += self._of_the_way(item, interface, beat)
        if ports is not None and ports.is_nearly_full:
            problems.append(Problem(Weight.PORTS, _full(ports)))
        rival = self.rival if _acts(item) and item.pods else None
        if rival is not None:
            problems.append(Problem(Weight.RULES if wrong else Weight.WARNING, rival))
        if wrong:
            acts = item.status is not Status.OVERRIDDEN and rival is None
            problems.append(Problem(Weight.CONNECTIONS, _of_another_source(wrong, mend if acts else None)))
        if self.failure is not None:
            problems.append(Problem(Weight.UNKNOWN, self.failure))
        problems += (Problem(Weight.WARNING, text) for text in item.warnings)
        return Detail(
            item=item._replace(changes=None, flows=tuple(flows)),
            interface=interface,
            rows=rows,
            beat=beat,
            wrong=frozenset(wrong),
            ports=ports,
            unlisted=tuple(f for f in flows if f.original.source in pods and _is_left_alone(self.judge, f)),
        ).with_problems(*problems)

    def _of_the_way(self, item: Item, interface: str | None, beat: Beat | None) -> Iterator[Problem]:
        """What keeps packets or their answers from coming through."""
        if not _acts(item):
            return
        fault = self.host.fault_of(interface) if interface is not None else None
        if fault is not None:
            yield Problem(Weight.WAY, f"{fault}: answers to {item.vip} do not come by it")
        if beat is not None and beat.is_late:
            yield Problem(Weight.WAY, beat.consequence)


def _acts(item: Item) -> bool:
    """Whether its rules are there, and rewrite."""
    return not item.drops and item.status in (Status.APPLIED, Status.DRIFTED, Status.OVERRIDDEN)


def _is_left_alone(judge: ConnectionJudge, flow: Flow) -> bool:
    """Whether a flow of a pod with rules leaves the cluster without a VIP, because no rule is for where it goes."""
    pod, ends = flow.original.source, (flow.original.destination, flow.reply.source)
    if pod not in judge.policies or pod in judge.unsure or judge.is_dropped(flow):
        return False
    if any(judge.is_local(end) or within(end, judge.excluded) for end in ends):
        return False
    return judge.wanted_source(flow) is None and flow.reply.destination not in judge.vips


def _of_another_source(wrong: Sequence[Flow], mend: Mend | None) -> str:
    """Connections keep the source that they began with; `mend`: None where new ones may get another, too."""
    one = len(wrong) == 1
    they, them, began = ("it", "it", "it began") if one else ("they", "them", "they began")
    fault = (
        f"{plural(len(wrong), 'connection')} {'has' if one else 'have'} another source than the rules give"
    )
    if mend is not None:
        return (
            f"{fault}: {began} before these rules, or under another rule that has gone; {mend} drops such, and "
            f"{they} begin{'s' if one else ''} anew"
        )
    return f"{fault}: {began} before these rules, or another program's rule takes {them}: {_trace(wrong[0])} tells"


def _trace(flow: Flow) -> str:
    """The command that tells what becomes of such a packet."""
    sent = flow.original
    to = f"[{sent.destination}]" if sent.destination.version == 6 else str(sent.destination)
    port = f":{sent.destination_port}" if sent.destination_port else ""
    return f"kvctl egress trace --from {sent.source} --to {to}{port} --proto {flow.protocol}"


def _full(ports: PortUse) -> str:
    return (
        f"the VIP {ports.vip} is running out of source ports: {ports} are in use; new connections there fail when "
        "none is left: spread them over more addresses or ports of the destination, or over more VIPs"
    )


def _beats(installed: Installed) -> dict[ServiceRef, Beat]:
    policies = (service.policy for service in installed.services.values())
    fenced = {policy.ref: policy for policy in policies if policy is not None and policy.fence is not None}
    ages = fence.ages({policy.fence.name for policy in fenced.values() if policy.fence is not None})
    return {
        ref: Beat(policy.fence.seconds, ages.get(policy.fence.name), policy.drops_without_vip)
        for ref, policy in fenced.items()
        if policy.fence is not None
    }


def _flows(family: Family, addresses: set[Address], judge: ConnectionJudge) -> tuple[list[Flow], str | None]:
    """The connections of these pods and VIPs; or why they could not be read."""
    if not addresses and not judge.vips:
        return [], None
    try:
        flows = conntrack.dump(
            family=family,
            sources=[host_network(address) for address in addresses],
            reply_destinations=judge.vips,
        )
    except KvctlError as error:
        return [], f"the connections could not be read: {error}"
    return flows, None
