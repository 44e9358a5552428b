"""What `show` adds to an item: the rules in the kernel, live connections, and every problem in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.flows import Flow
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, host_network
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Hook, Rule
from kvctl.model.snapshot import Snapshot
from kvctl.model.text import plural
from kvctl.netfilter import conntrack, fence
from kvctl.netfilter.position import rule_in_the_way
from kvctl.policy import comments, layout
from kvctl.policy.connections import ConnectionJudge, judge_of
from kvctl.policy.decode import Installed
from kvctl.policy.holder import not_here
from kvctl.reconcile.compare import Compared
from kvctl.reconcile.look import Look
from kvctl.reconcile.report import Item, Status
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
    rules: tuple[tuple[str, int | str, str], ...] = ()
    """(chain, packets, text) of the Service's rules and its pods' jumps."""
    beat: Beat | None = None
    """None: its rules act without one."""


def detail(found: Look, compared: Compared, *, host: Host, assume_vip: bool) -> list[Detail]:
    """Every item of a comparison in depth."""
    views = {family: _FamilyView.of(site, compared, host=host) for family, site in found.sites.items()}
    result = []
    for item in compared.items:
        view = views.get(item.family) if item.family is not None else None
        if view is None or item.status is Status.FOREIGN:
            problems = (item.reason,) if item.reason is not None else ()
            result.append(
                Detail(
                    item._replace(changes=None, flows=(), problems=(*problems, *item.warnings)),
                    item.interface,
                )
            )
        else:
            result.append(view.detail(item, assume_vip=assume_vip))
    return result


@dataclass(frozen=True, slots=True)
class _FamilyView:
    snapshot: Snapshot
    judge: ConnectionJudge
    flows: Sequence[Flow]
    failure: str | None
    in_the_way: dict[Hook, str]
    beats: Mapping[ServiceRef, Beat]
    """Of the Services whose rules need one."""
    host: Host

    @classmethod
    def of(cls, site: Site, compared: Compared, *, host: Host) -> _FamilyView:
        judge = judge_of(site.installed, is_local=host.is_local, may_masquerade_as=host.may_masquerade_as)
        items = [item for item in compared.items if item.family is site.family]
        addresses = {pod.address for item in items for pod in item.pods}
        flows, failure = _flows(site.family, addresses, judge)
        pods = {
            Hook.EGRESS: [host_network(address) for address in judge.pods],
            Hook.DROP: [
                host_network(address)
                for address in {*judge.dropped, *(item.address for item, _ in site.installed.guards)}
            ],
            Hook.MARK: [host_network(item.address) for item, _ in site.installed.marks],
        }
        ways = {hook: rule_in_the_way(site.snapshot, its, hook) for hook, its in pods.items() if its}
        return cls(
            snapshot=site.snapshot,
            judge=judge,
            flows=flows,
            failure=failure,
            in_the_way={hook: rule for hook, rule in ways.items() if rule is not None},
            beats=_beats(site.installed),
            host=host,
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
        problems = [item.reason] if item.reason is not None else []
        if item.status is Status.DRIFTED:
            problems += [
                f"this rule comes before kvctl's jump in {hook.chain} of {hook.table}: {rule}"
                for hook, rule in self.in_the_way.items()
            ]
        acts = not item.drops and item.status in (Status.APPLIED, Status.DRIFTED, Status.OVERRIDDEN)
        beat = self.beats.get(item.ref) if item.ref is not None else None
        away = None
        if item.vip is not None and acts:
            # Only who elects writes a fence.
            away = not_here(item.vip, host=self.host, assume=assume_vip, elected=beat is not None)
        if away is not None:
            problems.append(f"{away}: replies will not come back here")
        interface = item.interface
        if interface is None and item.vip is not None:
            interface = self.host.holds(item.vip) or self.host.interface_for(item.vip)
        fault = self.host.fault_of(interface) if interface is not None else None
        if acts and fault is not None:
            problems.append(f"{fault}: answers to {item.vip} do not come by it")
        if acts and beat is not None and beat.is_late:
            problems.append(beat.consequence)
        if wrong:
            problems.append(
                f"{plural(len(wrong), 'connection')} with the wrong source address: apply drops such"
            )
        if self.failure is not None:
            problems.append(self.failure)
        return Detail(
            item=item._replace(changes=None, flows=tuple(flows), problems=(*problems, *item.warnings)),
            interface=interface,
            rules=self._rules(item),
            beat=beat,
        )

    def _rules(self, item: Item) -> tuple[tuple[str, int | str, str], ...]:
        ref = item.ref
        if ref is None:
            return ()
        own = layout.chains_of(ref)
        found = []
        for chain, rules in self.snapshot.chains.items():
            for rule in rules:
                if chain in own or _leads_to(ref, rule.rule, own):
                    found.append((chain, "-" if rule.packets is None else rule.packets, rule.text))
        return tuple(found)


def _beats(installed: Installed) -> dict[ServiceRef, Beat]:
    policies = (service.policy for service in installed.services.values())
    fenced = {policy.ref: policy for policy in policies if policy is not None and policy.fence is not None}
    ages = fence.ages({policy.fence.name for policy in fenced.values() if policy.fence is not None})
    return {
        ref: Beat(policy.fence.seconds, ages.get(policy.fence.name), policy.drops_without_vip)
        for ref, policy in fenced.items()
        if policy.fence is not None
    }


def _leads_to(ref: ServiceRef, rule: Rule | None, own: Sequence[str]) -> bool:
    """Whether this is a jump of one of the Service's pods, comes between it and the Service's chain, or guards it."""
    if rule is None:
        return False
    text = comments.comment_text(rule) or ""
    pod = comments.read_pod(text) or comments.read_aside_pod(text)
    return (
        rule.target.chain in own
        or (pod is not None and pod[0].ref == ref)
        or ref in (comments.read_passed(text), comments.read_aside(text))
    )


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
