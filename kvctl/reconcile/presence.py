"""Whether what is programmed can work here: the address that answers come back to has to be on this node."""

from __future__ import annotations

from kvctl.model.host import Host
from kvctl.policy.holder import Evidence, holder_of, not_here
from kvctl.reconcile.report import Item, Status


def with_holder(item: Item, *, host: Host, evidence: Evidence) -> Item:
    """The item, with the node that has its VIP and the interface if it is this one."""
    if item.vip is None:
        return item
    holder, interface = holder_of(item.vip, host=host, evidence=evidence), host.holds(item.vip)
    if (holder, interface) == (item.holder, item.vip_interface):
        return item
    return item._replace(holder=holder, vip_interface=interface)


def with_vip_warning(item: Item, *, host: Host, assume_vip: bool, elected: bool = False) -> Item:
    """The item, with a warning if its rules rewrite but its VIP is not here, or drop but it is.

    `elected`: its rules have a fence, so that a Lease decides who has the VIP.
    """
    if item.vip is None:
        return item
    if item.drops:
        here = host.holds(item.vip)
        late = f"the VIP {item.vip} is on {here} by now: apply rewrites this traffic instead of dropping it"
        return item if here is None else item._replace(warnings=(*item.warnings, late))
    if item.status not in (Status.APPLIED, Status.DRIFTED, Status.OVERRIDDEN):
        return item
    away = not_here(item.vip, host=host, assume=assume_vip, elected=elected)
    if away is None:
        return item
    return item._replace(
        warnings=(*item.warnings, f"{away}: replies will not come back{ending(elected=elected)}")
    )


def ending(*, elected: bool) -> str:
    """What `apply` does where the VIP is not here, as the end of a sentence that names its options for that."""
    return "" if elected else "; kvctl egress apply without either would end the rewriting"
