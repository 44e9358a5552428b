"""Pods that never stop sending, and what the outside hears of them: when, by which source address, from whose pod."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.lab.netns import Namespace
from kvctl.lab.traffic import LONGEST

TICK = 0.01
"""Seconds between two packets of a pod's open flow; between them it begins a new one."""
_WAKE_SECONDS = 0.05
_RECEIVE_BUFFER = 8 << 20


class Packet(NamedTuple):
    """A datagram that the outside was sent."""

    at: float
    """Monotonic seconds."""
    source: str
    pod: str
    """By what it says, not by where it came from."""


class Witness:
    """All pods send to `destination` at each tick, and the outside notes and answers each; a context manager.

    `pods` by the name under which they are noted. A pod has one UDP flow that stays open, and begins a new one at
    each tick; it waits for nothing.
    """

    def __init__(
        self, pods: Mapping[str, Namespace], *, outside: Namespace, destination: str, port: int
    ) -> None:
        self.packets: list[Packet] = []
        self.answers: list[tuple[float, str]] = []
        """When an answer reached the open flow of which pod."""
        self._pods = pods
        self._target = (destination, port)
        self._ear = outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._ear.settimeout(_WAKE_SECONDS)
        self._ear.bind(self._target)
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(run,), name=f"witness: {run.__name__}", daemon=True)
            for run in (self._hear, self._send)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._ear.close()
        if self._error is not None and error is None:
            raise self._error

    def heard(self, *, since: float) -> list[Packet]:
        """What has come since, oldest first; raises what has ended a thread, if something has."""
        if self._error is not None:
            raise self._error
        return [packet for packet in list(self.packets) if packet.at >= since]

    def _run(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._error = error

    def _hear(self) -> None:
        while not self._end.is_set():
            with suppress(TimeoutError):
                content, peer = self._ear.recvfrom(LONGEST)
                self.packets.append(Packet(time.monotonic(), peer[0], content.decode("ascii")))
                # A source that the outside has no way back to has been noted all the same.
                with suppress(OSError):
                    self._ear.sendto(content, peer)

    def _send(self) -> None:
        flows = {name: self._flow(name) for name in self._pods}
        try:
            while not self._end.wait(TICK):
                for name, flow in flows.items():
                    self._read(name, flow)
                    _speak(flow, name)
                    with self._flow(name) as fresh:
                        _speak(fresh, name)
        finally:
            for flow in flows.values():
                flow.close()

    def _flow(self, name: str) -> socket.socket:
        flow = self._pods[name].socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.setblocking(False)
        flow.connect(self._target)
        return flow

    def _read(self, name: str, flow: socket.socket) -> None:
        with suppress(OSError):
            while flow.recv(LONGEST):
                self.answers.append((time.monotonic(), name))


def _speak(flow: socket.socket, text: str) -> None:
    # A worker that has no way says so, and the next packet hears of it.
    with suppress(OSError):
        flow.send(text.encode("ascii"))


def longest_silence(times: list[float], *, since: float, until: float) -> float:
    """The longest time in which nothing came, in seconds; `times` in order."""
    points = [since, *(at for at in times if since <= at <= until), until]
    return max(after - before for before, after in pairwise(points))
