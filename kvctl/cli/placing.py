"""`apply --with-vip`: the VIP itself put on its interface and announced, by hand, on a node without an agent."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from kvctl.cli.output import error_message, note, printable, warning
from kvctl.errors import KvctlError
from kvctl.model.host import Host, HostAddress
from kvctl.model.net import Address, host_network
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.node.addresses import Wanted, bind, bound, unbind
from kvctl.node.announce import Announced, Announcer
from kvctl.node.host import read_host
from kvctl.node.probe import answered
from kvctl.policy.candidates import find_candidates
from kvctl.policy.resolve import resolve
from kvctl.reconcile.target import Scope

_FRAMES_SECONDS = 2.0
"""How long the first announcement may take."""


class Placing(NamedTuple):
    """The VIPs that are to be put on interfaces, and why others are not."""

    missing: tuple[Announced, ...]
    warnings: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """What is done, a line each, as ip(8) words addresses."""
        return tuple(
            f"+ {'ip -6' if vip.version == 6 else 'ip'} addr {host_network(vip)} dev {where}, and announced there"
            for vip, where in self.missing
        )

    def on(self, host: Host) -> Host:
        """The host as it will be."""
        placed = (HostAddress(vip, vip.max_prefixlen, where, ours=True) for vip, where in self.missing)
        return host._replace(addresses=(*host.addresses, *placed))


def find_places(objects: Objects, *, settings: Settings, scope: Scope, host: Host) -> Placing:
    """Where the VIPs of what `scope` covers belong that are not on `host` yet."""
    resolution = resolve(objects, replace(settings, assume_vip=True), host=None)
    candidates = find_candidates(resolution, objects)
    warnings = [
        f"the VIP of {ref} is not placed: {why}"
        for ref, why in sorted(candidates.refused.items())
        if scope.covers(ref)
    ]
    interfaces: dict[Address, str] = {}
    for key, its in candidates.by_lease.items():
        covered = {vip for candidate in its if scope.covers(candidate.ref) for vip in candidate.vips}
        found = candidates.interfaces(host, key)
        interfaces |= {vip: found[vip] for vip in covered if vip in found}
        warnings += [
            f"the VIP {vip} is not placed: no interface is named for it, and no route leads to it"
            for vip in sorted(covered - found.keys(), key=str)
        ]
    missing = (
        Announced(vip, where) for vip, where in sorted(interfaces.items(), key=str) if host.holds(vip) is None
    )
    return Placing(tuple(missing), tuple(warnings))


def place(objects: Objects, *, settings: Settings, scope: Scope) -> int:
    """Bind the VIPs of what `scope` covers, without a lifetime, and announce them; the exit status.

    One that somebody answers for on the network is left alone, and so is one that is there already.
    """
    found = find_places(objects, settings=settings, scope=scope, host=read_host())
    for text in found.warnings:
        warning(printable(text))
    return _bind(found.missing) if found.missing else 0


def _bind(missing: Collection[Announced]) -> int:
    answers = answered(missing, complain=lambda text: warning(printable(text)))
    for vip, mac in sorted(answers.items(), key=str):
        error_message(
            KvctlError(
                f"the VIP {vip} is not placed: {mac} answers for it on the network already",
                hint="find who it is, or give the Service another address",
            )
        )
    free = [each for each in missing if each.address not in answers]
    errors = bind([Wanted(each.address, each.interface, None) for each in free]) if free else []
    for error in errors:
        error_message(error)
    here = read_host()
    placed = [each for each in free if here.holds(each.address) is not None]
    for each in placed:
        note(f"{each.address} is on {each.interface} now")
    _announce(placed)
    return 1 if answers or errors else 0


def _announce(placed: Collection[Announced]) -> None:
    if not placed:
        return
    announcer = Announcer(complain=lambda text: warning(printable(text)))
    announcer.start()
    try:
        announcer.announce(placed)
        end = time.monotonic() + _FRAMES_SECONDS
        while time.monotonic() < end and not all(s.frames or s.error for s in announcer.states().values()):
            time.sleep(0.01)
    finally:
        announcer.stop()


def take_down(vips: Iterable[Address] | None) -> int:
    """Take away what `place` has bound of these VIPs (None: all of it); the exit status."""
    ours = {each.address: each.interface for each in bound()}
    going = ours.keys() if vips is None else ours.keys() & set(vips)
    errors = unbind(going) if going else []
    for error in errors:
        error_message(error)
    for vip in sorted(going, key=str):
        note(f"{vip} is not on {ours[vip]} any more")
    return 1 if errors else 0
