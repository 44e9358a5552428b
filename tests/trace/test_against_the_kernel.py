"""What trace says of a packet is what the kernel then does with it, whatever rules are round ours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from random import Random

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.model.net import Family, parse_address
from kvctl.netfilter.kernel import read_everything
from kvctl.trace.facts import kernels_facts
from kvctl.trace.judge import Judgement, Verdict, judge
from kvctl.trace.packet import first_packet
from kvctl.trace.question import trace
from tests.builders import service
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Worker, lab_pod, show_server_the_way
from tests.trace.random_rules import PORTS, Foreign

LONG = bool(os.environ.get("KVCTL_LONG"))
RULE_SETS = 400 if LONG else 7
PACKETS_EACH = 8
_PATIENCE = 0.3
_SOURCE_PORTS = count(20_000)
_NOBODY = tuple(each.server_cluster_ip for each in STANDARD.values())
_ESTABLISHED = "-m conntrack --ctstate ESTABLISHED -j ACCEPT"
# The first packet is judged; what follows it has to come through, or the answer is lost.
_SPARING = {
    "raw": [
        f"-I PREROUTING -p {name} -m multiport --sports {','.join(map(str, PORTS))} -j ACCEPT"
        for name in ("udp", "tcp")
    ],
    "mangle": [f"-I {chain} {_ESTABLISHED}" for chain in ("PREROUTING", "FORWARD", "POSTROUTING")],
    "filter": [f"-I FORWARD {_ESTABLISHED}"],
    "nat": [],
}


@pytest.fixture
def worker(lab: Lab) -> Iterator[Worker]:
    show_server_the_way(lab)
    with ExitStack() as stack:
        for name in ("outside", "server", "pod", "peer", "worker"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        worker = Worker(lab)
        worker.bind(*SECOND_VIPS)
        # Whoever leaves with its own address gets its answer all the same.
        who = [Packets(lab, family).who for family in Family]
        lab["outside"].batch([f"route replace {each.pod_network} via {each.worker_eth1}" for each in who])
        yield worker


def services(chance: Random) -> tuple[object, ...]:
    ports = chance.choice((None, "udp:5060,tcp:443", "udp:53,udp:7000-8100"))
    denied = chance.choice((None, "192.168.0.0/24,2001:db8:1::/64", "172.16.0.250/32,2001:db8::250/128"))
    allowed = chance.choice((None, None, "192.168.0.0/24,2001:db8:1::/64"))
    first = service(vip=VIPS, ports=ports, denied=denied, allowed=allowed)
    if chance.random() < 0.5:
        return (first, lab_pod())
    second = service("sip/other", vip=SECOND_VIPS, selector={"app": "sip-client"}, ports="tcp:7000,udp:8050")
    return (first, second, lab_pod())


def restore(worker: Worker, family: Family, text: str, *, flush: bool) -> None:
    program = "iptables" if family is Family.IPV4 else "ip6tables"
    argv = [f"{program}-{worker.lab.topology.backend}-restore", *([] if flush else ["--noflush"])]
    done = worker.lab["worker"].run(argv, stdin=text)
    assert done.status == 0, f"{done.stderr}\n{text}"


def saved(worker: Worker, family: Family) -> str:
    program = "iptables" if family is Family.IPV4 else "ip6tables"
    text = worker.lab["worker"].run([f"{program}-{worker.lab.topology.backend}-save"]).stdout
    tables = {part.split("\n", 1)[0] for part in text.split("\n*")}
    # What is there only later would not be emptied.
    return text + "".join(
        f"*{name}\nCOMMIT\n" for name in ("raw", "mangle", "filter", "nat") if name not in tables
    )


def compare(worker: Worker, chance: Random, family: Family, rules: str) -> Counter[str]:
    """Some packets, each judged, then sent; how many of which verdict."""
    who, counted = Packets(worker.lab, family).who, Counter[str]()
    with worker.lab["worker"].entered():
        reading, facts = read_everything(), kernels_facts()
    for _ in range(PACKETS_EACH):
        name, source = chance.choice((("pod", who.pod), ("pod", who.pod), ("peer", who.peer)))
        others = (who.peer if name == "pod" else who.pod, who.worker_eth1, who.worker_eth0)
        outside = (who.outside_eth1, who.outside_eth1, who.outside_eth0, who.server, who.server_cluster_ip)
        target, port = chance.choice((*outside, *outside, *others)), chance.choice(PORTS)
        protocol = chance.choice(("udp", "udp", "tcp"))
        packet = first_packet(
            source=parse_address(source),
            destination=parse_address(target),
            protocol=protocol,
            in_interface="veth0" if name == "pod" else "veth1",
            source_port=next(_SOURCE_PORTS),
            destination_port=port,
        )
        with worker.lab["worker"].entered():
            told = judge(packet, reading, facts)
        seen = probe(worker.lab[name], destination=target, port=port, protocol=protocol, timeout=_PATIENCE)
        counted[str(told.verdict)] += 1
        contradiction = contradicts(told, seen.source if seen is not None else None)
        assert not contradiction, f"{contradiction}\n{packet}\n{told}\n{rules}"
    return counted


def contradicts(told: Judgement, seen: str | None) -> str | None:
    """How what was told is not what the other end saw; None: it is, or nothing was told."""
    if told.verdict is None or (seen is None and told.notes):
        return None
    if told.verdict in (Verdict.DROPPED, Verdict.UNROUTABLE):
        return None if seen is None else f"it should not have arrived, and came from {seen}"
    if seen is None and str(told.destination) in _NOBODY:
        return None  # no rule led it to the back end
    return None if seen == str(told.source) else f"told {told.verdict} {told.source}, seen {seen}"


def test_the_verdict_is_what_the_other_end_sees(worker: Worker, family: Family) -> None:
    counted: Counter[str] = Counter()
    spare = SECOND_VIPS[0 if family is Family.IPV4 else 1]
    before = saved(worker, family)
    for seed in range(RULE_SETS):
        chance = Random(f"{seed} {family}")
        worker.apply(*services(chance), prune=True)  # type: ignore[arg-type]
        lines = Foreign(chance, family, spare=spare, unknowns=seed % 3 == 0).lines()
        text = "".join(
            "\n".join((f"*{table}", *its, *_SPARING[table], "COMMIT", "")) for table, its in lines.items()
        )
        restore(worker, family, text, flush=False)
        counted += compare(worker, chance, family, f"seed {seed}\n{saved(worker, family)}")
        restore(worker, family, before, flush=True)
    print(dict(counted))
    assert counted.total() == RULE_SETS * PACKETS_EACH
    assert counted["rewritten"] > 0
    assert counted["translated"] > 0
    # What cannot be judged is no contradiction, but were all like that the test would say nothing.
    assert counted["None"] < counted.total() / 4


def test_rules_of_both_back_ends_are_followed(worker: Worker) -> None:
    lab, who = worker.lab, STANDARD[Family.IPV4]
    worker.apply(service(vip=VIPS), lab_pod())
    other = f"iptables-{'legacy' if lab.topology.backend == 'nft' else 'nft'}"
    for rule in (
        f"-t nat -A POSTROUTING -p udp --dport 53 -j SNAT --to-source {SECOND_VIPS[0]}",
        f"-t nat -A POSTROUTING -p udp --dport 443 -j SNAT --to-source {who.vip}",
        "-t mangle -A FORWARD -p udp --dport 7000 -j DROP",
    ):
        assert lab["worker"].run([other, "-w", "5", *rule.split()]).status == 0
    told = {port: asked(worker, port) for port in (53, 443, 5060, 7000)}
    assert told[53].verdict is None
    assert "both back ends have rules for it" in told[53].unknown[0]
    assert told[7000].verdict is Verdict.DROPPED
    for port in (443, 5060, 7000):
        seen = probe(lab["pod"], destination=who.outside_eth1, port=port, timeout=_PATIENCE)
        assert not contradicts(told[port], seen.source if seen is not None else None)
        assert (seen is None) is (port == 7000)


def asked(worker: Worker, port: int) -> Judgement:
    """What is told of UDP of the lab's pod to the outside."""
    who = STANDARD[Family.IPV4]
    with worker.lab["worker"].entered():
        return trace(
            source=parse_address(who.pod),
            destination=parse_address(who.outside_eth1),
            protocol="udp",
            destination_port=port,
        )
