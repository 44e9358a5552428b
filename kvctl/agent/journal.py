"""The agent's log on standard error: a line for each change, none while nothing changes."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from kvctl.agent.log_stream import LogStream
from kvctl.agent.round import Round, Turn
from kvctl.errors import KvctlError, UsageError
from kvctl.model.text import one_line, plural, quote
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Item, Status

AGAIN_SECONDS = 3600.0
"""How long a warning that still holds is not said again."""
_MOST_REMEMBERED = 4096
_PLAIN = re.compile(r"[A-Za-z0-9_.:/,+-]+")


class LogFormat(StrEnum):
    """How a line looks: for people, or for what collects logs."""

    AUTO = "auto"
    """Text on a terminal, else JSON."""
    TEXT = "text"
    JSON = "json"


class Level(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def parse_log_format(text: str, *, where: str = "egress_logformat") -> LogFormat:
    """The format of that name, in any case; empty is `auto`. Raises UsageError, which names `where`."""
    try:
        return LogFormat(text.strip().lower() or LogFormat.AUTO)
    except ValueError:
        raise UsageError(
            f"{where}: {quote(text)} is no log format", hint=f"write one of {', '.join(LogFormat)}"
        ) from None


class Said(NamedTuple):
    """Something that holds, and the fields of its line."""

    text: str
    fields: Mapping[str, object] = {}


class Journal:
    """Writes lines; any thread may. A log that cannot be written is no reason for the agent to fail.

    `clock` counts seconds and never goes back; `now` tells the time of day, in seconds since the epoch.
    """

    def __init__(
        self,
        form: LogFormat = LogFormat.AUTO,
        *,
        stream: LogStream | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stream: LogStream = sys.stderr if stream is None else stream
        self._is_json = form is LogFormat.JSON or (form is LogFormat.AUTO and not self._stream.isatty())
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._standing: dict[str, dict[str, float]] = {}
        self._once: dict[str, float] = {}
        self._failures = 0
        self._begun = False
        self._backend: str | None = None

    def say(self, level: Level, message: str, **fields: object) -> None:
        """Write one line. Fields that are None are left out; all text is escaped here."""
        line = self._line(level, message, fields)
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                pass

    def lost(self, count: int) -> str:
        """The line that stands for `count` lines which nobody took; it is not written here."""
        text = f"lost {plural(count, 'line')} of this log: standard error was not read"
        return self._line(Level.WARNING, text, {"lines_lost": count})

    def _line(self, level: Level, message: str, fields: Mapping[str, object]) -> str:
        told = {name: _plain(value) for name, value in fields.items() if value is not None}
        at = (
            datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        text = one_line(message)
        if self._is_json:
            return json.dumps({"time": at, "level": level, "message": text, **told}) + "\n"
        words = (f"{name}={_word(value)}" for name, value in told.items())
        return " ".join((at, f"{level.upper():7}", text, *words)) + "\n"

    def stopped(self, *, why: str, rules: str) -> None:
        """The last line: `why` it ends, and what becomes of the `rules`."""
        self.say(Level.INFO, f"kvctl ends ({why}): {rules}")

    def complain(self, text: str, *, level: Level = Level.WARNING) -> None:
        """Say something that may come again and again; the same text at most once an hour."""
        now = self._clock()
        with self._lock:
            if now - self._once.get(text, -AGAIN_SECONDS) < AGAIN_SECONDS:
                return
            if len(self._once) >= _MOST_REMEMBERED:
                del self._once[next(iter(self._once))]
            self._once.pop(text, None)
            self._once[text] = now
        self.say(level, text)

    def standing(
        self, topic: str, matters: Mapping[str, Said], *, level: Level = Level.WARNING, again: bool = True
    ) -> None:
        """All that holds now on a topic, each under a key that stays the same while it is the same matter.

        Said when it is new, and (`again`) after an hour; what does not hold any more is forgotten, so it is new
        if it comes back.
        """
        now = self._clock()
        said = self._standing.get(topic, {})
        kept: dict[str, float] = {}
        for key, matter in matters.items():
            last = said.get(key)
            kept[key] = now if last is None or (again and now - last >= AGAIN_SECONDS) else last
            if kept[key] == now and last != now:
                self.say(level, matter.text, **matter.fields)
        self._standing[topic] = kept

    def round(self, done: Round) -> None:
        """Say what a round did."""
        if done.backend != self._backend:
            self._backend = done.backend
            self.say(Level.INFO, f"back end {done.backend}: {done.why_backend}", backend=done.backend)
        for turn in done.turns:
            self._say_turn(turn, done)
        self._say_failure(done)
        if not done.complete:
            return
        known = sum(turn.dropped for turn in done.turns)
        if done.dropped > known:
            self.say(
                Level.INFO,
                f"dropped {plural(done.dropped - known, 'connection')} with a VIP of Services that have gone",
                connections_dropped=done.dropped - known,
            )
        self._say_standing(done)
        if not self._begun:
            self._begun = True
            self._say_summary(done)

    def _say_turn(self, turn: Turn, done: Round) -> None:
        item = turn.item
        sentence = _sentence(turn)
        if sentence is None:
            return
        self.say(
            _level(turn),
            sentence,
            **_which(item),
            action="repaired" if turn.repaired and turn.action is not Action.FAILED else turn.action,
            status=item.status,
            reason=item.reason if turn.action is not None or turn.dropped else None,
            pods=len(item.pods) or None,
            connections_dropped=turn.dropped or None,
            cause=done.cause if turn.action is not None else None,
            duration_ms=round(done.duration * 1000) if turn.action is not None else None,
        )

    def _say_failure(self, done: Round) -> None:
        self.standing("errors", _keyed(map(_with_hint, done.errors)), level=Level.ERROR)
        if done.failed:
            self._failures += 1
        elif self._failures:
            self.say(Level.INFO, f"works again after {plural(self._failures, 'round')} that failed")
            self._failures = 0

    def _say_standing(self, done: Round) -> None:
        self.standing("warnings", _keyed(map(Said, done.warnings)))
        self.standing("problems", _keyed(map(_with_hint, done.problems)))
        # What it says of the next repair changes all the time; the matter is the same.
        self.standing("contested", {"contested": Said(done.contested)} if done.contested is not None else {})
        self.standing("disagreements", _keyed(_disagreements(done)))
        self.standing("services", _keyed(_item_warnings(done.items)))
        self.standing("skipped", _keyed(_skipped(done)), again=False)

    def _say_summary(self, done: Round) -> None:
        counts = {status: sum(item.status is status for item in done.items) for status in Status}
        told = {f"services_{status}": count for status, count in counts.items() if count}
        several = plural(len(done.objects.services), "Service")
        pods = plural(len(done.objects.pods), "pod")
        self.say(Level.INFO, f"the first full picture is in: {several}, {pods} here", **told)


_UPDATED = {
    Action.ADDED: "added the rules",
    Action.UPDATED: "updated the rules",
    Action.MOVED: "moved the rules from the other back end",
    Action.DROPPING: "began to drop the traffic",
    Action.REMOVED: "removed the rules",
    Action.FAILED: "failed to write the rules",
}


def _sentence(turn: Turn) -> str | None:
    item = turn.item
    who = _who(item)
    if turn.repaired and turn.action is not Action.FAILED:
        return f"repaired the rules of {who}, which another program had changed: {turn.found or 'they were gone'}"
    if turn.action is not None:
        return f"{_UPDATED[turn.action]} of {who}"
    if turn.dropped:
        return f"dropped {plural(turn.dropped, 'connection')} of {who} with the wrong source"
    if turn.told_before or item.status is Status.SKIPPED:  # what is skipped is said as long as it stands
        return None
    if item.reason is not None:
        return f"{who} is {item.status}: {item.reason}"
    return None if turn.before is None else f"{who} is {item.status}"


def _level(turn: Turn) -> Level:
    if turn.action is Action.FAILED:
        return Level.ERROR
    bad = (Status.SKIPPED, Status.OVERRIDDEN, Status.DRIFTED, Status.MISSING)
    if turn.repaired or (turn.item.status in bad and turn.action is not Action.REMOVED):
        return Level.WARNING
    return Level.INFO


def _item_warnings(items: Iterable[Item]) -> Iterable[Said]:
    for item in items:
        if item.pods:
            yield from (Said(f"{_who(item)}: {text}", _which(item)) for text in item.warnings)


def _skipped(done: Round) -> Iterable[Said]:
    """Of a Service without a pod here other nodes speak."""
    for item in done.items:
        if item.status is Status.SKIPPED and item.ref is not None and done.concerns_this_node(item.ref):
            yield Said(f"{_who(item)} is skipped: {item.reason}", {**_which(item), "status": item.status})


def _disagreements(done: Round) -> Iterable[Said]:
    for ref, sentence in sorted(done.disagreements.items()):
        yield Said(f"{ref}: {sentence}", {"service": ref})


def _who(item: Item) -> str:
    return f"{item.ref} ({item.family})" if item.family is not None else str(item.ref)


def _which(item: Item) -> Mapping[str, object]:
    return {"service": item.ref, "family": item.family, "vip": item.vip}


def _with_hint(error: KvctlError) -> Said:
    return Said(f"{error.message} (hint: {error.hint})" if error.hint else error.message)


def _keyed(matters: Iterable[Said]) -> dict[str, Said]:
    return {matter.text: matter for matter in matters}


def _plain(value: object) -> str | int | float | bool:
    if isinstance(value, bool | int | float):
        return value
    return one_line(str(value))


def _word(value: str | float) -> str:
    """One field's value as one word, or as a quoted one."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
