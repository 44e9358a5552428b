"""Who keeps pods' packets from conntrack, and so from every rule of nat: rules of the raw table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum

from kvctl.doctor.finding import Finding, failure, warning
from kvctl.doctor.ranges import known_networks
from kvctl.doctor.scene import Scene
from kvctl.model.net import Family, Network, overlap, parse_network, within
from kvctl.model.objects import CidrKind
from kvctl.model.text import one_line
from kvctl.trace.ruleset import AnyRule, Match, parse_any

_LINK_LOCAL = {Family.IPV4: parse_network("169.254.0.0/16"), Family.IPV6: parse_network("fe80::/10")}
# What the node itself sends.
_NOT_OF_PODS = "OUTPUT"


class Reach(Enum):
    """How much of what pods send out a rule is about."""

    NOTHING = 0
    SOME = 1
    ALL = 2


def untracked(scene: Scene, family: Family, *, check: str) -> Iterator[Finding]:
    """The rule that exempts most of it, in either back end."""
    networks = known_networks(scene)
    pods, services = (networks[kind][family].networks for kind in (CidrKind.POD, CidrKind.SERVICE))
    # There nothing is rewritten anyway: a DNS cache on the node is exempt in many clusters.
    spared = (*pods, *services, _LINK_LOCAL[family])
    found = [
        (_reach(parse_any(text), pods, spared), f"-A {chain} {text} (raw table, {backend})")
        for backend, of_family in scene.reading.tables
        if of_family is family
        and (raw := scene.reading.tables[backend, family].tables.get("raw")) is not None
        for chain, rules in raw.chains.items()
        if chain != _NOT_OF_PODS
        for _, text in rules
    ]
    reach, rule = max(found, key=lambda each: each[0].value, default=(Reach.NOTHING, ""))
    seen = one_line(rule, longest=300)
    mend = "switch that off; Cilium: installNoConntrackIptablesRules=false"
    if reach is Reach.ALL:
        text = f"another program exempts pods from connection tracking ({family}): nat never sees them"
        yield failure(check, text, evidence=seen, mend=mend)
    elif reach is Reach.SOME:
        text = f"another program exempts some of what pods send from connection tracking ({family}): nat never sees it"
        yield warning(check, text, evidence=seen, mend=mend)


def _reach(rule: AnyRule, pods: Collection[Network], spared: Collection[Network]) -> Reach:
    target = rule.target
    options = [option for option, _ in target.options] if target is not None else []
    if target is None or not (target.name == "NOTRACK" or (target.name == "CT" and "--notrack" in options)):
        return Reach.NOTHING
    reaches = [_reach_of(match, pods, spared) for match in rule.matches]
    return min(reaches, key=lambda each: each.value, default=Reach.ALL)


def _reach_of(match: Match, pods: Collection[Network], spared: Collection[Network]) -> Reach:
    if match.option == "-i" and match.values == ("lo",) and not match.negated:
        return Reach.NOTHING
    if match.module is not None or match.option not in ("-s", "-d"):
        return Reach.SOME
    try:
        networks = [parse_network(value) for value in match.values]
    except ValueError:
        return Reach.SOME
    if match.option == "-d":
        harmless = not match.negated and all(within(network, spared) for network in networks)
        return Reach.NOTHING if harmless else Reach.SOME
    touched = [
        pod
        for pod in pods
        if (not within(pod, networks) if match.negated else any(overlap(pod, each) for each in networks))
    ]
    return Reach.ALL if touched else Reach.NOTHING
