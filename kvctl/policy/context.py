"""What the judgement of every Service needs: settings, ranges, pods, claims, Nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address
from kvctl.model.objects import Pod, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.cidrs import ClusterNetworks
from kvctl.policy.pods import PodIndex
from kvctl.policy.vips import Claim, VipRules


class LeaseClaim(NamedTuple):
    """The Service that says by which Lease a VIP is held, because its claim is the strongest of those that ask."""

    ref: ServiceRef
    key: LeaseKey


class Context(NamedTuple):
    """What the judgement of every Service needs."""

    settings: Settings
    networks: ClusterNetworks
    pods: PodIndex
    rules: VipRules
    claims: Mapping[Address, Claim]
    leases: Mapping[Address, LeaseClaim]
    """Where Leases decide who holds a VIP: by which one."""
    host: Host | None
    endpoints_known: bool
    nodes_known: bool
    nodes: tuple[str, ...]
    """The names of the source's Nodes; empty: it has none."""
    announced: Mapping[ServiceRef, frozenset[str]]

    def nearly_selected(self, service: Service) -> tuple[Pod, str, str] | None:
        """As the index says; nothing where labels are not compared."""
        return self.pods.nearly_selected(service) if self.compares_labels else None

    @property
    def compares_labels(self) -> bool:
        """Whether labels that nearly match are looked for; not where only the pods of a node are known (an agent)."""
        return not (self.pods.from_api and self.settings.node is not None)

    @property
    def node_is_unknown(self) -> bool:
        """Only pods of one node count, and the source has Nodes, but none of that name: the name must be wrong.

        Or the API server has lost them: a node that runs kvctl is one.
        """
        told = bool(self.nodes) or self.nodes_known
        return self.settings.node is not None and told and self.settings.node not in self.nodes
