"""Whether what is programmed can work here: the address that answers come back to has to be on this node."""

from __future__ import annotations

from kvctl.model.host import Host
from kvctl.policy.holder import not_here
from kvctl.reconcile.report import Item, Status


def with_vip_warning(item: Item, *, host: Host, assume_vip: bool) -> Item:
    """The item, with a warning if its rules act but its VIP is not here, so that no reply comes back."""
    if item.vip is None or item.status not in (
        Status.APPLIED,
        Status.DRIFTED,
        Status.OVERRIDDEN,
        Status.ELSEWHERE,
    ):
        return item
    away = not_here(item.vip, host=host, assume=assume_vip)
    if item.status is Status.ELSEWHERE:
        here = host.holds(item.vip)
        if here is None:
            return item
        text = f"the VIP {item.vip} is on {here} by now: apply rewrites this traffic instead of dropping it"
        return item._replace(warnings=(*item.warnings, text))
    return (
        item
        if away is None
        else item._replace(warnings=(*item.warnings, f"{away}: replies will not come back"))
    )
