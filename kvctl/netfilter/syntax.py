"""One rule, as text and back: `parse(render(rule)) == rule`.

The text is what `iptables-save` 1.8 prints after `-A CHAIN `, in both back ends: networks with a
length, except single addresses after --ctorigdst; a comment in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvctl.model.net import Network, host_network, parse_address, parse_network
from kvctl.model.rules import COMMENT_PREFIX, RETURN, Rule, Target, Verb

# Blanks alone separate words: `\s` would take characters for blanks that iptables does not.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([^ ]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Everything kvctl puts into a comment, and nothing that a shell, iptables-restore or a terminal minds.
_SAFE_COMMENT = re.compile(r"[A-Za-z0-9 :/._~@-]{1,255}")
_CHAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,28}")
_PORTS = re.compile(r"[0-9]{1,5}(?::[0-9]{1,5})?(?:,[0-9]{1,5}(?::[0-9]{1,5})?)*")


def is_chain_name(name: str) -> bool:
    """Whether iptables can write a chain of this name."""
    return _CHAIN_NAME.fullmatch(name) is not None


def render(rule: Rule) -> str:
    """The rule as iptables-restore reads it and iptables-save prints it; raises ValueError for an unsafe comment."""
    if not _SAFE_COMMENT.fullmatch(rule.comment):
        raise ValueError(f"comment {rule.comment!r} has characters that no rule of kvctl's may have")
    parts = []
    if rule.source is not None:
        parts.append(f"-s {rule.source}")
    if rule.destination is not None:
        parts.append(f"-d {rule.destination}")
    if rule.protocol is not None:
        parts.append(f"-p {rule.protocol}")
    if rule.original_destination is not None:
        network = rule.original_destination
        single = network.num_addresses == 1
        parts.append(f"-m conntrack --ctorigdst {network.network_address if single else network}")
    if rule.ports:
        ports = ",".join(str(a) if a == b else f"{a}:{b}" for a, b in rule.ports)
        several = len(rule.ports) > 1
        parts.append(f"-m multiport --dports {ports}" if several else f"-m {rule.protocol} --dport {ports}")
    parts.append(f'-m comment --comment "{rule.comment}"')
    parts.append(_render_target(rule.target))
    return " ".join(parts)


def _render_target(target: Target) -> str:
    if target.verb is Verb.RETURN:
        return "-j RETURN"
    if target.verb is Verb.SNAT:
        return f"-j SNAT --to-source {target.address}"
    assert target.chain is not None
    if not _CHAIN_NAME.fullmatch(target.chain):
        raise ValueError(f"{target.chain!r} is not the name of a chain")
    return f"{'-j' if target.verb is Verb.JUMP else '-g'} {target.chain}"


def parse(text: str) -> Rule | None:
    """The value of a rule made of what kvctl uses, with a comment of kvctl's; None for every other rule."""
    if COMMENT_PREFIX not in text:
        return None
    try:
        return _Parser(tokenize(text)).rule()
    except (ValueError, StopIteration, KeyError):
        return None


def tokenize(text: str) -> list[str]:
    """The words of a rule, quotes and escapes resolved as iptables-save writes them."""
    return [
        _ESCAPED.sub(r"\1", match[1]) if match[1] is not None else match[2] for match in _TOKEN.finditer(text)
    ]


class _Parser:
    """Reads the words of one rule; whatever it does not know is a ValueError."""

    def __init__(self, words: list[str]) -> None:
        self._words: Iterator[str] = iter(words)
        self._source: Network | None = None
        self._destination: Network | None = None
        self._original: Network | None = None
        self._protocol: str | None = None
        self._ports: tuple[tuple[int, int], ...] = ()
        self._comment: str | None = None
        self._target: Target | None = None

    def rule(self) -> Rule:
        for word in self._words:
            self._option(word)
        if self._comment is None or self._target is None:
            raise ValueError("no comment or no target")
        if not (self._comment.startswith(COMMENT_PREFIX) and _SAFE_COMMENT.fullmatch(self._comment)):
            raise ValueError("no comment of kvctl's or no target")
        return Rule(
            comment=self._comment,
            target=self._target,
            source=self._source,
            destination=self._destination,
            original_destination=self._original,
            protocol=self._protocol,
            ports=self._ports,
        )

    def _option(self, word: str) -> None:
        value = next(self._words)
        if word == "-s" and self._source is None:
            self._source = parse_network(value)
        elif word == "-d" and self._destination is None:
            self._destination = parse_network(value)
        elif word == "-p" and self._protocol is None:
            self._protocol = value
        elif word == "-m":
            self._match(value)
        elif word in ("-j", "-g") and self._target is None:
            self._target = self._parse_target(word, value)
        else:
            raise ValueError(word)

    def _match(self, name: str) -> None:
        option, value = next(self._words), next(self._words)
        if (name, option) == ("comment", "--comment") and self._comment is None:
            self._comment = value
        elif (name, option) == ("conntrack", "--ctorigdst") and self._original is None:
            self._original = parse_network(value) if "/" in value else host_network(parse_address(value))
        elif self._ports or self._protocol is None:
            raise ValueError(name)
        elif (name, option) == ("multiport", "--dports") or (
            name == self._protocol and option == "--dport" and "," not in value
        ):
            self._ports = _parse_ports(value)
        else:
            raise ValueError(name)

    def _parse_target(self, word: str, value: str) -> Target:
        if word == "-g":
            return Target(verb=Verb.GOTO, chain=value)
        if value == "RETURN":
            return RETURN
        if value == "SNAT":
            if next(self._words) != "--to-source":
                raise ValueError("SNAT without --to-source")
            return Target(verb=Verb.SNAT, address=parse_address(next(self._words)))
        return Target(verb=Verb.JUMP, chain=value)


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    if not _PORTS.fullmatch(text):
        raise ValueError(text)
    pairs = []
    for item in text.split(","):
        first, _, last = item.partition(":")
        pairs.append((int(first), int(last or first)))
    return tuple(pairs)
