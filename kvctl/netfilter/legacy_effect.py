"""Whether legacy tables are what they were before a restore, but for what it says. Pure.

Told by the state after it alone, because the history cannot be had: what happened meanwhile and left no trace in
kvctl's chains and in those of its hooks is no concern of kvctl's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kvctl.model.rules import CHAIN_PREFIX, COMMENT_PREFIX
from kvctl.netfilter.legacy_tables import Contents, comment_of

# Of what kvctl itself says nothing needs an escape in restore text.
_COMMENT = re.compile(r'-m comment --comment "(' + re.escape(COMMENT_PREFIX) + r'[^"\\]*)"')


class _Written(NamedTuple):
    """A rule that the restore adds: its bytes are not known, but its comment has a hash of what it is for."""

    comment: str


_Rules = list[bytes | _Written]
_Expected = dict[tuple[str, str], tuple[bytes, ...] | _Rules]


def carried_out(text: str, before: Contents, after: Contents) -> bool:
    """Whether `after` is what a restore of `text` (as `diff.restore_text` writes it) makes of `before`.

    Chains that it does not name are byte for byte the same. Those it writes have its rules and no others, told by their
    comments; where it inserts or deletes a rule the others are the same. No chain that it names is what it was: that is
    how an older table looks that somebody has put back. False also where this cannot be told.
    """
    expected = _expected(text, before)
    return (
        expected is not None
        and expected.keys() == after.keys()
        and all(
            _shows(after[key], rules, was=before.get(key)) if isinstance(rules, list) else after[key] == rules
            for key, rules in expected.items()
        )
    )


def _expected(text: str, before: Contents) -> _Expected | None:
    """What the text makes of `before`, as lists where it names a chain; None: only a look can tell."""
    chains: _Expected = dict(before)
    table = ""
    for line in text.split("\n"):
        what, _, rest = line.partition(" ")
        name, _, rule = rest.partition(" ")
        key = (table, name)
        if what.startswith("*"):
            table = what[1:]
        elif what.startswith(":"):
            chains[table, what[1:]] = []
        elif what == "-X":
            chains.pop(key, None)
        elif what in ("-A", "-I", "-D") and key in chains:
            rules = chains[key]
            chains[key] = rules = rules if isinstance(rules, list) else [*rules]
            if not _edit(rules, what, rule, own=name.startswith(CHAIN_PREFIX)):
                return None
        elif what not in ("COMMIT", ""):
            return None
    return chains


def _edit(rules: _Rules, what: str, rule: str, *, own: bool) -> bool:
    """Do what a line does; whether that can be told."""
    match = _COMMENT.search(rule)
    written = _Written(match[1]) if match is not None else None
    if written is None:
        return False
    if what == "-A" and own:  # in others the policy comes last
        rules.append(written)
    elif what == "-I" and rule.startswith("1 "):
        rules.insert(0, written)
    else:
        alike = {each for each in rules if _comment(each) == written.comment}
        if what != "-D" or len(alike) != 1:  # which of them goes is told by more than their comment
            return False
        rules.remove(alike.pop())
    return True


def _comment(rule: bytes | _Written) -> str | None:
    return comment_of(rule) if isinstance(rule, bytes) else rule.comment


def _shows(
    found: Sequence[bytes], expected: Sequence[bytes | _Written], *, was: Sequence[bytes] | None
) -> bool:
    before: dict[str | None, set[bytes]] = {}
    for rule in was or ():
        before.setdefault(comment_of(rule), set()).add(rule)
    return (
        found != was
        and len(found) == len(expected)
        and all(_is(rule, each, before) for rule, each in zip(found, expected, strict=True))
    )


def _is(rule: bytes, expected: bytes | _Written, before: Mapping[str | None, set[bytes]]) -> bool:
    if isinstance(expected, bytes):
        return rule == expected
    comment = comment_of(rule)
    # Of a rule that was there before the bytes are known, too.
    return comment == expected.comment and rule in before.get(comment, (rule,))
