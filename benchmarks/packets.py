"""Packets that pods send all the time, and who they come from by the kernel's clock."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from kvctl.lab.build import Lab
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from tests.agent.electing import WORKERS, mac_of

_PORT = 5060
_SEND_GAP = 0.02
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
# One flow for each pod, so that the tables of connections stay as small as they are without it.
_SENDER = """
import socket, sys, time
to, port, gap, *sources = sys.argv[1:]
sockets = []
for source in sources:
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[-1].bind((source, 0))
while True:
    for each in sockets:
        each.sendto(b"x", (to, int(port)))
    time.sleep(float(gap))
"""


class Packet(NamedTuple):
    at: float
    """Seconds, by the kernel's clock."""
    node: str


class Ear:
    """Hears which node sends the outside packets with which VIP as source."""

    def __init__(self, lab: Lab, vips: list[str]) -> None:
        self.packets: dict[str, list[Packet]] = {vip: [] for vip in vips}
        self._by_mac = {mac_of(lab, worker): worker for worker in WORKERS}
        self._socket = lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.1)
        self._socket.bind(("eth1", 0x0800))  # linux/if_ether.h ETH_P_IP
        # Nobody reads what it gets; but without it the outside would answer that nobody is there.
        self._sink = lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind((STANDARD[Family.IPV4].outside_eth1, _PORT))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ear", daemon=True)

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()
        self._sink.close()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                frame, control, _, _ = self._socket.recvmsg(64, 64)
            except TimeoutError:
                continue
            its, node = self.packets.get(socket.inet_ntoa(frame[26:30])), self._by_mac.get(frame[6:12])
            if its is not None and node is not None and frame[23] == socket.IPPROTO_UDP:
                seconds, nanoseconds = struct.unpack("@qq", control[0][2])
                its.append(Packet(seconds + nanoseconds / 1e9, node))

    def longest_gap(self, vip: str) -> float:
        """The most seconds between two packets of a VIP."""
        return max((later.at - earlier.at for earlier, later in pairwise(self.packets[vip])), default=0.0)

    def changes(self, vip: str) -> int:
        """How often one node's packet followed another's."""
        return sum(earlier.node != later.node for earlier, later in pairwise(self.packets[vip]))


@contextmanager
def sending(pods: Namespace, *, sources: list[str]) -> Iterator[None]:
    """A process that sends from all these addresses to the outside, without a pause."""
    argv = [
        sys.executable,
        "-c",
        _SENDER,
        STANDARD[Family.IPV4].outside_eth1,
        str(_PORT),
        str(_SEND_GAP),
        *sources,
    ]
    sender = subprocess.Popen(pods.argv(argv))
    try:
        yield
    finally:
        sender.kill()
        sender.wait()
