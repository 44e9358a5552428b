"""Packets and facts for tests without a kernel."""

from __future__ import annotations

from kvctl.model.net import Family, parse_address
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.savetext import parse_tables
from kvctl.node.lookup import Answer
from kvctl.trace.facts import Facts
from kvctl.trace.packet import Packet, Question, first_packet

FACTS = Facts(
    way=lambda packet: Answer(kind="unicast", interface="eth1" if packet.mark & 1 else "eth0"),
    kind_of=lambda address: "local" if str(address).startswith("172.16.") else "unicast",
    heartbeat={"kvctl-aaaaaaaaaaaaaaaa": 3.0, "kvctl-bbbbbbbbbbbbbbbb": None}.get,
    masquerade=lambda interface, next_hop: (parse_address("172.16.0.2"),),
    masqueraded_on=lambda address: ("eth0",) if str(address) == "172.16.0.2" else (),
)


def packet(
    to: str = "192.0.2.1", port: int | None = 5060, protocol: str = "udp", source_port: int | None = 40_000
) -> Packet:
    """The first packet of 10.0.0.1, which comes in by veth0."""
    return first_packet(
        Question(
            source=parse_address("10.0.0.1"),
            destination=parse_address(to),
            protocol=protocol,
            in_interface="veth0",
            source_port=source_port,
            destination_port=port,
        )
    )


def reading(nft: str = "", legacy: str = "") -> Reading:
    """IPv4 rules by back end, as save text."""
    texts = {Backend.NFT: nft, Backend.LEGACY: legacy}
    return Reading(
        tables={(backend, Family.IPV4): parse_tables(text) for backend, text in texts.items()}, failed={}
    )


def nat(*rules: str, chains: str = "") -> str:
    """A nat table with these rules in POSTROUTING; `chains`: lines for further ones."""
    lines = "\n".join(f"-A POSTROUTING {rule}" for rule in rules)
    return f"*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{chains}\n{lines}\nCOMMIT\n"
