"""Whether a rule takes a packet: yes, no, or unknown with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvctl.model.net import parse_address
from kvctl.trace.matching import matches
from kvctl.trace.packet import Tracking
from kvctl.trace.ruleset import parse_any
from tests.trace.packets import FACTS, packet

FENCED = (
    "-m recent {}--rcheck --seconds 10 --name {} --mask 0.0.0.0 --rsource "
    '-m comment --comment "kvctl:aaaaaaaaaaaaaaaa sip/client" -j RETURN'
)
COMING, NEVER = "kvctl-aaaaaaaaaaaaaaaa", "kvctl-bbbbbbbbbbbbbbbb"


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ("", True),
        ("-s 10.0.0.0/24", True),
        ("! -s 10.0.0.0/24", False),
        ("-d 192.0.2.0/24 -p udp -m udp --dport 5060", True),
        ("-p tcp -m tcp --dport 5060", False),
        ("! -p tcp", True),
        ("-p 17", True),
        ("-p udp -m udp --dport 5000:6000", True),
        ("-p udp -m udp --dport 6000:", False),
        ("-p udp -m udp ! --dport 5060", False),
        ("-p udp -m udp --sport 40000", True),
        ("-p udp -m multiport --dports 53,5000:5100", True),
        ("-p udp -m multiport ! --ports 53,40000", False),
        ("-i veth0", True),
        ("-i veth+", True),
        ("! -i eth+", True),
        ("-m mark --mark 0x40/0x40", False),
        ("-m mark ! --mark 0x40/0x40", True),
        ("-m connmark --mark 0x0/0x3", True),
        ("-m conntrack --ctstate NEW,RELATED", True),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", False),
        ("-m conntrack --ctstate DNAT", False),
        ("-m state ! --state NEW", False),
        ("-m conntrack --ctdir ORIGINAL", True),
        ("-m conntrack --ctdir REPLY", False),
        ("-m conntrack --ctorigdst 192.0.2.0/24 -m conntrack --ctrepldst 10.0.0.1", True),
        ("-m addrtype --dst-type LOCAL", False),
        ("-m addrtype ! --dst-type LOCAL", True),
        ("-m iprange --dst-range 192.0.2.0-192.0.2.9", True),
    ],
)
def test_what_is_known_of_a_packet_decides(conditions: str, holds: bool) -> None:
    assert matches(parse_any(f"{conditions} -j DROP"), packet(), FACTS) is holds


@pytest.mark.parametrize(
    ("conditions", "why"),
    [
        ("-m set --match-set blocked dst", "members of ipsets are not read"),
        ("-m statistic --mode random --probability 0.5", "chance decides"),
        ("-m bpf --bytecode 1,6", "its program is not run"),
        ("-m limit --limit 1/sec", "what has passed before"),
        (
            "-m recent --rcheck --seconds 9 --name THEIRS --mask 255.255.255.255 --rsource",
            "lists of other programs",
        ),
        ("-m rpfilter --invert", "not known here"),
        ("-m socket", "not known here"),
        ("-s 10.0.0.1/255.0.255.0", "not understood"),
    ],
)
def test_what_is_not_known_is_said_and_not_guessed(conditions: str, why: str) -> None:
    answer = matches(parse_any(f"{conditions} -j DROP"), packet(), FACTS)
    assert isinstance(answer, str)
    assert why in answer


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [("-o eth1", True), ("-o eth0", False), ("! -o eth+", False), ("! -o veth+", True), ("-o eth", False)],
)
def test_after_the_routing_the_interface_it_leaves_by_is_known(conditions: str, holds: bool) -> None:
    leaving = replace(packet(), out_interface="eth1")
    assert matches(parse_any(f"{conditions} -j DROP"), leaving, FACTS) is holds
    assert isinstance(matches(parse_any(f"{conditions} -j DROP"), packet(), FACTS), str)


def test_what_does_not_hold_decides_whatever_is_unknown_beside() -> None:
    rule = parse_any("-m set --match-set blocked dst -p tcp -j DROP")
    assert matches(rule, packet(), FACTS) is False


def test_a_port_that_is_not_given_is_unknown_unless_any_will_do() -> None:
    anything = packet(port=None, source_port=None)
    assert "the port is not given" in str(
        matches(parse_any("-p udp -m udp --dport 53 -j DROP"), anything, FACTS)
    )
    assert matches(parse_any("-p udp -m multiport --sports 0:65535 -j DROP"), anything, FACTS) is True
    assert matches(parse_any("-p tcp -m tcp --dport 53 -j DROP"), anything, FACTS) is False


def test_a_first_tcp_packet_is_a_syn_and_of_later_ones_nothing_is_known() -> None:
    syn = parse_any("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP")
    first = packet(protocol="tcp")
    assert matches(syn, first, FACTS) is True
    assert (
        matches(parse_any("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"), first, FACTS) is False
    )
    later = replace(first, connection=replace(first.connection, new=False))
    assert isinstance(matches(syn, later, FACTS), str)


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ("-m conntrack --ctstate UNTRACKED", True),
        ("-m conntrack ! --ctstate UNTRACKED,NEW", False),
        ("-m conntrack ! --ctstate NEW", True),
        ("-m state --state INVALID", False),
        ("-m conntrack --ctdir ORIGINAL", False),
        ("-m conntrack ! --ctorigdst 198.51.100.0/24", False),
        ("-m connmark --mark 0x0/0x3", False),
        ("-m connmark ! --mark 0x1/0x1", False),
        ("-m conntrack --ctstate NEW --ctdir ORIGINAL", False),
        ("-m mark --mark 0x0/0x3", True),
    ],
)
def test_what_is_not_tracked_has_a_state_and_nothing_else_of_a_connection(
    conditions: str, holds: bool
) -> None:
    exempt = replace(packet().connection, tracking=Tracking.UNTRACKED)
    assert matches(parse_any(f"{conditions} -j DROP"), replace(packet(), connection=exempt), FACTS) is holds


def test_whether_a_state_and_more_are_one_match_is_not_known_without_a_connection() -> None:
    exempt = replace(packet().connection, tracking=Tracking.UNTRACKED)
    rule = parse_any("-m conntrack --ctstate UNTRACKED --ctdir ORIGINAL -j DROP")
    assert "not tracked" in str(matches(rule, replace(packet(), connection=exempt), FACTS))


def test_before_conntrack_everything_is_invalid() -> None:
    early = replace(packet(), connection=replace(packet().connection, tracking=Tracking.NOT_YET))
    assert matches(parse_any("-m conntrack --ctstate INVALID -j DROP"), early, FACTS) is True
    assert matches(parse_any("-m conntrack --ctstate NEW -j DROP"), early, FACTS) is False


@pytest.mark.parametrize(
    ("negation", "name", "holds"),
    [("", COMING, True), ("! ", COMING, False), ("", NEVER, False), ("! ", NEVER, True)],
)
def test_a_fence_of_ours_asks_for_its_heartbeats(negation: str, name: str, holds: bool) -> None:
    assert matches(parse_any(FENCED.format(negation, name)), packet(), FACTS) is holds


def test_a_heartbeat_that_is_just_becoming_too_old_is_not_judged() -> None:
    facts = FACTS._replace(heartbeat=lambda name: 9.5)
    assert isinstance(matches(parse_any(FENCED.format("", COMING)), packet(), facts), str)


def test_in_ipv6_unicast_is_every_address_that_is_not_multicast() -> None:
    ends = [replace(packet(), destination=parse_address(text)) for text in ("2001:db8::1", "ff02::1")]
    facts = FACTS._replace(kind_of=lambda address: "local")
    judged = [matches(parse_any("-m addrtype --dst-type UNICAST -j DROP"), end, facts) for end in ends]
    assert judged == [True, False]
    assert matches(parse_any("-m addrtype --dst-type LOCAL -j DROP"), ends[0], facts) is True
    several = matches(parse_any("-m addrtype --dst-type LOCAL,UNICAST -j DROP"), ends[0], facts)
    assert "something else in IPv6" in str(several)
