"""Ending in order when told to end: what has been built is taken down first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def orderly() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise in the block, once: what cleans up behind them is not disturbed.

    SIGINT raises KeyboardInterrupt, the others SystemExit with 128 + their number. For the main
    thread alone.
    """
    before = {number: signal.getsignal(number) for number in _ENDING}

    def end(number: int, frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in _ENDING:
        # nohup(1) has SIGHUP ignored, and means it.
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
