"""What the kernel's tables would do with a packet, by rules as values."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kvctl.model.net import Address, Network, contains
from kvctl.model.rules import Heartbeat, Hook, Rule, Ruleset, Target, Verb
from tests.policy.strategies import Packet


class Moment(NamedTuple):
    """What beside the packet itself decides."""

    late: frozenset[str] = frozenset()
    """The lists whose heartbeat is late."""
    seen_as: Address | None = None
    """The source that the packet's connection has by now; None: it begins with this packet."""


ANY = Moment()


def source_after(ruleset: Ruleset, packet: Packet, moment: Moment = ANY) -> Address | None:
    """The source address that nat gives the packet, None if it leaves it alone."""
    end = _walked(ruleset, Hook.EGRESS, packet, moment, met=None)
    return end.address if end is not None else None


def is_dropped(ruleset: Ruleset, packet: Packet, moment: Moment = ANY) -> bool:
    """Whether mangle drops the packet, so that nat never sees it."""
    end = _walked(ruleset, Hook.DROP, packet, moment, met=None)
    return end is not None and end.verb is Verb.DROP


def mark_of(ruleset: Ruleset, packet: Packet, moment: Moment = ANY) -> int:
    """The mark that the packet gets before the routing, where it still goes where it was aimed; 0 without one."""
    marks: list[int] = [0]
    _walked(ruleset, Hook.MARK, replace(packet, destination=packet.aimed_at), moment, met=None, marks=marks)
    return marks[-1]


def rules_met(ruleset: Ruleset, packet: Packet, hook: Hook = Hook.EGRESS) -> int:
    """How many rules are compared with the packet."""
    return len(met_by(ruleset, packet, hook))


def met_by(ruleset: Ruleset, packet: Packet, hook: Hook = Hook.EGRESS) -> list[Rule]:
    """The rules that are compared with the packet."""
    met: list[Rule] = []
    assert hook in ruleset.hooks
    _walked(ruleset, hook, packet, ANY, met=met)
    return met


def _walked(
    ruleset: Ruleset,
    hook: Hook,
    packet: Packet,
    moment: Moment,
    *,
    met: list[Rule] | None,
    marks: list[int] | None = None,
) -> Target | None:
    if hook not in ruleset.hooks:
        return None
    start = ruleset.hooks[hook].target.chain
    assert start is not None
    return _walk(ruleset, start, packet, moment, met=met, marks=marks if marks is not None else [0])


def _walk(
    ruleset: Ruleset, chain: str, packet: Packet, moment: Moment, *, met: list[Rule] | None, marks: list[int]
) -> Target | None:
    for rule in ruleset.chains[chain]:
        if met is not None:
            met.append(rule)
        if not _matches(rule, packet, moment) or (rule.marked and not rule.marked & marks[-1]):
            continue
        if rule.target.verb is Verb.RETURN:
            return None
        if rule.target.verb in (Verb.SNAT, Verb.DROP):
            return rule.target
        if rule.target.mark is not None:
            if rule.target.verb is Verb.MARK:
                marks.append(marks[-1] & ~rule.target.mark.mask ^ rule.target.mark.value)
            continue
        assert rule.target.chain is not None
        found = _walk(ruleset, rule.target.chain, packet, moment, met=met, marks=marks)
        if found is not None or rule.target.verb is Verb.GOTO:
            return found
    return None


def _matches(rule: Rule, packet: Packet, moment: Moment) -> bool:
    return (
        _in(rule.source, packet.source)
        and _in(rule.destination, packet.destination)
        and _in(rule.original_destination, packet.aimed_at)
        and rule.protocol in (None, packet.protocol)
        and (not rule.ports or any(first <= packet.port <= last for first, last in rule.ports))
        and rule.reply_destination in (None, moment.seen_as)
        and _beats(rule.heartbeat, moment)
    )


def _beats(beat: Heartbeat | None, moment: Moment) -> bool:
    return beat is None or beat.late == (beat.name in moment.late)


def _in(network: Network | None, address: Address) -> bool:
    return network is None or contains(network, address)
