"""What a check found: how bad it is, in a sentence, what was read, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.text import one_line, plural

NOTHING_FOUND = "nothing found that keeps egress from working"


class Level(StrEnum):
    """How bad it is; the worst first."""

    FAILURE = "failure"
    """Egress cannot work, or not for what the message names."""
    WARNING = "warning"
    """It works, or may, and somebody should look."""
    UNKNOWN = "unknown"
    """It could not be told; the message says why."""
    FINE = "fine"


class Finding(NamedTuple):
    """What one check says of one thing."""

    check: str
    level: Level
    message: str
    evidence: str = ""
    """What was read, with its value; empty where the message says it."""
    mend: str | None = None
    """A command, or what to do; None where nothing has to be done."""


def fine(check: str, message: str, *, evidence: str = "") -> Finding:
    """Nothing is wrong."""
    return Finding(check, Level.FINE, message, evidence)


def warning(check: str, message: str, *, evidence: str = "", mend: str) -> Finding:
    """Somebody should look."""
    return Finding(check, Level.WARNING, message, evidence, mend)


def failure(check: str, message: str, *, evidence: str = "", mend: str) -> Finding:
    """Egress cannot work like this."""
    return Finding(check, Level.FAILURE, message, evidence, mend)


def unknown(check: str, message: str, *, evidence: str = "", mend: str | None = None) -> Finding:
    """Nobody can tell from here."""
    return Finding(check, Level.UNKNOWN, message, evidence, mend)


def from_error(check: str, error: KvctlError, *, level: Level) -> Finding:
    """What an error says, with its hint as the mend."""
    return Finding(check, level, one_line(error.message), mend=error.hint)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Problems first; of one level in the order they were found, in which causes come before consequences."""
    order = list(Level)
    return sorted(findings, key=lambda each: order.index(each.level))


def verdict(findings: Sequence[Finding]) -> str:
    """The worst in one sentence."""
    first = next(iter(worst_first(findings)), None)
    if first is not None and first.level is Level.FAILURE:
        return first.message
    if first is not None and first.level is Level.WARNING:
        return f"{NOTHING_FOUND}, but: {first.message}"
    blind = sum(each.level is Level.UNKNOWN for each in findings)
    return f"{NOTHING_FOUND}; {plural(blind, 'check')} could not tell" if blind else NOTHING_FOUND
