"""Native nft rules among those of iptables: told from what iptables-save makes of them."""

from __future__ import annotations

import pytest

from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Kernel
from kvctl.netfilter.native import ask_ruleset, corrected, read_ruleset, rewriting_beside

OWN = (
    "-s 10.0.0.1/32 -p udp -m udp --dport 5060 -j DROP",
    "! -s 10.0.0.0/24 -p tcp -m tcp ! --sport 5:9 -j ACCEPT",
    "-s 10.0.0.0/255.0.255.0 -i eth+ ! -o lo -j RETURN",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark --mark 0x1/0x1 -j LOG",
    (
        "-p udp -m multiport --dports 1,2,5:7 -m iprange --src-range 192.0.2.4-192.0.2.9 -j REJECT "
        "--reject-with icmp-port-unreachable"
    ),
    "-p icmp -m icmp --icmp-type 8 -m limit --limit 5/sec -j NFLOG --nflog-group 3",
    '-m conntrack --ctstate NEW -m comment --comment "of mine" -j MARK --set-xmark 0x1/0x1',
)


def forward(namespace: Namespace, *native: str, own: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """The rules of FORWARD as they are printed, and as they are corrected."""
    lines = "".join(f"-A FORWARD {rule}\n" for rule in own)
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n:ELSE - [0:0]\n{lines}COMMIT\n"
    assert namespace.run(["iptables-nft-restore"], stdin=text).status == 0
    for rule in native:
        assert namespace.run(["nft", "add", "rule", "ip", "filter", "FORWARD", *rule.split()]).status == 0
    with namespace.entered():
        saved = Kernel(Backend.NFT).read(Family.IPV4)
        told, unknown = corrected(saved, read_ruleset(ask_ruleset()), family=Family.IPV4)
    assert unknown == ()
    before, after = ([rule for _, rule in tables.chain("filter", "FORWARD")] for tables in (saved, told))
    return before, after


def test_what_iptables_writes_stays_as_it_is_printed(namespace: Namespace) -> None:
    before, after = forward(namespace, own=OWN)
    assert before == list(OWN)
    assert after == before


@pytest.mark.parametrize(
    ("native", "target"),
    [
        ("ip saddr 10.0.0.1-10.0.0.9 counter drop", "-j DROP"),
        ("ip saddr { 10.9.9.9, 10.9.9.8 } counter return", "-j RETURN"),
        ("udp dport { 7000, 7001 } goto ELSE", "-g ELSE"),
        ("ip saddr > 10.0.0.1 drop", "-j DROP"),
        ("ip saddr 10.0.0.0/24 ip saddr != 10.0.0.1 drop", "-j DROP"),
        ("udp length 8 drop", "-j DROP"),
        ("ip saddr vmap { 10.9.9.9 : drop }", "-j nft"),
        ("ip saddr set 192.0.2.1", "-j nft"),
    ],
)
def test_what_is_printed_as_something_else_cannot_be_judged(
    namespace: Namespace, native: str, target: str
) -> None:
    before, after = forward(namespace, native, own=OWN[:1])
    assert len(before) == 2
    assert after[0] == OWN[0]
    assert after[1].startswith("-m nft --handle ")
    assert after[1].endswith(f" {target}")


@pytest.mark.parametrize(
    "native", ["udp dport 7000-7001 drop", "udp dport >= 7000 drop", "meta mark 0x1 drop", "iif lo drop"]
)
def test_native_rules_that_are_printed_truly_stay(namespace: Namespace, native: str) -> None:
    before, after = forward(namespace, native)
    assert len(before) == 1
    assert after == before


def test_a_chain_that_has_changed_between_two_looks_is_told_of(namespace: Namespace) -> None:
    forward(namespace, "ip saddr { 10.9.9.9, 10.9.9.8 } drop")
    with namespace.entered():
        saved = Kernel(Backend.NFT).read(Family.IPV4)
        namespace.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"])
        told, unknown = corrected(saved, read_ruleset(ask_ruleset()), family=Family.IPV4)
    assert told == saved
    assert "filter FORWARD" in unknown[0]


def test_chains_beside_iptables_that_set_addresses_or_exempt_are_found(namespace: Namespace) -> None:
    text = (
        "table inet a { chain c { type filter hook prerouting priority -300; meta mark set 1; drop; }\n"
        "chain d { ip saddr set 192.0.2.1; }\nchain e { notrack; }\n}"
    )
    assert namespace.run(["nft", "-f", "-"], stdin=text).status == 0
    with namespace.entered():
        ruleset = read_ruleset(ask_ruleset())
    found = list(rewriting_beside(ruleset, families=("ip", "inet"), own=("nat",)))
    assert found == [
        "nft chain d of table inet a sets addresses of packets: it is not judged",
        "nft chain e of table inet a exempts packets from conntrack: it is not judged",
    ]
    assert not list(rewriting_beside(ruleset, families=("ip6",), own=()))
