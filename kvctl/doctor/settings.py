"""The kernel's settings (sysctl) that egress depends on: forwarding, reverse path filter, ARP, bridges."""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.doctor.finding import Finding, Level, failure, fine
from kvctl.doctor.ranges import known_networks, network_of
from kvctl.doctor.scene import Scene
from kvctl.doctor.vips import installed_vips
from kvctl.model.host import Host
from kvctl.model.net import Family, overlap, within
from kvctl.model.objects import CidrKind
from kvctl.node.sysctls import Wrong, read_setting, wrong

CHECK = "sysctl"
_FORWARD = {Family.IPV4: "ipv4/ip_forward", Family.IPV6: "ipv6/conf/all/forwarding"}
# Others come by these as a rule: tunnels and pods' ends.
_INNER = frozenset(("bridge", "vxlan", "geneve", "ipip", "sit", "gre", "tun", "wireguard", "dummy"))


def check(scene: Scene) -> Iterator[Finding]:
    """Forwarding first: without it nothing leaves at all."""
    yield from _forwarding(scene)
    needed, spare = _interfaces(scene)
    for interface in sorted(needed | spare):
        yield from _of_interface(interface, is_needed=interface in needed, host=scene.host)
    yield from _bridges(scene)


def _forwarding(scene: Scene) -> Iterator[Finding]:
    for family, path in _FORWARD.items():
        value = read_setting(path)
        evidence = f"net/{path} is {value}"
        if value is None or (value == 0 and not _uses(scene, family)):
            continue
        if value == 0:
            text = f"this host forwards no {family} packets: pods reach nothing outside of it"
            yield failure(CHECK, text, evidence=evidence, mend=f"sysctl -w net/{path}=1")
        else:
            yield fine(CHECK, f"{family} packets are forwarded", evidence=evidence)


def _uses(scene: Scene, family: Family) -> bool:
    """Whether pods of this family are known of; of IPv4 they always may be there."""
    if family is Family.IPV4:
        return True
    told = any(network.version == 6 for network in scene.settings.pod_cidrs)
    site = scene.look.sites.get(family) if scene.look is not None else None
    return told or (site is not None and bool(site.installed.refs))


def _interfaces(scene: Scene) -> tuple[set[str], set[str]]:
    """The interfaces that Services leave by now, and others that may have a VIP one day."""
    host = scene.host
    needed = {
        name for vip in installed_vips(scene) if vip.version == 4 and (name := host.holds(vip)) is not None
    }
    needed |= scene.led_out_by
    if scene.settings.interface is not None:
        needed.add(scene.settings.interface)
    spare = {
        entry.interface
        for entry in host.addresses
        if entry.serves and entry.up and entry.kind not in _INNER and entry.address.version == 4
        if entry.prefix_length < 31
    }
    return needed, spare - needed


def _of_interface(interface: str, *, is_needed: bool, host: Host) -> Iterator[Finding]:
    found = wrong(interface, Family.IPV4)
    is_way_out = any(
        route.interface == interface and route.network.prefixlen == 0 and route.network.version == 4
        for route in host.routes
    )
    problems = []
    for each in found:
        level = _level(each, is_needed=is_needed, is_way_out=is_way_out)
        if level is not None:
            seen = f"net/{each.path} counts as {each.counts}"
            why = f"{each.why} ({each.path.rpartition('/')[2]} is {each.counts})"
            text = why if is_needed else f"{why}: no Service can leave by it"
            problems.append(Finding(CHECK, level, text, seen, each.mend))
    if not problems and is_needed:
        problems.append(fine(CHECK, f"rp_filter, arp_announce and forwarding of {interface} suit egress"))
    yield from problems


def _level(each: Wrong, *, is_needed: bool, is_way_out: bool) -> Level | None:
    """How bad a wrong setting of an interface is; None: it does no harm there."""
    name = each.path.rpartition("/")[2]
    if name == "arp_announce":
        return Level.WARNING if is_needed else None
    if name == "rp_filter" and is_way_out:
        return None
    if name == "forwarding":
        # Where nothing is forwarded that has been said already.
        return Level.FAILURE if is_needed and read_setting(_FORWARD[Family.IPV4]) else None
    return Level.FAILURE if is_needed else Level.WARNING


def _bridges(scene: Scene) -> Iterator[Finding]:
    """With br_netfilter frames between pods of one bridge come through POSTROUTING, too."""
    path = "bridge/bridge-nf-call-iptables"
    value, pods = read_setting(path), known_networks(scene)[CidrKind.POD][Family.IPV4]
    spared = [*pods.networks, *scene.settings.exclude_cidrs]
    for entry in scene.host.addresses:
        network = network_of(entry)
        if entry.kind != "bridge" or not any(overlap(network, each) for each in pods.networks):
            continue
        if value == 1 and not within(network, spared):
            text = (
                f"the pod CIDR {pods} is only a part of {network}, the network of bridge {entry.interface}: "
                "what its pods send each other may be rewritten"
            )
            mend = f"set egress_podcidr (or --pod-cidr) to the cluster's whole pod network, or --exclude-cidr {network}"
            yield failure(CHECK, text, evidence=f"net/{path} is 1", mend=mend)
        elif value is not None:
            text = f"traffic between the pods of bridge {entry.interface} keeps its source"
            yield fine(CHECK, text, evidence=f"net/{path} is {value}, the pod CIDR {pods}")
