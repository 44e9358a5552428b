"""What rtnetlink says of interfaces and addresses, and which addresses carry kvctl's mark.

Layouts and numbers: rtnetlink(7), linux/if_link.h, linux/if_addr.h.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.netlink import Netlink
from kvctl.netlink.messages import attribute, malformed, read_attributes

AF_INET, AF_INET6 = 2, 10
ORDER = sys.byteorder

RTM_GETLINK = 18
_RTM_GETADDR = 22

IFINFOMSG = Struct("=BxHiII")
IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_EXT_MASK = 29
_RTEXT_FILTER_SKIP_STATS = 0x8
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
"""linux/if.h: it has a carrier; the kernel says so only of what is up (dev_get_flags)."""
_NO_STATISTICS = attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS.to_bytes(4, ORDER))

IFADDRMSG = Struct("=BBBBI")
IFA_CACHE = Struct("=IIII")
"""The seconds that an address is preferred and valid for, and two times that do not matter here."""
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_LABEL = 3
IFA_CACHEINFO = 6
IFA_FLAGS = 8
IFA_PROTO = 11
IFA_F_SECONDARY = 0x01
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200
FOREVER = 0xFFFFFFFF

# So few addresses are sought in a message before it is read: each renewal asks for one of a thousand.
_FEW = 8

MARK = 75
"""What addresses (IFA_PROTO, Linux 5.18), routes and routing rules of kvctl's carry as their protocol."""
LABEL_SUFFIX = ":kvctl"
_SHAPE = IFA_F_NODAD | IFA_F_NOPREFIXROUTE | IFA_F_DEPRECATED


class Mark(StrEnum):
    """By what an address is known as kvctl's."""

    PROTO = "proto"
    LABEL = "label"
    """IPv4, kernels before 5.18: it is called `eth0:kvctl`."""
    SHAPE = "shape"
    """IPv6, kernels before 5.18: nobody else makes one like it, with an end, deprecated and without its own route."""


class Link(NamedTuple):
    """A network interface."""

    number: int
    name: str
    kind: str | None
    up: bool
    carrier: bool = True
    """Something is at the other end; false while it is down."""


class AddressRow(NamedTuple):
    """An address on an interface, which is told by its index."""

    link: int
    address: Address
    prefix_length: int
    flags: int
    protocol: int = 0
    label: str | None = None
    lifetime: int | None = None
    """The seconds that are left; None: for ever."""


def mark_of(row: AddressRow, *, by_shape: bool) -> Mark | None:
    """By what `row` is kvctl's, if it is; `by_shape`: the kernel keeps nothing better for IPv6."""
    if row.protocol == MARK:
        return Mark.PROTO
    if row.label is not None and row.label.endswith(LABEL_SUFFIX):
        return Mark.LABEL
    shaped = row.prefix_length == 128 and row.flags & (_SHAPE | IFA_F_PERMANENT) == _SHAPE
    return Mark.SHAPE if by_shape and shaped else None


def keeps_protocols(rows: Iterable[AddressRow]) -> bool:
    """Whether this kernel stores whose an address is: then it says so of those it made itself, as on `lo`."""
    return any(row.protocol for row in rows)


def link_query(*, name: bytes | None = None, number: int = 0) -> bytes:
    """The payload that asks for the interface of this name or number, or for all, without their statistics."""
    named = attribute(IFLA_IFNAME, name + bytes(1)) if name is not None else b""
    return IFINFOMSG.pack(0, 0, number, 0, 0) + named + _NO_STATISTICS


def read_links(netlink: Netlink, *, what: str) -> list[Link]:
    """Every interface; `what` as in Netlink, whose errors this raises."""
    return netlink.dump(kind=RTM_GETLINK, payload=link_query(), read=read_link, what=what)


def read_one_link(netlink: Netlink, *, name: str | None = None, number: int = 0, what: str) -> Link:
    """The interface of this name or number; NetlinkError with ENODEV: there is none."""
    query = link_query(name=None if name is None else name.encode(), number=number)
    return netlink.ask(kind=RTM_GETLINK, payload=query, read=read_link, what=what)


def read_addresses(
    netlink: Netlink, *, link: int = 0, of: Collection[Address] | None = None, what: str
) -> list[AddressRow]:
    """The addresses of this host, or only those in `of`.

    Of one interface if its number is given, and the kernel heeds it (4.20), else of all.
    """
    if of is not None and not of:
        return []
    sought = None
    if of is not None and len(of) <= _FEW:
        sought = re.compile(b"|".join(re.escape(address.packed) for address in of))

    def read(buffer: bytearray, start: int, end: int) -> AddressRow | None:
        if sought is not None and sought.search(buffer, start, end) is None:
            return None
        return read_address(buffer, start, end)

    families = {AF_INET if address.version == 4 else AF_INET6 for address in of or ()}
    query = IFADDRMSG.pack(families.pop() if len(families) == 1 else 0, 0, 0, 0, link)
    found = netlink.dump(kind=_RTM_GETADDR, payload=query, read=read, what=what)
    return found if of is None else [row for row in found if row.address in of]


def read_link(buffer: bytearray, start: int, end: int) -> Link:
    """An RTM_NEWLINK's payload."""
    _, _, index, flags, _ = unpack(IFINFOMSG, buffer, start, end)
    parts = read_attributes(buffer, start + IFINFOMSG.size, end)
    info = read_attributes(parts.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND)
    if IFLA_IFNAME not in parts:
        raise malformed("interface")
    name = read_text(parts[IFLA_IFNAME])
    return Link(
        number=index,
        name=name,
        kind=read_text(kind) if kind else None,
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
    )


def read_address(buffer: bytearray, start: int, end: int) -> AddressRow | None:
    """An RTM_NEWADDR's payload; None: not of the two families."""
    family, prefix_length, flags, _, index = unpack(IFADDRMSG, buffer, start, end)
    if family not in (AF_INET, AF_INET6):
        return None
    parts = read_attributes(buffer, start + IFADDRMSG.size, end)
    # On a link with a peer IFA_ADDRESS is the peer's, and IFA_LOCAL ours.
    packed = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)
    if packed is None:
        raise malformed("address")
    label = parts.get(IFA_LABEL)
    return AddressRow(
        link=index,
        address=read_ip(packed),
        prefix_length=prefix_length,
        flags=read_integer(parts[IFA_FLAGS]) if IFA_FLAGS in parts else flags,
        protocol=read_integer(parts.get(IFA_PROTO, b"")),
        label=None if label is None else read_text(label),
        lifetime=_lifetime(parts.get(IFA_CACHEINFO)),
    )


def _lifetime(cache_info: bytes | None) -> int | None:
    if cache_info is None:
        return None
    _, valid, _, _ = unpack(IFA_CACHE, cache_info, 0, len(cache_info))
    return None if valid == FOREVER else valid


def read_ip(packed: bytes) -> Address:
    """An address in network byte order, the family by its length."""
    if len(packed) == 4:
        return IPv4Address(packed)
    if len(packed) == 16:
        return IPv6Address(packed)
    raise malformed("address")


def unpack(layout: Struct, buffer: bytes | bytearray, start: int, end: int) -> tuple[int, ...]:
    """The fields of a fixed header; raises NetlinkError if it does not fit."""
    if start + layout.size > end:
        raise malformed("message")
    return layout.unpack_from(buffer, start)


def read_integer(data: bytes) -> int:
    """A number in the host's byte order, as rtnetlink has them; 0 for an empty one."""
    return int.from_bytes(data, ORDER)


def read_text(data: bytes) -> str:
    """A name, NUL-terminated; the kernel lets any byte but a slash and white space into an interface name."""
    return data.rstrip(bytes(1)).decode("utf-8", "backslashreplace")
