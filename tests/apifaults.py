"""What an API server may do wrong, as values, and which requests it does it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvctl.lab.api.requests import Request


@dataclass(frozen=True)
class Status:
    """A refusal; in a stream an ERROR event."""

    code: int
    reason: str = ""
    retry_after: int | None = None
    message: str = "as the test wants it"


@dataclass(frozen=True)
class Drop:
    """The connection ends without an answer; in a stream in the middle of it."""


@dataclass(frozen=True)
class Hang:
    """No answer, or no further event or bookmark, and the connection stays: half-open."""


@dataclass(frozen=True)
class Cut:
    """The answer ends in the middle; a stream in the middle of an event."""


@dataclass(frozen=True)
class End:
    """A stream ends as if its time were over; at a request: the stream ends at once."""


@dataclass(frozen=True)
class Drip:
    """The answer, or an event, comes byte by byte, so many seconds apart, and never ends."""

    seconds: float = 0.02


@dataclass(frozen=True)
class Body:
    """These bytes instead of the answer; in a stream as a line of it."""

    content: bytes


Fault = Status | Drop | Hang | Cut | End | Drip | Body
Match = Callable[[Request], bool]


def watches(resource: str) -> Match:
    """Watches of a resource."""
    return lambda request: request.resource == resource and request.is_watch


def lists(resource: str) -> Match:
    """Lists of a resource, every page."""
    return lambda request: request.resource == resource and request.method == "GET" and not request.is_watch


def anything(resource: str) -> Match:
    """Every request for a resource."""
    return lambda request: request.resource == resource


@dataclass
class Rule:
    """A fault to come."""

    fault: Fault
    on: Match
    times: int | None
    """None: each time."""


class FaultError(Exception):
    """In the inbox of a watch: the fault that comes next."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault
