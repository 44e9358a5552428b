"""Writing addresses of kvctl's: that the kernel keeps their mark, and that they end in time.

The kernel counts a lifetime from when it hears of it. A process that was stopped in between, or waited for the
kernel's lock, would give an address more time than it was to have: so the clock is looked at again afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.node.address_errors import REMOVE, AddressError, Attempt
from kvctl.node.address_table import LONGEST_NAME, AddressTable
from kvctl.node.rtnetlink import LABEL_SUFFIX, AddressRow, Link, Mark

LATENESS = 0.5
"""Seconds by which the kernel may take an address away later than it was told.

In Linux 6.18 its timer makes 0.25 of them; on a busy machine it waits for its lock, too, and 0.41 were seen.
"""

# Seconds that an address lives for a start of which it is not known yet whether the kernel keeps its mark.
_TRIAL_LIFETIME = 5


class Wanted(NamedTuple):
    """An address that is to be on an interface."""

    address: Address
    interface: str
    lifetime: int | None
    """Whole seconds from now on; None: for ever."""
    until: float | None = None
    """When it has to have gone, on the monotonic clock; where writing took long, the lifetime is less."""

    def left(self, now: float) -> int | None:
        """The lifetime that it may be given now; 0: it is too late."""
        if self.lifetime is None or self.until is None:
            return self.lifetime
        return max(0, min(self.lifetime, math.floor(self.until - LATENESS - now)))


class Place(NamedTuple):
    """What is wanted, the interface, and kvctl's address there, if it is there."""

    wanted: Wanted
    link: Link
    row: AddressRow | None

    def new(self) -> AddressRow:
        """The row that is to be there."""
        address = self.wanted.address
        return AddressRow(
            link=self.link.number, address=address, prefix_length=address.max_prefixlen, flags=0
        )


class AddressWriter:
    """Adds, changes and removes rows of `table`; `failing` is what an error calls it, one of address_errors."""

    def __init__(self, table: AddressTable, *, failing: str, clock: Callable[[], float]) -> None:
        self._table = table
        self._failing = failing
        self._clock = clock

    def add(self, places: Sequence[Place]) -> list[AddressError]:
        """Add what is not there."""
        if not places:
            return []
        if not self._table.keeps_protocols:
            return self._add_on_trial(places)
        return self._write([place._replace(row=place.new()) for place in places], new=True)

    def change(self, places: Sequence[Place]) -> list[AddressError]:
        """Give what is there its lifetime; what it is too late for is removed."""
        return self._write(places, new=False) if places else []

    def remove(self, rows: Sequence[AddressRow]) -> list[AddressError]:
        """Remove what is there; one whose interface has gone has gone with it."""
        there = [(row, link) for row in rows if (link := self._table.link_of(row)) is not None]
        attempts = [Attempt(REMOVE, row.address, link.name) for row, link in there]
        refusals = self._table.remove([row for row, _ in there])
        return [
            attempt.refused(refusal)
            for attempt, refusal in zip(attempts, refusals, strict=True)
            if refusal is not None
        ]

    def _write(self, places: Sequence[Place], *, new: bool) -> list[AddressError]:
        """Hand the rows to the kernel with the lifetimes that they may have now; again where that was too late."""
        now = self._clock()
        rows = [
            (place, place.row._replace(lifetime=place.wanted.left(now)))
            for place in places
            if place.row is not None
        ]
        over = [(place, row) for place, row in rows if row.lifetime == 0]
        timely = [(place, row) for place, row in rows if row.lifetime != 0]
        refusals = (self._table.add if new else self._table.change)([row for _, row in timely])
        errors = [self._attempt(place).over() for place, _ in over]
        errors += self.remove([] if new else [row for _, row in over])
        late: list[Place] = []
        for (place, row), refusal in zip(timely, refusals, strict=True):
            if refusal is not None:
                errors.append(self._attempt(place).refused(refusal))
            elif self._outlives(place.wanted, row):
                late.append(place)
        return [*errors, *self.change(late)]

    def _outlives(self, wanted: Wanted, row: AddressRow) -> bool:
        """Whether it may live too long, if the kernel heard of it only now."""
        if wanted.until is None or row.lifetime is None:
            return False
        return self._clock() + row.lifetime + LATENESS > wanted.until

    def _add_on_trial(self, places: Sequence[Place]) -> list[AddressError]:
        """Add with every mark there is, and with an end, see which of them the kernel kept, and act on that."""
        trials = [
            place._replace(
                wanted=place.wanted._replace(lifetime=place.wanted.lifetime or _TRIAL_LIFETIME),
                row=place.new()._replace(label=_label(place)),
            )
            for place in places
        ]
        errors = self._write(trials, new=True)
        failed = {(error.address, error.interface) for error in errors}
        rows = self._table.read(of={place.wanted.address for place in places})
        lasting: list[Place] = []
        worthless: list[AddressRow] = []
        for place in places:
            address, interface, lifetime, _ = place.wanted
            row = next((row for row in rows.get(address, ()) if row.link == place.link.number), None)
            if row is None or (address, interface) in failed:
                continue
            mark = self._table.mark(row)
            if mark is None or (mark is Mark.SHAPE and lifetime is None):
                worthless.append(row)
                attempt = self._attempt(place)
                errors.append(attempt.needs_mark() if mark is None else attempt.needs_lifetime())
            elif lifetime is None:
                lasting.append(place._replace(row=row))
        return [*errors, *self.remove(worthless), *self.change(lasting)]

    def _attempt(self, place: Place) -> Attempt:
        return Attempt(self._failing, place.wanted.address, place.wanted.interface)


def _label(place: Place) -> str | None:
    label = place.link.name + LABEL_SUFFIX
    fits = place.wanted.address.version == 4 and len(label.encode()) <= LONGEST_NAME
    return label if fits else None
