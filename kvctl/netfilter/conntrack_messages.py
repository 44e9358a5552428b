"""What the kernel's conntrack says and is told over netlink: messages to flows, flows to messages. Pure.

Layouts are those of linux/netfilter/nfnetlink_conntrack.h. What costs is the number of entries, so each is judged by
the bytes of two addresses before anything else of it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from kvctl.model.flows import Flow, Tuple, Volume
from kvctl.model.net import Address, Family, Network, family_of
from kvctl.netlink.messages import attribute, malformed, read_attributes

# Message types: NFNL_SUBSYS_CTNETLINK (1) in the high byte.
GET = 0x0101
DELETE = 0x0102

_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_STATUS = 3
_CTA_PROTOINFO = 4
_CTA_MARK = 8
_CTA_COUNTERS_ORIG = 9
_CTA_COUNTERS_REPLY = 10
_CTA_ID = 12
_CTA_ZONE = 18
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_TUPLE_ZONE = 3
_CTA_PROTO_NUM = 1
_CTA_PROTO_SRC_PORT = 2
_CTA_PROTO_DST_PORT = 3
_CTA_COUNTERS_PACKETS = 1
_CTA_COUNTERS_BYTES = 2
_CTA_PROTOINFO_TCP = 1
_CTA_PROTOINFO_TCP_STATE = 1

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
# TCP, UDP, DCCP, SCTP, UDP-Lite; GRE's keys come in the same attributes and are no ports.
_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
_TCP = 6
# enum tcp_conntrack of linux/netfilter/nf_conntrack_tcp.h
_TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)

# linux/netfilter/nf_conntrack_common.h: IPS_SEEN_REPLY
_SEEN_REPLY = 1 << 1

_GENERIC_HEADER_BYTES = 4  # struct nfgenmsg: family, version, resource id
_NESTED = 0x8000


class _Layout(NamedTuple):
    """Where a family's addresses are in an entry as every kernel so far has laid it out.

    `original` reads: length and type of the tuple, type and length of what comes before the source
    as one number, the source. `reply` reads the same of the reply tuple (no length), then the
    header of the destination and the destination.
    """

    number: int
    address_attributes: tuple[int, int]
    original: Struct
    reply: Struct
    before_source: int
    before_destination: int
    ported: Struct
    """A whole tuple of a protocol with ports: addresses, protocol, ports, each after its headers."""
    ported_headers: tuple[bytes, ...]
    """What the headers in `ported` must be."""


def _layout(*, number: int, address_bytes: int, source: int, destination: int) -> _Layout:
    nla = Struct("=HH").pack
    ip_header = nla(2 * (4 + address_bytes) + 4, _CTA_TUPLE_IP | _NESTED)
    before_source = ip_header + nla(4 + address_bytes, source)
    before_destination = nla(4 + address_bytes, destination)
    before_protocol = nla(28, _CTA_TUPLE_PROTO | _NESTED) + nla(5, _CTA_PROTO_NUM)
    return _Layout(
        number=number,
        address_attributes=(source, destination),
        original=Struct(f"=4xHHQ{address_bytes}s"),
        reply=Struct(f"=2xHQ{address_bytes}xI{address_bytes}s"),
        before_source=Struct("=Q").unpack(before_source)[0],
        before_destination=Struct("=I").unpack(before_destination)[0],
        ported=Struct(f"!8s{address_bytes}s4s{address_bytes}s8sB3x4sH2x4sH2x"),
        ported_headers=(
            before_source,
            before_destination,
            before_protocol,
            nla(6, _CTA_PROTO_SRC_PORT),
            nla(6, _CTA_PROTO_DST_PORT),
        ),
    )


_LAYOUTS = {
    Family.IPV4: _layout(number=2, address_bytes=4, source=1, destination=2),
    Family.IPV6: _layout(number=10, address_bytes=16, source=3, destination=4),
}


def flow_reader(
    *, family: Family, sources: Collection[Network], reply_destinations: Collection[Address]
) -> Callable[[bytearray, int, int], Flow | None]:
    """The function that makes a Flow of a message, or None of one that nobody asked for."""
    layout = _LAYOUTS[family]
    unpack_original, unpack_reply = layout.original.unpack_from, layout.reply.unpack_from
    before_source, before_destination = layout.before_source, layout.before_destination
    least = layout.original.size
    reply_bytes = layout.reply.size
    matches = _source_matcher(family=family, networks=sources)
    targets = frozenset(a.packed for a in reply_destinations if family_of(a) is family)

    def read(buffer: bytearray, start: int, end: int) -> Flow | None:
        if end - start >= least:
            size, kind, before, source = unpack_original(buffer, start)
            reply_start = start + _GENERIC_HEADER_BYTES + ((size + 3) & ~3)
            fits = reply_start + reply_bytes <= end
            if fits and kind == _CTA_TUPLE_ORIG | _NESTED and before == before_source:
                kind, before, between, target = unpack_reply(buffer, reply_start)
                if (
                    kind == _CTA_TUPLE_REPLY | _NESTED
                    and before == before_source
                    and between == before_destination
                ):
                    if target in targets or matches(source):
                        return _flow(buffer, start, end, family=family, layout=layout)
                    return None
        # Laid out in another order: nothing forbids it. Read it whole, then judge.
        flow = _flow(buffer, start, end, family=family, layout=layout)
        wanted = flow.reply.destination.packed in targets or matches(flow.original.source.packed)
        return flow if wanted else None

    return read


def _source_matcher(*, family: Family, networks: Collection[Network]) -> Callable[[bytes], bool]:
    """Whether a packed address lies in one of the networks: a set look-up for each prefix length."""
    single: set[bytes] = set()
    by_mask: dict[int, set[int]] = {}
    for network in networks:
        if family_of(network) is not family:
            continue
        if network.prefixlen == family.bits:
            single.add(network.network_address.packed)
        else:
            by_mask.setdefault(int(network.netmask), set()).add(int(network.network_address))
    prefixes = tuple(by_mask.items())
    if not prefixes:
        return single.__contains__

    def matches(source: bytes) -> bool:
        if source in single:
            return True
        number = int.from_bytes(source, "big")
        return any(number & mask in bases for mask, bases in prefixes)

    return matches


def _flow(buffer: bytearray, start: int, end: int, *, family: Family, layout: _Layout) -> Flow:
    entry = read_attributes(buffer, start + _GENERIC_HEADER_BYTES, end)
    try:
        raw = entry[_CTA_TUPLE_ORIG]
        protocol, original, zone = _tuple(raw, layout=layout)
        _, reply, _ = _tuple(entry[_CTA_TUPLE_REPLY], layout=layout)
        return Flow(
            family=family,
            protocol=_PROTOCOLS.get(protocol, str(protocol)),
            original=original,
            reply=reply,
            zone=_number(entry.get(_CTA_ZONE, b"")) or zone,
            id=_number(entry.get(_CTA_ID, b"")),
            state=_tcp_state(entry.get(_CTA_PROTOINFO)) if protocol == _TCP else None,
            raw_tuple=raw,
            mark=_number(entry.get(_CTA_MARK, b"")),
            replied=bool(_number(entry.get(_CTA_STATUS, b"")) & _SEEN_REPLY),
            sent=_volume(entry.get(_CTA_COUNTERS_ORIG)),
            received=_volume(entry.get(_CTA_COUNTERS_REPLY)),
        )
    except (KeyError, ValueError) as error:
        raise malformed("connection") from error


def _tuple(data: bytes, *, layout: _Layout) -> tuple[int, Tuple, int]:
    """Protocol number, addresses and ports, and the zone if it holds for this direction only, else 0."""
    if len(data) == layout.ported.size:
        h1, sender, h2, receiver, h3, number, h4, sport, h5, dport = layout.ported.unpack(data)
        if (h1, h2, h3, h4, h5) == layout.ported_headers and number in _WITH_PORTS:
            ends = (_address(sender), _address(receiver))
            return number, Tuple(*ends, source_port=sport, destination_port=dport), 0
    return _tuple_in_any_order(data, layout=layout)


def _tuple_in_any_order(data: bytes, *, layout: _Layout) -> tuple[int, Tuple, int]:
    parts = read_attributes(data)
    addresses = read_attributes(parts[_CTA_TUPLE_IP])
    source, destination = layout.address_attributes
    protocol = read_attributes(parts[_CTA_TUPLE_PROTO])
    number = _number(protocol[_CTA_PROTO_NUM])
    ported = number in _WITH_PORTS
    return (
        number,
        Tuple(
            source=_address(addresses[source]),
            destination=_address(addresses[destination]),
            source_port=_number(protocol[_CTA_PROTO_SRC_PORT]) if ported else 0,
            destination_port=_number(protocol[_CTA_PROTO_DST_PORT]) if ported else 0,
        ),
        _number(parts.get(_CTA_TUPLE_ZONE, b"")),
    )


def _volume(counters: bytes | None) -> Volume | None:
    """What a direction's counters say; None: this connection is not counted."""
    if counters is None:
        return None
    counts = read_attributes(counters)
    return Volume(
        packets=_number(counts.get(_CTA_COUNTERS_PACKETS, b"")),
        octets=_number(counts.get(_CTA_COUNTERS_BYTES, b"")),
    )


@lru_cache(maxsize=1024)
def _tcp_state(protocol_info: bytes | None) -> str | None:
    """The state in conntrack's words, in decimal if the kernel has learned new ones."""
    if protocol_info is None:
        return None
    tcp = read_attributes(read_attributes(protocol_info).get(_CTA_PROTOINFO_TCP, b""))
    if _CTA_PROTOINFO_TCP_STATE not in tcp:
        return None
    number = _number(tcp[_CTA_PROTOINFO_TCP_STATE])
    return _TCP_STATES[number] if number < len(_TCP_STATES) else str(number)


def deletion(flow: Flow) -> bytes:
    """The payload that deletes this entry: its tuple, its zone and its id."""
    if not flow.raw_tuple:
        raise ValueError("only a flow that was read from the kernel can be deleted")
    parts = [
        attribute(_CTA_TUPLE_ORIG | _NESTED, flow.raw_tuple),
        attribute(_CTA_ID, flow.id.to_bytes(4, "big")),
    ]
    # A zone of one direction is in the tuple, and the kernel refuses (EINVAL) one that is given twice.
    if flow.zone and _CTA_TUPLE_ZONE not in read_attributes(flow.raw_tuple):
        parts.append(attribute(_CTA_ZONE, flow.zone.to_bytes(2, "big")))
    return generic_header(flow.family) + b"".join(parts)


def generic_header(family: Family) -> bytes:
    """The header of a question about one family (struct nfgenmsg)."""
    return bytes((_LAYOUTS[family].number, 0, 0, 0))


def _number(data: bytes) -> int:
    """A number as conntrack attributes carry them, in network byte order; 0 for an empty one."""
    return int.from_bytes(data, "big")


@lru_cache(maxsize=65536)
def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
