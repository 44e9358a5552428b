"""Which other network namespaces the links of this one lead to: the kernel's own word, not that of whoever is inside.

Over rtnetlink, linux/if_link.h and linux/net_namespace.h, in the network namespace of the calling thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from struct import Struct

from kvctl.errors import NetlinkError
from kvctl.model.net import Address
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.netlink.messages import attribute, read_attributes
from kvctl.node.lookup import Sought, look_up
from kvctl.node.rtnetlink import IFINFOMSG, IFLA_IFNAME, ORDER, RTM_GETLINK, link_query, read_text

_RTM_GETNSID = 90
_IFLA_LINK_NETNSID = 37
_NETNSA_NSID, _NETNSA_FD = 1, 3
_RTGENMSG = Struct("=Bxxx")
_WHAT = "cannot ask which namespaces the links of this host lead to"


class OtherEnds:
    """What the links of the namespace that it was opened in lead to, whichever the calling thread is in later."""

    def __init__(self, netlink: Netlink, *, to: Collection[Address]) -> None:
        self._netlink = netlink
        ends = _ends(netlink)
        its = {each: ends.get(look_up(Sought(destination=each)).interface or "") for each in to}
        self._wanted = {
            each: frozenset(ends.values()) if number is None else frozenset((number,))
            for each, number in its.items()
        }

    def are_in(self, descriptor: int, *, to: Address) -> bool:
        """Whether a link ends in the network namespace that is open as `descriptor`.

        Where the interface that the route to `to` leaves by has its other end in another namespace, only that link
        counts; with a bridge any. `to` is one of those that it was opened for.
        """
        number = _number(self._netlink, descriptor)
        return number is not None and number in self._wanted[to]


@contextmanager
def open_other_ends(*, to: Collection[Address]) -> Iterator[OtherEnds]:
    """The links of the calling thread's namespace, as they are now. Raises NetlinkError."""
    with open_netlink(protocol=NETLINK_ROUTE, what=_WHAT) as netlink:
        yield OtherEnds(netlink, to=to)


def _ends(netlink: Netlink) -> dict[str, int]:
    """By interface: the number under which this namespace knows that of the other end, where it is another."""

    def read(buffer: bytearray, start: int, end: int) -> tuple[str, int] | None:
        parts = read_attributes(buffer, start + IFINFOMSG.size, end)
        number = parts.get(_IFLA_LINK_NETNSID)
        return None if number is None else (read_text(parts[IFLA_IFNAME]), _signed(number))

    return dict(netlink.dump(kind=RTM_GETLINK, payload=link_query(), read=read, what=_WHAT))


def _number(netlink: Netlink, descriptor: int) -> int | None:
    """The number under which this namespace knows another; None: it knows of none."""

    def read(buffer: bytearray, start: int, end: int) -> int:
        return _signed(read_attributes(buffer, start + _RTGENMSG.size, end)[_NETNSA_NSID])

    query = _RTGENMSG.pack(0) + attribute(_NETNSA_FD, descriptor.to_bytes(4, ORDER))
    try:
        number = netlink.ask(kind=_RTM_GETNSID, payload=query, read=read, what=_WHAT)
    except NetlinkError:
        return None
    return number if number >= 0 else None


def _signed(data: bytes) -> int:
    return int.from_bytes(data, ORDER, signed=True)
