"""What the rules do now with what was asked, as `trace` says it."""

from __future__ import annotations

from collections.abc import Iterable

from kvctl.errors import KvctlError
from kvctl.trace.packet import Question
from kvctl.trace.question import trace
from kvctl.trace.story import sentence
from kvctl.verify.expected import Kind
from kvctl.verify.tally import Asked, Tally

_MOST_CHECKED = 10
"""The rules are read anew for each."""


def by_rules(asked: Asked) -> str:
    """What becomes of such a packet, in a sentence."""
    try:
        return sentence(trace(_question(asked)))
    except KvctlError as error:
        return f"{asked}: {error.message}"


def let_out(tallies: Iterable[Tally]) -> list[Tally]:
    """Those of which silence is expected, though no rule drops them: if they were silent, it was the other end."""
    silent = [t for t in tallies if t.asked.expectation.kind is Kind.SILENCE and t.right + t.wrong]
    return [each for each in silent[:_MOST_CHECKED] if _leaves(each.asked)]


def _leaves(asked: Asked) -> bool:
    try:
        return trace(_question(asked)).leaves
    except KvctlError:
        return False


def _question(asked: Asked) -> Question:
    return Question(asked.source, asked.destination, protocol=asked.protocol, destination_port=asked.port)
