"""Whose the VIP of a Service is to place: kvctl's (serviceElection), or another program's."""

from __future__ import annotations

from collections.abc import Collection

from kvctl.model.objects import Service
from kvctl.model.text import quote

CLASSES = ("", "kvctl.io/vip")
"""Values of `spec.loadBalancerClass` that leave a Service to kvctl."""
MANAGER = "kvctl"
"""As what kvctl writes: its name among an object's managedFields."""
# What a person writes with, or kvctl itself. Any other program that writes `status` manages the address, too.
_OWN_MANAGERS = (MANAGER, "kubectl")


def managed_elsewhere(service: Service, *, announced: Collection[str]) -> str | None:
    """Why the address is another program's to place, in words; None: kvctl may.

    `announced`: the nodes that announce it by MetalLB's word.
    """
    if service.load_balancer_class not in CLASSES:
        return (
            f"spec.loadBalancerClass is {quote(service.load_balancer_class)}: another program manages the VIP"
        )
    others = [name for name in service.status_managers if not name.startswith(_OWN_MANAGERS)]
    if service.ingress and others:
        return f"{quote(others[0])} writes its status: that program manages the VIP"
    return f"MetalLB announces the VIP ({', '.join(sorted(announced))})" if announced else None


def wrote_status_alone(service: Service) -> bool:
    """Whether what the status says is kvctl's own doing and nobody else's word."""
    return service.load_balancer_class in CLASSES and set(service.status_managers) == {MANAGER}
