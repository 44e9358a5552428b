"""What the kernel knows beside its rules, as far as matches and targets ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.netfilter.fence import ages
from kvctl.node.host import read_host
from kvctl.node.lookup import Answer, Sought, look_up, masquerade_addresses
from kvctl.trace.packet import Packet


class Facts(NamedTuple):
    """Answers of the kernel, of the network namespace they are asked in; each may raise KvctlError."""

    way: Callable[[Packet], Answer]
    """The way of a forwarded packet."""
    kind_of: Callable[[Address], str]
    """`local`, `broadcast`, `multicast`, ...; `unicast` also where there is no route."""
    heartbeat: Callable[[str], float | None]
    """Seconds since the last heartbeat of this list of xt_recent; None: there was none."""
    masquerade: Callable[[str, Address], tuple[Address, ...]]
    """By interface and next hop: what MASQUERADE may choose."""
    masqueraded_on: Callable[[Address], tuple[str, ...]]
    """The interfaces on which MASQUERADE may have chosen this address."""


def kernels_facts() -> Facts:
    """Those of the calling thread's network namespace."""
    return Facts(
        way=_way,
        kind_of=_kind_of,
        heartbeat=_heartbeat,
        masquerade=_masquerade,
        masqueraded_on=_masqueraded_on,
    )


def _way(packet: Packet) -> Answer:
    return look_up(
        Sought(
            destination=packet.destination,
            source=packet.source,
            iif=packet.in_interface,
            mark=packet.mark,
            protocol=packet.protocol,
            source_port=packet.source_port,
            destination_port=packet.destination_port,
        )
    )


def _kind_of(address: Address) -> str:
    kind = look_up(Sought(destination=address)).kind
    return "unicast" if kind == "refused" else kind


def _heartbeat(name: str) -> float | None:
    return ages((name,)).get(name)


def _masquerade(interface: str, next_hop: Address) -> tuple[Address, ...]:
    return masquerade_addresses(interface=interface, next_hop=next_hop)


def _masqueraded_on(address: Address) -> tuple[str, ...]:
    host = read_host()
    if not host.may_masquerade_as(address):
        return ()
    return tuple(each.interface for each in host.having(address))
