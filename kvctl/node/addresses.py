"""The VIPs that kvctl puts on interfaces, as addresses that the kernel takes away again by itself.

Each is a /32 or /128 that carries kvctl's mark; what has no mark is never touched. This host does not send from
it, unless its interface has no other address that would do. In the network namespace of the calling thread; from
any thread; takes CAP_NET_ADMIN. What fails is returned as errors, one an address, and the rest is done;
NetlinkError is raised where the kernel cannot be asked at all.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.host import HostAddress
from kvctl.model.net import Address
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.address_table import LONGEST_NAME, AddressTable, Refusal
from kvctl.node.rtnetlink import LABEL_SUFFIX, AddressRow, Link, Mark

_BIND = "cannot bind {address} to {interface}"
_EXTEND = "cannot extend {address} on {interface}"
_REMOVE = "cannot remove {address} from {interface}"

_LONGEST_LIFETIME = 0xFFFFFFFE
# Seconds that an address lives for a start of which it is not known yet whether the kernel keeps its mark.
_TRIAL_LIFETIME = 5

# Between reading and writing nobody else of this process: what one thread takes away another must not extend
# into being again. Of other processes' doings the kernel has no such lock: a change makes anew what has gone
# since it was read, and for no longer than its lifetime.
_turn = threading.Lock()


class Wanted(NamedTuple):
    """An address that is to be on an interface; `lifetime` in whole seconds, None for ever."""

    address: Address
    interface: str
    lifetime: int | None


class Bound(NamedTuple):
    """An address of kvctl's; `lifetime` is what is left, in whole seconds, None for ever."""

    address: Address
    interface: str
    lifetime: int | None
    marked_by: Mark


class AddressError(KvctlError):
    """An address could not be bound, extended or removed; `errno` is the kernel's answer, if it was asked."""

    def __init__(
        self, message: str, *, address: Address, interface: str, errno: int | None = None, hint: str | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.address = address
        self.interface = interface
        self.errno = errno


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


def bind(wanted: Sequence[Wanted], *, protocols: bool = True) -> list[KvctlError]:
    """Put these addresses there, and give those of kvctl's that are there already their new lifetimes.

    One of kvctl's on another interface than the wanted goes from there once it is where it should be.
    """
    with _opened("cannot bind addresses", protocols=protocols) as table:
        rows = table.read(of={each.address for each in wanted})
        places, errors = _places(table, rows, wanted, may_add=True)
        errors += _change(table, [place for place in places if place.row is not None], failing=_BIND)
        errors += _add(table, [place for place in places if place.row is None])
        failed = {error.address for error in errors}
        here = {(place.wanted.address, place.link.number) for place in places}
        strays = [
            row
            for address in {place.wanted.address for place in places} - failed
            for row in rows.get(address, ())
            if (address, row.link) not in here and table.mark(row)
        ]
        return [*errors, *_remove(table, strays)]


def extend(wanted: Sequence[Wanted], *, protocols: bool = True) -> list[KvctlError]:
    """Give addresses of kvctl's their new lifetimes; one that is not there any more is an error, and stays away.

    Reading and changing are two steps: one that goes in between (its time is over, or another process takes
    it away) is made anew by the kernel, and lives to the end of its new lifetime.
    """
    with _opened("cannot extend addresses", protocols=protocols) as table:
        links = {link for each in wanted if (link := table.link(each.interface)) is not None}
        rows = table.read(of={each.address for each in wanted}, link=links.pop() if len(links) == 1 else None)
        places, errors = _places(table, rows, wanted, may_add=False)
        return [*errors, *_change(table, places, failing=_EXTEND)]


def unbind(addresses: Collection[Address], *, protocols: bool = True) -> list[KvctlError]:
    """Remove those of these addresses that carry kvctl's mark, from whatever interface; absent is fine."""
    with _opened("cannot remove addresses", protocols=protocols) as table:
        rows = table.read(of=set(addresses))
        return [*_remove(table, [row for each in rows.values() for row in each if table.mark(row)])]


@contextmanager
def _opened(what: str, *, protocols: bool) -> Iterator[AddressTable]:
    # A socket a call: the thread may have changed its network namespace since the last one.
    with _turn, open_netlink(protocol=NETLINK_ROUTE, what=what) as netlink:
        yield AddressTable(netlink, what=what, protocols=protocols)


class _Place(NamedTuple):
    """What is wanted, the interface, and kvctl's address there, if it is there."""

    wanted: Wanted
    link: Link
    row: AddressRow | None

    def renewed(self) -> AddressRow:
        """The row that is there, with the wanted lifetime."""
        assert self.row is not None
        return self.row._replace(lifetime=self.wanted.lifetime, label=None)

    def new(self, *, label: str | None = None, trial: bool = False) -> AddressRow:
        """The row that is to be there; on `trial` at most as long as it takes to find out what it is worth."""
        address, _, lifetime = self.wanted
        return AddressRow(
            link=self.link.number,
            address=address,
            prefix_length=address.max_prefixlen,
            flags=0,
            label=label,
            lifetime=_TRIAL_LIFETIME if trial and lifetime is None else lifetime,
        )


_Rows = Mapping[Address, Sequence[AddressRow]]


def _places(
    table: AddressTable, rows: _Rows, wanted: Iterable[Wanted], *, may_add: bool
) -> tuple[list[_Place], list[AddressError]]:
    """Where each is to be, the last word on one counting, and why it cannot be there."""
    places: list[_Place] = []
    errors: list[AddressError] = []
    for each in {(each.address, each.interface): each for each in wanted}.values():
        try:
            places.append(_place(table, rows.get(each.address, ()), each, may_add=may_add))
        except AddressError as error:
            errors.append(error)
    return places, errors


def _place(table: AddressTable, rows: Sequence[AddressRow], wanted: Wanted, *, may_add: bool) -> _Place:
    """`rows`: those that have the address. Raises AddressError."""
    address, interface, lifetime = wanted
    failing = _BIND if may_add else _EXTEND
    if lifetime is not None and not 0 < lifetime <= _LONGEST_LIFETIME:
        raise _error(
            wanted, failing, f"a lifetime of {lifetime} s", hint=f"1 to {_LONGEST_LIFETIME} s, or for ever"
        )
    link = table.link(interface)
    if link is None:
        raise _error(wanted, failing, "there is no such interface", hint="see those there are: ip -br link")
    if may_add:
        _refuse_foreign(table, rows, wanted, link)
    row = next((row for row in rows if row.link == link.number and table.mark(row)), None)
    if row is None and not may_add:
        raise _error(
            wanted, failing, "it is not there any more", hint=f"see what is: ip addr show to {address}"
        )
    if row is None and not link.up:
        raise _error(wanted, failing, f"{interface} is down", hint=f"ip link set {interface} up")
    if row is not None and lifetime is None and table.mark(row) is Mark.SHAPE:
        raise _needs_lifetime(wanted)
    return _Place(wanted, link, row)


def _refuse_foreign(table: AddressTable, rows: Sequence[AddressRow], wanted: Wanted, link: Link) -> None:
    """Raises AddressError where the address would stay when kvctl's goes: others know this host by it."""
    for row in rows:
        if table.mark(row) is not None:
            continue
        its = link if row.link == link.number else table.link_of(row)
        if its is None:
            continue
        there = HostAddress(row.address, row.prefix_length, its.name, its.kind)
        if its is link or there.serves:
            raise _error(
                wanted,
                _BIND,
                f"{row.address}/{row.prefix_length} is on {its.name} already, without kvctl's mark",
                hint=f"if nothing needs it there: ip addr del {row.address}/{row.prefix_length} dev {its.name}",
            )


def _change(table: AddressTable, places: Sequence[_Place], *, failing: str) -> list[AddressError]:
    refusals = table.change([place.renewed() for place in places])
    return _refused([place.wanted for place in places], refusals, failing)


def _add(table: AddressTable, places: Sequence[_Place]) -> list[AddressError]:
    if not places:
        return []
    if not table.keeps_protocols:
        return _add_on_trial(table, places)
    refusals = table.add([place.new() for place in places])
    return _refused([place.wanted for place in places], refusals, _BIND)


def _add_on_trial(table: AddressTable, places: Sequence[_Place]) -> list[AddressError]:
    """Add with every mark there is, and with an end, see which of them the kernel kept, and act on that."""
    refusals = table.add([place.new(label=_label(place), trial=True) for place in places])
    errors = _refused([place.wanted for place in places], refusals, _BIND)
    added = [place for place, refusal in zip(places, refusals, strict=True) if refusal is None]
    rows = table.read(of={place.wanted.address for place in added})
    lasting: list[_Place] = []
    worthless: list[AddressRow] = []
    for place in added:
        row = next((r for r in rows.get(place.wanted.address, ()) if r.link == place.link.number), None)
        mark = None if row is None else table.mark(row)
        if row is not None and (mark is None or (mark is Mark.SHAPE and place.wanted.lifetime is None)):
            worthless.append(row)
            errors.append(_needs_lifetime(place.wanted) if mark else _needs_mark(place.wanted))
        elif row is not None and place.wanted.lifetime is None:
            lasting.append(place._replace(row=row))
    return [*errors, *_remove(table, worthless), *_change(table, lasting, failing=_BIND)]


def _label(place: _Place) -> str | None:
    label = place.link.name + LABEL_SUFFIX
    fits = place.wanted.address.version == 4 and len(label.encode()) <= LONGEST_NAME
    return label if fits else None


def _remove(table: AddressTable, rows: Sequence[AddressRow]) -> list[AddressError]:
    # One whose interface has gone has gone with it.
    there = [(row, link) for row in rows if (link := table.link_of(row)) is not None]
    refusals = table.remove([row for row, _ in there])
    return _refused([Wanted(row.address, link.name, None) for row, link in there], refusals, _REMOVE)


def _refused(
    wanted: Sequence[Wanted], refusals: Sequence[Refusal | None], failing: str
) -> list[AddressError]:
    return [
        _error(each, failing, refusal.reason, hint=_hint(each, refusal.errno), number=refusal.errno)
        for each, refusal in zip(wanted, refusals, strict=True)
        if refusal is not None
    ]


def _hint(wanted: Wanted, number: int) -> str | None:
    interface = wanted.interface
    if number == errno.EPERM:
        return "it takes the capability NET_ADMIN in this network namespace: run it as root"
    if number == errno.EACCES and wanted.address.version == 6:
        return f"is IPv6 off there? sysctl net.ipv6.conf.{interface}.disable_ipv6"
    if number == errno.EINVAL and wanted.address.version == 6:
        return f"IPv6 takes an MTU of 1280 or more: ip link show dev {interface}"
    if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return "is this kernel without IPv6? ls /proc/sys/net/ipv6"
    return f"see what is there: ip addr show dev {interface}"


def _needs_lifetime(wanted: Wanted) -> AddressError:
    return _error(
        wanted,
        _BIND,
        "this kernel does not store whose an address is, so kvctl's are known by their lifetime, "
        "and this one has none",
        hint="use Linux 5.18, or bind it in election mode, which gives it a lifetime",
    )


def _needs_mark(wanted: Wanted) -> AddressError:
    return _error(
        wanted,
        _BIND,
        f"this kernel does not store whose an address is, and the label {wanted.interface}{LABEL_SUFFIX} "
        f"that would say so is longer than {LONGEST_NAME} characters",
        hint="use Linux 5.18, or a shorter name for the interface",
    )


def _error(
    wanted: Wanted, failing: str, why: str, *, hint: str | None, number: int | None = None
) -> AddressError:
    address, interface, _ = wanted
    message = f"{failing.format(address=address, interface=interface)}: {why}"
    return AddressError(message, address=address, interface=interface, errno=number, hint=hint)
