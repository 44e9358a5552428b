"""How messages and attributes of netlink are laid out: netlink(7), linux/netlink.h."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from struct import Struct

from kvctl.errors import NetlinkError

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_HEADER = Struct("=IHHII")
_STATUS = Struct("=i")
_ATTRIBUTE = Struct("=HH")


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute as it goes over the wire, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def read_attributes(data: bytes | bytearray, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """The attributes between two offsets by type; of a type that comes twice the last one.

    Raises NetlinkError if they do not fit there.
    """
    limit = len(data) if end is None else end
    region = bytes(data[start:limit])
    unpack = _ATTRIBUTE.unpack_from
    attributes: dict[int, bytes] = {}
    place, end_of_headers = 0, len(region) - _ATTRIBUTE.size
    while place <= end_of_headers:
        length, kind = unpack(region, place)
        if length < 4 or place + length > len(region):
            raise malformed("attribute")
        attributes[kind & _NLA_TYPE_MASK] = region[place + 4 : place + length]
        place += (length + 3) & ~3
    return attributes


def malformed(part: str) -> NetlinkError:
    """The error for an answer of the kernel that is not laid out as its headers say."""
    return NetlinkError(f"cannot read the kernel's answer: malformed {part}", errno=errno.EBADMSG)


def message(kind: int, flags: int, sequence: int, port: int, payload: bytes) -> bytes:
    """One message as it goes over the wire, padded."""
    padding = bytes(-len(payload) % 4)
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, port) + payload + padding


def messages(buffer: bytearray, length: int, what: str) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Type, flags, sequence, port, and the bounds of the payload, of each message in a datagram."""
    unpack, header = _HEADER.unpack_from, _HEADER.size
    start = 0
    while start < length:
        if start + header > length:
            raise NetlinkError(f"{what}: the kernel's answer is cut off", errno=errno.EBADMSG)
        size, kind, flags, sequence, port = unpack(buffer, start)
        if size < header or start + size > length:
            raise NetlinkError(f"{what}: the kernel's answer is malformed", errno=errno.EBADMSG)
        yield kind, flags, sequence, port, start + header, start + size
        start += (size + 3) & ~3


def read_refusal(buffer: bytearray, start: int, end: int, flags: int, what: str) -> NetlinkError | None:
    """What an NLMSG_ERROR or NLMSG_DONE says: None is success."""
    if start + _STATUS.size > end:
        return None if start == end else malformed("status")
    (status,) = _STATUS.unpack_from(buffer, start)
    if status == 0:
        return None
    reason = os.strerror(-status)
    if flags & NLM_F_CAPPED and flags & NLM_F_ACK_TLVS:
        text = read_attributes(buffer, start + _STATUS.size + _HEADER.size, end).get(_NLMSGERR_ATTR_MSG)
        if text:
            reason = f"{reason} ({text.rstrip(bytes(1)).decode('ascii', 'backslashreplace')})"
    return NetlinkError(f"{what}: {reason}", errno=-status)
