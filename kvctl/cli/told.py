"""What the cluster's Events have told of the Services that `show` shows, where a cluster was named to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvctl.cli.inputs import Inputs
from kvctl.cli.output import Json
from kvctl.errors import ClusterError
from kvctl.model.ref import ServiceRef
from kvctl.model.text import one_line

if TYPE_CHECKING:
    from kvctl.cluster.recent_events import RecentEvent
    from kvctl.reconcile.report import Item

_SECONDS = 5.0
"""What all requests may take."""
_MOST = 5
_LONGEST_WORD, _LONGEST_MESSAGE = 60, 300


class Told(NamedTuple):
    """The newest Events by Service; `why_not`: of those that are not there."""

    events: Mapping[ServiceRef, Sequence[RecentEvent]]
    now: float
    why_not: str | None = None

    def lines(self, ref: ServiceRef | None) -> Iterator[str]:
        """Newest first."""
        events = self.events.get(ref) if ref is not None else None
        if events is None:
            yield f"  last Events: - ({self.why_not or 'not asked for'})"
            return
        yield "  last Events" if events else "  no Events"
        for event in events:
            often = f" ({event.times} times)" if event.times > 1 else ""
            said = one_line(event.message, longest=_LONGEST_MESSAGE)
            # By its own word: whoever may write Events may write any.
            by = f" by {_word(event.by)}" if event.by else ""
            yield f"    {self._age(event)} ago  {_word(event.type)}  {_word(event.reason)}{by}: {said}{often}"

    def json(self, ref: ServiceRef | None) -> Sequence[Json] | None:
        """The same for programs; null: they could not be read."""
        events = self.events.get(ref) if ref is not None else None
        if events is None:
            return None
        return [
            {
                "ageSeconds": None if event.at is None else round(self.now - event.at),
                "type": event.type,
                "reason": event.reason,
                "message": event.message,
                "count": event.times,
                "by": event.by,
            }
            for event in events
        ]

    def _age(self, event: RecentEvent) -> str:
        return "-" if event.at is None else age(self.now - event.at)


def age(seconds: float) -> str:
    """As kubectl has it: the greatest unit alone. A clock that runs ahead makes 0s."""
    left = max(0, round(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if left >= 2 * length:
            return f"{left // length}{unit}"
    return f"{left}s"


def read_told(inputs: Inputs, items: Sequence[Item]) -> Told | None:
    """The Events of these Services; None where no cluster was named. What fails is said, and fails nothing."""
    if not inputs.name_a_source or inputs.filenames:
        return None
    from kvctl.cluster.connection import open_connection
    from kvctl.cluster.recent_events import recent_events

    found: dict[ServiceRef, Sequence[RecentEvent]] = {}
    why_not: str | None = None
    connection = open_connection(kubeconfig=inputs.kubeconfig, context=inputs.context)
    end = time.monotonic() + _SECONDS
    try:
        for ref in sorted({item.ref for item in items if item.ref is not None}):
            left = end - time.monotonic()
            if left <= 0:
                why_not = f"not read within {_SECONDS:.0f} s: name fewer Services"
                break
            found[ref] = recent_events(connection, ref, most=_MOST, timeout=left)
    except ClusterError as error:
        why_not = one_line(str(error))
    finally:
        connection.close()
    return Told(found, now=time.time(), why_not=why_not)


def _word(text: str) -> str:
    return one_line(text, longest=_LONGEST_WORD) or "-"
