"""Noticing that somebody has taken our routing rules or routes away, without polling.

systemd-networkd does when it starts, unless told not to: networkd.conf(5), ManageForeignRoutingPolicyRules= (since
249) and ManageForeignRoutes= (since 246). Then what is marked leaves as if it were not, until the rules are back.
"""

from __future__ import annotations

from collections.abc import Callable

from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.netlink.news import News
from kvctl.node.routing_messages import read_rule
from kvctl.node.rtnetlink import MARK

# linux/rtnetlink.h, enum rtnetlink_groups: IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE, IPV6_RULE
_GROUPS = (7, 8, 11, 19)
_RTM_DELROUTE, _RTM_DELRULE = 25, 33
_PROTOCOL_OFFSET = 5  # of rtm_protocol in struct rtmsg

# Seconds between two notifications.
_GAP = 0.1


class RoutingChanges:
    """Calls `notify` when a rule or a route with our protocol has gone, at most each 0.1 s.

    What we remove ourselves counts, too. IPv4 routes that go with their interface are not told by the kernel one by
    one: HostChanges tells that the interface has changed. Hears the network namespace of the thread that makes it.
    Needs no privilege. Raises NetlinkError.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        what = "cannot hear of changes of routing rules"
        netlink = open_netlink(protocol=NETLINK_ROUTE, what=what, timeout=0, groups=_GROUPS)
        self._news = News(netlink, judge=_Judge(), notify=notify, name="routing-changes", what=what)

    def start(self) -> None:
        """Begin to listen, in a thread; changes since this was made are told, too."""
        self._news.start()

    def stop(self) -> None:
        """End the thread; takes no longer than a call of `notify`."""
        self._news.stop()


class _Judge:
    """Where routes come by BGP they change by the thousand: a byte tells that one is not ours."""

    def hear(self, kind: int, buffer: bytearray, start: int, end: int) -> float | None:
        """As Judge."""
        if kind == _RTM_DELROUTE:
            return _GAP if buffer[start + _PROTOCOL_OFFSET] == MARK else None
        if kind == _RTM_DELRULE:
            seen = read_rule(buffer, start, end)
            return _GAP if seen is not None and seen.protocol == MARK else None
        return None

    def lost(self) -> None:
        """As Judge."""
