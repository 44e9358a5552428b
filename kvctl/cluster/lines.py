"""The lines of an answer that never ends, as they come: what a watch is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

from kvctl.errors import ClusterError

LARGEST_LINE = 16 * 2**20
"""Bytes of one watch event: etcd keeps objects of 1.5 MiB by default."""
_BLOCK = 2**18


class Lines:
    """The lines of a stream, without their ends; blank ones too. Ends where the server ends the stream."""

    def __init__(self, answer: Any, *, timeout: float, fail: Callable[[Exception], NoReturn]) -> None:
        self._answer = answer
        self._timeout = timeout
        self._fail = fail
        self._interrupted = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._lines()
        except ClusterError:
            raise
        except Exception as error:
            if not self._interrupted:
                self._fail(error)

    def _lines(self) -> Iterator[bytes]:
        begun, buffer = time.monotonic(), bytearray()
        while not self._interrupted and (chunk := self._answer.read1(_BLOCK)):
            *lines, rest = (buffer + chunk).split(b"\n")
            for line in lines:
                yield bytes(line)
            if lines:
                begun = time.monotonic()
            buffer = bytearray(rest)
            # A server that drips is as good as silent, and a line without an end would fill the memory.
            if time.monotonic() - begun > self._timeout or len(buffer) > LARGEST_LINE:
                raise ClusterError(f"no whole event within {self._timeout:g} s")
        if buffer and not self._interrupted:
            raise ClusterError("the connection broke off in the middle of an event")

    def interrupt(self) -> None:
        """End the stream from another thread: its reader wakes up as if the server had ended it."""
        self._interrupted = True
        # An answer that has ended meanwhile has no socket left.
        with suppress(Exception):
            self._answer.shutdown()
