"""Every generated file with its text."""

from __future__ import annotations

from pathlib import Path

from reference import bash, fish, zsh
from reference.commands import pages
from reference.manual import file_name, manual

ROOT = Path(__file__).parent.parent


def files() -> dict[Path, str]:
    """What completions/ and man/ have to hold, by path."""
    every = pages()
    return {
        ROOT / "completions" / "kvctl.bash": bash.script(every),
        ROOT / "completions" / "_kvctl": zsh.script(every),
        ROOT / "completions" / "kvctl.fish": fish.script(every),
        **{ROOT / "man" / file_name(page): manual(page, every) for page in every},
    }
