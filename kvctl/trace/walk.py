"""The walk of a packet through the chains of one table, both ways where a match cannot be judged.

Ways that come to the same place with the same packet go on as one, so what cannot be judged and changes nothing
costs nothing; a number of ways that differ is all that a walk may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvctl.trace.facts import Facts
from kvctl.trace.matching import matches
from kvctl.trace.packet import Packet
from kvctl.trace.ruleset import AnyRule, parse_any
from kvctl.trace.targets import FOLLOWED, PASSING, End, Unknown, changed

MOST_WAYS = 1024
"""So many different ways of a packet are followed."""
MOST_RULES = 200_000
"""So many rules are looked at for one packet, on all its ways together: some seconds of work."""
# nf_tables takes no walk of more than 16 chains, legacy's stack has as many places as the table has chains.
_DEEPEST = 512
_BUILT_IN = frozenset(("ACCEPT", "DROP", "REJECT", "RETURN", *PASSING, *FOLLOWED))


class Place(NamedTuple):
    """Where rules are: the hook that is being passed, and the back end and table whose rules are asked."""

    hook: str
    backend: str
    table: str


class Step(NamedTuple):
    """A rule that took the packet, or may have."""

    place: Place
    chain: str
    rule: AnyRule | None
    """None: the end of the chain, where its policy decides."""
    doubt: str | None = None
    """Why it cannot be told whether it takes the packet; then `taken` is what was assumed."""
    taken: bool = True


class Trail(NamedTuple):
    """The steps of a way, the last first: ways that part have what came before in common."""

    step: Step
    before: Trail | None


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A packet, and how it came there."""

    packet: Packet
    trail: Trail | None = None
    end: End = End.PASSED
    reason: str = ""
    """Why the end is not known."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in their order."""
        found: list[Step] = []
        trail = self.trail
        while trail is not None:
            found.append(trail.step)
            trail = trail.before
        return tuple(reversed(found))

    @property
    def decided(self) -> Step | None:
        """The last step of a way that has ended; None: it goes on."""
        return self.trail.step if self.trail is not None and self.end is not End.PASSED else None

    def by(self, step: Step) -> Way:
        """The way one step further."""
        return Way(self.packet, Trail(step, self.trail), self.end, self.reason)

    @property
    def doubts(self) -> tuple[Step, ...]:
        """The steps that cannot be judged."""
        return tuple(step for step in self.steps if step.doubt is not None)


class TooMany(Exception):  # noqa: N818  # no error: an answer
    """There are more ways than are followed, or more rules than are looked at."""


class Budget:
    """How many rules may still be looked at."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_RULES

    def spend(self) -> None:
        """One more rule; raises TooMany."""
        self._left -= 1
        if self._left < 0:
            raise TooMany


Chains = Mapping[str, tuple[tuple[int | None, str], ...]]
_Frames = tuple[tuple[str, int], ...]
"""Chains and the next rule in each; a goto has replaced the chain it came from."""


class Walk:
    """Leads a way through one table; `chains` as they were read, parsed as far as somebody comes there."""

    def __init__(
        self, place: Place, chains: Chains, policies: Mapping[str, str], *, facts: Facts, budget: Budget
    ) -> None:
        self._place = place
        self._chains = chains
        self._policies = policies
        self._facts = facts
        self._budget = budget

    def lead(self, way: Way) -> list[Way]:
        """What may become of it, each different end once; raises TooMany."""
        hook = self._place.hook
        todo: list[tuple[_Frames, Way]] = [(((hook, 0),), way)]
        seen: set[tuple[_Frames, Packet]] = set()
        ended: dict[tuple[Packet, End, Step | None], Way] = {}
        while todo:
            frames, current = todo.pop()
            for frames_after, after in self._advance(frames, current):
                if not frames_after:
                    ended.setdefault((after.packet, after.end, after.decided), after)
                elif (frames_after, after.packet) not in seen:
                    seen.add((frames_after, after.packet))
                    todo.append((frames_after, after))
                if len(ended) + len(todo) > MOST_WAYS:
                    raise TooMany
        return list(ended.values())

    def _advance(self, frames: _Frames, way: Way) -> list[tuple[_Frames, Way]]:
        """On to the next rule that may take the packet; without frames the way has ended."""
        while frames:
            chain, index = frames[-1]
            rules = self._chains.get(chain, ())
            while index < len(rules):
                self._budget.spend()
                rule = parse_any(rules[index][1])
                index += 1
                answer = matches(rule, way.packet, self._facts)
                if answer is False:
                    continue
                here = (*frames[:-1], (chain, index))
                return self._both(here, way, rule, doubt=answer if isinstance(answer, str) else None)
            frames = frames[:-1]
        return [((), self._by_policy(way))]

    def _by_policy(self, way: Way) -> Way:
        hook = self._place.hook
        if self._policies.get(hook, "ACCEPT") == "ACCEPT":
            return way
        step = Step(place=self._place, chain=hook, rule=None)
        return replace(way.by(step), end=End.DROPPED)

    def _both(
        self, frames: _Frames, way: Way, rule: AnyRule, *, doubt: str | None
    ) -> list[tuple[_Frames, Way]]:
        step = Step(place=self._place, chain=frames[-1][0], rule=rule, doubt=doubt)
        taken = self._taken(frames, way.by(step), rule)
        if doubt is None:
            return [taken]
        if taken[0] == frames and taken[1].packet == way.packet:
            return [(frames, way)]  # it changes nothing
        passed_by = way.by(step._replace(taken=False))
        return [(frames, passed_by), taken]

    def _taken(self, frames: _Frames, way: Way, rule: AnyRule) -> tuple[_Frames, Way]:
        """What becomes of a packet that a rule takes."""
        target = rule.target
        if target is not None and target.name in _BUILT_IN and target.name in self._chains:
            # Only nft makes such a chain, and iptables-save prints a jump to it as it prints the target.
            reason = (
                f"a chain has the name of the target {target.name}, and which of them is meant is not printed"
            )
            return (), replace(way, end=End.UNKNOWN, reason=reason)
        if target is None or target.name in PASSING:
            return frames, way
        if target.name == "ACCEPT":
            return (), way
        if target.name in ("DROP", "REJECT"):
            return (), replace(way, end=End.DROPPED)
        if target.name == "RETURN":
            left = frames[:-1]
            return left, way if left else self._by_policy(way)
        if target.name in self._chains:
            if len(frames) >= _DEEPEST:
                return (), replace(way, end=End.UNKNOWN, reason="too many chains lead into each other")
            return (*(frames[:-1] if target.goto else frames), (target.name, 0)), way
        return self._changed(frames, way, rule)

    def _changed(self, frames: _Frames, way: Way, rule: AnyRule) -> tuple[_Frames, Way]:
        assert rule.target is not None
        try:
            result = changed(rule.target, way.packet, self._facts)
        except Unknown as unknown:
            return (), replace(way, end=End.UNKNOWN, reason=f"-j {rule.target.name}: {unknown}")
        if result is None:
            reason = f"-j {rule.target.name}: what this target does is not known here"
            return (), replace(way, end=End.UNKNOWN, reason=reason)
        packet, ends = result
        return () if ends else frames, replace(way, packet=packet)
