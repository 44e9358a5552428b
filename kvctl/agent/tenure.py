"""What this node holds, from Leases to addresses and announcements, and back in order.

Up: Lease, address (after a probe), rules with fence, first beat, announcement. Down: rules and connections,
announcement off, address off, and only then the Lease. Who programs is judged as ever, by where the VIP is:
what has to go is hidden from the host that the rules see, before it goes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple, Protocol

from kvctl.election.electorate import Candidacy, Holding, LeaseState
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, Family
from kvctl.model.objects import Objects, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.netfilter.fence import beat
from kvctl.node.address_writer import LATENESS
from kvctl.node.addresses import Wanted
from kvctl.node.announce import Announced
from kvctl.node.host import read_host
from kvctl.policy.candidates import NOTHING, Candidates, find_candidates
from kvctl.policy.holder import VIP_HOST
from kvctl.policy.resolve import Resolver
from kvctl.policy.verdict import Fate

PROBE_SECONDS = 0.4
PROBE_AGAIN = 10.0
"""Seconds until an address that somebody answers for is asked about again."""


class Electors(Protocol):
    """What is needed of an Electorate."""

    def contend(self, wanted: Mapping[LeaseKey, Candidacy]) -> None: ...
    def wake(self, key: LeaseKey) -> None: ...
    def held(self) -> Mapping[LeaseKey, Holding]: ...
    def leaving(self) -> Mapping[LeaseKey, str]: ...
    def torn_down(self, key: LeaseKey) -> None: ...
    def states(self) -> Mapping[LeaseKey, LeaseState]: ...
    def hand_over(self, keys: Collection[LeaseKey] | None = None) -> None: ...
    def released(self, *, patience: float) -> bool: ...


class Status(Protocol):
    """What is needed of a VipStatus."""

    def holds(self, service: Service, vips: Collection[Address]) -> None: ...
    def gives_up(self, ref: ServiceRef) -> None: ...


class Wires(NamedTuple):
    """What touches the network; the functions of `node.addresses`, `node.probe` and an Announcer's."""

    bind: Callable[[Sequence[Wanted]], list[KvctlError]]
    extend: Callable[[Sequence[Wanted]], list[KvctlError]]
    unbind: Callable[[Collection[Address]], list[KvctlError]]
    answered: Callable[[Collection[Announced]], Mapping[Address, str]]
    announce: Callable[[Collection[Announced]], None]


class _Place(NamedTuple):
    """What a Lease that is held has here."""

    interfaces: Mapping[Address, str]
    fences: tuple[tuple[Family, str], ...]

    def of(self, family: Family | None) -> _Place:
        """With the fences of one family alone, or of both."""
        return (
            self if family is None else self._replace(fences=tuple(f for f in self.fences if f[0] is family))
        )


class Tenure:
    """For the loop's thread, but for `renewed`, which the electorate's threads call."""

    def __init__(
        self,
        settings: Settings,
        terms: Terms,
        *,
        wires: Wires,
        status: Status,
        say: Callable[[str], None],
        complain: Callable[[str], None],
        clean: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._wires = wires
        self._say = say
        self._said: frozenset[LeaseKey] = frozenset()
        """The Leases of which the log has said last that this node holds them."""
        self._complain = complain
        self._status = status
        self._node = settings.this_node
        self._clean = clean
        self._services: Mapping[ServiceRef, Service] = {}
        self._refs: dict[LeaseKey, tuple[ServiceRef, ...]] = {}
        self._clock = clock
        self._resolver = Resolver(replace(settings, assume_vip=True))
        self._electors: Electors | None = None
        self._lock = threading.Lock()
        self._places: Mapping[LeaseKey, _Place] = {}
        self._fenced: frozenset[LeaseKey] = frozenset()
        """Those whose rules have been written, so that the lists of their heartbeats are there."""
        self._undecided: frozenset[Address] = frozenset()
        self._leaving: AbstractSet[LeaseKey] = frozenset()
        self._taken: dict[Address, tuple[str, float]] = {}
        """Who answers for an address that was to be bound, and when it may be asked again."""
        self._vip_hosts: dict[ServiceRef, str] = {}
        self.candidates: Candidates = NOTHING

    def serve(self, electors: Electors) -> None:
        """Whose Leases these are; before anything else."""
        self._electors = electors

    @property
    def _of(self) -> Electors:
        assert self._electors is not None
        return self._electors

    def plan(self, objects: Objects, host: Host) -> Host:
        """Contend for what this node may hold, bind what it holds; the host as the rules are to see it."""
        resolution = self._resolver.resolve(objects, host=None)
        if resolution.node_is_unknown:
            # The rules stay as they are, and so does what is held: it is the picture that is wrong.
            return host
        faulty = {skip.ref for skip in resolution.skipped if skip.fate is Fate.KEEP}
        self.candidates = find_candidates(resolution, objects).with_kept(self.candidates, faulty)
        self._services = resolution.services
        able = {key: its for key, its in self.candidates.by_lease.items() if self._is_able(key, host)}
        self._of.contend({key: Candidacy(ready=any(c.ready for c in its)) for key, its in able.items()})
        self._wake(objects)
        held = {key: holding for key, holding in self._of.held().items() if key in able}
        # Of what begins to leave only after this the rules and the VIP are still here when this round ends.
        self._leaving = self._of.leaving().keys() - held.keys()
        self._say_who(held)
        places = {key: self._place(key, host) for key in held}
        if self._bind(places, held, host):
            host = read_host()
        with self._lock:
            self._places = places
        self._undecided = self._left_by_the_last(host)
        here = {address for place in places.values() for address in place.interfaces} | self._undecided
        # Not only ours: what an admin has bound is no right to use it while another node has the Lease.
        decided = {vip for its in self.candidates.by_lease.values() for c in its for vip in c.vips} - here
        return host._replace(
            addresses=tuple(
                a for a in host.addresses if a.address in here or not (a.ours or a.address in decided)
            )
        )

    def _is_able(self, key: LeaseKey, host: Host) -> bool:
        """Whether this node has the interfaces for the VIPs of a Lease: who could not use it must not hold it."""
        interfaces = self.candidates.interfaces(host, key)
        for candidate in self.candidates.by_lease[key]:
            for vip in sorted(candidate.vips, key=str):
                interface = interfaces.get(vip)
                if interface is None or interface not in host.interfaces:
                    where = f"this node has no interface {interface}" if interface else "no route leads to it"
                    self._complain(
                        f"not contending for Lease {key}: the VIP {vip} of {candidate.ref} cannot be here: {where}"
                    )
                    return False
        return True

    def _say_who(self, held: Mapping[LeaseKey, Holding]) -> None:
        for key in sorted(held.keys() - self._said):
            vips = sorted({str(vip) for c in self.candidates.by_lease[key] for vip in c.vips})
            self._say(f"this node holds Lease {key}, and with it {', '.join(vips)}")
        leaving = self._of.leaving()
        for key in sorted(self._said - held.keys()):
            self._say(f"this node does not hold Lease {key} any more: {leaving.get(key, 'it is free')}")
        self._said = frozenset(held)

    def _left_by_the_last(self, host: Host) -> frozenset[Address]:
        """What an agent before this one had bound, while nobody has said yet whose the Lease is: it stays so long.

        It has its lifetime: if nobody ever says, the kernel ends it.
        """
        states = self._of.states()
        unknown = (key for key in self.candidates.by_lease if key in states and states[key].holder is None)
        vips = {vip for key in unknown for c in self.candidates.by_lease[key] for vip in c.vips}
        return frozenset(a.address for a in host.addresses if a.ours and a.address in vips)

    def ends(self, objects: Objects) -> bool:
        """The agent ends: whether one more round is to hand over what is held.

        Not for a restart: the next agent of this node goes on within the lifetimes. But a node that is drained, or
        that is to be left clean, frees its VIPs.
        """
        cordoned = any(node.cordoned for node in objects.nodes if node.name == self._node)
        if not (self._clean or cordoned):
            return False
        self._of.hand_over()
        return True

    def is_free(self, *, patience: float) -> bool:
        """Whether nothing is held here any more, within `patience` seconds."""
        return self._of.released(patience=patience)

    def _place(self, key: LeaseKey, host: Host) -> _Place:
        policies = [policy for c in self.candidates.by_lease[key] for policy in c.policies]
        fences = {(policy.family, policy.fence.name): None for policy in policies if policy.fence is not None}
        return _Place(self.candidates.interfaces(host, key), tuple(fences))

    def _bind(self, places: Mapping[LeaseKey, _Place], held: Mapping[LeaseKey, Holding], host: Host) -> bool:
        """Bind what is not bound yet; whether anything was."""
        wanted = {
            Announced(address, interface): held[key]
            for key, place in places.items()
            for address, interface in place.interfaces.items()
            if _is_to_bind(host, address, interface)
        }
        free = self._unanswered(wanted)
        binding = [
            Wanted(each.address, each.interface, seconds, holding.until)
            for each, holding in wanted.items()
            # Not before, but after the probe: it took its time.
            if each in free and (seconds := self.lifetime(holding)) > 0
        ]
        for error in self._wires.bind(binding) if binding else ():
            self._complain(str(error))
        return bool(binding)

    def _unanswered(self, wanted: Collection[Announced]) -> set[Announced]:
        """Those that nobody answers for: a VIP that another host has must not be there twice."""
        now = self._clock()
        asked = [each for each in wanted if self._taken.get(each.address, ("", 0.0))[1] <= now]
        answers = self._wires.answered(asked) if asked else {}
        for each in asked:
            self._taken.pop(each.address, None)
        for address, mac in answers.items():
            self._taken[address] = (mac, now + PROBE_AGAIN)
            self._complain(
                f"the VIP {address} is not bound: {mac} answers for it on the network already; "
                "find who it is, or give the Service another address"
            )
        return {each for each in asked if each.address not in answers}

    def lifetime(self, holding: Holding) -> int:
        """Whole seconds that an address may live from now on: to the deadline, and never into another's Lease."""
        left = holding.deadline - self._clock()
        more = math.ceil(left)
        ends_in_time = self._clock() + more + LATENESS < holding.until
        return max(0, more if ends_in_time else math.floor(left))

    def renewed(self, holding: Holding) -> None:
        """A Lease was renewed: what hangs on it lives on. From the electorate's threads."""
        with self._lock:
            place = self._places.get(holding.key)
        if place is None:
            return
        seconds = self.lifetime(holding)
        if seconds > 0:
            wanted = [Wanted(vip, where, seconds, holding.until) for vip, where in place.interfaces.items()]
            for error in self._wires.extend(wanted):
                self._complain(str(error))
        # Before its rules are written there is no list to write a heartbeat to: `beat` does it, then.
        if holding.key in self._fenced:
            self._beat([(holding, place)])

    def beat(self, family: Family | None = None) -> None:
        """Let the rules (of one family) use what is held: they were written a moment ago."""
        with self._lock:
            places = dict(self._places)
        held = self._of.held()
        if family is None:
            self._fenced = frozenset(places)
        self._beat((held[key], place.of(family)) for key, place in places.items() if key in held)

    def _beat(self, each: Iterable[tuple[Holding, _Place]]) -> None:
        end = self._clock() + math.floor(self._terms.renew_deadline)
        fences = [fence for holding, place in each if end < holding.until for fence in place.fences]
        for error in beat(fences) if fences else ():
            self._complain(str(error))

    def follow(self, host: Host, *, clean: bool) -> None:
        """After the rules were written: announce what is here, take down what is not used any more.

        `host`: as it was handed to the rules; `clean`: nothing of what has to go is in the rules any more.
        """
        with self._lock:
            places = dict(self._places)
        # Also where nothing had to be written, as after a restart.
        self.beat()
        here = {a: i for place in places.values() for a, i in place.interfaces.items()}
        bound = {a.address for a in host.addresses if a.address in here}
        self._wires.announce([Announced(address, here[address]) for address in sorted(bound, key=str)])
        self._tell_services(places, bound)
        if not clean:
            return
        stays = here.keys() | self._undecided
        going = {a.address for a in read_host().addresses if a.ours and a.address not in stays}
        errors = self._wires.unbind(going) if going else []
        for error in errors:
            self._complain(str(error))
        if errors:
            return
        for key in self._leaving:
            self._of.torn_down(key)
            for ref in self._refs.pop(key, ()):
                self._status.gives_up(ref)

    def _tell_services(self, places: Mapping[LeaseKey, _Place], bound: Collection[Address]) -> None:
        for key in places:
            candidates = self.candidates.by_lease.get(key, ())
            self._refs[key] = tuple(candidate.ref for candidate in candidates)
            for candidate in candidates:
                vips = [policy.vip for policy in candidate.policies if policy.vip in bound]
                if vips:
                    self._status.holds(self._services[candidate.ref], vips)

    def _wake(self, objects: Objects) -> None:
        """A holder that gives a VIP up takes its name from the Service: then its Lease is free."""
        by_ref = {c.ref: key for key, its in self.candidates.by_lease.items() for c in its}
        for service in objects.services:
            key = by_ref.get(service.ref)
            if key is None:
                continue
            before, now = self._vip_hosts.get(service.ref, ""), service.annotations.get(VIP_HOST, "")
            if before and not now:
                self._of.wake(key)
            self._vip_hosts[service.ref] = now


def _is_to_bind(host: Host, address: Address, interface: str) -> bool:
    """Whether a VIP is not where it belongs. One that somebody else has put there is refused, and that is told."""
    there = [a for a in host.addresses if a.address == address and a.serves]
    return not any(a.ours and a.interface == interface for a in there)
