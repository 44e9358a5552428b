"""Packets that pods send all the time."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kvctl.lab.build import Lab
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family

_PORT = 5060
_SEND_GAP = 0.02
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


@contextmanager
def sink(lab: Lab) -> Iterator[None]:
    """Nobody reads what the outside gets; but without it the outside would answer that nobody is there."""
    with lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.bind((STANDARD[Family.IPV4].outside_eth1, _PORT))
        yield


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
