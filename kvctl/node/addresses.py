"""The VIPs that kvctl puts on interfaces, as addresses that the kernel takes away again by itself.

Each is a /32 or /128 that carries kvctl's mark; what has no mark is never touched. This host does not send from
it, unless its interface has no other address that would do. In the network namespace of the calling thread; from
any thread; takes CAP_NET_ADMIN. What fails is returned as errors, one an address, and the rest is done;
NetlinkError is raised where the kernel cannot be asked at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.host import HostAddress
from kvctl.model.net import Address
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.address_errors import BIND, EXTEND, REMOVE, AddressError, Attempt
from kvctl.node.address_table import AddressTable
from kvctl.node.address_writer import AddressWriter, Place, Wanted
from kvctl.node.rtnetlink import AddressRow, Link, Mark

__all__ = ["AddressError", "Bound", "Wanted", "bind", "bound", "extend", "unbind"]

_LONGEST_LIFETIME = 0xFFFFFFFE

# Between reading and writing nobody else of this process: what one thread takes away another must not extend
# into being again. Of other processes' doings the kernel has no such lock: a change makes anew what has gone
# since it was read, and for no longer than its lifetime.
_turn = threading.Lock()


class Bound(NamedTuple):
    """An address of kvctl's; `lifetime` is what is left, in whole seconds, None for ever."""

    address: Address
    interface: str
    lifetime: int | None
    marked_by: Mark


def bound(*, protocols: bool = True) -> list[Bound]:
    """Every address that carries kvctl's mark. Needs no privilege.

    `protocols=False`, here and below: as on a kernel before 5.18, which does not store whose an address is.
    """
    with _opened("cannot read kvctl's addresses", protocols=protocols) as table:
        return [
            Bound(row.address, link.name, row.lifetime, mark)
            for rows in table.read().values()
            for row in rows
            if (mark := table.mark(row)) is not None and (link := table.link_of(row)) is not None
        ]


def bind(
    wanted: Sequence[Wanted], *, protocols: bool = True, clock: Callable[[], float] = time.monotonic
) -> list[KvctlError]:
    """Put these addresses there, and give those of kvctl's that are there already their new lifetimes.

    One of kvctl's on another interface than the wanted goes from there once it is where it should be.
    """
    with _opened("cannot bind addresses", protocols=protocols) as table:
        writer = AddressWriter(table, failing=BIND, clock=clock)
        rows = table.read(of={each.address for each in wanted})
        places, errors = _places(table, rows, wanted, failing=BIND)
        errors += writer.change([place for place in places if place.row is not None])
        errors += writer.add([place for place in places if place.row is None])
        failed = {error.address for error in errors}
        here = {(place.wanted.address, place.link.number) for place in places}
        strays = [
            row
            for address in {place.wanted.address for place in places} - failed
            for row in rows.get(address, ())
            if (address, row.link) not in here and table.mark(row)
        ]
        return [*errors, *writer.remove(strays)]


def extend(
    wanted: Sequence[Wanted], *, protocols: bool = True, clock: Callable[[], float] = time.monotonic
) -> list[KvctlError]:
    """Give addresses of kvctl's their new lifetimes; one that is not there any more is an error, and stays away.

    Reading and changing are two steps: one that goes in between (its time is over, or another process takes
    it away) is made anew by the kernel, and lives to the end of its new lifetime.
    """
    with _opened("cannot extend addresses", protocols=protocols) as table:
        writer = AddressWriter(table, failing=EXTEND, clock=clock)
        links = {link for each in wanted if (link := table.link(each.interface)) is not None}
        rows = table.read(of={each.address for each in wanted}, link=links.pop() if len(links) == 1 else None)
        places, errors = _places(table, rows, wanted, failing=EXTEND)
        return [*errors, *writer.change(places)]


def unbind(addresses: Collection[Address], *, protocols: bool = True) -> list[KvctlError]:
    """Remove those of these addresses that carry kvctl's mark, from whatever interface; absent is fine."""
    with _opened("cannot remove addresses", protocols=protocols) as table:
        writer = AddressWriter(table, failing=REMOVE, clock=time.monotonic)
        rows = table.read(of=set(addresses))
        return [*writer.remove([row for each in rows.values() for row in each if table.mark(row)])]


@contextmanager
def _opened(what: str, *, protocols: bool) -> Iterator[AddressTable]:
    # A socket a call: the thread may have changed its network namespace since the last one.
    with _turn, open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        yield AddressTable(netlink, what=what, protocols=protocols)


_Rows = Mapping[Address, Sequence[AddressRow]]


def _places(
    table: AddressTable, rows: _Rows, wanted: Iterable[Wanted], *, failing: str
) -> tuple[list[Place], list[AddressError]]:
    """Where each is to be, the last word on one counting, and why it cannot be there."""
    places: list[Place] = []
    errors: list[AddressError] = []
    for each in {(each.address, each.interface): each for each in wanted}.values():
        try:
            places.append(_place(table, rows.get(each.address, ()), each, failing=failing))
        except AddressError as error:
            errors.append(error)
    return places, errors


def _place(table: AddressTable, rows: Sequence[AddressRow], wanted: Wanted, *, failing: str) -> Place:
    """`rows`: those that have the address. Raises AddressError."""
    address, interface, lifetime, _ = wanted
    attempt = Attempt(failing, address, interface)
    if lifetime is not None and not 0 < lifetime <= _LONGEST_LIFETIME:
        raise attempt.error(
            f"a lifetime of {lifetime} s", hint=f"it takes 1 to {_LONGEST_LIFETIME} s, or none at all"
        )
    link = table.link(interface)
    if link is None:
        raise attempt.error("there is no such interface", hint="see those there are: ip -br link")
    row = next((row for row in rows if row.link == link.number and table.mark(row)), None)
    if failing == BIND:
        _refuse_foreign(table, rows, attempt, link)
        if row is None and not link.up:
            raise attempt.error(f"{interface} is down", hint=f"ip link set {interface} up")
    elif row is None:
        raise attempt.error("it is not there any more", hint=f"see what is: ip addr show to {address}")
    if row is not None and lifetime is None and table.mark(row) is Mark.SHAPE:
        raise attempt.needs_lifetime()
    return Place(wanted, link, row)


def _refuse_foreign(table: AddressTable, rows: Sequence[AddressRow], attempt: Attempt, link: Link) -> None:
    """Raises AddressError where the address would stay when kvctl's goes: others know this host by it."""
    for row in rows:
        its = link if row.link == link.number else table.link_of(row)
        if its is None or table.mark(row) is not None:
            continue
        there = HostAddress(row.address, row.prefix_length, its.name, its.kind)
        if its is link or there.serves:
            name = f"{row.address}/{row.prefix_length}"
            raise attempt.error(
                f"{name} is on {its.name} already, without kvctl's mark",
                hint=f"if nothing needs it there: ip addr del {name} dev {its.name}",
            )
