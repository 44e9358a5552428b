"""Rules of anybody, taken apart: matches and target, from the text that iptables-save prints."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from kvctl.netfilter.syntax import tokenize

# What takes just one word that may look like an option or a negation: names and texts that people choose.
_FREE_TEXT = frozenset(
    (
        "--comment",
        "--string",
        "--hex-string",
        "--name",
        "--log-prefix",
        "--nflog-prefix",
        "--bytecode",
        "--u32",
    )
)
_TARGETS = {"-j": False, "--jump": False, "-g": True, "--goto": True}


class Match(NamedTuple):
    """One condition of a rule."""

    module: str | None
    """What `-m` named before it; None: the rule's own (addresses, interfaces, protocol)."""
    option: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        module = f"-m {self.module} " if self.module else ""
        return f"{module}{'! ' if self.negated else ''}{' '.join((self.option, *self.values))}"


class ForeignTarget(NamedTuple):
    """What a rule does: an extension with its options, or a chain."""

    name: str
    goto: bool = False
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def option(self, name: str) -> str | None:
        """The value of an option that is given once; None: it is not given so."""
        found = [values for option, values in self.options if option == name]
        return found[0][0] if len(found) == 1 and len(found[0]) == 1 else None


class AnyRule(NamedTuple):
    """A rule, whoever wrote it."""

    text: str
    matches: tuple[Match, ...]
    target: ForeignTarget | None
    comment: str = ""


@lru_cache(maxsize=65536)
def parse_any(text: str) -> AnyRule:
    """The rule that is printed after `-A CHAIN `. Every word of it is in the result."""
    words = tokenize(text)
    matches: list[Match] = []
    module: str | None = None
    bare: str | None = None
    """A module that has been named and has said nothing yet: some have no options (`-m rpfilter`)."""
    comment = ""
    place = 0
    while place < len(words):
        word = words[place]
        if word in _TARGETS and place + 1 < len(words):
            target = _target(words[place:])
            break
        if word in ("-m", "--match") and place + 1 < len(words):
            matches += _without_options(bare)
            module = bare = words[place + 1]
            place += 2
            continue
        negated = word == "!"
        place += negated
        option, values, place = _option(words, place)
        its_module = None if len(option) == 2 and option != "-m" else module
        if its_module is not None:
            bare = None
        if option == "--comment":
            comment = values[0] if values else ""
        else:
            matches.append(Match(its_module, option, values, negated=negated))
    else:
        target = None
    matches += _without_options(bare)
    return AnyRule(text=text, matches=tuple(matches), target=target, comment=comment)


def _without_options(module: str | None) -> list[Match]:
    # These alone say nothing: -p has told already, or the comment is the comment.
    if module in (None, "comment", "tcp", "udp", "sctp", "icmp", "icmp6"):
        return []
    return [Match(module, "", ())]


def _option(words: list[str], place: int) -> tuple[str, tuple[str, ...], int]:
    """The option at `place` with its values, and where the next one begins."""
    option = words[place] if place < len(words) else ""
    end = place + 1
    if option in _FREE_TEXT:
        end = min(end + 1, len(words))
    else:
        while end < len(words) and words[end] != "!" and not words[end].startswith("-"):
            end += 1
    return option, tuple(words[place + 1 : end]), end


def _target(words: list[str]) -> ForeignTarget:
    options: list[tuple[str, tuple[str, ...]]] = []
    place = 2
    while place < len(words):
        option, values, place = _option(words, place)
        options.append((option, values))
    return ForeignTarget(name=words[1], goto=_TARGETS[words[0]], options=tuple(options))
