"""The cluster's own word on its pod and service ranges, read at start and now and then."""

from __future__ import annotations

from collections.abc import Callable

from kvctl.cluster.collect import Ranges
from kvctl.cluster.connection import Connection
from kvctl.cluster.listing import read_ranges
from kvctl.cluster.pace import Pace
from kvctl.cluster.reflector import Getter
from kvctl.cluster.source import Source, Tell

RANGES = "ranges"
"""What this source is called where a kind is expected."""


class RangesReader(Source):
    """Reads them until they are answered, then again every `pace.absent` seconds: they hardly ever change."""

    def __init__(
        self,
        connection: Connection,
        *,
        notify: Callable[[], None],
        pace: Pace,
        tell: Tell = lambda state: None,
    ) -> None:
        super().__init__(RANGES, notify=notify, pace=pace, tell=tell)
        self.ranges = Ranges()
        self._server = Getter(connection, timeout=pace.answer)

    def _round(self) -> float:
        ranges = read_ranges(self._server)
        if self._stopping:
            return 0.0
        first, changed = not self.synced, ranges != self.ranges
        self.ranges, self.synced = ranges, True
        self._lists += 1
        self._contact()
        if first or changed:
            self._notify()
        return self._pace.spread(self._pace.absent)
