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
