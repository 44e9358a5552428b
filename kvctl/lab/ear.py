"""An ear at the outside: which worker sends it packets with a VIP as source, and which tells it that it has the VIP."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Collection
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.lab.build import Lab
from kvctl.model.net import parse_address

INTERFACE = "eth1"
"""Where the VIPs of the standard lab live."""
# linux/if_ether.h
_ETH_P_ALL, _IPV4, _ARP, _IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
# Enough for the headers, and for a whole announcement.
_LONGEST = 96
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_STAMP = struct.Struct("@qq")
_RECEIVE_BUFFER = 8 << 20
_WAKE_SECONDS = 0.05
_ADVERTISEMENT = 136  # RFC 4861, 4.4


class Heard(NamedTuple):
    """A frame from a worker."""

    at: float
    """Monotonic seconds, by when the kernel had it."""
    worker: str


class Ear:
    """Hears all frames that come to the outside until the end of the block; a context manager.

    What the neighbours' tables are kept by (ARP, neighbour discovery) counts as no packet.
    """

    def __init__(self, lab: Lab, vips: Collection[str]) -> None:
        self.packets: dict[str, list[Heard]] = {vip: [] for vip in vips}
        self.announcements: dict[str, list[Heard]] = {vip: [] for vip in vips}
        self._vips = {parse_address(vip).packed: vip for vip in vips}
        self._workers = {mac_of(lab, worker.name): worker.name for worker in lab.topology.workers}
        self._socket = lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(_WAKE_SECONDS)
        self._socket.bind((INTERFACE, _ETH_P_ALL))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ear", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()

    def stragglers(self, vip: str) -> list[Heard]:
        """The packets from workers which had the VIP before another told the outside that it has it by now."""
        told = [(heard, True) for heard in list(self.announcements[vip])]
        sent = [(heard, False) for heard in list(self.packets[vip])]
        found: list[Heard] = []
        known: set[str] = set()
        past: set[str] = set()
        for heard, announces in sorted(told + sent):
            known.add(heard.worker)
            if announces:
                past = known - {heard.worker}
            elif heard.worker in past:
                found.append(heard)
        return found

    def longest_gap(self, vip: str) -> float:
        """The most seconds between two packets of a VIP."""
        return max((later.at - earlier.at for earlier, later in pairwise(self.packets[vip])), default=0.0)

    def changes(self, vip: str) -> int:
        """How often one worker's packet followed another's."""
        return sum(earlier.worker != later.worker for earlier, later in pairwise(self.packets[vip]))

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                frame, control, _, _ = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(_STAMP.size))
            except TimeoutError:
                continue
            worker = self._workers.get(frame[6:12])
            if worker is None:
                continue
            seconds, nanoseconds = _STAMP.unpack(control[0][2])
            # The stamp is of the clock on the wall, which somebody may set; how long ago it was does not change.
            age = time.time() - (seconds + nanoseconds / 1e9)
            self._note(frame, Heard(time.monotonic() - age, worker))

    def _note(self, frame: bytes, heard: Heard) -> None:
        announced = self._vips.get(_announced(frame))
        if announced is not None:
            self.announcements[announced].append(heard)
            return
        source = self._vips.get(_source(frame))
        if source is not None:
            self.packets[source].append(heard)


def mac_of(lab: Lab, worker: str) -> bytes:
    """The hardware address of a worker's interface to the VIPs' network."""
    text = lab[worker].run(["cat", f"/sys/class/net/{INTERFACE}/address"]).stdout.strip()
    return bytes.fromhex(text.replace(":", ""))


def _source(frame: bytes) -> bytes:
    """The source address of a packet that is more than neighbours' talk; else nothing."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4:
        return frame[26:30]
    return frame[22:38] if kind == _IPV6 and frame[20] != socket.IPPROTO_ICMPV6 else b""


def _announced(frame: bytes) -> bytes:
    """The address that a gratuitous ARP (RFC 5227, 3) or an advertisement to all nodes is about; else nothing."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ARP and frame[28:32] == frame[38:42]:
        return frame[28:32]
    if kind == _IPV6 and frame[20] == socket.IPPROTO_ICMPV6 and frame[54:55] == bytes((_ADVERTISEMENT,)):
        return frame[62:78] if frame[:2] == b"\x33\x33" else b""
    return b""
