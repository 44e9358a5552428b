"""Which VIPs this node may contend for (serviceElection), by which Lease, and why not for the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address
from kvctl.model.objects import Objects, Pod, Service
from kvctl.model.policy import EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.interface import service_interface
from kvctl.policy.lease import lease_of
from kvctl.policy.management import managed_elsewhere
from kvctl.policy.pods import selected_pods
from kvctl.policy.resolution import Resolution


class Candidate(NamedTuple):
    """A Service that could have its rules here if its VIPs were."""

    ref: ServiceRef
    policies: tuple[EgressPolicy, ...]
    """One a family, as they would be."""
    ready: bool
    """One of its pods here is ready."""

    @property
    def vips(self) -> frozenset[Address]:
        """Its VIPs."""
        return frozenset(policy.vip for policy in self.policies)


class Located(NamedTuple):
    """Where the VIPs of each Lease belong on a host."""

    interfaces: Mapping[LeaseKey, Mapping[Address, str]]
    """Of those Leases that the host could use: the interface of each VIP."""
    unable: Mapping[LeaseKey, str]
    """Why it could not use the others, in words."""


class Candidates(NamedTuple):
    """What a node contends for."""

    by_lease: Mapping[LeaseKey, tuple[Candidate, ...]]
    refused: Mapping[ServiceRef, str]
    """Why kvctl manages no address of a Service that has a pod here; the rules follow whoever does."""

    def interfaces(self, host: Host, key: LeaseKey) -> dict[Address, str]:
        """The interface each VIP of a Lease belongs on; without those that none can be told for."""
        found: dict[Address, str] = {}
        for candidate in self.by_lease.get(key, ()):
            for policy in candidate.policies:
                interface = service_interface(policy, host)
                if interface is not None:
                    found.setdefault(policy.vip, interface)
        return found

    def located(self, host: Host) -> Located:
        """What of it this host has working interfaces for: who could not use a Lease must not hold it."""
        interfaces: dict[LeaseKey, Mapping[Address, str]] = {}
        unable: dict[LeaseKey, str] = {}
        for key in self.by_lease:
            interfaces[key] = self.interfaces(host, key)
            why = self._lacks(key, interfaces[key], host)
            if why is not None:
                unable[key] = why
                del interfaces[key]
        return Located(interfaces, unable)

    def _lacks(self, key: LeaseKey, interfaces: Mapping[Address, str], host: Host) -> str | None:
        """The sentence about the first VIP that this host has no interface for, or none that works."""
        for candidate in self.by_lease[key]:
            for policy in sorted(candidate.policies, key=lambda policy: str(policy.vip)):
                why = _obstacle(policy, interfaces.get(policy.vip), host)
                if why is not None:
                    return f"the VIP {policy.vip} of {candidate.ref} cannot be here: {why}"
        return None

    def with_kept(self, before: Candidates, faulty: Collection[ServiceRef]) -> Candidates:
        """With those of `before` whose Services have become faulty: their rules stay, and so does what these need."""
        known = {candidate.ref for its in self.by_lease.values() for candidate in its}
        kept = {
            key: tuple(c for c in its if c.ref in faulty and c.ref not in known)
            for key, its in before.by_lease.items()
        }
        if not any(kept.values()):
            return self
        keys = (*self.by_lease, *(key for key, its in kept.items() if its and key not in self.by_lease))
        return self._replace(
            by_lease={key: (*self.by_lease.get(key, ()), *kept.get(key, ())) for key in keys}
        )


NOTHING = Candidates(by_lease={}, refused={})


def _obstacle(policy: EgressPolicy, interface: str | None, host: Host) -> str | None:
    """Why the VIP of a policy would be of no use on an interface of this host."""
    if interface is None:
        return "no route leads to it"
    if interface not in host.interfaces:
        return f"this node has no interface {interface}"
    if (network := host.network_that_ends_at(policy.vip)) is not None:
        return f"it is the first or the last address of {network}, which no host may have"
    fault = host.fault_of(interface)
    if fault is not None or policy.interface is not None:
        return fault
    # The routes of an interface that is down have gone, and the default one leads elsewhere.
    its_own = [name for name in host.down if _is_in_network_of(name, policy.vip, host)]
    if not its_own or _is_in_network_of(interface, policy.vip, host):
        return None
    return host.fault_of(min(its_own))


def _is_in_network_of(interface: str, vip: Address, host: Host) -> bool:
    """Whether a VIP lies in the network of an address on an interface."""
    return any(
        int(a.address) >> (a.address.max_prefixlen - a.prefix_length)
        == int(vip) >> (vip.max_prefixlen - a.prefix_length)
        for a in host.addresses
        if a.interface == interface
        and a.address.version == vip.version
        and a.prefix_length < a.address.max_prefixlen
    )


def find_candidates(resolution: Resolution, objects: Objects) -> Candidates:
    """What to contend for; `resolution`: of this node's objects as if every VIP were here."""
    policies: dict[ServiceRef, list[EgressPolicy]] = {}
    for wanted in resolution.wanted:
        policies.setdefault(wanted.policy.ref, []).append(wanted.policy)
    refused: dict[ServiceRef, str] = {}
    by_lease: dict[LeaseKey, list[Candidate]] = {}
    for ref, its in policies.items():
        service = resolution.services[ref]
        why = managed_elsewhere(service, announced=objects.announced.get(ref, ()))
        if why is not None:
            refused[ref] = why
            continue
        ready = any(pod.ready for pod in _pods(service, resolution))
        key = lease_of(ref, service.annotations)
        by_lease.setdefault(key, []).append(Candidate(ref, tuple(its), ready))
    return Candidates(by_lease={key: tuple(its) for key, its in by_lease.items()}, refused=refused)


def _pods(service: Service, resolution: Resolution) -> Iterable[Pod]:
    """The pods here that the Service selects; of EndpointSlices those that are known."""
    if service.selector:
        return selected_pods(service, resolution.index)
    addresses = (endpoint.address for endpoint in resolution.index.endpoints.get(service.ref, ()))
    return [pod for address in addresses if (pod := resolution.index.owners.get(address)) is not None]
