"""One rule, as text and back: `parse(render(rule)) == rule`.

The text is what `iptables-save` 1.8 prints after `-A CHAIN `, in both back ends: networks with a
length, except single addresses after --ctorigdst; a comment in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from kvctl.model.net import Family, Network, host_network, parse_address, parse_network
from kvctl.model.rules import CHAIN_PREFIX, COMMENT_PREFIX, DROP, RETURN, Heartbeat, Mark, Rule, Target, Verb

# Blanks alone separate words: `\s` would take characters for blanks that iptables does not.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([^ ]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Everything kvctl puts into a comment, and nothing that a shell, iptables-restore or a terminal minds.
_SAFE_COMMENT = re.compile(r"[A-Za-z0-9 :/._~@-]{1,255}")
_CHAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,28}")
_PORT = r"[0-9]{1,5}(?::[0-9]{1,5})?"
# What `render` writes, in its order, which both back ends keep. One expression: a tokenizer takes four times as long.
_RULE = re.compile(
    r"(?:-s (?P<source>[^ ]+) )?"
    r"(?:-d (?P<destination>[^ ]+) )?"
    r"(?:-p (?P<protocol>[a-z0-9]+) )?"
    r"(?:-m conntrack --ctorigdst (?P<original>[^ ]+) )?"
    r"(?:-m conntrack --ctrepldst (?P<replied>[^ ]+) )?"
    r"(?P<asked>-m conntrack --ctdir ORIGINAL )?"
    r"(?(protocol)(?:-m "
    rf"(?:multiport --dports (?P<several>{_PORT}(?:,{_PORT})*)|(?P=protocol) --dport (?P<one>{_PORT})) )?)"
    r"(?:-m mark ! --mark 0x0/0x(?P<marked>[1-9a-f][0-9a-f]{0,7}) )?"
    r"(?:-m recent (?P<late>! )?--rcheck --seconds (?P<seconds>[1-9][0-9]{0,8}) --name (?P<beat>[A-Za-z0-9-]{1,64}) "
    r"--mask (?P<none>0\.0\.0\.0|::) --rsource )?"
    rf'-m comment --comment "(?P<comment>{COMMENT_PREFIX}[A-Za-z0-9 :/._~@-]{{1,249}})" '
    rf"(?:-j (?P<return>RETURN)|-j (?P<drop>DROP)|-j SNAT --to-source (?P<vip>[0-9a-f.:]+)|"
    r"-j MARK --set-xmark 0x(?P<value>[0-9a-f]{1,8})/0x(?P<mask>[0-9a-f]{1,8})|"
    r"-j CONNMARK --(?P<moves>(?:restore|save)-mark) --nfmask 0x(?P<bits>[0-9a-f]{1,8}) --ctmask 0x(?P=bits)|"
    rf"-(?P<option>[jg]) (?P<chain>{CHAIN_PREFIX}[A-Za-z0-9._-]{{1,22}}))"
)

_NO_BITS = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}


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
    parts += _render_connection(rule)
    if rule.ports:
        ports = ",".join(str(a) if a == b else f"{a}:{b}" for a, b in rule.ports)
        several = len(rule.ports) > 1
        parts.append(f"-m multiport --dports {ports}" if several else f"-m {rule.protocol} --dport {ports}")
    if rule.marked:
        parts.append(f"-m mark ! --mark 0x0/{rule.marked:#x}")
    if rule.heartbeat is not None:
        parts.append(_render_heartbeat(rule.heartbeat))
    parts.append(f'-m comment --comment "{rule.comment}"')
    parts.append(_render_target(rule.target))
    return " ".join(parts)


def _render_connection(rule: Rule) -> Iterable[str]:
    """What is asked of the packet's connection."""
    if rule.original_destination is not None:
        network = rule.original_destination
        single = network.num_addresses == 1
        yield f"-m conntrack --ctorigdst {network.network_address if single else network}"
    if rule.reply_destination is not None:
        yield f"-m conntrack --ctrepldst {rule.reply_destination}"
    if rule.asked_only:
        yield "-m conntrack --ctdir ORIGINAL"


def _render_heartbeat(beat: Heartbeat) -> str:
    # With an empty mask every packet looks for the one entry that the heartbeats are written to.
    return (
        f"-m recent {'! ' if beat.late else ''}--rcheck --seconds {beat.seconds} --name {beat.name} "
        f"--mask {_NO_BITS[beat.family]} --rsource"
    )


def _render_target(target: Target) -> str:
    if target.verb in (Verb.RETURN, Verb.DROP):
        return f"-j {target.verb}"
    if target.verb is Verb.SNAT:
        return f"-j SNAT --to-source {target.address}"
    if target.mark is not None:
        return _render_mark(target.verb, target.mark)
    assert target.chain is not None
    if not _CHAIN_NAME.fullmatch(target.chain):
        raise ValueError(f"{target.chain!r} is not the name of a chain")
    return f"{'-j' if target.verb is Verb.JUMP else '-g'} {target.chain}"


def _render_mark(verb: Verb, mark: Mark) -> str:
    if verb is Verb.MARK:
        return f"-j MARK --set-xmark {mark}"
    return f"-j CONNMARK --{verb} --nfmask {mark.mask:#x} --ctmask {mark.mask:#x}"


@lru_cache(maxsize=128)  # the networks that are never rewritten to come again in chain after chain
def parse(text: str) -> Rule | None:
    """The value of a rule that is written just as kvctl writes it; None for every other rule."""
    match = _RULE.fullmatch(text) if COMMENT_PREFIX in text else None
    if match is None:
        return None
    source, destination, protocol, original, replied, several, one, beat, marked = match.group(
        "source", "destination", "protocol", "original", "replied", "several", "one", "beat", "marked"
    )
    try:
        # By position, in the order of Rule: there are thousands of them, and names take as long as all the rest.
        return Rule(
            match["comment"],
            _TARGETS[match.lastgroup or ""](match),
            parse_network(source) if source else None,
            parse_network(destination) if destination else None,
            _parse_original(original) if original else None,
            protocol,
            _parse_ports(several or one) if protocol and (several or one) else (),
            match["asked"] is not None,
            parse_address(replied) if replied else None,
            _parse_heartbeat(match) if beat else None,
            int(marked, 16) if marked else 0,
        )
    except ValueError:
        return None


def tokenize(text: str) -> list[str]:
    """The words of a rule, quotes and escapes resolved as iptables-save writes them."""
    return [
        _ESCAPED.sub(r"\1", match[1]) if match[1] is not None else match[2] for match in _TOKEN.finditer(text)
    ]


def _parse_original(text: str) -> Network:
    return parse_network(text) if "/" in text else host_network(parse_address(text))


def _parse_heartbeat(match: re.Match[str]) -> Heartbeat:
    return Heartbeat(
        name=match["beat"],
        seconds=int(match["seconds"]),
        family=Family.IPV6 if match["none"] == "::" else Family.IPV4,
        late=match["late"] is not None,
    )


_TARGETS: Mapping[str, Callable[[re.Match[str]], Target]] = {
    "return": lambda match: RETURN,
    "drop": lambda match: DROP,
    "vip": lambda match: Target(Verb.SNAT, None, parse_address(match["vip"])),
    "mask": lambda match: Target(Verb.MARK, mark=Mark(int(match["value"], 16), int(match["mask"], 16))),
    "bits": lambda match: Target(Verb(match["moves"]), mark=Mark(0, int(match["bits"], 16))),
    "chain": lambda match: Target(Verb.JUMP if match["option"] == "j" else Verb.GOTO, match["chain"]),
}
"""By the last group of _RULE that took part in the match."""


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    pairs = []
    for item in text.split(",") if text else ():
        first, _, last = item.partition(":")
        pairs.append((int(first), int(last or first)))
    return tuple(pairs)
