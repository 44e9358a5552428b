"""Field and label selectors. Source: kubernetes.io/docs/concepts/overview/working-with-objects/labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kvctl.lab.api.kinds import Kind, Object
from kvctl.lab.api.refusals import bad

_FIELD = re.compile(r"(?P<path>[\w.]+)(?P<sign>!=|==?)(?P<value>.*)")
_AMONG = re.compile(r"(?P<key>[\w./-]+) in \((?P<values>[\w.,-]+)\)")
_EQUAL = re.compile(r"(?P<key>[\w./-]+)==?(?P<value>[\w.-]*)")
_THERE = re.compile(r"(?P<no>!?)(?P<key>[\w./-]+)")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")

_Labels = Mapping[str, str]


def selector(kind: Kind, namespace: str, query: Mapping[str, str]) -> Callable[[Object], bool]:
    """Whether an object of this kind is asked for; raises RefusedError (400) for what the kind cannot be asked."""
    fields = [_field(kind, term) for term in query.get("fieldSelector", "").split(",") if term]
    # Commas within brackets belong to a set.
    terms = re.split(r",(?![^(]*\))", query.get("labelSelector", ""))
    labels = [_label(term) for term in terms if term]

    def matches(value: Object) -> bool:
        meta = value["metadata"]
        return (
            namespace in ("", meta.get("namespace"))
            and all(test(value) for test in fields)
            and all(test(meta.get("labels") or {}) for test in labels)
        )

    return matches


def _field(kind: Kind, term: str) -> Callable[[Object], bool]:
    found = _FIELD.fullmatch(term)
    if found is None or found["path"] not in kind.fields:
        raise bad(f"the field selector {term}")
    path, equal, wanted = found["path"].split("."), found["sign"] != "!=", found["value"]
    return lambda value: (_at(value, path) == wanted) is equal


def _label(term: str) -> Callable[[_Labels], bool]:
    if among := _AMONG.fullmatch(term):
        key, values = among["key"], among["values"].split(",")
        if all(_LABEL_VALUE.fullmatch(value) for value in values):
            return lambda labels: labels.get(key) in values
    elif equal := _EQUAL.fullmatch(term):
        key, wanted = equal["key"], equal["value"]
        return lambda labels: labels.get(key) == wanted
    elif there := _THERE.fullmatch(term):
        key, wants = there["key"], not there["no"]
        return lambda labels: (key in labels) is wants
    raise bad(f"the label selector {term}")


def _at(value: Any, path: list[str]) -> str:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
