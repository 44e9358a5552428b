"""How patient a watch is: time-outs, back-off, jitter; with time and chance as values."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event


@dataclass(frozen=True, slots=True)
class Pace:
    """All in seconds. The defaults of delays are client-go's (tools/cache/reflector.go)."""

    first_delay: float = 0.8
    longest_delay: float = 30.0
    longest_wait: float = 60.0
    """However long the server asks to wait."""
    healthy_after: float = 120.0
    """So long without a failure, and the next delay is the first one again."""
    answer: float = 30.0
    """A list, or a single object, may keep us waiting so long for its next bytes."""
    silence: float = 130.0
    """A watch without a whole line for so long is dead: a server that sends bookmarks does so every minute
    (kube-apiserver, cacher.go: defaultBookmarkFrequency), so two have not come. One that sends none is
    asked anew each time, at the version we are at, which costs it nothing."""
    shortest_watch: int = 300
    longest_watch: int = 600
    """timeoutSeconds is drawn between them, so that the nodes of a cluster do not reconnect together."""
    at_once: float = 1.0
    """A watch that ends sooner, with no event, counts as failed."""
    refused_for: float = 300.0
    """A kind that could be read counts as gone when it is refused for so long without a break. An API server
    that starts answers 403 and 404 until it knows its roles and its CRDs, and an upgrade of a CRD or of a role
    may take minutes; what was read last is nearer to the truth meanwhile than nothing."""
    ask_again: float = 30.0
    """Between two questions for a kind that is not there, or forbidden."""
    absent: float = 600.0
    """Between two readings of ranges."""
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    """At least 0, below 1."""
    pause: Callable[[Event, float], object] = Event.wait
    """Waits so many seconds, or until the event is set."""

    def watch_seconds(self) -> int:
        """The timeoutSeconds of the next watch."""
        return self.shortest_watch + int(self.chance() * (self.longest_watch - self.shortest_watch))

    def spread(self, seconds: float) -> float:
        """`seconds`, and up to a fifth more."""
        return seconds * (1 + self.chance() / 5)


class BackOff:
    """Delays that double from failure to failure, each with up to as much again by chance."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._failures = 0
        self._healthy_since: float | None = None

    def contact(self) -> None:
        """The server has answered."""
        if self._healthy_since is None:
            self._healthy_since = self._pace.now()

    def failed(self, *, retry_after: float | None = None) -> float:
        """How many seconds to wait now.

        Never fewer than the server asked for (`retry_after`), but for an answer of a minute that is meant for years:
        what stands in between has its say here, too.
        """
        pace, since = self._pace, self._healthy_since
        if since is not None and pace.now() - since >= pace.healthy_after:
            self._failures = 0
        self._healthy_since = None
        # The exponent is bounded: a server may be away for weeks.
        delay = min(pace.first_delay * 2.0 ** min(self._failures, 30), pace.longest_delay)
        self._failures += 1
        return max(delay * (1 + pace.chance()), min(retry_after or 0.0, pace.longest_wait))
