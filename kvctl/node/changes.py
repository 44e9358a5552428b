"""Noticing that this host's addresses, interfaces or routes change, without polling.

The kernel multicasts every change over rtnetlink, rtnetlink(7); it also repeats what has not changed, an
address whenever its lifetime is refreshed, and an interface whenever anything of it changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable

from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.netlink.messages import read_attributes
from kvctl.netlink.news import News
from kvctl.node.route_layout import ROUTE, RT_TABLE_MAIN, RTA_TABLE, RTM_F_CLONED
from kvctl.node.rtnetlink import (
    IFA_ADDRESS,
    IFA_CACHEINFO,
    IFA_LOCAL,
    IFADDRMSG,
    IFF_LOWER_UP,
    IFF_UP,
    IFINFOMSG,
    IFLA_IFNAME,
)

# linux/rtnetlink.h, enum rtnetlink_groups: LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_GROUPS = (1, 5, 7, 9, 11)
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25

# Seconds between two notifications. Where routes come by BGP they change by the thousand, and none of
# them says that a VIP has moved.
_ADDRESS_GAP = 0.1
_ROUTE_GAP = 1.0


class HostChanges:
    """Calls `notify` when `read_host` would say something else than before.

    That is when an address comes, goes or changes (its flags too, not its lifetimes), an interface comes,
    goes, changes its name, goes up or down, gets or loses its carrier, or a route of the main table changes:
    at most each 0.1 s, for routes alone each second. The first message about each interface and address counts
    as a change. Hears the network namespace of the thread that makes it. Needs no privilege. Raises NetlinkError.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        what = "cannot hear of changes of addresses and routes"
        netlink = open_netlink(protocol=NETLINK_ROUTE, what=what, timeout=0, groups=_GROUPS)
        self._news = News(netlink, judge=_Judge(), notify=notify, name="host-changes", what=what)

    def start(self) -> None:
        """Begin to listen, in a thread; changes since this was made are told, too."""
        self._news.start()

    def stop(self) -> None:
        """End the thread; takes no longer than a call of `notify`."""
        self._news.stop()


class _Judge:
    """Tells changes from repetitions by what the last message about each interface and address said."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Hashable] = {}

    def hear(self, kind: int, buffer: bytearray, start: int, end: int) -> float | None:
        """As Judge."""
        if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
            return _ROUTE_GAP if _is_in_main_table(buffer, start, end) else None
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            key, value = _link(buffer, start, end)
        elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
            key, value = _address(buffer, start, end)
        else:
            return None
        if key is None:
            return None
        if kind in (_RTM_DELLINK, _RTM_DELADDR):
            self._known.pop(key, None)
        elif self._known.get(key) == value:
            return None
        else:
            self._known[key] = value
        return _ADDRESS_GAP

    def lost(self) -> None:
        """As Judge."""
        self._known.clear()


def _link(buffer: bytearray, start: int, end: int) -> tuple[Hashable, Hashable]:
    """An interface's index, and its name, whether it is up and has a carrier; no index: it is about a bridge's port."""
    family, _, index, flags, _ = IFINFOMSG.unpack_from(buffer, start)
    if family:  # AF_BRIDGE: RTM_DELLINK says then that the interface has left the bridge, not the host
        return None, None
    name = read_attributes(buffer, start + IFINFOMSG.size, end).get(IFLA_IFNAME)
    return index, (name, flags & (IFF_UP | IFF_LOWER_UP))


def _address(buffer: bytearray, start: int, end: int) -> tuple[Hashable, Hashable]:
    """What makes it one address, and all else that is said of it but its lifetimes."""
    family, prefix_length, flags, scope, index = IFADDRMSG.unpack_from(buffer, start)
    parts = read_attributes(buffer, start + IFADDRMSG.size, end)
    parts.pop(IFA_CACHEINFO, None)
    key = (family, index, prefix_length, parts.get(IFA_LOCAL), parts.get(IFA_ADDRESS))
    return key, (flags, scope, tuple(parts.items()))


def _is_in_main_table(buffer: bytearray, start: int, end: int) -> bool:
    _, _, _, _, table, _, _, _, flags = ROUTE.unpack_from(buffer, start)
    if flags & RTM_F_CLONED:
        return False
    # A table beyond 255 is in an attribute, and the header says "compat" or "unspecified" then.
    if table not in (0, 252):
        return bool(table == RT_TABLE_MAIN)
    parts = read_attributes(buffer, start + ROUTE.size, end)
    return int.from_bytes(parts.get(RTA_TABLE, b""), sys.byteorder) == RT_TABLE_MAIN
