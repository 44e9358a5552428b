"""What a renewal keeps alive: the lifetimes of the addresses that hang on a Lease, and the heartbeats of its rules.

A process may be stopped between any two steps, and go on when another node has the Lease: so the clock is looked at
again after a heartbeat was written, and what came too late is taken back.
"""

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
from kvctl.netfilter.fence import beat, still
from kvctl.node.address_writer import LATENESS
from kvctl.node.addresses import Wanted
from kvctl.node.announce import Announced


class Place(NamedTuple):
    """What a Lease that is held has here."""

    interfaces: Mapping[Address, str]
    """Of the VIPs that kvctl has bound."""
    fences: tuple[tuple[Family, str], ...]
    """The lists of the heartbeats of all VIPs that are here, whoever has bound them."""

    def of(self, family: Family | None) -> Place:
        """With the fences of one family alone, or of both."""
        return (
            self if family is None else self._replace(fences=tuple(f for f in self.fences if f[0] is family))
        )


class Upkeep:
    """For the loop's thread, but for `renewed` and `until`, which any thread may call."""

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
        self._keys: Mapping[Announced, LeaseKey] = {}
        """By which Lease each address of the places is here."""
        self._latest: dict[LeaseKey, Holding] = {}
        """As they were last renewed."""
        self._fenced: frozenset[LeaseKey] = frozenset()
        """Those whose rules have been written, so that the lists of their heartbeats are there."""
        # What one thread takes back another must not have written a moment ago.
        self._beating = threading.Lock()

    def keep(self, places: Mapping[LeaseKey, Place], held: Mapping[LeaseKey, Holding]) -> None:
        """From now on these, which are here by what is `held`; one that was renewed meanwhile is caught up with."""
        keys = {Announced(*there): key for key, place in places.items() for there in place.interfaces.items()}
        with self._lock:
            self._places, self._keys = places, keys
            latest = {key: max(holding, self._latest.get(key, holding)) for key, holding in held.items()}
            self._latest = latest
        for key, place in places.items():
            if latest[key] > held[key]:
                self._prolong(latest[key], place)

    def until(self, each: Announced) -> float:
        """Until when an address may be used, on the monotonic clock: when the Lease ends that it is here by."""
        with self._lock:
            key = self._keys.get(each)
            return self._latest[key].deadline if key in self._latest else -math.inf

    def lifetime(self, holding: Holding) -> int:
        """Whole seconds that an address may live from now on: to the deadline, and never into another's Lease."""
        left = holding.deadline - self._clock()
        more = math.ceil(left)
        ends_in_time = self._clock() + more + LATENESS < holding.until
        return max(0, more if ends_in_time else math.floor(left))

    def renewed(self, holding: Holding) -> bool:
        """A Lease was renewed: what hangs on it lives on. False: nothing does yet."""
        with self._lock:
            self._latest[holding.key] = max(holding, self._latest.get(holding.key, holding))
            place = self._places.get(holding.key)
        if place is None:
            return False
        self._prolong(holding, place)
        # Before its rules are written there is no list to write a heartbeat to: `beat` does it, then.
        if holding.key in self._fenced:
            self._beat([(holding, place)])
        return True

    def _prolong(self, holding: Holding, place: Place) -> None:
        seconds = self.lifetime(holding)
        wanted = [Wanted(vip, where, seconds, holding.until) for vip, where in place.interfaces.items()]
        if not wanted or seconds <= 0:
            return
        try:
            for refusal in self._extend(wanted):
                self._complain(str(refusal))
        except KvctlError as error:
            # Heartbeats need no netlink.
            self._complain(str(error))

    def beat(self, held: Mapping[LeaseKey, Holding], family: Family | None = None) -> None:
        """Let the rules (of one family) use what is held: they were written a moment ago."""
        with self._lock:
            places = self._places
        if family is None:
            self._fenced = frozenset(places)
        self._beat((held[key], place.of(family)) for key, place in places.items() if key in held)

    def _beat(self, each: Iterable[tuple[Holding, Place]]) -> None:
        with self._beating:
            for holding, place in each:
                for fence in place.fences:
                    for error in self._beat_one(holding, fence):
                        self._complain(str(error))

    def _beat_one(self, holding: Holding, fence: tuple[Family, str]) -> list[KvctlError]:
        if not self._counts_in_time(holding):
            return []
        errors = beat([fence])
        return errors if self._counts_in_time(holding) else [*errors, *still([fence[1]])]

    def _counts_in_time(self, holding: Holding) -> bool:
        """Whether what a heartbeat of this moment allows ends before another node may have the Lease."""
        with self._lock:
            latest = max(holding, self._latest.get(holding.key, holding))
        return self._clock() + math.floor(self._terms.renew_deadline) < latest.until
