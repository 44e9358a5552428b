"""Of a VIP: who announces it, and of what leaves with it: by which route. One judgement for `list` and `show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from kvctl.agent.sign import Agent, find_agent
from kvctl.cli.output import Json
from kvctl.model.host import Host
from kvctl.model.net import Address
from kvctl.model.way import MarkSpace
from kvctl.node.addresses import Bound, bound
from kvctl.node.routing import read_routing
from kvctl.node.routing_plan import Found
from kvctl.reconcile.problems import Mend
from kvctl.reconcile.report import Item, Status

_LEAVING = (Status.WANTED, Status.APPLIED, Status.MISSING, Status.DRIFTED, Status.OVERRIDDEN)


class Announcer(StrEnum):
    """Who tells the network where a VIP is that this node has."""

    AGENT = "agent"
    """The agent of this node, as long as its Lease is renewed."""
    ONCE = "once"
    """`kvctl egress apply --with-vip`, when it placed the VIP; the kernel answers for it."""
    NOBODY = "nobody"
    """The agent that did has ended."""
    OTHER = "other"
    """Whoever has placed it: another program, or somebody by hand."""


class WaysOut(NamedTuple):
    """What there is of kvctl's besides rules: its addresses, its routing, its agent."""

    placed: Mapping[Address, Bound]
    agent: Agent | None
    routing: Found
    space: MarkSpace

    def announcer(self, vip: Address | None, there: str | None) -> Announcer | None:
        """Of a VIP that is on the interface `there`; None: it is not here."""
        if vip is None or there is None:
            return None
        found = self.placed.get(vip)
        if found is None:
            return Announcer.OTHER
        if found.lifetime is None:
            return Announcer.ONCE
        return Announcer.AGENT if self._announces else Announcer.NOBODY

    @property
    def _announces(self) -> bool:
        return self.agent is not None and self.agent.election is not None

    def broken(self, item: Item) -> str | None:
        """What keeps its traffic from the way that it is to take, as a sentence; None: nothing."""
        if item.family is None or item.mark is None:
            return None
        return self.routing.broken(item.mark, item.family, self.space)

    def fault(self, item: Item, host: Host) -> str | None:
        """The same, with the interface that it is to leave by where this host does not have it."""
        broken = self.broken(item)
        if broken is None or item.interface is None or not host.interfaces:
            return broken
        if item.interface in host.interfaces:
            return broken
        return f"this host has no interface {item.interface}, by which {item.vip} is to leave: {broken}"

    def route(self, item: Item) -> str:
        """By which routing table its traffic leaves, in a word."""
        if item.status not in _LEAVING:
            return "-"
        if item.mark is None:
            return "main"
        table = self.space.table(item.mark.value)
        return f"{table}-broken" if self.broken(item) is not None else str(table)

    def route_json(self, item: Item) -> Json | None:
        """What leads its traffic; None: the main table does."""
        mark = item.mark
        if mark is None:
            return None
        return {"mark": mark.value, "mask": mark.mask, "table": self.space.table(mark.value)}

    def json(self, item: Item) -> Json:
        """Both for programs; null: not here, or led by the main table, or unbroken."""
        announcer = self.announcer(item.vip, item.vip_interface)
        return {
            "announcedBy": str(announcer) if announcer is not None else None,
            "route": self.route_json(item),
            "routeFault": self.broken(item),
        }


def with_route_warnings(items: Sequence[Item], ways: WaysOut, host: Host, *, mend: Mend) -> list[Item]:
    """The items, with a warning where what is marked does not go its way; `mend`: the command that it names."""
    return [_with_warning(item, ways.fault(item, host), mend) for item in items]


def _with_warning(item: Item, fault: str | None, mend: Mend) -> Item:
    if fault is None or item.status not in _LEAVING or shut_warning(item) is not None:
        return item
    return item._replace(warnings=(*item.warnings, mend.typed(fault)))


def shut_warning(item: Item) -> str | None:
    """What the source says of a way that was not opened, because there is none such; None: nothing."""
    return next(
        (text for text in item.warnings if text.startswith(f"nothing leaves with {item.vip}: ")), None
    )


def look_at_ways_out(space: MarkSpace) -> WaysOut:
    """As they are now. Raises NetlinkError. Needs no privilege."""
    return WaysOut(
        placed={each.address: each for each in bound()},
        agent=find_agent(),
        routing=read_routing(space),
        space=space,
    )
