"""Whether a rule takes a packet: yes, no, or unknown, with the reason.

What each match compares is told in iptables-extensions(8); what the kernel does where that is silent, in
net/netfilter/xt_*.c of Linux.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvctl.model.net import Address, contains, parse_address, parse_network
from kvctl.model.rules import COMMENT_PREFIX
from kvctl.netfilter.native import MODULE as NATIVE
from kvctl.trace.facts import Facts
from kvctl.trace.packet import WITH_PORTS, Packet, Tracking
from kvctl.trace.ruleset import AnyRule, Match

Judged = bool | str
"""A string: it cannot be judged, for this reason."""

_WHY_UNKNOWN = {
    "set": "members of ipsets are not read",
    "statistic": "chance decides, or a counter",
    "bpf": "its program is not run",
    "recent": "the lists of other programs are not read",
    "limit": "it depends on what has passed before",
    "hashlimit": "it depends on what has passed before",
    "connlimit": "it depends on what has passed before",
    "connbytes": "it depends on what has passed before",
    "quota": "it depends on what has passed before",
    "time": "it depends on the time",
    NATIVE: "a native nft rule, which iptables-save prints wrong: see nft -a list ruleset",
    "owner": "whose socket it is shows only in what this host sends itself",
}
_PROTOCOL_NUMBERS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "132": "sctp"}
_PROTOCOL_NAMES = {"ipv6-icmp": "icmpv6", "icmp6": "icmpv6"}
# A heartbeat's age is known to about a second.
_SURE_SECONDS = 1.5


def matches(rule: AnyRule, packet: Packet, facts: Facts) -> Judged:
    """Whether all conditions of a rule hold; one that does not hold decides, whatever is unknown of the others."""
    together: dict[str, list[Match]] = {}
    answers: list[Judged] = []
    for match in rule.matches:
        if match.module == "recent" or _is_of_no_connection(match, packet):
            together.setdefault(match.module or "", []).append(match)
            continue
        answer = _judge(match, packet, facts)
        if answer is False:
            return False
        answers.append(answer)
    for module, its in together.items():
        answers.append(_recent(rule, its, facts) if module == "recent" else _untracked(its, packet, facts))
    if any(answer is False for answer in answers):
        return False
    return next((answer for answer in answers if isinstance(answer, str)), True)


def _is_of_no_connection(match: Match, packet: Packet) -> bool:
    tracked = packet.connection.tracking is Tracking.TRACKED
    return not tracked and match.module in ("conntrack", "state", "connmark")


def _untracked(together: list[Match], packet: Packet, facts: Facts) -> Judged:
    """Without a connection nothing of it matches, negated or not, but its state (conntrack_mt, connmark_mt)."""
    states = [match for match in together if match.option in ("--ctstate", "--state")]
    if not states:
        return False
    answers = [_judge(match, packet, facts) for match in states]
    if False in answers or len(states) == len(together):
        return all(answer is True for answer in answers)
    # Beside the state in one match they are not asked; in a match of their own they fail.
    return f"{together[0]}: it is of a packet that is not tracked"


def _judge(match: Match, packet: Packet, facts: Facts) -> Judged:
    known = _KNOWN.get((match.module, match.option))
    if known is None:
        why = _WHY_UNKNOWN.get(match.module or "", "this match is not known here")
        return f"{match}: {why}"
    try:
        answer = known(match.values, packet, facts)
    except (ValueError, IndexError):
        return f"{match}: its value is not understood"
    if isinstance(answer, str):
        return f"{match}: {answer}"
    return answer is not match.negated


Values = tuple[str, ...]


def _source(values: Values, packet: Packet, facts: Facts) -> Judged:
    return contains(parse_network(values[0]), packet.source)


def _destination(values: Values, packet: Packet, facts: Facts) -> Judged:
    return contains(parse_network(values[0]), packet.destination)


def _interface(pattern: str, name: str | None) -> Judged:
    # Before the routing there is none to leave by yet, and iptables does not let one ask.
    if name is None:
        return "the interface is not known"
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _in(values: Values, packet: Packet, facts: Facts) -> Judged:
    return _interface(values[0], packet.in_interface)


def _out(values: Values, packet: Packet, facts: Facts) -> Judged:
    return _interface(values[0], packet.out_interface)


def _protocol(values: Values, packet: Packet, facts: Facts) -> Judged:
    name = _PROTOCOL_NUMBERS.get(values[0], values[0])
    return name in ("all", "0") or _PROTOCOL_NAMES.get(name, name) == packet.protocol


def _one_port(text: str, port: int | None) -> Judged:
    first, _, last = text.partition(":")
    low, high = int(first or 0), int(last or (65535 if ":" in text else first))
    if port is None:
        return True if (low, high) == (0, 65535) else "the port is not given"
    return low <= port <= high


def _any_port(text: str, ports: tuple[int | None, ...]) -> Judged:
    answers = [_one_port(part, port) for part in text.split(",") for port in ports]
    if any(answer is True for answer in answers):
        return True
    return next((answer for answer in answers if isinstance(answer, str)), False)


def _source_ports(values: Values, packet: Packet, facts: Facts) -> Judged:
    return packet.protocol in WITH_PORTS and _any_port(values[0], (packet.source_port,))


def _destination_ports(values: Values, packet: Packet, facts: Facts) -> Judged:
    return packet.protocol in WITH_PORTS and _any_port(values[0], (packet.destination_port,))


def _both_ports(values: Values, packet: Packet, facts: Facts) -> Judged:
    return packet.protocol in WITH_PORTS and _any_port(
        values[0], (packet.source_port, packet.destination_port)
    )


def _marked(text: str, mark: int) -> bool:
    value, _, mask = text.partition("/")
    return mark & (int(mask, 0) if mask else 0xFFFFFFFF) == int(value, 0)


def _mark(values: Values, packet: Packet, facts: Facts) -> Judged:
    return _marked(values[0], packet.mark)


def _connection_mark(values: Values, packet: Packet, facts: Facts) -> Judged:
    return _marked(values[0], packet.connection.mark)


def _state(values: Values, packet: Packet, facts: Facts) -> Judged:
    asked = set(values[0].split(","))
    connection = packet.connection
    if connection.tracking is not Tracking.TRACKED:
        return ("INVALID" if connection.tracking is Tracking.NOT_YET else "UNTRACKED") in asked
    if "RELATED" in asked and not connection.new:
        return "whether another connection announced this one is not read"
    begun = connection.answers or connection.replied
    state = {"ESTABLISHED" if begun else "NEW"}
    if connection.reply_source != connection.original_destination:
        state.add("DNAT")
    if connection.reply_destination != connection.original_source:
        state.add("SNAT")
    return bool(asked & state)


def _direction(values: Values, packet: Packet, facts: Facts) -> Judged:
    return (values[0] == "REPLY") is packet.connection.answers


def _end(which: str) -> Callable[[Values, Packet, Facts], Judged]:
    def judge(values: Values, packet: Packet, facts: Facts) -> Judged:
        address: Address = getattr(packet.connection, which)
        return contains(parse_network(values[0]), address)

    return judge


def _original_port(values: Values, packet: Packet, facts: Facts) -> Judged:
    return _one_port(values[0], packet.connection.original_port)


def _address_type(which: str) -> Callable[[Values, Packet, Facts], Judged]:
    def judge(values: Values, packet: Packet, facts: Facts) -> Judged:
        address: Address = getattr(packet, which)
        asked = {each.lower() for each in values[0].split(",")}
        if asked - {"local", "unicast", "broadcast", "multicast"}:
            return "this type is not known here"
        if address.version == 6 and len(asked) > 1:
            return "several types mean something else in IPv6"
        if address.version == 6 and asked == {"unicast"}:
            # match_type6 in xt_addrtype.c: this node's own addresses, too.
            return not address.is_multicast
        if address.is_multicast:
            return "multicast" in asked
        return facts.kind_of(address) in asked

    return judge


def _range(which: str) -> Callable[[Values, Packet, Facts], Judged]:
    def judge(values: Values, packet: Packet, facts: Facts) -> Judged:
        first, _, last = values[0].partition("-")
        return int(parse_address(first)) <= int(getattr(packet, which)) <= int(parse_address(last))

    return judge


def _flags(values: Values, packet: Packet, facts: Facts) -> Judged:
    if not packet.connection.new:
        return "a later packet may have other flags"
    looked_at, wanted = (set(part.split(",")) - {"NONE"} for part in values)
    return ({"SYN"} & looked_at if "ALL" not in looked_at else {"SYN"}) == wanted


def _echo(values: Values, packet: Packet, facts: Facts) -> Judged:
    return values[0] in _ECHO_TYPES[packet.protocol]


_ECHO_TYPES: Mapping[str, tuple[str, ...]] = {
    "icmp": ("8", "8/0", "any", "255", "echo-request"),
    "icmpv6": ("128", "128/0", "echo-request"),
}


def _recent(rule: AnyRule, together: list[Match], facts: Facts) -> Judged:
    """Whether the heartbeats of a fence of ours come (or with `!` are late)."""
    options = {match.option: match for match in together}
    name = options["--name"].values[0] if "--name" in options else ""
    check, seconds = options.get("--rcheck"), options.get("--seconds")
    whole = options.keys() == {"--rcheck", "--seconds", "--name", "--mask", "--rsource"}
    if not (whole and check and seconds and name.startswith("kvctl-")) or not rule.comment.startswith(
        COMMENT_PREFIX
    ):
        return f"-m recent --name {name}: {_WHY_UNKNOWN['recent']}"
    age, most = facts.heartbeat(name), int(seconds.values[0])
    if age is not None and abs(age - most) < _SURE_SECONDS:
        return f"-m recent --name {name}: the heartbeat is just becoming too old"
    fresh = age is not None and age <= most
    return fresh is not check.negated


_KNOWN: Mapping[tuple[str | None, str], Callable[[Values, Packet, Facts], Judged]] = {
    (None, "-s"): _source,
    (None, "-d"): _destination,
    (None, "-i"): _in,
    (None, "-o"): _out,
    (None, "-p"): _protocol,
    **{(name, "--sport"): _source_ports for name in WITH_PORTS},
    **{(name, "--dport"): _destination_ports for name in WITH_PORTS},
    ("multiport", "--sports"): _source_ports,
    ("multiport", "--dports"): _destination_ports,
    ("multiport", "--ports"): _both_ports,
    ("tcp", "--tcp-flags"): _flags,
    ("icmp", "--icmp-type"): _echo,
    ("icmp6", "--icmpv6-type"): _echo,
    ("mark", "--mark"): _mark,
    ("connmark", "--mark"): _connection_mark,
    ("conntrack", "--ctstate"): _state,
    ("state", "--state"): _state,
    ("conntrack", "--ctdir"): _direction,
    ("conntrack", "--ctorigsrc"): _end("original_source"),
    ("conntrack", "--ctorigdst"): _end("original_destination"),
    ("conntrack", "--ctreplsrc"): _end("reply_source"),
    ("conntrack", "--ctrepldst"): _end("reply_destination"),
    ("conntrack", "--ctorigdstport"): _original_port,
    ("addrtype", "--src-type"): _address_type("source"),
    ("addrtype", "--dst-type"): _address_type("destination"),
    ("iprange", "--src-range"): _range("source"),
    ("iprange", "--dst-range"): _range("destination"),
}
