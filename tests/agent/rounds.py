"""Rounds for tests that need no kernel: what a node would have after applying these objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kvctl.agent.round import Cause, Round, Turn
from kvctl.cluster.failures import RefusedError
from kvctl.model.host import Host
from kvctl.model.objects import Gate, Pod
from kvctl.policy.resolve import resolve
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Item, Status, computed_items
from kvctl.reconcile.target import Scope
from tests.builders import DUAL_STACK, Thing, objects, pod


def round_with(*things: Thing, host: Host | None = None, **changes: object) -> Round:
    """The round after which all that is wanted is applied; without `host` every VIP is here."""
    everything = objects(*things, from_api=True)
    resolution = resolve(everything, DUAL_STACK, host=host)
    items = [
        item._replace(status=Status.APPLIED, connections=0, changes=())
        if item.status is Status.WANTED
        else item._replace(changes=())
        for item in computed_items(resolution, Scope())
    ]
    done = Round(
        causes=frozenset((Cause.OBJECTS,)),
        ended=1_700_000_000.0,
        duration=0.0123,
        items=tuple(items),
        objects=everything,
        resolution=resolution,
    )
    return replace(done, **changes)  # type: ignore[arg-type]


def with_turns(done: Round, *turns: Turn) -> Round:
    """The round with these changes."""
    return replace(done, turns=turns)


def added(done: Round, *, before: Item | None = None) -> Round:
    """The round as the one that added all its rules."""
    mine = (item for item in done.items if item.status is Status.APPLIED)
    return with_turns(done, *(Turn(item, before, Action.ADDED) for item in mine))


def with_items(done: Round, **changes: Any) -> Round:
    """The round with every item changed so."""
    return replace(done, items=tuple(item._replace(**changes) for item in done.items))


def gated(made: Pod | None = None, gate: Gate | None = None, **changes: object) -> Pod:
    """A pod with the readiness gate, and the uid `uid-NAME`."""
    one = made or pod()
    return one._replace(gate=gate or Gate(), uid=f"uid-{one.name}", **changes)  # type: ignore[arg-type]


class FakeApi:
    """Takes what is sent, and keeps Events as a server would; `refuse` holds the next answers that are errors."""

    def __init__(self, *refuse: Exception) -> None:
        self.refuse = list(refuse)
        self.sent: list[tuple[str, str, Mapping[str, Any], str]] = []
        self.events: dict[str, dict[str, Any]] = {}

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, content_type: str, timeout: float
    ) -> Mapping[str, Any]:
        """POST and PATCH of Events; anything else is taken as it is."""
        self.sent.append((method, path, body, content_type))
        if self.refuse:
            raise self.refuse.pop(0)
        if not path.split("/")[5].startswith("events"):
            return {}
        name = path.rpartition("/")[2] if method == "PATCH" else body["metadata"]["name"]
        if method == "POST":
            if name in self.events:
                raise RefusedError(409, reason="AlreadyExists")
            self.events[name] = dict(body)
        elif name not in self.events:
            raise RefusedError(404, reason="NotFound")
        else:
            self.events[name] |= body
        return self.events[name]

    def told(self) -> list[tuple[str, str]]:
        """Reason and message of every Event, in the order of their coming."""
        return [(event["reason"], event["message"]) for event in self.events.values()]


def methods(sent: Iterable[tuple[str, str, Mapping[str, Any], str]]) -> list[str]:
    """The methods of requests."""
    return [method for method, *_ in sent]
