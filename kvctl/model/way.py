"""The second way out: by a named interface instead of the one that the main table says.

Packets that are to leave by it carry a mark; a rule leads each mark value to a routing table of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from kvctl.errors import UsageError
from kvctl.model.net import Address, Family, Network, family_of

# Two to eight bits: one mark is for what has no way, and there are 254 others and tables at most.
_ONES = frozenset((1 << bits) - 1 for bits in range(2, 9))
# compat, default, main and local of linux/rtnetlink.h
_KERNELS_TABLES = frozenset((252, 253, 254, 255))
# ip-rule(8): of the rule that every kernel begins with
_MAIN_PRIORITY = 32766


class MarkSpace(NamedTuple):
    """Which bits of the packet mark, which routing tables and which rule priorities are kvctl's.

    The mask is 0x3c because most other programs of a node leave these bits alone: OpenShift SDN has 0x1, kube-vip
    0x40, the AWS VPC CNI 0x80, Cilium 0x0f00, the CNI portmap plug-in 0x2000, kube-proxy 0x4000 and 0x8000,
    Calico 0xffff0000, and in it Weave Net 0x60000 and Tailscale 0xff0000. Not so Antrea with Egress resources
    (0xff, SNATIPMarkMask), OVN-Kubernetes (0x3f0, OvnKubeNodeSNATMark) and Cilium in a ClusterMesh (the low
    eight bits, set_cluster_id_mark): beside those another mask has to be set. What marks its own sockets with a whole
    number (wg-quick 0xca6c, Istio 0x539) meets our rules only when the eleventh or the fourteenth interface is in use.
    """

    mask: int = 0x3C
    """Bits that follow each other; the n-th interface has the value n there, from 1."""
    first_table: int = 7500
    """The table of the first interface; that of the next is the next."""
    priority: int = 7500
    """Of the first rules; two more follow it."""

    @property
    def capacity(self) -> int:
        """How many interfaces fit."""
        return self.mask // self.unit

    @property
    def unit(self) -> int:
        """The mark value of the first interface: the lowest bit of the mask."""
        return self.mask & -self.mask

    @property
    def marks(self) -> tuple[int, ...]:
        """Every mark value, in order."""
        return tuple(number * self.unit for number in range(1, self.capacity + 1))

    @property
    def way_priority(self) -> int:
        """Of the rules that lead a mark to its table."""
        return self.priority + 1

    @property
    def end_priority(self) -> int:
        """Of the rule at which what is none of kvctl's business goes on."""
        return self.priority + 2

    def table(self, mark: int) -> int:
        """The routing table of a mark value."""
        return self.first_table + mark // self.unit - 1


DEFAULT_SPACE = MarkSpace()
"""Where nothing is set."""


def mark_space(*, mask: int, first_table: int, priority: int) -> MarkSpace:
    """The space that settings ask for; raises UsageError where it cannot work."""
    space = MarkSpace(mask=mask, first_table=first_table, priority=priority)
    if not 0 < mask < 1 << 32 or mask // space.unit not in _ONES:
        raise UsageError(
            f"egress_fwmark_mask {mask:#x} is not two to eight bits that follow each other",
            hint=f"the default is {DEFAULT_SPACE.mask:#x}",
        )
    if not 0 < first_table < (1 << 32) - 256 or any(space.table(m) in _KERNELS_TABLES for m in space.marks):
        raise UsageError(
            f"egress_route_table {first_table}: one of {space.capacity} tables from there is the kernel's own",
            hint=f"the default is {DEFAULT_SPACE.first_table}",
        )
    if not 0 < priority <= _MAIN_PRIORITY - 3:
        raise UsageError(
            f"egress_rule_priority {priority} does not come before the main table's, which is {_MAIN_PRIORITY}",
            hint=f"the default is {DEFAULT_SPACE.priority}",
        )
    return space


def way_name(interface: str, gateway: Address | None) -> str:
    """How the way is called that a Service asks for; with a next hop it is another one than without, or by another."""
    return interface if gateway is None else f"{interface} via {gateway}"


def is_interface_name(name: str) -> bool:
    """Whether a way of this name is the one without a next hop of its own: no interface's name has a space in it."""
    return " " not in name


DEAD_END = "no way out"
"""The name of the way that leads nowhere, which all share that get no mark of their own."""


class Way(NamedTuple):
    """How packets of one family leave by one interface: what its table holds."""

    interface: str
    family: Family
    mark: int
    table: int
    gateway: Address | None
    """The next hop to everything else; None: only what the rest names is reached."""
    networks: tuple[Network, ...]
    """What is reached on the link, without a next hop; may be everything (a tunnel, PPP)."""
    via: tuple[tuple[Network, Address], ...] = ()
    """Networks behind other next hops on the link."""
    key: str = ""
    """By which it keeps its mark; empty: by its interface."""

    @property
    def name(self) -> str:
        """What tells it from all others of its family."""
        return self.key or self.interface

    @property
    def is_shut(self) -> bool:
        """It leads nowhere: what is marked for it is refused."""
        return self.gateway is None and not self.networks and not self.via

    def is_on_link(self, address: Address) -> bool:
        """Whether the kernel itself finds that `address` is a neighbour: by a network, or as link-local IPv6."""
        if family_of(address) is Family.IPV6 and address.is_link_local:
            return True
        return any(network.version == address.version and address in network for network in self.networks)
