"""From a pod or a Service and a destination to what is asked from where, and what is expected of it."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from kvctl.errors import InputError
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, family_of, parse_address
from kvctl.model.ref import ServiceRef
from kvctl.model.text import plural, quote
from kvctl.verify.expected import Expectation, Kind, NamedPod, Rules
from kvctl.verify.faults import MEND
from kvctl.verify.sender import LEAST_INTERVAL, Job
from kvctl.verify.spaces import NamespaceError, Space, find_spaces, told_space
from kvctl.verify.tally import Asked

MOST_PODS = 100
"""So many are asked from at once."""


class Questions(NamedTuple):
    """How to ask."""

    port: int
    protocols: tuple[str, ...]
    times: int | None
    """By each pod and protocol; None: until it is stopped."""
    interval: float
    timeout: float
    of: ServiceRef | None = None
    """The Service that it is all about; None: the pods alone."""


class Place(NamedTuple):
    """A pod's namespace, and what is asked from there."""

    space: Space
    job: Job
    asked: tuple[Asked, ...]
    """One a protocol."""


def resolve(name: str) -> list[Address]:
    """The addresses of a host, as this node (not the pod) knows them: at most one of each family.

    Raises InputError where there are none.
    """
    try:
        return [parse_address(name)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"--to {quote(name)} has no address: {why}", hint="give an address") from error
    addresses: dict[int, Address] = {}
    for *_, end in found:
        if "%" not in str(end[0]):
            address = parse_address(str(end[0]))
            addresses.setdefault(address.version, address)
    if not addresses:
        raise InputError(f"--to {quote(name)} has no address that can be asked", hint="give an address")
    return list(addresses.values())


def of_family(targets: Sequence[Address], told: Address) -> tuple[list[Address], str | None]:
    """Those that a source of this family can ask, and what to say of the others; raises InputError: there is none."""
    same = [target for target in targets if target.version == told.version]
    others = ", ".join(str(target) for target in targets if target.version != told.version)
    if not same:
        raise InputError(
            f"--expect {told} is never seen at {others}: that is of the other address family",
            hint=f"give an IPv{targets[0].version} address with --expect, or an IPv{told.version} one with --to",
        )
    return same, f"{others} is not asked: --expect {told} is of the other address family" if others else None


def check_ends(pod: Address | None, targets: Sequence[Address], host: Host) -> None:
    """Raises InputError where no pod's traffic can leave this node between them."""
    if pod is not None and host.is_local(pod):
        raise InputError(
            f"{pod} is an address of this node, not of a pod",
            hint="pods on the host network leave as the node, and are never rewritten: give the address of another",
        )
    for target in targets:
        if host.is_local(target):
            raise InputError(
                f"{target} is an address of this node: what a pod sends there does not leave it",
                hint="run kvctl egress echo on a host outside of the cluster, and give its address",
            )


def pods_of(ref: ServiceRef, rules: Rules, families: Collection[Family]) -> list[NamedPod]:
    """The pods that the rules name for a Service; raises InputError where there are none, or none are led to it."""
    found = list(dict.fromkeys(rules.pods_of(ref)))
    have = {family_of(pod.address) for pod in found}
    for family in families:
        why = rules.why_led_nowhere(ref, family) if family not in have else None
        if why is not None:
            raise InputError(
                f"{ref} has rules on this node, but its pods are not led to them: {why}",
                hint=f"{MEND}; see: kvctl egress show {ref}",
            )
    if not found:
        raise InputError(
            f"{ref} has no egress rules on this node",
            hint="see: kvctl egress list; for one pod whatever the rules: --from POD_IP --expect ADDRESS",
        )
    return found


@contextmanager
def opened(
    pods: Sequence[NamedPod],
    targets: Sequence[Address],
    questions: Questions,
    *,
    rules: Rules,
    told: Address | None,
    netns: str | None,
) -> Iterator[tuple[list[Place], list[NamespaceError]]]:
    """What is asked, pod by pod and in each family that both ends have, and pods whose namespace cannot be had.

    `told`: the source that is expected, whatever the rules say. Raises InputError where no pod can ask any target;
    NamespaceError where no namespace can be had.
    """
    pairs = [(pod, to) for pod in pods for to in targets if pod.address.version == to.version]
    if not pairs:
        raise InputError(
            f"no pod has an address of the family of {targets[0]}",
            hint="give a --to of the other address family",
        )
    each_waits = max(questions.interval, LEAST_INTERVAL * len(pairs) * len(questions.protocols))
    questions = questions._replace(interval=each_waits)
    places: list[Place] = []
    missing: list[NamespaceError] = []
    with ExitStack() as stack:
        addresses = [pod.address for pod, _ in pairs]
        spaces = find_spaces(addresses) if netns is None else {a: told_space(netns, a) for a in addresses}
        for pod, to in pairs:
            space = spaces[pod.address]
            if isinstance(space, NamespaceError):
                missing.append(space)
            else:
                places.append(_place(stack.enter_context(space), pod, to, questions, rules, told))
        if not places:
            raise missing[0]
        yield places, missing


def _place(
    space: Space, pod: NamedPod, to: Address, questions: Questions, rules: Rules, told: Address | None
) -> Place:
    port, protocols, times, interval, timeout, of = questions
    asked = []
    for protocol in protocols:
        expected = (
            Expectation(Kind.TOLD, address=told)
            if told is not None
            else rules.expected(pod.address, to, protocol=protocol, port=port)
        )
        one = Asked(pod.address, to, port, protocol, expected, pod=pod.name, of=of)
        service = of if of is not None else expected.service
        if service is not None and (expected.kind is Kind.NOT_VIP or not one.proves):
            one = one._replace(ports=rules.ports_of(service, pod.address, to))
        asked.append(one)
    return Place(space, Job(pod.address, to, port, protocols, times, interval, timeout), tuple(asked))


def among(pods: Sequence[NamedPod]) -> tuple[Sequence[NamedPod], str | None]:
    """So many of them as are asked from at once, and what to say of the others."""
    if len(pods) <= MOST_PODS:
        return pods, None
    return pods[:MOST_PODS], f"only {MOST_PODS} of {plural(len(pods), 'pod')} are asked from"
