"""The kernel's table of addresses: reading it, telling kvctl's in it from others, changing it.

How the kernel understands the requests: inet_rtm_newaddr and inet_rtm_deladdr (net/ipv4/devinet.c),
inet6_rtm_newaddr and inet6_rtm_deladdr (net/ipv6/addrconf.c) in Linux.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kvctl.errors import NetlinkError
from kvctl.model.net import Address
from kvctl.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink
from kvctl.netlink.messages import attribute
from kvctl.node.rtnetlink import (
    AF_INET,
    AF_INET6,
    FOREVER,
    IFA_ADDRESS,
    IFA_CACHE,
    IFA_CACHEINFO,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_FLAGS,
    IFA_LABEL,
    IFA_LOCAL,
    IFA_PROTO,
    IFADDRMSG,
    MARK,
    ORDER,
    AddressRow,
    Link,
    Mark,
    keeps_protocols,
    mark_of,
    read_addresses,
    read_one_link,
)

LONGEST_NAME = 15
"""Bytes of an interface's name or of a label (IFNAMSIZ without its NUL)."""

_RTM_NEWADDR, _RTM_DELADDR = 20, 21


class Refusal(NamedTuple):
    """Why the kernel did not do one of the requests."""

    errno: int
    reason: str


class AddressTable:
    """Reads rows and changes them, by one socket; for one thread.

    `protocols=False`: as on a kernel before 5.18, which does not store whose an address is. Raises
    NetlinkError where the kernel cannot be asked; what it refuses is returned.
    """

    def __init__(self, netlink: Netlink, *, what: str, protocols: bool) -> None:
        self._netlink = netlink
        self._what = what
        self._protocols = protocols
        self._by_name: dict[str, Link | None] = {}
        self._by_number: dict[int, Link | None] = {}
        self._keeps_protocols: bool | None = None

    def read(
        self, *, of: Collection[Address] | None = None, link: Link | None = None
    ) -> dict[Address, list[AddressRow]]:
        """All rows by address, or those of some addresses, or of one interface."""
        found: dict[Address, list[AddressRow]] = {}
        for row in self._read(of=of, link=link):
            found.setdefault(row.address, []).append(row)
        return found

    def mark(self, row: AddressRow) -> Mark | None:
        """By what `row` is kvctl's, if it is."""
        mark = mark_of(row, by_shape=True)
        return None if mark is Mark.SHAPE and self.keeps_protocols else mark

    @property
    def keeps_protocols(self) -> bool:
        """Whether it is certain that this kernel stores whose an address is."""
        if self._keeps_protocols is None:
            self._keeps_protocols = keeps_protocols(self._read())
        return self._keeps_protocols

    def link(self, name: str) -> Link | None:
        """The interface of this name, if there is one."""
        if name not in self._by_name:
            fits = 0 < len(name.encode()) <= LONGEST_NAME
            self._by_name[name] = self._ask_link(name=name) if fits else None
        return self._by_name[name]

    def link_of(self, row: AddressRow) -> Link | None:
        """The interface of a row, if it has not gone meanwhile."""
        if row.link not in self._by_number:
            self._by_number[row.link] = self._ask_link(number=row.link)
        return self._by_number[row.link]

    def add(self, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        """Add them with kvctl's mark; for each the kernel's refusal. One that is there already is refused."""
        payloads = [_message(row, protocols=self._protocols) for row in rows]
        return self._send(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payloads)

    def change(self, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        """Give them these lifetimes and kvctl's mark; one that is not there any more is made anew by the kernel."""
        # It neither compares nor changes a label.
        payloads = [_message(row._replace(label=None), protocols=self._protocols) for row in rows]
        return self._send(_RTM_NEWADDR, NLM_F_REPLACE, payloads)

    def remove(self, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        """Remove them; one that is not there any more is no failure."""
        # A label is compared by the kernel: one that has lost this mark since is not removed.
        known = [row if self.mark(row) is Mark.LABEL else row._replace(label=None) for row in rows]
        refusals = self._send(_RTM_DELADDR, 0, [_identity(row) for row in known])
        gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
        return [None if refusal is None or refusal.errno in gone else refusal for refusal in refusals]

    def _send(self, kind: int, flags: int, payloads: Sequence[bytes]) -> list[Refusal | None]:
        answers = self._netlink.request_each(kind=kind, flags=flags, payloads=payloads, what=self._what)
        return [
            None if answer is None else Refusal(answer.errno, answer.message.removeprefix(f"{self._what}: "))
            for answer in answers
        ]

    def _read(self, *, of: Collection[Address] | None = None, link: Link | None = None) -> list[AddressRow]:
        rows = read_addresses(self._netlink, link=link.number if link else 0, of=of, what=self._what)
        return rows if self._protocols else [row._replace(protocol=0) for row in rows]

    def _ask_link(self, *, name: str | None = None, number: int = 0) -> Link | None:
        try:
            return read_one_link(self._netlink, name=name, number=number, what=self._what)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise


def _identity(row: AddressRow) -> bytes:
    """What makes it one address; IPv4 takes IFA_ADDRESS with a prefix length as the network it must be of."""
    family = AF_INET if row.address.version == 4 else AF_INET6
    packed = row.address.packed
    parts = [attribute(IFA_LOCAL, packed), attribute(IFA_ADDRESS, packed)]
    if row.label is not None:
        parts.append(attribute(IFA_LABEL, row.label.encode() + bytes(1)))
    return IFADDRMSG.pack(family, row.prefix_length, 0, 0, row.link) + b"".join(parts)


def _message(row: AddressRow, *, protocols: bool) -> bytes:
    """All of it, of global scope (0); preferred for no time: this host itself does not choose it as a source."""
    lifetime = FOREVER if row.lifetime is None else row.lifetime
    parts = [attribute(IFA_CACHEINFO, IFA_CACHE.pack(0, lifetime, 0, 0))]
    if row.address.version == 6:
        # A route of the main table to the address itself would only be one more thing that changes.
        parts.append(attribute(IFA_FLAGS, (IFA_F_NODAD | IFA_F_NOPREFIXROUTE).to_bytes(4, ORDER)))
    if protocols:
        parts.append(attribute(IFA_PROTO, bytes((MARK,))))
    return _identity(row) + b"".join(parts)
