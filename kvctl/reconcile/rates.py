"""What goes on per second, of two looks at counters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family
from kvctl.model.ref import ServiceRef
from kvctl.reconcile.report import Item


class Subject(NamedTuple):
    """A Service in one family, as long as it has this VIP."""

    ref: ServiceRef | None
    family: Family | None
    vip: Address | None


class _Volume(NamedTuple):
    packets: int
    octets: int


class Rate(NamedTuple):
    """Per second; None: not known."""

    connections: float | None = None
    """New ones."""
    packets: float | None = None
    octets: float | None = None
    is_least: bool = False
    """There was more than these packets and bytes: connections have ended since the last look."""


class Sight(NamedTuple):
    """The counters at one moment."""

    at: float
    """In seconds of a clock that only goes forward."""
    connections: Mapping[Subject, int]
    volumes: Mapping[Subject, Mapping[tuple[int, int, bytes], _Volume]] | None
    """By connection, both directions together; None: the kernel does not count."""
    closed: frozenset[tuple[int, int, bytes]] = frozenset()
    """Those of them that have ended, so that nothing is added any more."""
    lost: bool = False
    """Others have ended, and nobody knows which."""


def subject_of(item: Item) -> Subject:
    """Whose counters these are."""
    return Subject(item.ref, item.family, item.vip)


def sight(
    items: Iterable[Item],
    flows: Iterable[Flow] | None,
    *,
    at: float,
    ended: Iterable[Flow] = (),
    lost: bool = False,
) -> Sight:
    """The counters of these items; `flows`: all with their VIPs, None where the kernel counts no bytes.

    `ended`: those that have ended since the last sight, heard of after `flows` was read; `lost`: not of all.
    """
    rows = list(items)
    connections = {subject_of(item): item.connections for item in rows if item.connections is not None}
    if flows is None:
        return Sight(at, connections, None)
    owners: dict[tuple[Address, Address], list[Subject]] = {}
    volumes: dict[Subject, dict[tuple[int, int, bytes], _Volume]] = {}
    for item in rows:
        subject = subject_of(item)
        if item.vip is None or item.connections is None:
            continue
        volumes[subject] = {}
        for pod in item.pods:
            owners.setdefault((pod.address, item.vip), []).append(subject)
    over = tuple(ended)
    for flow in (*flows, *over):
        if flow.sent is None or flow.received is None:
            continue
        both = _Volume(flow.sent.packets + flow.received.packets, flow.sent.octets + flow.received.octets)
        # A pod in two Services of one VIP: nobody can tell by which of the two it left.
        for subject in owners.get((flow.original.source, flow.reply.destination), ())[:1]:
            volumes[subject][_key(flow)] = both
    return Sight(at, connections, volumes, closed=frozenset(map(_key, over)), lost=lost)


def _key(flow: Flow) -> tuple[int, int, bytes]:
    return flow.id, flow.zone, flow.raw_tuple


def rates(before: Sight | None, now: Sight) -> dict[Subject, Rate]:
    """What each subject has done per second between the two; of the first look nothing is known yet."""
    if before is None or now.at <= before.at:
        return {}
    seconds = now.at - before.at
    found: dict[Subject, Rate] = {}
    for subject, count in now.connections.items():
        earlier = before.connections.get(subject)
        begun = None if earlier is None else _since(earlier, count) / seconds
        found[subject] = _with_volumes(Rate(connections=begun), subject, before, now, seconds)
    return found


def _since(before: int, now: int) -> int:
    """A counter that is less than it was has begun anew, with its rule."""
    return now - before if now >= before else now


def _with_volumes(rate: Rate, subject: Subject, before: Sight, now: Sight, seconds: float) -> Rate:
    if before.volumes is None or now.volumes is None:
        return rate
    earlier, later = before.volumes.get(subject), now.volumes.get(subject)
    if earlier is None or later is None:
        return rate
    nothing = _Volume(0, 0)
    packets = sum(_since(earlier.get(key, nothing).packets, each.packets) for key, each in later.items())
    octets = sum(_since(earlier.get(key, nothing).octets, each.octets) for key, each in later.items())
    unheard = any(key not in later and key not in before.closed for key in earlier)
    return rate._replace(packets=packets / seconds, octets=octets / seconds, is_least=unheard or now.lost)
