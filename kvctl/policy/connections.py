"""Which source a connection should have: the one function that applying and removing decide by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

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

    policies: dict[Address, list[EgressPolicy]]
    """For each pod address its policies, highest rank first."""
    unsure: frozenset[Address]
    """Pods with a Service whose rules are not as kvctl writes them."""
    pods: frozenset[Address]
    """Addresses whose connections are judged: those that have rules, or had."""
    pod_networks: tuple[Network, ...]
    vips: frozenset[Address]
    """Addresses that only rules of ours put on a connection, also those being retired."""
    going: frozenset[Address]
    """Those of `vips` that no rule puts on a connection any more."""
    excluded: tuple[Network, ...]
    """The networks excluded by now: to what was excluded before, a rule may rewrite."""
    is_local: Callable[[Address], bool] = field(repr=False)
    dropped: dict[Address, list[EgressPolicy]] = field(default_factory=dict)
    """For each pod address the policies whose traffic is dropped."""
    ambiguous: frozenset[Address] = frozenset()
    """VIPs that the host itself may choose as a source, so that not every connection with one has it from us."""
    before: ConnectionJudge | None = None
    """What the rules said before this run."""

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
        if wanted is None and seen_as in self.ambiguous and seen_as not in self.going:
            # It may have it from the host's own masquerading: only what our rules gave it before is theirs.
            return self.before is not None and self.before.wanted_source(flow) == seen_as
        if wanted is None or flow.zone != _HOST_ZONE:
            return seen_as in self.vips and seen_as != wanted
        return seen_as != wanted

    def wanted_source(self, flow: Flow) -> Address | None:
        """The VIP the connection should have; None: no rule is for it."""
        policy = _first(self.policies.get(flow.original.source, ()), flow)
        return policy.vip if policy is not None else None

    def is_dropped(self, flow: Flow) -> bool:
        """Whether our rules drop what the pod sends in this connection."""
        dropped = _first(self.dropped.get(flow.original.source, ()), flow)
        if dropped is None:
            return False
        rewritten = _first(self.policies.get(flow.original.source, ()), flow)
        return rewritten is None or dropped.rank < rewritten.rank


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
    policies, unsure = _policies_by_pod(acting)
    dropped, unsure_dropped = _policies_by_pod(acting.drops)
    vips = frozenset(
        address
        for part in everything
        for address in (
            *(vip for service in part.services.values() for vip in service.vips),
            *(retiring.vip for retiring in part.retiring),
        )
    )
    judge = ConnectionJudge(
        policies=policies,
        unsure=unsure | unsure_dropped,
        dropped=dropped,
        pods=frozenset(item.address for part in everything for item in part.entries),
        pod_networks=tuple({n for part in everything for n in part.pod_networks} | set(pod_networks)),
        vips=vips,
        going=vips.difference(vip for service in acting.services.values() for vip in service.vips),
        excluded=tuple(e.network for e in acting.exclusions),
        is_local=is_local,
        ambiguous=frozenset(filter(may_masquerade_as, vips)),
    )
    if not before or not judge.ambiguous:
        return judge
    earlier, _ = _policies_by_pod(before[0])
    return replace(judge, before=replace(judge, policies=earlier))


def _policies_by_pod(
    installed: Part,
) -> tuple[dict[Address, list[EgressPolicy]], frozenset[Address]]:
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
