"""What a rule's target does to a packet: iptables-extensions(8), as a function from packet to packet."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum

from kvctl.model.net import Address, contains, parse_address, parse_network
from kvctl.trace.facts import Facts
from kvctl.trace.packet import Packet, Tracking
from kvctl.trace.ruleset import ForeignTarget

PASSING = frozenset(
    (
        "LOG",
        "NFLOG",
        "ULOG",
        "TRACE",
        "SECMARK",
        "CONNSECMARK",
        "CLASSIFY",
        "AUDIT",
        "SET",
        "CHECKSUM",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TEE",
        "DSCP",
        "TOS",
        "ECN",
    )
)
"""Targets after which the walk goes on, and which change nothing that is followed here."""


_OPTIONS = {
    "MARK": ("--set-xmark",),
    "CONNMARK": ("--set-xmark", "--save-mark", "--restore-mark", "--nfmask", "--ctmask"),
    "NOTRACK": (),
    "TTL": ("--ttl-set", "--ttl-inc"),
    "HL": ("--hl-set", "--hl-inc"),
    "SNAT": ("--to-source", "--random", "--random-fully", "--persistent"),
    "MASQUERADE": ("--to-ports", "--random", "--random-fully"),
    "DNAT": ("--to-destination", "--random", "--random-fully", "--persistent"),
    "NETMAP": ("--to",),
}
"""What is understood of each target that is followed: with anything else it may do something else."""
FOLLOWED = frozenset((*_OPTIONS, "CT"))
"""Targets that change what is followed."""
_LIVES_ON = {"TTL": ("--ttl-set", "--ttl-inc"), "HL": ("--hl-set", "--hl-inc")}
# What comes with 1 is not forwarded (ip_forward in Linux).
_LEAST_TO_LIVE = 2
_ONLY_PORTS = re.compile(r":[0-9]+(-[0-9]+)?(/[0-9]+)?")


class End(StrEnum):
    """How a walk through a table ends."""

    PASSED = "passed"
    DROPPED = "dropped"
    UNKNOWN = "unknown"
    """By a target whose effect is not known here."""


class Unknown(Exception):  # noqa: N818  # no error: an answer
    """What a target does cannot be told; the message says why."""


def changed(target: ForeignTarget, packet: Packet, facts: Facts) -> tuple[Packet, bool] | None:
    """The packet after a target that changes it, and whether that ends the table; None: it changes nothing.

    Raises Unknown.
    """
    name = target.name
    _check_options(target)
    try:
        if name == "MARK":
            mark = _set(target, packet.mark)
            return packet if mark == packet.mark else replace(packet, mark=mark), False
        if name == "CONNMARK":
            return _connection_mark(target, packet), False
        if name == "NOTRACK" or (name == "CT" and target.options == (("--notrack", ()),)):
            return _exempted(packet), False
        if name in _LIVES_ON:
            return _living(target, packet), False
        if name == "SNAT":
            return _new_source(packet, _fixed(target.option("--to-source"))), True
        if name == "MASQUERADE":
            return _masqueraded(packet, facts), True
        if name == "DNAT":
            return _new_destination(packet, target.option("--to-destination")), True
        if name == "NETMAP":
            return _mapped(target, packet), True
    except ValueError as error:
        raise Unknown(f"its value is not understood ({error})") from error
    return None


def _check_options(target: ForeignTarget) -> None:
    if any(option not in _OPTIONS.get(target.name, (option,)) for option, _ in target.options):
        raise Unknown("what one of its options does is not known here")


def _set(target: ForeignTarget, mark: int) -> int:
    text = target.option("--set-xmark")
    if text is None:
        raise Unknown("this way of marking is not known here")
    value, _, mask = text.partition("/")
    return mark & ~(int(mask, 0) if mask else 0xFFFFFFFF) & 0xFFFFFFFF ^ int(value, 0)


def _living(target: ForeignTarget, packet: Packet) -> Packet:
    to_set, to_add = _LIVES_ON[target.name]
    if target.option(to_add) is None and int(target.option(to_set) or 0) < _LEAST_TO_LIVE:
        raise Unknown("how many hops the packet may have left is not known")
    return packet


def _exempted(packet: Packet) -> Packet:
    return replace(packet, connection=replace(packet.connection, tracking=Tracking.UNTRACKED))


def _connection_mark(target: ForeignTarget, packet: Packet) -> Packet:
    connection = packet.connection
    if connection.tracking is not Tracking.TRACKED:
        return packet  # connmark_tg in xt_connmark.c: there is nothing to mark
    options = {option for option, _ in target.options}
    if "--set-xmark" in options:
        return replace(packet, connection=replace(connection, mark=_set(target, connection.mark)))
    bits = int(target.option("--nfmask") or "0xffffffff", 0)
    its = int(target.option("--ctmask") or "0xffffffff", 0)
    if options - {"--nfmask", "--ctmask"} == {"--restore-mark"}:
        return replace(packet, mark=packet.mark & ~bits ^ connection.mark & its)
    if options - {"--nfmask", "--ctmask"} == {"--save-mark"}:
        mark = connection.mark & ~its ^ packet.mark & bits
        return replace(packet, connection=replace(connection, mark=mark))
    raise Unknown("this way of marking is not known here")


def _fixed(text: str | None) -> Address | None:
    """The one address of `--to-source`; None: only ports are given, so the address stays."""
    if text is None:
        raise Unknown("several addresses, of which the kernel chooses")
    if _ONLY_PORTS.fullmatch(text):
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "-" in text:
        raise Unknown(f"the kernel chooses one of {text}")
    return parse_address(text)


def _new_source(packet: Packet, source: Address | None, among: tuple[Address, ...] = ()) -> Packet:
    source = packet.source if source is None else source
    connection = replace(packet.connection, reply_destination=source)
    return replace(packet, source=source, connection=connection, source_chosen=True, sources=among)


def _masqueraded(packet: Packet, facts: Facts) -> Packet:
    if packet.out_interface is None or packet.next_hop is None:
        raise Unknown("the interface it leaves by is not known")
    found = facts.masquerade(packet.out_interface, packet.next_hop)
    if not found:
        raise Unknown(f"no address of {packet.out_interface} fits")
    return _new_source(packet, found[0], found if len(found) > 1 else ())


def _new_destination(packet: Packet, text: str | None) -> Packet:
    destination = _fixed(text)
    if text is None or destination is None or packet.protocol.startswith("icmp"):
        port = text[1:] if text is not None and destination is None else None
    else:
        rest = text.partition("]")[2] if text.startswith("[") else text
        port = rest.partition(":")[2] if rest.count(":") == 1 else None
    if port is not None and not port.isdecimal():
        raise Unknown(f"the kernel chooses one of the ports {port}")
    destination = packet.destination if destination is None else destination
    return replace(
        packet,
        destination=destination,
        destination_port=int(port) if port else packet.destination_port,
        connection=replace(packet.connection, reply_source=destination),
        destination_chosen=True,
    )


def _mapped(target: ForeignTarget, packet: Packet) -> Packet:
    network = parse_network(target.option("--to") or "")
    mapping = packet.source if packet.out_interface is not None else packet.destination
    host = int(mapping) & int(network.hostmask)
    address = network.network_address + host
    assert contains(network, address)
    if packet.out_interface is not None:
        return _new_source(packet, address)
    return _new_destination(packet, f"[{address}]" if address.version == 6 else str(address))
