"""Rules of policy routing that ask for what a question leaves open, or for what cannot be asked.

RTM_GETROUTE takes tcp, udp and icmp alone (rtm_getroute_parse_ip_proto in Linux), and answers for a packet without
ports and type of service where none are given.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import ip_network
from struct import Struct
from typing import Protocol

from kvctl.errors import NetlinkError
from kvctl.model.net import Address, contains, family_of
from kvctl.netlink import Netlink
from kvctl.netlink.messages import read_attributes
from kvctl.node.routing_messages import SeenRule, read_rule, rule_query
from kvctl.node.rtnetlink import read_ip

_RTM_GETRULE = 34
_FIXED_BYTES = 12  # struct fib_rule_hdr
_FRA_SRC, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 2, 22, 23, 24
_RANGE = Struct("=HH")
_NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132}
_UNASKED = ("sctp",)
_ABSENT = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


class Asked(Protocol):
    """The packet that is asked about, as in kvctl.node.lookup."""

    @property
    def destination(self) -> Address: ...
    @property
    def source(self) -> Address | None: ...
    @property
    def iif(self) -> str | None: ...
    @property
    def mark(self) -> int: ...
    @property
    def protocol(self) -> str | None: ...
    @property
    def source_port(self) -> int | None: ...
    @property
    def destination_port(self) -> int | None: ...


def find_open_rule(netlink: Netlink, asked: Asked, *, local: bool, what: str) -> str | None:
    """A rule that may take the packet, by what is not known of it, as `ip rule` begins it; raises NetlinkError.

    `local`: it was found to be for this host, which the first rule says.
    """
    try:
        query = rule_query(family_of(asked.destination))
        rules = netlink.dump(kind=_RTM_GETRULE, payload=query, read=read_rule, what=what)
    except NetlinkError as error:
        if error.errno in _ABSENT:
            return None
        raise
    found = (seen.rule for seen in rules if not (local and seen.rule.priority) and _is_open(seen, asked))
    return next(map(str, found), None)


def _is_open(seen: SeenRule, asked: Asked) -> bool:
    parts = read_attributes(seen.payload, _FIXED_BYTES, len(seen.payload))
    words = seen.rule.further
    selects = any(word == "dscp" or word.startswith("tos ") for word in words)
    protocol = parts.get(_FRA_IP_PROTO)
    ports = [
        (_RANGE.unpack(parts[kind]), port)
        for kind, port in ((_FRA_SPORT_RANGE, asked.source_port), (_FRA_DPORT_RANGE, asked.destination_port))
        if kind in parts
    ]
    selects |= any(port is None for _, port in ports)
    selects |= asked.protocol in _UNASKED and bool(protocol or ports)
    if not selects or "not" in words:
        return selects
    if protocol is not None and protocol[0] != _NUMBERS.get(asked.protocol or ""):
        return False
    if ports and (asked.protocol or "").startswith("icmp"):
        return False
    if any(port is not None and not first <= port <= last for (first, last), port in ports):
        return False
    return _fits(seen, parts, asked)


def _fits(seen: SeenRule, parts: Mapping[int, bytes], asked: Asked) -> bool:
    """Whether all that is known of the packet is as the rule has it."""
    rule = seen.rule
    if rule.destination is not None and not contains(rule.destination, asked.destination):
        return False
    if asked.mark & rule.mask != rule.mark:
        return False
    length = seen.payload[2]
    if length and asked.source is not None:
        network = ip_network((read_ip(parts[_FRA_SRC]), length))
        if not contains(network, asked.source):
            return False
    interfaces = [word for word in rule.further if word.startswith(("iif ", "oif "))]
    return all(word == f"iif {asked.iif}" for word in interfaces)
