"""What this node holds, from Leases to addresses and announcements, and back in order.

Up: Lease, address (after a probe), rules with fence, first beat, announcement. Down: rules and connections,
announcement off, address off, and only then the Lease. Who programs is judged as ever, by where the VIP is:
what has to go is hidden from the host that the rules see, before it goes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from kvctl.agent.campaign import Campaign, Electors
from kvctl.agent.upkeep import Place, Upkeep
from kvctl.election.electorate import Holding
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, Family
from kvctl.model.objects import Objects, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.node.addresses import Bound, Wanted
from kvctl.node.announce import Announced, Until
from kvctl.node.host import read_host
from kvctl.policy.candidates import Candidates

_BIND_AGAIN = 5.0
"""Seconds until a VIP is tried again that could not be bound, for no reason that would be told of when it ends."""


class Probes(Protocol):
    """What is needed of a Prober."""

    def want(self, addresses: Iterable[Announced]) -> None: ...
    def take(self, addresses: Collection[Announced]) -> set[Announced]: ...
    def has_news(self) -> bool: ...
    def obstacle(self, address: Address) -> str | None: ...
    def is_asking(self, addresses: Iterable[Announced]) -> bool: ...


class Announces(Protocol):
    """What is needed of an Announcer."""

    def announce(self, wanted: Collection[Announced], *, until: Until) -> None: ...


class Status(Protocol):
    """What is needed of a VipStatus."""

    def holds(self, service: Service, vips: Collection[Address]) -> None: ...
    def gives_up(self, ref: ServiceRef) -> None: ...


class Wires(NamedTuple):
    """What touches the network; the functions of `node.addresses`, a Prober and an Announcer."""

    bind: Callable[[Sequence[Wanted]], list[KvctlError]]
    extend: Callable[[Sequence[Wanted]], list[KvctlError]]
    unbind: Callable[[Collection[Address]], list[KvctlError]]
    bound: Callable[[], list[Bound]]
    probes: Probes
    announcer: Announces


class Tenure:
    """For the loop's thread, but for `renewed`, which the electorate's threads call.

    `notify` is called when a round is worth it that nothing else would tell of: `has_work` says so then.
    """

    def __init__(
        self,
        settings: Settings,
        terms: Terms,
        *,
        wires: Wires,
        status: Status,
        notify: Callable[[], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
        clean: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wires = wires
        self._notify = notify
        self._complain = complain
        self._clock = clock
        self._status = status
        self._node = settings.this_node
        self._clean = clean
        self._campaign = Campaign(settings, say=say, complain=complain)
        self._upkeep = Upkeep(terms, extend=wires.extend, complain=complain, clock=clock)
        self._refs: dict[LeaseKey, tuple[ServiceRef, ...]] = {}
        self._electors: Electors | None = None
        self._belong: Mapping[LeaseKey, Mapping[Address, str]] = {}
        """The interfaces of the VIPs of what is held."""
        self._prospects: Mapping[LeaseKey, Mapping[Address, str]] = {}
        """The same of what is not held, so that what is won is known to be free when the loop comes to it."""
        self._unable: Mapping[LeaseKey, str] = {}
        """Why this node could not use other Leases."""
        self._unbound: Mapping[LeaseKey, float] = {}
        """What is held, and not all bound; from when on trying again is worth a round."""
        self._undecided: frozenset[Address] = frozenset()
        self._leaving: AbstractSet[LeaseKey] = frozenset()

    def serve(self, electors: Electors) -> None:
        """Whose Leases these are; before anything else."""
        self._electors = electors

    @property
    def _of(self) -> Electors:
        assert self._electors is not None
        return self._electors

    @property
    def candidates(self) -> Candidates:
        """What this node contends for."""
        return self._campaign.candidates

    def plan(self, objects: Objects, host: Host, *, reread: Callable[[], Host] = read_host) -> Host:
        """Contend for what this node may hold, bind what it holds; the host as the rules are to see it.

        `reread`: the host anew, after addresses of it have changed.
        """
        if not self._campaign.read(objects):
            # The rules stay as they are, and so does what is held: it is the picture that is wrong.
            return host
        located = self._campaign.located(host)
        held = self._campaign.contend(self._of, located)
        # Of what begins to leave only after this the rules and the VIP are still here when this round ends.
        self._leaving = self._of.leaving().keys() - held.keys()
        self._belong = {key: located.interfaces[key] for key in held}
        self._prospects = {key: its for key, its in located.interfaces.items() if key not in held}
        self._unable = located.unable
        if self._bind(held, host):
            host = reread()
        self._unbound = self._left_to_bind(held, host)
        self._upkeep.keep({key: place for key in held if any(place := self._place(key, host))}, held)
        self._undecided = self._left_by_the_last(host)
        here = self._here().keys() | self._undecided
        # Not only ours: what an admin has bound is no right to use it while another node has the Lease.
        decided = self._campaign.vips(self.candidates.by_lease) - here
        return host._replace(
            addresses=tuple(
                a for a in host.addresses if a.address in here or not (a.ours or a.address in decided)
            )
        )

    def _here(self) -> dict[Address, str]:
        """What belongs here, with its interface."""
        return {address: where for its in self._belong.values() for address, where in its.items()}

    def _left_by_the_last(self, host: Host) -> frozenset[Address]:
        """What an agent before this one had bound, while nobody has said yet whose the Lease is: it stays so long.

        It has its lifetime: if nobody ever says, the kernel ends it.
        """
        states = self._of.states()
        unknown = [key for key in self.candidates.by_lease if key in states and states[key].holder is None]
        vips = self._campaign.vips(unknown)
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

    def _place(self, key: LeaseKey, host: Host) -> Place:
        """What a Lease has here by now."""
        bound = {vip: where for vip, where in self._belong[key].items() if not _is_to_bind(host, vip, where)}
        policies = [policy for c in self.candidates.by_lease[key] for policy in c.policies]
        # Also where an admin has bound it: the Lease gives the right to use it, and there are rules that do.
        fenced = [(p.family, p.fence.name) for p in policies if p.fence is not None and host.holds(p.vip)]
        return Place(bound, tuple(dict.fromkeys(fenced)))

    def _bind(self, held: Mapping[LeaseKey, Holding], host: Host) -> bool:
        """Bind what is not bound yet, as far as it is known to be free; whether anything was."""
        lifetimes = {key: self._upkeep.lifetime(holding) for key, holding in held.items()}
        wanted = {
            Announced(address, interface): Wanted(address, interface, lifetimes[key], held[key].until)
            for key, its in self._belong.items()
            for address, interface in its.items()
            # An answer serves once: none is taken for what it is too late for, until the Lease is renewed.
            if _is_to_bind(host, address, interface) and lifetimes[key] > 0
        }
        free = self._free_of(wanted)
        binding = [each for place, each in wanted.items() if place in free]
        for error in self._wires.bind(binding) if binding else ():
            self._complain(str(error))
        return bool(binding)

    def _free_of(self, wanted: Collection[Announced]) -> set[Announced]:
        try:
            return self._wires.probes.take(wanted)
        except KvctlError as error:
            # What has to go must not wait for what cannot come.
            self._complain(str(error))
            return set()

    def _left_to_bind(self, held: Mapping[LeaseKey, Holding], host: Host) -> dict[LeaseKey, float]:
        """What is held and not all bound, and when to try again: where its time is over, as soon as it is renewed.

        What an admin has bound is not to be bound by us, and its end is told by the kernel.
        """
        now = self._clock()
        return {
            key: now + (_BIND_AGAIN if self._upkeep.lifetime(held[key]) > 0 else 0.0)
            for key, its in self._belong.items()
            if any(_is_to_bind(host, *each) and not _is_foreign(host, *each) for each in its.items())
        }

    def renewed(self, holding: Holding) -> None:
        """A Lease was won or renewed: what hangs on it lives on. From the electorate's threads."""
        if not self._upkeep.renewed(holding):
            self._wires.probes.want(self._prospect(holding.key))
        if self._unbound.get(holding.key, math.inf) <= self._clock():
            self._notify()

    def has_work(self) -> bool:
        """Whether elections have brought more than Leases whose VIPs are being probed: what `plan` could act on."""
        held, probes = self._of.held().keys(), self._wires.probes
        if self._of.leaving() or self._belong.keys() - held or probes.has_news():
            return True
        now = self._clock()
        if any(at <= now for key, at in self._unbound.items() if key in held):
            return True
        return not all(probes.is_asking(self._prospect(key)) for key in held - self._belong.keys())

    def unplaced(self) -> Mapping[ServiceRef, str]:
        """Of which Services a VIP is not where it could be, and what is in the way: a sentence."""
        found = {
            ref: f"this node does not contend for Lease {key}: {why}"
            for key, why in self._unable.items()
            for ref in self._campaign.refs(key)
        }
        for key in self._unbound:
            for address in self._belong.get(key, {}):
                if (why := self._wires.probes.obstacle(address)) is not None:
                    sentence = f"this node holds Lease {key}, and the VIP {address} is not bound: {why}"
                    found |= dict.fromkeys(self._campaign.refs(key), sentence)
        return found

    def unheard(self) -> str | None:
        """Why nothing is known of any Lease that this node contends for; None: something is, or there is none."""
        states = self._of.states().values()
        if not states or any(state.held or state.holder is not None for state in states):
            return None
        errors = sorted({state.last_error for state in states if state.last_error is not None})
        return f"no Lease could be read: {errors[0]}" if errors else "no Lease has been read yet"

    def _prospect(self, key: LeaseKey) -> list[Announced]:
        return [Announced(address, where) for address, where in self._prospects.get(key, {}).items()]

    def beat(self, family: Family | None = None) -> None:
        """Let the rules (of one family) use what is held: they were written a moment ago."""
        self._upkeep.beat(self._of.held(), family)

    def follow(self, host: Host, *, clean: bool) -> None:
        """After the rules were written: announce what is here, take down what is not used any more.

        `host`: as it was handed to the rules; `clean`: nothing of what has to go is in the rules any more.
        """
        # Also where nothing had to be written, as after a restart.
        self.beat()
        here = self._here()
        bound = [Announced(*each) for each in sorted(here.items(), key=str) if not _is_to_bind(host, *each)]
        self._wires.announcer.announce(bound, until=self._upkeep.until)
        self._tell_services({a.address for a in host.addresses if a.address in here})
        if not clean:
            return
        stays = here.keys() | self._undecided
        going = {each.address for each in self._wires.bound() if each.address not in stays}
        errors = self._wires.unbind(going) if going else []
        for error in errors:
            self._complain(str(error))
        if errors:
            return
        for key in self._leaving:
            self._of.torn_down(key)
            for ref in self._refs.pop(key, ()):
                self._status.gives_up(ref)

    def _tell_services(self, there: Collection[Address]) -> None:
        for key in self._belong:
            self._refs[key] = self._campaign.refs(key)
            for candidate in self.candidates.by_lease.get(key, ()):
                vips = [policy.vip for policy in candidate.policies if policy.vip in there]
                service = self._campaign.service(candidate.ref)
                if vips and service is not None:
                    self._status.holds(service, vips)


def _is_to_bind(host: Host, address: Address, interface: str) -> bool:
    """Whether a VIP is not where it belongs. One that somebody else has put there is refused, and that is told."""
    return not any(a.ours and a.serves and a.interface == interface for a in host.having(address))


def _is_foreign(host: Host, address: Address, interface: str) -> bool:
    """Whether somebody else has put it here, so that it is none to be bound."""
    return any(not a.ours and (a.serves or a.interface == interface) for a in host.having(address))
