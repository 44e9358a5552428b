"""YAML text -> plain values (dict, list, str, int, float, bool, None), safe on text that anybody wrote.

The values are built from the parser's events instead of by a PyYAML loader, because of three things
seen with PyYAML 6.0.3: its C composer overflows the stack on deep nesting and takes the process with
it, merge keys can multiply without bound, and `10:20` or a date would arrive as another type than in
Kubernetes' own tools. It is also three times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvctl.errors import InputError
from kvctl.model.text import quote

if TYPE_CHECKING:
    import yaml

DEEPEST = 100
MOST_ALIASED = 1_000_000
"""How many nodes aliases may stand for in one document; each counts as often as it is used."""

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {
    spelling: word in ("true", "yes", "on")
    for word in ("true", "yes", "on", "false", "no", "off")
    for spelling in (word, word.title(), word.upper())
}
_SPECIAL_STARTS = frozenset("~nNtTyYoOfF+-.0123456789")
_INT = re.compile(r"[-+]?[0-9][0-9_]{0,300}|0x[0-9A-Fa-f]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def yaml_values(text: str, *, name: str) -> Iterator[object]:
    """The values of all documents in `text`, which `name` calls in messages.

    Raises InputError with line and column for text that is no YAML, nests deeper than DEEPEST, or uses
    aliases without measure or in a circle. Tags are not obeyed, except that `!!str` keeps text.
    """
    import yaml

    # Without libyaml the loader in Python does the same at a tenth of the speed.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    composer = _Composer(name=name)
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.DocumentStartEvent):
                composer = _Composer(name=name)
            elif isinstance(event, yaml.DocumentEndEvent):
                yield composer.result
            elif isinstance(event, yaml.NodeEvent):
                _take(composer, event)
            elif isinstance(event, yaml.CollectionEndEvent):
                composer.close(event.start_mark)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "it cannot be parsed"
        raise _refused(name, error.problem_mark or error.context_mark, problem) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # A ReaderError shows the position in characters; ValueError: an escape that is no character.
        reason = getattr(error, "reason", None) or "it holds characters that YAML does not allow"
        raise InputError(f"{name}: not valid YAML: {reason}", hint="mend the file") from error


def _take(composer: _Composer, event: yaml.NodeEvent) -> None:
    import yaml

    if isinstance(event, yaml.ScalarEvent):
        plain = event.implicit[0] and event.tag in (None, "!")
        composer.add(_resolved(event.value) if plain else event.value, 1, event)
    elif isinstance(event, yaml.AliasEvent):
        composer.alias(event)
    else:
        composer.open([] if isinstance(event, yaml.SequenceStartEvent) else {}, event)


def _resolved(text: str) -> object:
    """What plain text means: as in YAML 1.1, without dates and base 60."""
    if text in _NULLS:
        return None
    if text[0] not in _SPECIAL_STARTS:
        return text
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        return int(digits, 16 if digits.startswith("0x") else 10)
    if _FLOAT.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


_NO_KEY = object()
_MERGE = "<<"


@dataclass(slots=True)
class _Open:
    """A list or mapping that has not ended yet."""

    value: list[object] | dict[Hashable, object]
    anchor: str | None
    size: int = 1
    key: object = _NO_KEY
    merged: list[dict[Hashable, object]] = field(default_factory=list)


@dataclass(slots=True)
class _Composer:
    """Puts the nodes of one document together."""

    name: str
    result: object = None
    _stack: list[_Open] = field(default_factory=list)
    _anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    _aliased: int = 0

    def open(self, value: list[object] | dict[Hashable, object], event: Any) -> None:
        """A list or mapping begins."""
        if len(self._stack) >= DEEPEST:
            raise _refused(self.name, event.start_mark, f"nested deeper than {DEEPEST} levels")
        if event.anchor is not None:
            # Until it has ended an alias to it would be a circle, also where the name was used before.
            self._anchors.pop(event.anchor, None)
        self._stack.append(_Open(value, event.anchor))

    def close(self, mark: Any) -> None:
        """The innermost list or mapping has ended."""
        ended = self._stack.pop()
        if isinstance(ended.value, dict):
            for merged in ended.merged:
                for key, value in merged.items():
                    ended.value.setdefault(key, value)
        if ended.anchor is not None:
            self._anchors[ended.anchor] = (ended.value, ended.size)
        self._place(ended.value, ended.size, mark)

    def add(self, value: object, size: int, event: Any) -> None:
        """A complete value, perhaps with an anchor."""
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, size)
        self._place(value, size, event.start_mark)

    def alias(self, event: Any) -> None:
        """A value that stands elsewhere."""
        if event.anchor not in self._anchors:
            why = f"alias {quote(event.anchor)} has no anchor before it, or lies within it"
            raise _refused(self.name, event.start_mark, why)
        value, size = self._anchors[event.anchor]
        self._aliased += size
        if self._aliased > MOST_ALIASED:
            raise _refused(self.name, event.start_mark, f"aliases stand for more than {MOST_ALIASED} values")
        self._place(value, size, event.start_mark)

    def _place(self, value: object, size: int, mark: Any) -> None:
        if not self._stack:
            self.result = value
            return
        parent = self._stack[-1]
        parent.size += size
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is _NO_KEY:
            if isinstance(value, list | dict):
                raise _refused(self.name, mark, "a key is a list or a mapping")
            parent.key = value
        else:
            key, parent.key = parent.key, _NO_KEY
            if key == _MERGE:
                parent.merged += _mappings(value, name=self.name, mark=mark)
            else:
                parent.value[key] = value


def _mappings(value: object, *, name: str, mark: Any) -> list[dict[Hashable, object]]:
    several = value if isinstance(value, list) else [value]
    mappings = [one for one in several if isinstance(one, dict)]
    if len(mappings) != len(several):
        raise _refused(name, mark, "a merge key (<<) takes mappings")
    return mappings


def _refused(name: str, mark: Any, why: str) -> InputError:
    where = f" at line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""
    return InputError(f"{name}: not valid YAML{where}: {why}", hint="mend the file")
