"""The interface that a VIP belongs to."""

from __future__ import annotations

from kvctl.model.host import Host
from kvctl.model.policy import EgressPolicy


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
    return tuple(warnings)
