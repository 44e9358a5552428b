"""What is asked for: an egress policy is one Service in one address family."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import NamedTuple

from kvctl.model.net import Address, Family, Network, contains
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Mark

PROTOCOLS = ("tcp", "udp", "sctp")

# A rule's comment holds 255 bytes (struct xt_comment_info) and is cut beyond in silence. The tag (23),
# a rank (12), namespace/service (63 + 1 + 63 and blanks) leave this for the name of the pod.
_LONGEST_LABEL = 80
_UNNAMED = "-"
_CUT = "~"


class PortMatch(NamedTuple):
    """Destination ports `first` to `last` (inclusive, 1 to 65535) of one protocol."""

    protocol: str
    first: int
    last: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol}:{ports}"


class EgressPod(NamedTuple):
    """One pod address whose traffic is rewritten.

    `label` is the name as a rule can carry it: cut with a `~` when too long, `-` without a name.
    """

    address: Address
    label: str = _UNNAMED
    name: str | None = None
    """None: there is none, or only a cut label is known (read back from the kernel)."""
    node: str | None = None

    @classmethod
    def named(cls, address: Address, *, name: str | None, node: str | None = None) -> EgressPod:
        """A pod as the cluster knows it."""
        label = name or _UNNAMED
        if len(label) > _LONGEST_LABEL:
            label = label[: _LONGEST_LABEL - 1] + _CUT
        return cls(address=address, label=label, name=name, node=node)

    @classmethod
    def labelled(cls, address: Address, *, label: str) -> EgressPod:
        """A pod as the kernel's rules know it."""
        whole = label != _UNNAMED and not label.endswith(_CUT)
        return cls(address=address, label=label, name=label if whole else None)


class ExclusionKind(StrEnum):
    """Why a network is never rewritten to."""

    POD = "pod-cidr"
    SERVICE = "service-cidr"
    OPTION = "exclude-cidr"
    LINK_LOCAL = "link-local"
    MULTICAST = "multicast"
    NODE = "node"


class Exclusion(NamedTuple):
    """A network to which no pod's traffic is rewritten, and why."""

    network: Network
    kind: ExclusionKind


def canonical(exclusions: Iterable[Exclusion]) -> tuple[Exclusion, ...]:
    """Sorted by address, without those covered by another; of equal networks the first given counts."""
    kept: list[Exclusion] = []
    by_place = sorted(exclusions, key=lambda e: (int(e.network.network_address), e.network.prefixlen))
    for exclusion in by_place:
        if not (kept and contains(kept[-1].network, exclusion.network)):
            kept.append(exclusion)
    return tuple(kept)


class WithoutVip(StrEnum):
    """What becomes of a Service's traffic on a node where its VIP is not."""

    NODE_ADDRESS = "node-address"
    """It leaves as if nobody had asked for egress: with the address of the node."""
    DROP = "drop"


DROPPED = "its pods' traffic is dropped (kvctl.io/without-vip)"
"""How a reason ends where the VIP is elsewhere and nothing may leave without it."""


class RankClass(IntEnum):
    """Which Services come first where a pod belongs to several: the more exact ones."""

    PORTS = 1
    NETWORKS = 2
    ALL = 3


class Rank(NamedTuple):
    """The order of Services within one pod: class, then age (unknown last), then name."""

    rank_class: RankClass
    age: float
    ref: ServiceRef

    @classmethod
    def of(cls, *, rank_class: RankClass, created: int, ref: ServiceRef) -> Rank:
        """`created` in seconds since the epoch, 0 unknown."""
        return cls(rank_class=rank_class, age=created or float("inf"), ref=ref)

    @property
    def created(self) -> int:
        """Seconds since the epoch, 0 unknown."""
        return 0 if self.age == float("inf") else int(self.age)


class Fence(NamedTuple):
    """What keeps a dead agent's node from using a VIP: without heartbeats the rules stop by themselves."""

    name: str
    """The list of xt_recent that the heartbeats are written to, `policy.layout.fence_name`."""
    seconds: int
    """How long one heartbeat counts."""


class EgressPolicy(NamedTuple):
    """What one Service asks for in one family. Everything in it is canonical: sorted, without duplicates."""

    ref: ServiceRef
    family: Family
    vip: Address
    pods: tuple[EgressPod, ...]
    ports: tuple[PortMatch, ...] = ()
    """Empty: all traffic."""
    allowed: tuple[Network, ...] = ()
    """Empty: all networks."""
    denied: tuple[Network, ...] = ()
    interface: str | None = None
    created: int = 0
    fence: Fence | None = None
    """None: the rules act until they are taken away."""
    drops_without_vip: bool = False
    """Of a fenced policy: what it matches goes nowhere while its heartbeat is late, instead of leaving as the node."""
    mark: Mark | None = None
    """What leads its traffic to the routes of its interface; None: the main table's lead there."""

    @property
    def rank(self) -> Rank:
        """Its place among the Services of a pod."""
        if self.ports:
            rank_class = RankClass.PORTS
        elif self.allowed:
            rank_class = RankClass.NETWORKS
        else:
            rank_class = RankClass.ALL
        return Rank.of(rank_class=rank_class, created=self.created, ref=self.ref)
