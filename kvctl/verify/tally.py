"""Right, wrong and lost: counting what came of questions, and saying it, what is worse first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.net import Address
from kvctl.model.policy import PortMatch
from kvctl.model.ref import ServiceRef
from kvctl.verify.expected import Expectation, Kind
from kvctl.verify.faults import MEND
from kvctl.verify.losses import how_lost, named, step_after
from kvctl.verify.sender import Loss, Outcome

_MOST_SOURCES = 64
"""An echo may tell whatever it likes."""
_MOST_NAMED = 3
_ANSWERS = (Loss.REFUSED, Loss.BROKEN, Loss.MUTE)
"""Where silence is expected: somebody has answered."""

Whose = Callable[[Address, Address], str]
"""Whose an address is that was seen of a pod, in words."""


class Verdict(StrEnum):
    """What a question, or all of them, came to."""

    RIGHT = "right"
    WRONG = "wrong"
    """The other end saw another source than it should, or saw something at all."""
    LOST = "lost"
    UNPROVED = "not rewritten"
    """Nothing was asked that the Service rewrites: whatever came of it, it says nothing of its VIP."""


_COUNTED = (Verdict.RIGHT, Verdict.WRONG, Verdict.LOST)


class Asked(NamedTuple):
    """Which questions are counted together."""

    source: Address
    destination: Address
    port: int
    protocol: str
    expectation: Expectation
    pod: str = ""
    """The pod's name as far as it is known."""
    of: ServiceRef | None = None
    """The Service that it is asked for; None: for the pod's own sake."""
    ports: tuple[PortMatch, ...] = ()
    """Where the Service does not rewrite this because of the port: the ones it does."""

    @property
    def proves(self) -> bool:
        """Whether an answer says something of the VIP of its Service."""
        expected = self.expectation
        if self.of is None or expected.kind is Kind.TOLD:
            return True
        return expected.kind is not Kind.NOT_VIP and expected.service == self.of

    @property
    def instead(self) -> Asked:
        """The same where its Service rewrites, as far as it is known."""
        if not self.ports:
            return self
        return self._replace(protocol=self.ports[0].protocol, port=self.ports[0].first)

    def __str__(self) -> str:
        name = f" ({self.pod})" if self.pod else ""
        return f"{self.protocol} from {self.source}{name} to {self.target}"

    @property
    def target(self) -> str:
        """Destination and port."""
        if self.destination.version == 6:
            return f"[{self.destination}]:{self.port}"
        return f"{self.destination}:{self.port}"


class Tally:
    """The counts of one pod, destination and protocol."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.right = self.wrong = self.lost = 0
        self.seen: Counter[Address] = Counter()
        self.losses: Counter[Loss] = Counter()
        self._last: tuple[Verdict, Address | None] | None = None
        self._run = 0
        """How many have not been right since the last that was."""
        self._let_out = False

    @property
    def total(self) -> int:
        """Questions that have their outcome."""
        return self.right + self.wrong + self.lost

    @property
    def lost_by(self) -> Counter[Loss]:
        """Why those are lost that are: where silence is expected, it is none."""
        if self.asked.expectation.kind is not Kind.SILENCE:
            return self.losses
        return Counter({loss: n for loss, n in self.losses.items() if loss not in (*_ANSWERS, Loss.SILENCE)})

    @property
    def worst(self) -> Address | None:
        """The wrong source that was seen most."""
        allowed = self.asked.expectation.allows
        return next((each for each, _ in self.seen.most_common() if not allowed(each)), None)

    def add(self, outcome: Outcome) -> bool:
        """Count it; whether it is news: another verdict, or another wrong source, than that of the one before."""
        verdict = self._judge(outcome)
        if verdict is Verdict.RIGHT:
            self.right += 1
        elif verdict is Verdict.WRONG:
            self.wrong += 1
        else:
            self.lost += 1
        if outcome.source is not None and (outcome.source in self.seen or len(self.seen) < _MOST_SOURCES):
            self.seen[outcome.source] += 1
        if outcome.loss is not None:
            self.losses[outcome.loss] += 1
        if verdict is not Verdict.RIGHT:
            self._run = self._run + 1 if self._last is not None and self._last[0] is not Verdict.RIGHT else 1
        now = (verdict, outcome.source if verdict is Verdict.WRONG else None)
        before, self._last = self._last, now
        return now != (before or (Verdict.RIGHT, None))

    def let_out(self) -> None:
        """The rules do not drop what should be silent: that nothing answered was not right."""
        self._let_out = True
        self.wrong, self.right = self.wrong + self.right, 0

    def _judge(self, outcome: Outcome) -> Verdict:
        expected = self.asked.expectation
        if outcome.source is not None:
            return Verdict.RIGHT if expected.allows(outcome.source) else Verdict.WRONG
        if expected.kind is not Kind.SILENCE:
            return Verdict.LOST
        if outcome.loss in _ANSWERS:
            return Verdict.WRONG
        # What never left the pod says nothing of the rules here.
        return Verdict.RIGHT if outcome.loss is Loss.SILENCE else Verdict.LOST

    def not_silent(self) -> str:
        """Where silence is expected, and no source was seen: why it was wrong."""
        if self._let_out:
            return f"are let out by the rules here ({named(self.losses)})"
        answers = ", ".join(str(loss) for loss in _ANSWERS if loss in self.losses)
        return f"were answered ({answers}), so they went out unless a REJECT on the way said so"

    def news(self, outcome: Outcome, whose: Whose) -> str:
        """What the outcome that was just added is, in a line."""
        expected = self.asked.expectation
        verdict = self._judge(outcome)
        if verdict is Verdict.RIGHT:
            return f"right again, after {self._run} that were not: {self.asked}"
        if outcome.source is None:
            also = f"; expected: {expected}" if verdict is Verdict.WRONG else ""
            return f"{verdict}: {self.asked}: {outcome.loss}{also}"
        seen = f"{outcome.source} ({whose(outcome.source, self.asked.source)})"
        return f"wrong: seen as {seen}: {self.asked}; expected: {expected}"


def verdict_of(tallies: Iterable[Tally]) -> Verdict:
    """Of all together: the worst. Nothing asked is nothing right."""
    every = list(tallies)
    if any(each.wrong for each in every):
        return Verdict.WRONG
    if every and not any(each.asked.proves for each in every):
        return Verdict.UNPROVED
    return Verdict.RIGHT if every and all(each.right and not each.lost for each in every) else Verdict.LOST


def sentence(tallies: Sequence[Tally], whose: Whose) -> str:
    """The answer: wrong sources before lost answers, and the count of either."""
    total = sum(each.total for each in tallies)
    verdict = verdict_of(tallies)
    if verdict is Verdict.WRONG:
        count = sum(each.wrong for each in tallies)
        worst = max(tallies, key=lambda each: each.wrong)
        return f"wrong: {_broken(worst)}{count} of {total} {_wrong(worst, whose)}"
    if verdict is Verdict.UNPROVED:
        return f"{verdict}: {unproved(tallies[0].asked)}"
    if not total:
        return "lost: ended before anything was answered"
    if verdict is Verdict.LOST:
        count = sum(each.lost for each in tallies)
        worst = max(tallies, key=lambda each: each.lost)
        of_all = {loss for each in tallies for loss in each.lost_by}
        return f"lost: {_broken(worst)}{count} of {total} {how_lost(worst.lost_by, str(worst.asked), of_all=of_all)}"
    # What is not rewritten proves least.
    in_order = sorted(tallies, key=lambda each: each.asked.expectation.kind is Kind.NOT_VIP)
    expected = list(dict.fromkeys(str(each.asked.expectation) for each in in_order))
    more = f" and {len(expected) - _MOST_NAMED} more" if len(expected) > _MOST_NAMED else ""
    return f"right: all {total} as expected: {'; '.join(expected[:_MOST_NAMED])}{more}{_unheard(tallies)}"


def _unheard(tallies: Sequence[Tally]) -> str:
    """What silence that was expected does not tell: nobody has heard an echo there."""
    heard = {(t.asked.destination, t.asked.port, t.asked.protocol) for t in tallies if t.seen}
    silent = [each.asked for each in tallies if each.asked.expectation.kind is Kind.SILENCE]
    if all((asked.destination, asked.port, asked.protocol) in heard for asked in silent):
        return ""
    return "; silence would be the same if no echo were there"


def unproved(asked: Asked) -> str:
    """Why asking this says nothing of the VIP of its Service, and where to ask."""
    if not asked.ports:
        why = f"{asked.of} does not rewrite what {asked.source} sends to {asked.target}"
        return f"{why}, so nothing was proved of its VIP"
    other = asked.instead
    return (
        f"{asked.of} rewrites only {_named(asked.ports)}, so nothing was proved of its VIP; "
        f"ask there: --to {other.target} --proto {other.protocol}"
    )


def _named(ports: Sequence[PortMatch]) -> str:
    more = f" and {len(ports) - _MOST_NAMED} more" if len(ports) > _MOST_NAMED else ""
    return ", ".join(map(str, ports[:_MOST_NAMED])) + more


def _broken(worst: Tally) -> str:
    expected = worst.asked.expectation
    if expected.kind is not Kind.BROKEN:
        return ""
    return f"the rules of {expected.service} are broken: {expected.fault}; "


def _wrong(worst: Tally, whose: Whose) -> str:
    asked, source = worst.asked, worst.worst
    expected = asked.expectation
    if source is None and expected.kind is Kind.SILENCE:
        return f"{worst.not_silent()}: {asked}; expected: {expected}"
    # So many that they are not all counted.
    ever = "were seen as ever another"
    seen = ever if source is None else f"were seen as {source} ({whose(source, asked.source)})"
    if expected.address is not None:
        return f"{seen} instead of {expected}: {asked}"
    if expected.kind is Kind.BROKEN:
        return f"{seen}: {asked}"
    return f"{seen}: {asked}; expected: {expected}"


def counts(tallies: Iterable[Tally]) -> str:
    """`12 right, 0 wrong, 1 lost`, with what was wrong by its source."""
    every = list(tallies)
    text = ", ".join(
        f"{sum(getattr(each, verdict.value) for each in every)} {verdict}" for verdict in _COUNTED
    )
    wrong: Counter[Address] = Counter()
    for each in every:
        wrong.update({a: n for a, n in each.seen.items() if not each.asked.expectation.allows(a)})
    names = ", ".join(f"{address}: {count}" for address, count in wrong.most_common(_MOST_NAMED))
    return f"{text} ({names})" if names else text


def next_steps(tallies: Sequence[Tally]) -> list[str]:
    """What to do about what is not right, the worse first."""
    if verdict_of(tallies) is Verdict.UNPROVED:
        return _where_to_ask(tallies[0].asked)
    faults = {each.asked.expectation.fault: None for each in tallies if not each.right or each.wrong}
    steps = [MEND] if any(faults) else []
    for each in sorted(tallies, key=lambda tally: (-tally.wrong, -tally.lost)):
        if each.wrong:
            steps.append(f"see by which rule: {trace_command(each.asked)}")
        elif each.lost and Loss.REFUSED in each.losses:
            steps.append(f"nothing listens there: {_echo(each.asked)}")
        elif each.lost and (step := step_after(each.lost_by, each.asked.source, each.asked.destination)):
            steps.append(step)
        elif each.lost:
            steps.append(
                f"see that an echo is there (kvctl egress echo --port {each.asked.port}) and answers reach this node; "
                f"then what becomes of it here: {trace_command(each.asked)}"
            )
    return list(dict.fromkeys(steps))[:_MOST_NAMED]


def _where_to_ask(asked: Asked) -> list[str]:
    if not asked.ports:
        return [f"see by which rule: {trace_command(asked)}"]
    other = asked.instead
    verify = f"kvctl egress verify {asked.of} --to {other.target} --proto {other.protocol}"
    has_echo = other.port == asked.port
    return [
        verify if has_echo else f"on that host, kvctl egress echo --port {other.port}; then here, {verify}"
    ]


def _echo(asked: Asked) -> str:
    """The command that makes an echo listen, on a port that is rewritten."""
    other = asked.instead
    command = f"on that host, kvctl egress echo --port {other.port}"
    if other.port == asked.port:
        return command
    return f"{command}, which is rewritten; then ask --to {other.target} --proto {other.protocol}"


def trace_command(asked: Asked) -> str:
    """The command that says why."""
    return f"kvctl egress trace --from {asked.source} --to {asked.target} --proto {asked.protocol}"
