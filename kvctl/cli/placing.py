"""`apply --with-vip`: the VIP itself put on its interface and announced, by hand, on a node without an agent."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from kvctl.cli.output import error_message, note, printable, warning
from kvctl.errors import KvctlError
from kvctl.model.host import Host, HostAddress
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, host_network
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.model.text import one_line
from kvctl.node.addresses import Bound, Wanted, bind, bound, unbind
from kvctl.node.announce import Announced, Announcer
from kvctl.node.host import read_host
from kvctl.node.probe import and_where_it_belongs, answered
from kvctl.policy.candidates import Candidate, find_candidates
from kvctl.policy.holder import VIP_HOST
from kvctl.policy.resolution import Resolution
from kvctl.policy.resolve import resolve
from kvctl.reconcile.target import Scope

_FRAMES_SECONDS = 2.0
"""How long the first announcement may take."""


class Placing(NamedTuple):
    """The VIPs that are to be put on interfaces, and why others are not."""

    missing: tuple[Announced, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: tuple[KvctlError, ...] = ()
    """Services whose VIP is a Lease's to decide."""
    vips: frozenset[Address] = frozenset()
    """All that are meant to be here, those that are already, too."""
    moving: tuple[Bound, ...] = ()
    """Those of `missing` that kvctl has on another interface."""

    def lines(self) -> tuple[str, ...]:
        """What is done, a line each, as ip(8) words addresses."""
        return (
            *(f"+ {_ip(vip, where)}, and announced there" for vip, where in self.missing),
            *map(removal, self.moving),
        )

    def on(self, host: Host) -> Host:
        """The host as it will be."""
        placed = (HostAddress(vip, vip.max_prefixlen, where, ours=True) for vip, where in self.missing)
        gone = {(each.address, each.interface) for each in self.moving}
        stay = (each for each in host.addresses if (each.address, each.interface) not in gone)
        return host._replace(addresses=(*stay, *placed))

    def report(self) -> int:
        """Say what is not placed, and why; the exit status this makes."""
        for text in self.warnings:
            warning(printable(text))
        for text in self.notes:
            note(printable(text))
        for error in self.refused:
            error_message(error)
        return 1 if self.refused else 0


class Placed(NamedTuple):
    """What came of it."""

    vips: frozenset[Address] = frozenset()
    """Those that are meant to be here."""
    changed: bool = False
    status: int = 0


def removal(gone: Bound) -> str:
    """That an address goes, as ip(8) words it."""
    return f"- {_ip(gone.address, gone.interface)}"


def _ip(vip: Address, where: str) -> str:
    return f"{'ip -6' if vip.version == 6 else 'ip'} addr {host_network(vip)} dev {where}"


def find_places(
    objects: Objects, *, settings: Settings, scope: Scope, host: Host, force: bool = False
) -> Placing:
    """Where the VIPs of what `scope` covers belong that are not on `host` for good yet.

    Not those that a Lease decides about, unless by `force`: what the cluster or an agent's address says of it.
    """
    resolution = resolve(objects, settings._replace(assume_vip=True), host=None)
    candidates = find_candidates(resolution, objects)
    warnings = [
        f"the VIP of {ref} is not placed: {why}"
        for ref, why in sorted(candidates.refused.items())
        if scope.covers(ref)
    ]
    ours = bound()
    lent = {each.address: each.lifetime for each in ours if each.lifetime is not None}
    interfaces: dict[Address, str] = {}
    refused: list[KvctlError] = []
    for key, its in candidates.by_lease.items():
        covered = [candidate for candidate in its if scope.covers(candidate.ref)]
        holder = next(filter(None, (resolution.services[c.ref].annotations.get(VIP_HOST) for c in its)), None)
        errors = [_of_a_lease(c, key, host=host, holder=holder, lent=lent) for c in covered]
        if not force and any(errors):
            refused += filter(None, errors)
            continue
        vips = {vip for candidate in covered for vip in candidate.vips}
        found = candidates.interfaces(host, key)
        interfaces |= {vip: found[vip] for vip in vips if vip in found}
        warnings += [
            f"the VIP {vip} is not placed: no interface is named for it, and no route leads to it"
            for vip in sorted(vips - found.keys(), key=str)
        ]
        warnings += [text for vip in sorted(vips, key=str) if (text := _own_address(vip, host)) is not None]
    missing = (
        Announced(vip, where)
        for vip, where in sorted(interfaces.items(), key=str)
        if host.holds(vip) is None or vip in lent or any(_moves(each, vip, where) for each in ours)
    )
    return Placing(
        missing=tuple(missing),
        warnings=tuple(warnings),
        notes=tuple(_nothing_of(resolution, scope)),
        refused=tuple(refused),
        vips=frozenset(interfaces),
        moving=tuple(each for each in ours if _moves(each, each.address, interfaces.get(each.address))),
    )


def _moves(placed: Bound, vip: Address, where: str | None) -> bool:
    """Whether this is that VIP, on another interface than where it belongs by now."""
    return placed.address == vip and where is not None and placed.interface != where


def _of_a_lease(
    candidate: Candidate, key: LeaseKey, *, host: Host, holder: str | None, lent: Mapping[Address, int | None]
) -> KvctlError | None:
    """Why a VIP is not to be kept here by hand: another node could have it at the same time."""
    vips = [vip for vip in sorted(candidate.vips, key=str) if host.holds(vip) is None or vip in lent]
    lifetime = next((lent[vip] for vip in vips if vip in lent), None)
    if not vips or (holder is None and lifetime is None):
        return None
    said = (
        f"{one_line(holder, longest=253)} by its last word"
        if holder is not None
        else f"it is here for {lifetime} s more, by an agent"
    )
    return KvctlError(
        f"{candidate.ref}: Lease {key} decides who has {', '.join(map(str, vips))} ({said}): "
        f"--with-vip would keep {'it' if len(vips) == 1 else 'them'} here for ever",
        hint="start the agent again, or --force where no node contends for it any more",
    )


def _own_address(vip: Address, host: Host) -> str | None:
    for each in host.having(vip):
        by_prefix = each.prefix_length < vip.max_prefixlen and not (each.secondary or each.deprecated)
        if each.serves and by_prefix and not each.ours:
            name = f"{vip}/{each.prefix_length} on {each.interface}"
            return f"the VIP {vip} is this host's own address ({name}): it is neither placed nor taken away"
    return None


def _nothing_of(resolution: Resolution, scope: Scope) -> Iterator[str]:
    """Of Services that were named why there is nothing of them to place."""
    wanted = {wanted.policy.ref for wanted in resolution.wanted}
    for ref in sorted((scope.named or frozenset()) - wanted):
        reasons = dict.fromkeys(skip.reason for skip in resolution.skipped if skip.ref == ref)
        if reasons:
            yield f"no VIP of {ref} is placed: {'; '.join(reasons)}"


def place(objects: Objects, *, settings: Settings, scope: Scope, force: bool) -> Placed:
    """Bind the VIPs of what `scope` covers, without a lifetime, and announce them.

    One that somebody answers for on the network is left alone, and so is one that is there already.
    """
    found = find_places(objects, settings=settings, scope=scope, host=read_host(), force=force)
    status = found.report()
    if not found.missing:
        return Placed(found.vips, status=status)
    changed, failed = _bind(found.missing)
    return Placed(found.vips, changed, max(status, failed))


def _bind(missing: Collection[Announced]) -> tuple[bool, int]:
    """Whether one was placed, and the exit status."""
    probed = answered(and_where_it_belongs(missing, read_host()))
    obstacles = probed.obstacles(missing)
    for vip, why in sorted(obstacles.items(), key=str):
        who = "find who it is, or give the Service another address" if vip in probed.claims else None
        error_message(KvctlError(f"the VIP {vip} is not placed: {why}", hint=who))
    free = [each for each in missing if each.address not in obstacles]
    errors = bind([Wanted(each.address, each.interface, None) for each in free]) if free else []
    for error in errors:
        error_message(error)
    here = read_host()
    placed = [each for each in free if here.holds(each.address) is not None]
    for each in placed:
        note(f"{each.address} is on {each.interface} now")
    _announce(placed)
    return bool(placed), 1 if obstacles or errors else 0


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


def take_down(vips: Iterable[Address] | None) -> Placed:
    """Take away what `place` has bound of these VIPs (None: all of it)."""
    ours = {each.address: each.interface for each in bound()}
    going = ours.keys() if vips is None else ours.keys() & set(vips)
    errors = unbind(going) if going else []
    for error in errors:
        error_message(error)
    for vip in sorted(going, key=str):
        note(f"{vip} is not on {ours[vip]} any more")
    return Placed(changed=bool(going), status=1 if errors else 0)


def take_leftover(leftover: Collection[Bound]) -> int:
    """Take away what no Service has rules with any more; the exit status."""
    return take_down({each.address for each in leftover}).status if leftover else 0


def tell_leftover(leftover: Iterable[Bound]) -> None:
    """Say that it stays."""
    for each in leftover:
        note(
            f"{each.address} stays on {each.interface}: apply --with-vip placed it, and no Service has rules with it "
            "any more; apply --with-vip or flush --all takes it away"
        )
