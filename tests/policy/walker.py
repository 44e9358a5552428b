"""What the kernel's nat table would do with a packet, by rules as values."""

from __future__ import annotations

from kvctl.model.net import Address, Network, contains
from kvctl.model.rules import Rule, Ruleset, Verb
from tests.policy.strategies import Packet


def source_after(ruleset: Ruleset, packet: Packet) -> Address | None:
    """The source address that the rules give the packet, None if they leave it alone."""
    if ruleset.hook is None:
        return None
    assert ruleset.hook.target.chain is not None
    return _walk(ruleset, ruleset.hook.target.chain, packet, met=None)


def rules_met(ruleset: Ruleset, packet: Packet) -> int:
    """How many rules are compared with the packet."""
    met: list[Rule] = []
    assert ruleset.hook is not None
    assert ruleset.hook.target.chain is not None
    _walk(ruleset, ruleset.hook.target.chain, packet, met=met)
    return len(met)


def _walk(ruleset: Ruleset, chain: str, packet: Packet, *, met: list[Rule] | None) -> Address | None:
    for rule in ruleset.chains[chain]:
        if met is not None:
            met.append(rule)
        if not _matches(rule, packet):
            continue
        if rule.target.verb is Verb.RETURN:
            return None
        if rule.target.verb is Verb.SNAT:
            return rule.target.address
        assert rule.target.chain is not None
        found = _walk(ruleset, rule.target.chain, packet, met=met)
        if found is not None or rule.target.verb is Verb.GOTO:
            return found
    return None


def _matches(rule: Rule, packet: Packet) -> bool:
    return (
        _in(rule.source, packet.source)
        and _in(rule.destination, packet.destination)
        and _in(rule.original_destination, packet.aimed_at)
        and rule.protocol in (None, packet.protocol)
        and (not rule.ports or any(first <= packet.port <= last for first, last in rule.ports))
    )


def _in(network: Network | None, address: Address) -> bool:
    return network is None or contains(network, address)
