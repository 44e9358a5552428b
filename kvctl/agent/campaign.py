"""Which Leases this node contends for: what it reads in the cluster's picture, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from kvctl.election.electorate import Candidacy, Holding, LeaseState
from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address
from kvctl.model.objects import Objects, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.candidates import NOTHING, Candidates, Located, find_candidates
from kvctl.policy.holder import VIP_HOST
from kvctl.policy.resolve import Resolver
from kvctl.policy.verdict import Fate


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


class Campaign:
    """For the loop's thread. What has not changed since the last round is not worked out anew."""

    def __init__(
        self, settings: Settings, *, say: Callable[[str], None], complain: Callable[[str], None]
    ) -> None:
        self._resolver = Resolver(settings._replace(assume_vip=True))
        self._say = say
        self._complain = complain
        self._said: frozenset[LeaseKey] = frozenset()
        """The Leases of which the log has said last that this node holds them."""
        self._objects: Objects | None = None
        self._services: Mapping[ServiceRef, Service] = {}
        self._vip_hosts: Mapping[ServiceRef, str] = {}
        self._located: tuple[Candidates, Host, Located] | None = None
        self.candidates: Candidates = NOTHING

    def read(self, objects: Objects) -> bool:
        """Find what to contend for; False: the picture lacks this node, and nothing can be told by it."""
        if objects is self._objects:
            return True
        resolution = self._resolver.resolve(objects, host=None)
        if resolution.node_is_unknown:
            return False
        faulty = {skip.ref for skip in resolution.skipped if skip.fate is Fate.KEEP}
        self.candidates = find_candidates(resolution, objects).with_kept(self.candidates, faulty)
        self._services = resolution.services
        self._objects = objects
        return True

    def located(self, host: Host) -> Located:
        """Which Leases this node has the interfaces for, and where the VIPs belong."""
        known = self._located
        if known is None or known[0] is not self.candidates or known[1] != host:
            known = self._located = (self.candidates, host, self.candidates.located(host))
        return known[2]

    def contend(self, electors: Electors, located: Located) -> Mapping[LeaseKey, Holding]:
        """Take part in the elections of what can be here, and in no others; what is held of it now."""
        for key, why in located.unable.items():
            self._complain(f"not contending for Lease {key}: {why}")
        able = {key: self.candidates.by_lease[key] for key in located.interfaces}
        electors.contend({key: Candidacy(ready=any(c.ready for c in its)) for key, its in able.items()})
        self._wake(electors)
        held = {key: holding for key, holding in electors.held().items() if key in able}
        self._say_who(held, electors)
        return held

    def service(self, ref: ServiceRef) -> Service | None:
        """A Service as the picture has it; None: it is not there, or cannot be read."""
        return self._services.get(ref)

    def refs(self, key: LeaseKey) -> tuple[ServiceRef, ...]:
        """The Services of a Lease."""
        return tuple(candidate.ref for candidate in self.candidates.by_lease.get(key, ()))

    def vips(self, keys: Collection[LeaseKey]) -> set[Address]:
        """The VIPs of these Leases."""
        return {vip for key in keys for c in self.candidates.by_lease.get(key, ()) for vip in c.vips}

    def _say_who(self, held: Mapping[LeaseKey, Holding], electors: Electors) -> None:
        for key in sorted(held.keys() - self._said):
            self._say(
                f"this node holds Lease {key}, and with it {', '.join(sorted(map(str, self.vips([key]))))}"
            )
        gone = self._said - held.keys()
        leaving = electors.leaving() if gone else {}
        for key in sorted(gone):
            self._say(f"this node does not hold Lease {key} any more: {leaving.get(key, 'it is free')}")
        self._said = frozenset(held)

    def _wake(self, electors: Electors) -> None:
        """A holder that gives a VIP up takes its name from the Service: then its Lease is free."""
        now: dict[ServiceRef, str] = {}
        for key in self.candidates.by_lease:
            for ref in self.refs(key):
                before, service = self._vip_hosts.get(ref, ""), self.service(ref)
                now[ref] = before if service is None else service.annotations.get(VIP_HOST, "")
                if before and not now[ref]:
                    electors.wake(key)
        self._vip_hosts = now
