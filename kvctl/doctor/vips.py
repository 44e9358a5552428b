"""The VIPs of the rules in the kernel: are they where answers come back to?"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.doctor.finding import Finding, Level, failure, fine, warning
from kvctl.doctor.scene import Scene
from kvctl.model.host import Host
from kvctl.model.net import Address
from kvctl.model.ref import ServiceRef
from kvctl.node.sysctls import effective

CHECK = "VIPs"


def installed_vips(scene: Scene) -> dict[Address, ServiceRef]:
    """Every address that rules of ours rewrite to, with one of its Services."""
    sites = scene.look.sites.values() if scene.look is not None else ()
    return {
        vip: service.ref
        for site in sites
        for service in site.installed.services.values()
        for vip in service.vips or ((service.policy.vip,) if service.policy is not None else ())
    }


def check(scene: Scene) -> Iterator[Finding]:
    """Each VIP by itself."""
    for vip, ref in sorted(installed_vips(scene).items(), key=str):
        if not scene.settings.assume_vip:
            yield _judge(vip, ref, scene.host, scene=scene)


def _judge(vip: Address, ref: ServiceRef, host: Host, *, scene: Scene) -> Finding:
    entries = host.having(vip)
    if not entries:
        text = f"the VIP {vip} of {ref} is on no interface of this host: answers do not come back here"
        mend = (
            f"see who has it: kvctl egress show {ref} --cluster; put it here: {scene.apply('--with-vip')}, or the "
            "load balancer; MetalLB L2 and Cilium L2 bind nothing: egress_assumevip=true"
        )
        # An agent knows more of who has it: what a load balancer says in the cluster.
        level = Level.WARNING if scene.agent is not None else Level.FAILURE
        return Finding(CHECK, level, text, "the addresses of all interfaces", mend)
    serving = next((entry for entry in entries if entry.serves), None)
    if serving is None:
        return _parked(vip, ref, entries[0].interface)
    if serving.duplicate:
        text = f"another host has the VIP {vip} of {ref}: duplicate address detection has failed"
        return failure(CHECK, text, evidence=f"dadfailed on {serving.interface}", mend=f"ip neigh show {vip}")
    if not serving.up:
        text = f"the VIP {vip} of {ref} is on {serving.interface}, which is down"
        return failure(CHECK, text, evidence=f"ip link show {serving.interface}", mend=_up(serving.interface))
    fault = host.fault_of(serving.interface)
    if fault is not None:
        text = f"the VIP {vip} of {ref} is on {serving.interface}, and {fault}"
        return failure(
            CHECK, text, evidence=f"ip link show {serving.interface}", mend="plug it in, or move the VIP"
        )
    return fine(CHECK, f"{vip} of {ref} is on {serving.interface}")


def _up(interface: str) -> str:
    return f"ip link set dev {interface} up"


def _parked(vip: Address, ref: ServiceRef, interface: str) -> Finding:
    """On `lo` or a dummy: others reach it there only if somebody leads them to it."""
    text = f"the VIP {vip} of {ref} is on {interface}, where nobody else reaches it"
    mend = "put it on the interface that traffic comes by; if BGP leads there: egress_assumevip=true"
    ignore = effective("arp_ignore", interface) if vip.version == 4 else None
    if ignore:
        return failure(CHECK, text, evidence=f"arp_ignore of {interface} counts as {ignore}", mend=mend)
    return warning(CHECK, text, evidence=f"ip address show dev {interface}", mend=mend)
