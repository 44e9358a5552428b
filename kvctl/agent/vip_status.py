"""Telling Services who holds their VIP: written by the holder, taken back when it gives the VIP up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from kvctl.agent.outbox import Limits, Outbox
from kvctl.cluster.vip_status import Client, clear_holder, write_holder, write_status
from kvctl.model.net import Address, family_of, parse_address
from kvctl.model.objects import Service
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import ADDRESSES
from kvctl.policy.holder import VIP_HOST
from kvctl.policy.management import wrote_status_alone

WHAT = "VIP status"
AGAIN_SECONDS = 30.0
"""What the server has not shown by then is written again."""
# A move waits for the next holder's word: it must not queue behind a hundred others' for long.
_LIMITS = Limits(per_second=50.0, at_once=200, first_pause=0.2)


class _Letter(NamedTuple):
    ref: ServiceRef
    vips: tuple[Address, ...] | None
    """None: this node gives them up."""
    with_status: bool
    with_holder: bool

    @property
    def namespace(self) -> str:
        return self.ref.namespace


class VipStatus:
    """For the loop: `holds` and `gives_up` never wait."""

    def __init__(
        self,
        connection: Client,
        *,
        node: str,
        complain: Callable[[str], None],
        count: Callable[[str, str], None] = lambda what, result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._node = node
        self._clock = clock
        self._last: dict[ServiceRef, tuple[_Letter, float]] = {}
        self._outbox: Outbox[_Letter] = Outbox(
            self._send, what=WHAT, complain=complain, count=count, limits=_LIMITS
        )

    def start(self) -> None:
        """Begin to write."""
        self._outbox.start()

    def stop(self, *, patience: float = 0.0) -> None:
        """End; what waits gets `patience` seconds."""
        self._outbox.stop(patience=patience)

    def holds(self, service: Service, vips: Collection[Address]) -> None:
        """These VIPs of the Service are here."""
        stays = _staying(service, vips)
        letter = _Letter(
            service.ref,
            (*vips, *stays),
            with_status=_is_to_write(service, (*vips, *stays)),
            with_holder=service.annotations.get(VIP_HOST) != self._node,
        )
        if not (letter.with_status or letter.with_holder):
            self._last.pop(service.ref, None)
            return
        last, at = self._last.get(service.ref, (None, 0.0))
        # The same not again at once: what the server has taken comes back by the watch.
        if last != letter or self._clock() - at >= AGAIN_SECONDS:
            self._outbox.put(service.ref, letter)
            self._last[service.ref] = letter, self._clock()

    def gives_up(self, ref: ServiceRef) -> None:
        """The VIPs of the Service are free: who waits for them hears of it by the Service."""
        self._last.pop(ref, None)
        self._outbox.put(ref, _Letter(ref, None, with_status=False, with_holder=True))

    def _send(self, letter: _Letter) -> None:
        if letter.vips is None:
            clear_holder(self._connection, letter.ref, self._node)
            return
        if letter.with_status:
            write_status(self._connection, letter.ref, letter.vips)
        if letter.with_holder:
            write_holder(self._connection, letter.ref, self._node)


def _staying(service: Service, vips: Collection[Address]) -> list[Address]:
    """Of the status what is not bound at the moment, in a family of its own: named nowhere else, it would be lost."""
    if service.annotations.get(ADDRESSES) or service.load_balancer_ip:
        return []
    here = {family_of(vip) for vip in vips}
    return [address for address in _in_status(service) if family_of(address) not in here]


def _is_to_write(service: Service, vips: Collection[Address]) -> bool:
    written = _in_status(service)
    # What a person wrote stays as it is as long as it names what is here.
    enough = not wrote_status_alone(service) and set(vips) <= set(written)
    return not enough and written != list(vips)


def _in_status(service: Service) -> list[Address]:
    found = []
    for ingress in service.ingress:
        with suppress(ValueError):
            found.append(parse_address(ingress.ip))
    return found
