"""Generated policies, exclusions and packets; few values each, so that they meet."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from kvctl.model.net import Address, Family, Network, contains, parse_address, parse_network
from kvctl.model.policy import EgressPod, EgressPolicy, Exclusion, ExclusionKind, canonical
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import ALLOWED, DENIED, PORTS, of_family, read_annotations

_POD_BASE = {Family.IPV4: "10.0.0.0", Family.IPV6: "fd00:10::"}
_OUTSIDE = {
    Family.IPV4: ("192.168.0.0/16", "192.168.1.0/24", "192.168.1.7/32", "192.168.2.0/23", "172.16.0.0/12"),
    Family.IPV6: ("2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::7/128", "2001:db8:2::/47", "fd05::/16"),
}
_INSIDE = {
    Family.IPV4: ("10.0.0.0/16", "10.96.0.0/12", "172.16.0.2/32", "192.168.1.0/28"),
    Family.IPV6: ("fd00:10::/48", "fd00:96::/108", "fd05::2/128", "2001:db8:1::/124"),
}
_PORTS = ("tcp:80", "tcp:80-90", "udp:5060", "sctp:1", "tcp:1-65535", "udp:5000-6000", "tcp:443")


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection as POSTROUTING meets it."""

    source: Address
    destination: Address
    aimed_at: Address
    """Where the pod sent it, before any DNAT."""
    protocol: str
    port: int


def pod_address(family: Family, number: int) -> Address:
    """One of a few thousand addresses, unevenly spread over the tree."""
    base = parse_address(_POD_BASE[family])
    return type(base)(int(base) + number * number % 5003 + number)


def lists(entries: tuple[str, ...], most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(entries), max_size=most).map(",".join)


@st.composite
def policies(draw: st.DrawFn, family: Family, *, services: int = 6, pods: int = 40) -> list[EgressPolicy]:
    """Policies of one family with different names, canonical as those made from objects."""
    names = draw(
        st.lists(
            st.tuples(st.sampled_from(("a", "sip", "n" * 63)), st.sampled_from(("a", "b", "c", "s" * 63))),
            min_size=1,
            max_size=services,
            unique=True,
        )
    )
    return [draw(_policy(family, ServiceRef(*name), pods)) for name in names]


@st.composite
def _policy(draw: st.DrawFn, family: Family, its_ref: ServiceRef, pods: int) -> EgressPolicy:
    read = read_annotations(
        {
            PORTS: draw(lists(_PORTS, 3)),
            ALLOWED: draw(lists(_OUTSIDE[family], 2)),
            DENIED: draw(lists(_OUTSIDE[family], 2)),
        }
    )
    numbers = draw(st.sets(st.integers(0, pods), min_size=1, max_size=pods))
    name = draw(st.sampled_from((None, "p", "a.long-name" * 9, "x" * 253)))
    vip = _POD_BASE[family].replace("10", "99") + str(draw(st.integers(1, 9)))
    return EgressPolicy(
        ref=its_ref,
        family=family,
        vip=parse_address(vip if family is Family.IPV6 else f"99.0.0.{vip[-1]}"),
        pods=tuple(
            EgressPod.named(address, name=name, node="worker")
            for address in sorted({pod_address(family, number) for number in numbers}, key=int)
        ),
        ports=read.ports,
        allowed=of_family(read.allowed or (), family),
        denied=of_family(read.denied, family),
        interface=draw(st.sampled_from((None, "eth1", "veth@if2.100"))),
        created=draw(st.sampled_from((0, 1, 1_700_000_000, 253_402_300_799))),
    )


def exclusions(family: Family) -> st.SearchStrategy[tuple[Exclusion, ...]]:
    """Excluded networks, some of which lie in what policies allow."""
    one = st.builds(
        Exclusion, st.sampled_from(_INSIDE[family]).map(parse_network), st.sampled_from(ExclusionKind)
    )
    return st.lists(one, max_size=4).map(canonical)


def packets(family: Family, *, pods: int = 40) -> st.SearchStrategy[Packet]:
    """Packets from pods and bystanders to addresses in and round the networks of the others."""
    sources = st.integers(0, pods + 5).map(lambda number: pod_address(family, number))
    places = st.sampled_from(
        [edge for text in (*_OUTSIDE[family], *_INSIDE[family]) for edge in _edges(text)]
    )
    ports = st.sampled_from((1, 79, 80, 81, 90, 91, 443, 4999, 5000, 5060, 6000, 6001, 65535))
    protocol = st.sampled_from(("tcp", "udp", "sctp", "icmp"))
    straight = st.builds(lambda s, d, p, port: Packet(s, d, d, p, port), sources, places, protocol, ports)
    return st.one_of(straight, st.builds(Packet, sources, places, places, protocol, ports))


def _edges(text: str) -> list[Address]:
    network: Network = parse_network(text)
    first, last = int(network.network_address), int(network.broadcast_address)
    make = type(network.network_address)
    return [make(first - 1), make(first), make(first + 7), make(last), make(last + 1)]


def expected_source(
    packet: Packet, wanted: list[EgressPolicy], excluded: tuple[Exclusion, ...]
) -> Address | None:
    """The contract, read naively: which source address the packet leaves with; None: its own."""
    for exclusion in excluded:
        # What goes to a group is never translated: where it was aimed at before is not asked.
        aimed = exclusion.kind is not ExclusionKind.MULTICAST and contains(exclusion.network, packet.aimed_at)
        if aimed or contains(exclusion.network, packet.destination):
            return None
    for policy in sorted(wanted, key=_place):
        ports = not policy.ports or any(
            port.protocol == packet.protocol and port.first <= packet.port <= port.last
            for port in policy.ports
        )
        allowed = not policy.allowed or any(contains(n, packet.destination) for n in policy.allowed)
        denied = any(contains(n, packet.destination) for n in policy.denied)
        mine = any(pod.address == packet.source for pod in policy.pods)
        if mine and ports and allowed and not denied:
            return policy.vip
    return None


def _place(policy: EgressPolicy) -> tuple[int, int, int, str, str]:
    kind = 1 if policy.ports else 2 if policy.allowed else 3
    return (kind, int(not policy.created), policy.created, policy.ref.namespace, policy.ref.name)
