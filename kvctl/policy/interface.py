"""Whether traffic with a VIP leaves by the interface that the VIP belongs to."""

from __future__ import annotations

from kvctl.model.host import Host
from kvctl.model.net import Address, Family, parse_address
from kvctl.model.policy import EgressPolicy

# Any address of the outside stands for it where no allowed network names one: only its default route counts.
_OUTSIDE = {Family.IPV4: parse_address("0.0.0.0"), Family.IPV6: parse_address("::")}


def service_interface(policy: EgressPolicy, host: Host) -> str | None:
    """The interface of a policy: named, else the one that has the VIP, else that of the route to it."""
    return policy.interface or host.holds(policy.vip) or host.interface_for(policy.vip)


def interface_warnings(policy: EgressPolicy, host: Host) -> tuple[str, ...]:
    """What does not fit between the interface that a Service names and this host."""
    interface = policy.interface
    if interface is None:
        return ()
    if interface not in host.interfaces:
        return (f"this host has no interface {interface} (kube-vip.io/serviceInterface)",)
    warnings = []
    holder = host.holds(policy.vip)
    if holder is not None and holder != interface:
        warnings.append(f"the VIP {policy.vip} is on {holder}, not on the service interface {interface}")
    outside: list[Address] = [network.network_address for network in policy.allowed]
    for address in outside or [_OUTSIDE[policy.family]]:
        route = host.interface_for(address)
        if route is not None and route != interface:
            where = str(address) if outside else "the outside (default route)"
            warnings.append(
                f"the route to {where} leaves by {route}, not by the service interface {interface}: "
                "replies may not come back"
            )
            break
    return tuple(warnings)
