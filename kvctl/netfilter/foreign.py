"""Egress rules that kube-vip itself wrote with iptables: shown, never touched.

kube-vip (pkg/vip/egress.go) marks in mangle, chain KUBE-VIP-EGRESS, and translates in nat POSTROUTING by
rules whose comment is a fixed word and its namespace.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kvctl.model.net import Address, Network, parse_address, parse_network
from kvctl.model.rules import HOOK_CHAIN, Table
from kvctl.netfilter.savetext import SavedTables
from kvctl.netfilter.syntax import tokenize

COMMENT = re.compile(r"a3ViZS12aXAK=kube-vip-(?P<namespace>[a-z0-9-]{1,63})")
"""The comment of its rules in nat."""
_MARKING_CHAIN = "KUBE-VIP-EGRESS"


class ForeignEgress(NamedTuple):
    """One pod that kube-vip translates, or marks only (then without a VIP)."""

    namespace: str | None
    vip: Address | None
    pod: Network | None
    port: str | None
    connections: int | None


def kube_vip_rules(saved: SavedTables) -> list[ForeignEgress]:
    """kube-vip's rules in one family."""
    found = [
        item
        for packets, text in saved.chain(Table.NAT, HOOK_CHAIN)
        if (item := _translation(text, packets)) is not None
    ]
    translated = {item.pod for item in found}
    for _, text in saved.chain(Table.MANGLE, _MARKING_CHAIN):
        words = tokenize(text)
        source = _network(_value(words, "-s"))
        if "MARK" in words and source not in translated:
            found.append(ForeignEgress(namespace=None, vip=None, pod=source, port=None, connections=None))
    return found


def _translation(text: str, packets: int | None) -> ForeignEgress | None:
    words = tokenize(text)
    match = COMMENT.fullmatch(_value(words, "--comment") or "")
    vip = _value(words, "--to-source")
    if match is None or vip is None:
        return None
    try:
        address = parse_address(vip)
    except ValueError:
        return None
    port, protocol = _value(words, "--dport"), _value(words, "-p")
    return ForeignEgress(
        namespace=match["namespace"],
        vip=address,
        pod=_network(_value(words, "-s")),
        port=f"{protocol}:{port.replace(':', '-')}" if port and protocol else None,
        connections=packets,
    )


def _value(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words[:-1] else None


def _network(text: str | None) -> Network | None:
    try:
        return parse_network(text) if text else None
    except ValueError:
        return None
