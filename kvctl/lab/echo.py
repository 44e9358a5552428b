"""Servers that answer with the source they saw, in a namespace of the lab."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kvctl.echo.server import Limits, Question, Server, listen
from kvctl.lab.netns import Namespace

# Tests keep their connections for as long as they like.
_LIMITS = Limits(connections=10_000, idle_seconds=86_400.0, answers=10**9)


@dataclass(frozen=True, slots=True)
class Heard:
    """What an Echo counts, whether or not its answer reached anybody."""

    protocol: str
    source: str
    destination_port: int


class Echo:
    """TCP and UDP servers on `ports`, both families, in one thread; a context manager.

    `heard` counts what arrived by `Heard`. A request is one line (TCP) or one datagram (UDP) of kvctl.echo.wire.
    """

    def __init__(
        self, namespace: Namespace, *, ports: Iterable[int], protocols: Iterable[str] = ("tcp", "udp")
    ) -> None:
        self.heard: Counter[Heard] = Counter()
        wanted = tuple(dict.fromkeys(protocols))
        sockets: list[socket.socket] = []
        try:
            with namespace.entered():
                for port in sorted(set(ports)):
                    sockets += listen(port=port, protocols=wanted)
        except BaseException:
            for each in sockets:
                each.close()
            raise
        self._server = Server(sockets, limits=_LIMITS, heard=self._count)
        self._thread = threading.Thread(
            target=self._server.serve, name=f"echo in {namespace.name}", daemon=True
        )

    def sources(self, *, protocol: str | None = None, port: int | None = None) -> set[str]:
        """Every source address heard so far, of one protocol or port if given."""
        return {
            each.source
            for each in list(self.heard)
            if protocol in (None, each.protocol) and port in (None, each.destination_port)
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join()
        self._server.close()

    def _count(self, question: Question) -> None:
        heard = Heard(question.protocol, question.source, question.destination_port)
        self.heard[heard] += 1
