"""Sending and hearing whole Ethernet frames, packet(7), and what has to be known of an interface for it."""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from kvctl.errors import KvctlError, NetlinkError
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.netlink.messages import read_attributes
from kvctl.node.rtnetlink import IFF_UP, IFINFOMSG, RTM_GETLINK, link_query

_IFF_RUNNING = 0x40
_IFLA_ADDRESS = 1
_ARPHRD_ETHER = 1
_LONGEST_NAME = 15
# A frame counts with about 800 bytes here, and a slow interface may hold those of hundreds of addresses.
_BUFFER_BYTES = 1024 * 1024


class Wire(NamedTuple):
    """An interface that frames can go through now."""

    number: int
    mac: bytes


class Wires:
    """Answers about the interfaces of the network namespace that it is made in; for one thread, a context manager.

    Asks by rtnetlink: an ioctl(2) about a name that no interface has makes the kernel look for a module
    of that name, with a process each time (dev_load in net/core/dev_ioctl.c).
    """

    def __init__(self) -> None:
        self._what = "cannot read the interfaces of this host"
        self._netlink: Netlink = open_netlink(protocol=NETLINK_ROUTE, what=self._what)

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def find(self, name: str) -> Wire | str:
        """The interface, or in words why no frame can go through it now; raises nothing."""
        encoded = name.encode("utf-8", "replace")
        if b"\0" in encoded or not 0 < len(encoded) <= _LONGEST_NAME:
            return "there is no such interface"
        query = link_query(name=encoded)
        try:
            return self._netlink.ask(kind=RTM_GETLINK, payload=query, read=_wire, what=self._what)
        except NetlinkError as error:
            return "there is no such interface" if error.errno == errno.ENODEV else error.message

    def macs(self) -> frozenset[bytes]:
        """The hardware addresses of all interfaces, also of those that are down; raises NetlinkError."""
        found = self._netlink.dump(kind=RTM_GETLINK, payload=link_query(), read=_mac, what=self._what)
        return frozenset(found)


def open_frames(*, what: str) -> socket.socket:
    """A socket for whole frames in the calling thread's network namespace that never blocks and hears nothing yet.

    Raises KvctlError, which begins with `what`.
    """
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        frames = socket.socket(socket.AF_PACKET, kind, 0)  # 0: no frame is copied to it before it is bound
    except OSError as error:
        raise KvctlError(
            f"{what}: {os.strerror(error.errno or errno.EIO)}",
            hint="sending ARP and neighbour advertisements needs the capability NET_RAW",
        ) from error
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        # The kernel takes what net.core.rmem_max and wmem_max allow.
        frames.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return frames


def _wire(buffer: bytearray, start: int, end: int) -> Wire | str:
    _, kind, index, flags, _ = IFINFOMSG.unpack_from(buffer, start)
    mac = _mac(buffer, start, end)
    if kind != _ARPHRD_ETHER or mac is None:
        return "it is no Ethernet interface"
    if not flags & IFF_UP:
        return "it is down"
    return Wire(number=index, mac=mac) if flags & _IFF_RUNNING else "it has no carrier"


def _mac(buffer: bytearray, start: int, end: int) -> bytes | None:
    mac = read_attributes(buffer, start + IFINFOMSG.size, end).get(_IFLA_ADDRESS)
    return mac if mac is not None and len(mac) == 6 else None
