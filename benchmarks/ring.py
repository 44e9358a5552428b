"""Frames sent by the thousand with one system call, so that what is timed is the kernel and not Python.

packet_mmap (Documentation/networking/packet_mmap.rst): frames lie in memory that the kernel shares, one send() takes
them all. A veth hands each frame to the other end's receive path in the same thread, so the call returns when every
frame has been forwarded, translated and delivered: its time is that of the whole path.
"""

from __future__ import annotations

import fcntl
import mmap
import socket
import struct
import time
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.lab.netns import Namespace

# linux/if_packet.h, linux/if_ether.h, linux/sockios.h
_SOL_PACKET, _PACKET_VERSION, _PACKET_TX_RING, _TPACKET_V2 = 263, 10, 13, 1
_SEND_REQUEST, _ETH_P_IP, _SIOCGIFHWADDR = 1, 0x0800, 0x8927
_HEADER = 32
"""Octets of a struct tpacket2_hdr, after which a frame that is sent begins."""
_FRAME, _BLOCK = 128, 4096
CHUNK = 512
"""Frames of one send: fewer than net.core.netdev_max_backlog, so that none is lost on the way."""
_ETHERNET, _IP, _UDP = 14, 20, 8


class Tuple(NamedTuple):
    """What tells one connection from others; IPv4 and UDP."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int


class Ring:
    """`CHUNK` frames that leave by `interface` of `namespace` to the router with address `to`; a context manager."""

    def __init__(self, namespace: Namespace, *, interface: str, to: bytes) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        blocks = CHUNK * _FRAME // _BLOCK
        self._socket.setsockopt(
            _SOL_PACKET, _PACKET_TX_RING, struct.pack("=IIII", _BLOCK, blocks, _FRAME, CHUNK)
        )
        self._socket.bind((interface, _ETH_P_IP))
        self._memory = mmap.mmap(self._socket.fileno(), CHUNK * _FRAME)
        self._image = bytes(CHUNK * _FRAME)
        self._ethernet = to + hardware_address(namespace, interface) + struct.pack("!H", _ETH_P_IP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.close()
        self._socket.close()

    def load(self, several: Sequence[Tuple]) -> None:
        """Make `CHUNK` frames, of these connections in turn."""
        frames = [self._frame(each) for each in several]
        self._image = b"".join(frames[number % len(frames)] for number in range(CHUNK))

    def send(self) -> float:
        """Send what is loaded; seconds until all of it was taken at its end."""
        self._memory[:] = self._image
        begun = time.perf_counter()
        self._socket.send(b"")
        return time.perf_counter() - begun

    def _frame(self, connection: Tuple) -> bytes:
        frame = self._ethernet + packet(connection)
        head = struct.pack("=II", _SEND_REQUEST, len(frame)).ljust(_HEADER, b"\0")
        return head + frame.ljust(_FRAME - _HEADER, b"\0")


def hardware_address(namespace: Namespace, interface: str) -> bytes:
    """The six octets of an interface of a namespace."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16s16x8x", interface.encode("ascii"))
        return fcntl.ioctl(asked, _SIOCGIFHWADDR, request)[18:24]


def packet(connection: Tuple) -> bytes:
    """An IPv4 packet with a UDP datagram of one octet; its UDP checksum is left out (RFC 768)."""
    source, source_port, destination, port = connection
    length = _UDP + 1
    head = _head(source, destination, length=length)
    return head + struct.pack("!HHHH", source_port, port, length, 0) + b"x"


@cache
def _head(source: IPv4Address, destination: IPv4Address, *, length: int) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, _IP + length, 0, 0, 64, 17, 0, source.packed, destination.packed
    )
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:]


def _checksum(head: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
