"""Reading one raw object field by field: every type is checked, every problem is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from typing import NamedTuple

from kvctl.errors import InputError
from kvctl.model.net import Address, Network, parse_address
from kvctl.model.text import quote

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WORD = re.compile(r"[A-Za-z]{1,63}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./-]{1,80}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

A_LABEL = 'an RFC 1123 label: a-z, 0-9 and "-", at most 63 characters'
A_SUBDOMAIN = 'an RFC 1123 subdomain: a-z, 0-9, "-" and ".", at most 253 characters'


def is_label(text: str) -> bool:
    """Whether `text` is an RFC 1123 label, as names of namespaces and Services are."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether `text` is an RFC 1123 subdomain as Kubernetes reads it (253 in all, no limit for a part)."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def parse_cidr(text: str) -> Network:
    """`text` as a network with its prefix length; raises ValueError.

    Host bits are cut off, not refused: that is how Kubernetes' own components read their flags
    (Go's net.ParseCIDR), and these are values that a cluster already runs with.
    """
    base, slash, length = text.partition("/")
    if not slash or not length.isdecimal() or not text.isascii() or "%" in base:
        raise ValueError("not a network in CIDR notation")
    return ip_network(text, strict=False)


def describe(value: object) -> str:
    """A value of the wrong type in words that are safe to print."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool | float):
        return json.dumps(value)
    if isinstance(value, int):
        # An int of more digits than Python converts (4300) raises ValueError when it becomes text.
        return str(value) if abs(value) < 10**20 else "a number"
    return {type(None): "empty", list: "a list", dict: "an object"}.get(type(value), "of an unknown type")


class Problem(NamedTuple):
    """A field that holds something else than is accepted there."""

    path: str
    value: object
    accepted: str
    hint: str | None = None


@dataclass(slots=True)
class Record:
    """What is wrong with the object under examination."""

    problems: list[Problem] = field(default_factory=list)

    def report(self, path: str, value: object, accepted: str, *, hint: str | None = None) -> None:
        """Note that the field at `path` holds `value` where only `accepted` will do."""
        self.problems.append(Problem(path, value, accepted, hint))

    def errors(self, who: str) -> tuple[InputError, ...]:
        """The problems of the object that messages call `who`."""
        return tuple(
            InputError(
                f"{who}: {problem.path} is {describe(problem.value)}, not {problem.accepted}",
                hint=problem.hint or f"set {problem.path} to {problem.accepted}",
            )
            for problem in self.problems
        )


class Field:
    """A place in a raw object. What is absent (or null) reads as None, an empty list, no items.

    A value of the wrong type is reported to the record and then reads as absent, so that the rest of
    the object is still examined and every problem comes out at once.
    """

    __slots__ = ("_above", "_below", "record", "value")

    def __init__(
        self, record: Record, value: object, above: Field | None = None, below: tuple[str, ...] | int = ()
    ) -> None:
        self.record = record
        self.value = value
        self._above = above
        self._below = below

    @property
    def path(self) -> str:
        """Where this is in the object. Put together when it is asked for: of most fields nothing is to be told."""
        above = self._above.path if self._above is not None else ""
        if isinstance(self._below, int):
            return f"{above}[{self._below}]"
        return ".".join((above, *self._below) if above else self._below)

    def wrong(self, accepted: str, *, hint: str | None = None) -> None:
        """Report this field's value."""
        self.record.report(self.path, self.value, accepted, hint=hint)

    def at(self, *keys: str) -> Field:
        """The field below, `keys` deep."""
        value = self.value
        for depth, key in enumerate(keys):
            if isinstance(value, dict):
                value = value.get(key)
                continue
            if value is not None:
                Field(self.record, value, self, keys[:depth]).wrong("an object")
            value = None
            break
        return Field(self.record, value, self, keys)

    def entries(self) -> Iterator[Field]:
        """The fields of a list."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            self.wrong("a list")
            return
        for index, value in enumerate(self.value):
            yield Field(self.record, value, self, index)

    def text(self) -> str | None:
        """The text here; empty text reads as None, as Kubernetes leaves out what is empty."""
        if isinstance(self.value, str):
            return self.value or None
        if self.value is not None:
            self.wrong("text", hint=_quoting(self.value))
        return None

    def texts(self) -> tuple[str, ...]:
        """The texts of a list, without empty ones."""
        return tuple(text for entry in self.entries() if (text := entry.text()) is not None)

    def flag(self) -> bool:
        """Whether this is true; absent is false."""
        if self.value is None or isinstance(self.value, bool):
            return bool(self.value)
        self.wrong("true or false", hint="write true or false, without quotes")
        return False

    def word(self, *, default: str) -> str:
        """One of Kubernetes' CamelCase words; which one is for the reader to judge."""
        text = self.text()
        if text is None:
            return default
        if _WORD.fullmatch(text) is None:
            self.wrong("a single word")
            return default
        return text

    def subdomain(self) -> str | None:
        """A name of a node or a pod."""
        text = self.text()
        if text is not None and not is_subdomain(text):
            self.wrong(A_SUBDOMAIN)
            return None
        return text

    def address(self) -> Address | None:
        """An IP address."""
        text = self.text()
        if text is None:
            return None
        try:
            return parse_address(text)
        except ValueError:
            self.wrong("an IP address")
            return None

    def network(self) -> Network | None:
        """A network in CIDR notation."""
        text = self.text()
        if text is None:
            return None
        try:
            return parse_cidr(text)
        except ValueError:
            self.wrong("a network in CIDR notation")
            return None

    def seconds(self) -> int:
        """An RFC 3339 time as whole seconds since the epoch; 0: absent, or not after the epoch."""
        text = self.text()
        if text is None:
            return 0
        try:
            if _RFC3339.fullmatch(text) is None:
                raise ValueError("not RFC 3339")
            return max(0, int(datetime.fromisoformat(text.upper()).timestamp()))
        except (ValueError, OverflowError):
            self.wrong("an RFC 3339 time such as 2026-01-31T12:00:00Z")
            return 0

    def text_map(self, *, prefixes: tuple[str, ...] = ("",)) -> dict[str, str]:
        """Keys and values that are text; only keys that begin with one of `prefixes` are read.

        Empty values stay: a label or an annotation may be empty, and null is not the same.
        """
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.wrong("an object")
            return {}
        kept: dict[str, str] = {}
        for key, value in self.value.items():
            if not isinstance(key, str):
                self.record.report(f"a key of {self.path}", key, "text", hint=_quoting(key))
            elif not key.startswith(prefixes):
                continue
            elif isinstance(value, str):
                kept[key] = value
            else:
                shown = key if _PLAIN_KEY.fullmatch(key) else quote(key)
                self.record.report(f"{self.path}[{shown}]", value, "text", hint=_quoting(value, key=shown))
        return kept


def _quoting(value: object, *, key: str | None = None) -> str:
    if isinstance(value, list | dict):
        return "write a single text"
    shown = "" if value is None else describe(value)
    return f'put it in quotes: {key + ": " if key else ""}"{shown}"'
