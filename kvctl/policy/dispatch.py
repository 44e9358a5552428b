"""What the chains between a hook and the Services say: which pods are led where, and what is never rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from kvctl.model.memo import ByKey, Last
from kvctl.model.net import Family, Network
from kvctl.model.policy import EgressPolicy, Exclusion, Rank
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import Rule, Verb
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.policy import comments, layout
from kvctl.policy.compile import Entry


class Hints(NamedTuple):
    """What is probably found: where it is, it need not be read from the rules."""

    policies: Mapping[ServiceRef, EgressPolicy]
    """What is rewritten."""
    jumps: Mapping[int, tuple[Rule, Entry]]
    """By their identity: rules that are jumps of pods to what is rewritten."""


NO_HINTS = Hints(policies={}, jumps={})


class Dispatch(NamedTuple):
    """What one of these chains says."""

    onward: tuple[str, ...]
    """The chains of its kind that it leads to, from the last one."""
    pods: tuple[tuple[Entry, str], ...]
    """Jumps of pods to the chains of their Services, each with the chain that it leads to."""
    asides: tuple[tuple[Entry, str], ...]
    """The same to what guards or marks."""
    exclusions: tuple[tuple[Network, Exclusion], ...]


_known: ByKey[tuple[Family, str], Dispatch] = ByKey()


def dispatching(snapshot: Snapshot, names: layout.Names, *, hints: Hints = NO_HINTS) -> list[Dispatch]:
    """The dispatch chains that packets come through, in order; then those behind gates that somebody removed."""
    found: dict[str, Dispatch] = {}
    todo = [*(name for name in snapshot.chains if name.startswith(names.gated)), names.root]
    while todo:
        name = todo.pop()
        rules = snapshot.chains.get(name)
        if name in found or rules is None:
            continue
        read = _known.get((snapshot.family, name), (rules,), partial(_read, rules, names, hints))
        found[name] = read
        todo.extend(read.onward)
    return list(found.values())


def asides(snapshot: Snapshot, names: layout.Names) -> tuple[tuple[Entry, str], ...]:
    """The jumps of pods to what guards or marks, each with the chain that it leads to."""
    return tuple(
        (item, chain)
        for read in dispatching(snapshot, names)
        for item, chain in read.asides
        if chain in snapshot.chains
    )


def _read(found: Sequence[FoundRule], names: layout.Names, hints: Hints) -> Dispatch:
    pods: list[tuple[Entry, str]] = []
    aside: list[tuple[Entry, str]] = []
    returns: list[Rule] = []
    rules = [each.rule for each in found if each.rule is not None]
    for rule in rules:
        if rule.target.verb is Verb.RETURN:
            returns.append(rule)
        elif rule.target.verb is Verb.JUMP and rule.target.chain is not None:
            hint = hints.jumps.get(id(rule))
            if hint is not None and hint[0] is rule:
                pods.append((hint[1], rule.target.chain))
                continue
            text = comments.comment_text(rule) or ""
            pod = comments.read_pod(text)
            if pod is not None:
                pods += _jump_in(rule, pod)
            else:
                aside += _jump_in(rule, comments.read_aside_pod(text))
    onward = dict.fromkeys(rule.target.chain for rule in rules if rule.target.chain)
    return Dispatch(
        onward=tuple(chain for chain in reversed(onward) if names.is_dispatch(chain)),
        pods=tuple((item, chain) for item, chain in pods if _leads_to(chain, item.rank.ref, names)),
        asides=tuple(aside),
        exclusions=_exclusions(*returns),
    )


def _leads_to(chain: str, ref: ServiceRef, names: layout.Names) -> bool:
    """Whether a chain is a Service's own, or one on the way there."""
    by_way = names is layout.DROPPING and layout.is_pass_chain(chain)
    return by_way or chain == names.service_chain(ref)


def _read_exclusions(*rules: Rule) -> tuple[tuple[Network, Exclusion], ...]:
    return tuple(each for rule in rules for each in _exclusion_in(rule))


# Chain after chain begins with the same rules.
_exclusions = Last(_read_exclusions)


def _exclusion_in(rule: Rule) -> list[tuple[Network, Exclusion]]:
    excluded = rule.destination or rule.original_destination
    kind = comments.read_exclusion(comments.comment_text(rule) or "")
    if kind is None or excluded is None or not excluded.prefixlen:
        return []
    return [(excluded, Exclusion(excluded, kind))]


def _jump_in(rule: Rule, pod: tuple[Rank, str] | None) -> list[tuple[Entry, str]]:
    source, chain = rule.source, rule.target.chain
    if pod is None or chain is None or source is None or source.prefixlen != source.max_prefixlen:
        return []
    return [(Entry(source.network_address, *pod), chain)]
