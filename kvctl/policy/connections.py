"""Which source a connection should have: the one function that applying and removing decide by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kvctl.model.flows import Flow
from kvctl.model.net import Address, Network, contains, within
from kvctl.model.policy import EgressPolicy
from kvctl.policy.decode import Installed, Part

# Open vSwitch tracks a pod's packets in zones of its own before the host does: there nobody translates, and
# an entry without the VIP is no fault.
_HOST_ZONE = 0


@dataclass(frozen=True)
class ConnectionJudge:
    """What the rules that act now say about connections, and which connections are ours to judge.

    Built from the kernel's rules, not from wishes: a connection is dropped only if the rules that its
    next packet meets give it the right source.
    """

    acting: Installed
    """The rules that act now."""
    earlier: Installed | None
    """What they were before this run."""
    pods: frozenset[Address]
    """Addresses whose connections are judged: those that have rules, or had."""
    pod_networks: tuple[Network, ...]
    vips: frozenset[Address]
    """Addresses that only rules of ours put on a connection, also those being retired."""
    is_local: Callable[[Address], bool] = field(repr=False)
    may_masquerade_as: Callable[[Address], bool] = field(repr=False)
    """Whether the host itself may choose this source, so that not every connection with it has it from us."""

    # What follows is made of all rules of the node, and only where there is a connection to judge.

    @property
    def policies(self) -> Mapping[Address, list[EgressPolicy]]:
        """For each pod address its policies, highest rank first."""
        return self._rewritten[0]

    @property
    def dropped(self) -> Mapping[Address, list[EgressPolicy]]:
        """For each pod address the policies whose traffic is dropped."""
        return self._dropped[0]

    @cached_property
    def unsure(self) -> frozenset[Address]:
        """Pods with a Service whose rules are not as kvctl writes them."""
        return self._rewritten[1] | self._dropped[1]

    @cached_property
    def going(self) -> frozenset[Address]:
        """Those of `vips` that no rule puts on a connection any more."""
        return self.vips.difference(vip for service in self.acting.services.values() for vip in service.vips)

    @cached_property
    def excluded(self) -> tuple[Network, ...]:
        """The networks excluded by now: to what was excluded before, a rule may rewrite."""
        return tuple(e.network for e in self.acting.exclusions)

    @cached_property
    def _rewritten(self) -> _ByPod:
        return _policies_by_pod(self.acting)

    @cached_property
    def _dropped(self) -> _ByPod:
        return _policies_by_pod(self.acting.drops)

    @cached_property
    def _before(self) -> Mapping[Address, list[EgressPolicy]]:
        return _policies_by_pod(self.earlier)[0] if self.earlier is not None else {}

    def is_wrong(self, flow: Flow) -> bool:
        """Whether this connection has another source than the rules would give it."""
        pod, seen_as = flow.original.source, flow.reply.destination
        from_pod_network = within(pod, self.pod_networks) and seen_as in self.vips
        if (pod not in self.pods and not from_pod_network) or pod in self.unsure:
            return False
        destinations = (flow.original.destination, flow.reply.source)
        if any(map(self.is_local, destinations)):
            return False
        if any(within(destination, self.excluded) for destination in destinations):
            # Left alone, but a VIP that goes goes from everywhere: this began before the network was excluded.
            return seen_as in self.going
        if self.is_dropped(flow):
            return (
                seen_as in self.going
            )  # none of its packets gets out: whatever its source was, it harms nobody
        wanted = self.wanted_source(flow)
        ours = seen_as in self.vips and seen_as not in self.going
        if wanted is None and ours and self.may_masquerade_as(seen_as):
            # It may have it from the host's own masquerading: only what our rules gave it before is theirs.
            return _source_by(self._before, flow) == seen_as
        if wanted is None or flow.zone != _HOST_ZONE:
            return seen_as in self.vips and seen_as != wanted
        return seen_as != wanted

    def wanted_source(self, flow: Flow) -> Address | None:
        """The VIP the connection should have; None: no rule is for it."""
        return _source_by(self.policies, flow)

    def is_dropped(self, flow: Flow) -> bool:
        """Whether our rules drop what the pod sends in this connection."""
        dropped = _first(self.dropped.get(flow.original.source, ()), flow)
        if dropped is None:
            return False
        rewritten = _first(self.policies.get(flow.original.source, ()), flow)
        return rewritten is None or dropped.rank < rewritten.rank


def _source_by(policies: Mapping[Address, Sequence[EgressPolicy]], flow: Flow) -> Address | None:
    policy = _first(policies.get(flow.original.source, ()), flow)
    return policy.vip if policy is not None else None


def _first(policies: Iterable[EgressPolicy], flow: Flow) -> EgressPolicy | None:
    """The first of them, highest rank first, that matches."""
    return next((policy for policy in policies if _matches(policy, flow)), None)


def _matches(policy: EgressPolicy, flow: Flow) -> bool:
    """As POSTROUTING sees it: where the packet goes after DNAT is where its replies come from."""
    to, port = flow.reply.source, flow.reply.source_port
    if any(contains(network, to) for network in policy.denied):
        return False
    if policy.allowed and not any(contains(network, to) for network in policy.allowed):
        return False
    return not policy.ports or any(
        match.protocol == flow.protocol and match.first <= port <= match.last for match in policy.ports
    )


def judge_of(
    acting: Installed,
    *,
    before: Sequence[Installed] = (),
    is_local: Callable[[Address], bool],
    may_masquerade_as: Callable[[Address], bool] = lambda address: False,
    pod_networks: Sequence[Network] = (),
) -> ConnectionJudge:
    """The judge for the rules `acting`; `before` is what there was, in either back end.

    `may_masquerade_as`: whether the host itself may send with this source.
    """
    # Where nothing was written they are one and the same.
    everything = {id(part): part for part in (acting, *before)}.values()
    return ConnectionJudge(
        acting=acting,
        earlier=before[0] if before else None,
        pods=frozenset({id(item): item.address for part in everything for item in part.entries}.values()),
        pod_networks=tuple({n for part in everything for n in part.pod_networks} | set(pod_networks)),
        vips=frozenset(
            {
                id(vip): vip
                for part in everything
                for vip in (
                    *(vip for service in part.services.values() for vip in service.vips),
                    *(retiring.vip for retiring in part.retiring),
                )
            }.values()
        ),
        is_local=is_local,
        may_masquerade_as=may_masquerade_as,
    )


_ByPod = tuple[Mapping[Address, list[EgressPolicy]], frozenset[Address]]


def _policies_by_pod(installed: Part) -> _ByPod:
    """Each pod's policies, highest rank first, and the pods whose rules are not as kvctl writes them."""
    policies: dict[Address, list[EgressPolicy]] = defaultdict(list)
    unsure: set[Address] = set()
    for service in installed.services.values():
        pods = {item.address for item in installed.entries_of(service.ref)}
        if service.policy is None or not service.intact:
            unsure |= pods
            continue
        for address in pods:
            policies[address].append(service.policy)
    for chosen in policies.values():
        chosen.sort(key=lambda policy: policy.rank)
    return dict(policies), frozenset(unsure)
