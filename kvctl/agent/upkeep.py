"""What a renewal keeps alive: the lifetimes of the addresses that hang on a Lease, and the heartbeats of its rules."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kvctl.election.electorate import Holding
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, Family
from kvctl.netfilter.fence import beat
from kvctl.node.address_writer import LATENESS
from kvctl.node.addresses import Wanted


class Place(NamedTuple):
    """What a Lease that is held has here."""

    interfaces: Mapping[Address, str]
    fences: tuple[tuple[Family, str], ...]

    def of(self, family: Family | None) -> Place:
        """With the fences of one family alone, or of both."""
        return (
            self if family is None else self._replace(fences=tuple(f for f in self.fences if f[0] is family))
        )


class Upkeep:
    """For the loop's thread, but for `renewed`, which the electorate's threads call."""

    def __init__(
        self,
        terms: Terms,
        *,
        extend: Callable[[Sequence[Wanted]], list[KvctlError]],
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._extend = extend
        self._complain = complain
        self._clock = clock
        self._lock = threading.Lock()
        self._places: Mapping[LeaseKey, Place] = {}
        self._fenced: frozenset[LeaseKey] = frozenset()
        """Those whose rules have been written, so that the lists of their heartbeats are there."""

    @property
    def places(self) -> Mapping[LeaseKey, Place]:
        """What is kept alive."""
        with self._lock:
            return self._places

    def keep(self, places: Mapping[LeaseKey, Place]) -> None:
        """From now on these."""
        with self._lock:
            self._places = places

    def lifetime(self, holding: Holding) -> int:
        """Whole seconds that an address may live from now on: to the deadline, and never into another's Lease."""
        left = holding.deadline - self._clock()
        more = math.ceil(left)
        ends_in_time = self._clock() + more + LATENESS < holding.until
        return max(0, more if ends_in_time else math.floor(left))

    def renewed(self, holding: Holding) -> bool:
        """A Lease was renewed: what hangs on it lives on. False: nothing does yet."""
        place = self.places.get(holding.key)
        if place is None:
            return False
        seconds = self.lifetime(holding)
        if seconds > 0:
            wanted = [Wanted(vip, where, seconds, holding.until) for vip, where in place.interfaces.items()]
            for error in self._extend(wanted):
                self._complain(str(error))
        # Before its rules are written there is no list to write a heartbeat to: `beat` does it, then.
        if holding.key in self._fenced:
            self._beat([(holding, place)])
        return True

    def beat(self, held: Mapping[LeaseKey, Holding], family: Family | None = None) -> None:
        """Let the rules (of one family) use what is held: they were written a moment ago."""
        places = self.places
        if family is None:
            self._fenced = frozenset(places)
        self._beat((held[key], place.of(family)) for key, place in places.items() if key in held)

    def _beat(self, each: Iterable[tuple[Holding, Place]]) -> None:
        end = self._clock() + math.floor(self._terms.renew_deadline)
        fences = [fence for holding, place in each if end < holding.until for fence in place.fences]
        for error in beat(fences) if fences else ():
            self._complain(str(error))
