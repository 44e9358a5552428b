"""What a lab consists of, as lines for ip(8) and iptables-restore(8): cables, addresses, routes, rules."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from kvctl.lab.topology import Pod, Topology
from kvctl.model.net import Family

# A pod's next hop, the same on every worker (Calico does so too): no address of the pod network is used up.
_GATEWAYS = ("169.254.1.1", "fe80::1")


def sysctls(*, forwards: bool) -> dict[str, str]:
    """What a namespace's sysctls are to be, below /proc/sys/net; only those that this kernel has."""
    # A new namespace has the IPv4 settings of the host, whatever they are.
    wanted = {
        "ipv4/ip_forward": "1" if forwards else "0",
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv4/conf/all/arp_ignore": "0",
        "ipv4/conf/all/arp_announce": "0",
        "ipv6/conf/all/forwarding": "1" if forwards else "0",
        # Duplicate address detection would make every new address useless for a second.
        "ipv6/conf/all/accept_dad": "0",
        "ipv6/conf/default/accept_dad": "0",
        "ipv6/conf/default/accept_ra": "0",
        # Bridged frames would meet the rules of the namespace that bridges.
        "bridge/bridge-nf-call-iptables": "0",
        "bridge/bridge-nf-call-ip6tables": "0",
    }
    return {path: value for path, value in wanted.items() if Path("/proc/sys/net", path).exists()}


def plugs(topology: Topology) -> list[tuple[str, str]]:
    """Who is plugged into a segment with which interface, in the order of the outside's ports."""
    ends = [(worker.name, interface) for worker in topology.workers for interface in worker.addresses]
    return ends + [(host.name, host.segment) for host in topology.hosts]


def settings(topology: Topology) -> dict[str, list[str]]:
    """The `ip -batch` lines of each namespace."""
    lines = {name: ["link set lo up"] for name in topology.names}
    for segment in topology.segments:
        lines["outside"] += [f"link add {segment.name} type bridge mcast_snooping 0"]
        lines["outside"] += _interface(segment.name, segment.outside)
    for port, (_, interface) in enumerate(plugs(topology)):
        lines["outside"] += [f"link set port{port} master {interface} up"]
    for host in topology.hosts:
        lines[host.name] += _interface(host.segment, host.addresses)
        lines[host.name] += _pod_routes(topology, segment=host.segment, own=None)
    for worker in topology.workers:
        for interface, addresses in worker.addresses.items():
            lines[worker.name] += _interface(interface, addresses)
        lines[worker.name] += [f"route add default via {via}" for via in _usable(worker.gateways)]
        lines[worker.name] += _pod_routes(topology, segment=next(iter(worker.addresses)), own=worker.name)
    for number, pod in enumerate(topology.pods):
        lines[pod.name] += _pod_side(pod)
        lines[pod.worker] += _worker_side(pod, veth=f"veth{number}")
    return lines


def _interface(name: str, addresses: tuple[str, ...]) -> list[str]:
    return [*_addresses(name, addresses), f"link set {name} up"]


def _addresses(name: str, addresses: tuple[str, ...]) -> list[str]:
    return [f"addr add {_with_options(each)} dev {name}" for each in _usable(addresses)]


def _with_options(address: str) -> str:
    if ":" not in address:
        return address
    # The kernel prefers the longest prefix as a source: a VIP must not become the node's own address.
    return f"{address} nodad preferred_lft 0" if address.endswith("/128") else f"{address} nodad"


def _pod_side(pod: Pod) -> list[str]:
    lines = []
    for address in _usable(pod.addresses):
        lines.append(f"addr add {address} {'nodad ' if ':' in address else ''}dev eth0")
    lines.append("link set eth0 up")
    for gateway in _usable(_GATEWAYS):
        if any((":" in gateway) == (":" in address) for address in pod.addresses):
            lines.append(f"route add default via {gateway} dev eth0 onlink")
    return lines


def _worker_side(pod: Pod, *, veth: str) -> list[str]:
    lines = [f"addr add {_GATEWAYS[0]}/32 dev {veth}"]
    lines += [f"addr add {each}/64 nodad dev {veth}" for each in _usable(_GATEWAYS[1:])]
    lines.append(f"link set {veth} up")
    first: dict[bool, str] = {}
    for address in _usable(pod.addresses):
        next_hop = first.setdefault(":" in address, address)
        # One neighbour for all addresses: the kernel keeps about a thousand, for all namespaces together.
        lines.append(f"route add {address} dev {veth}" + ("" if next_hop == address else f" via {next_hop}"))
    return lines


def _pod_routes(topology: Topology, *, segment: str, own: str | None) -> list[str]:
    """Routes to the pods of the workers other than `own`, by their nodes' addresses on `segment`."""
    via: dict[tuple[str, bool], str] = {}
    for worker in topology.workers:
        for address in _usable(worker.addresses.get(segment, ())):
            via.setdefault((worker.name, ":" in address), str(ip_interface(address).ip))
    return [
        f"route add {address} via {via[pod.worker, ':' in address]}"
        for pod in topology.pods
        if pod.worker != own
        for address in _usable(pod.addresses)
        if (pod.worker, ":" in address) in via
    ]


def _usable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Without those of IPv6 where the kernel has none."""
    if Path("/proc/sys/net/ipv6").exists():
        return addresses
    return tuple(each for each in addresses if ":" not in each)


def rules_of(topology: Topology, *, family: Family) -> list[str]:
    """The lines of a worker's nat table: what a cluster would have there; none where the kernel lacks the family."""
    if not _usable(("::" if family is Family.IPV6 else "0.0.0.0",)):
        return []
    rules = [
        f'-A PREROUTING -d {each.address} -m comment --comment "the service network" '
        f"-j DNAT --to-destination {each.back_end}"
        for each in topology.cluster_ips
        if _is_of(each.address, family)
    ]
    if topology.masquerade:
        rules += [
            f'-A POSTROUTING -s {network} ! -d {network} -m comment --comment "the pod network" -j MASQUERADE'
            for network in topology.pod_networks
            if _is_of(network, family)
        ]
    return rules


def _is_of(text: str, family: Family) -> bool:
    return (":" in text) == (family is Family.IPV6)
