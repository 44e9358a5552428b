"""Text that a tenant wrote and root will read."""

from __future__ import annotations

_LONGEST = 80


def quote(text: str) -> str:
    """`text` in double quotes, safe to print anywhere: ASCII, control characters escaped, at most 80 characters."""
    shown = text[: _LONGEST + 1].encode("unicode_escape").decode("ascii").replace('"', '\\"')
    if len(shown) > _LONGEST or len(text) > _LONGEST:
        shown = shown[: _LONGEST - 3] + "..."
    return f'"{shown}"'


def plural(count: int, noun: str, *, many: str | None = None) -> str:
    """`1 pod`, `2 pods`; `many` where adding an s is wrong."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def one_line(text: str, *, longest: int = 1000) -> str:
    """`text` as printable ASCII on one line, the rest escaped, cut with `...` at about `longest` characters."""
    if len(text) <= longest and text.isascii() and text.isprintable():
        return text
    shown = "".join(c if c.isascii() and c.isprintable() else _escaped(c) for c in text[:longest])
    return shown if len(text) <= longest and len(shown) <= longest else shown[: longest - 3] + "..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
