"""First packets of a few rewritten pods, followed through everybody's rules as `trace` does; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvctl.doctor.scene import Scene
from kvctl.model.flows import Flow, Tuple
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, Network, family_of, host_network, parse_address, within
from kvctl.model.policy import EgressPolicy
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Reading
from kvctl.node.lookup import Sought, look_up
from kvctl.reconcile.site import Site
from kvctl.trace.facts import kernels_facts
from kvctl.trace.judge import judge
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.packet import Packet, Question, first_packet

_MOST_PODS = 8
_MOST_DESTINATIONS = 2
# Addresses that anybody may send to, and no list of unroutable networks has: a root name server's (root-servers.org).
_ANYBODY = {Family.IPV4: parse_address("198.41.0.4"), Family.IPV6: parse_address("2001:503:ba3e::2:30")}
_POD_PORT = 40_000
"""Any that is not one of a server."""
_ANY_PORTS = (("tcp", 443), ("udp", 53))


class Sample(NamedTuple):
    """A pod, and first packets of it that its Service rewrites."""

    policy: EgressPolicy
    pod: Address
    packets: tuple[Packet, ...]


def samples(scene: Scene) -> list[Sample]:
    """A pod of each Service first, then others of them, until they are enough; those that are reached directly."""
    found: list[tuple[int, EgressPolicy, Address, Site]] = []
    for site in scene.look.sites.values() if scene.look is not None else ():
        for service in site.installed.services.values():
            if service.policy is not None:
                entries = site.installed.entries_of(service.ref)
                found += (
                    (at, service.policy, entry.address, site) for at, entry in enumerate(entries[:_MOST_PODS])
                )
    found.sort(key=lambda each: each[0])
    result = []
    for _, policy, pod, site in found[:_MOST_PODS]:
        packets = tuple(_packets(policy, pod, site, scene.host))
        if packets:
            result.append(Sample(policy, pod, packets))
    return result


def judged(packet: Packet, reading: Reading) -> Judgement:
    """What becomes of it, as a new connection. Raises KvctlError where the kernel does not answer."""
    return judge(packet, reading, kernels_facts())


def judged_answer(gone: Judgement, scene: Scene) -> Judgement | None:
    """What becomes of the first answer to a packet that was rewritten; None: it was not, or has no ports."""
    packet, vip = gone.packet, gone.source
    if gone.verdict is not Verdict.REWRITTEN or vip is None or packet.destination_port is None:
        return None
    pod, there, port = packet.source, packet.destination, packet.destination_port
    flow = Flow(
        packet.family,
        packet.protocol,
        original=Tuple(pod, there, _POD_PORT, port),
        reply=Tuple(there, vip, port, _POD_PORT),
        replied=True,
    )
    # Others on the link send it to where the VIP is, by whatever interface the packet has left.
    interface = scene.host.holds(vip) or gone.interface
    answer = Question(there, vip, packet.protocol, port, _POD_PORT, in_interface=interface)
    return judge(first_packet(answer), scene.reading, kernels_facts(), [flow])


def without_nat(reading: Reading, backend: Backend) -> Reading:
    """The same as if a back end had no nat table."""
    tables = {
        (its, family): saved._replace(tables={n: t for n, t in saved.tables.items() if n != "nat"})
        if its is backend
        else saved
        for (its, family), saved in reading.tables.items()
    }
    return reading._replace(tables=tables)


def _packets(policy: EgressPolicy, pod: Address, site: Site, host: Host) -> Iterator[Packet]:
    back = look_up(Sought(destination=pod))
    # Behind a next hop it may be on another node, or led there by a program that iptables does not see.
    if back.kind != "unicast" or back.interface is None or back.gateway is not None:
        return
    spared = [*(each.network for each in site.installed.exclusions), *policy.denied]
    targets = [
        address
        for address in dict.fromkeys(_destinations(policy, host))
        if not host.is_local(address) and not within(host_network(address), spared)
    ]
    ports = tuple((each.protocol, each.first) for each in policy.ports[: len(_ANY_PORTS)]) or _ANY_PORTS
    for target in targets[:_MOST_DESTINATIONS]:
        for protocol, port in ports:
            yield first_packet(
                Question(pod, target, protocol, destination_port=port, in_interface=back.interface)
            )


def _destinations(policy: EgressPolicy, host: Host) -> Iterator[Address]:
    if policy.allowed:
        yield from map(_first_of, policy.allowed)
        return
    yield _ANYBODY[policy.family]
    interface = host.holds(policy.vip)
    routes = [r for r in host.routes if r.interface == interface and family_of(r.network) is policy.family]
    yield from (route.gateway for route in routes if route.gateway is not None)
    yield from _neighbours(route.network for route in routes if route.gateway is None)


def _neighbours(networks: Iterable[Network]) -> Iterator[Address]:
    for network in networks:
        if 0 < network.prefixlen < network.max_prefixlen and not network.is_link_local:
            # Not the first, which is a router's as a rule, and may be this host's own.
            yield _first_of(network) + 1


def _first_of(network: Network) -> Address:
    return network.network_address + (1 if network.prefixlen < network.max_prefixlen - 1 else 0)
