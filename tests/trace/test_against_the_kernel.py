"""What trace says of a packet is what the kernel then does with it, whatever rules are round ours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count, product
from random import Random
from typing import NamedTuple

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.flows import Flow
from kvctl.model.net import Family, host_network, parse_address
from kvctl.netfilter.conntrack import dump
from kvctl.netfilter.kernel import read_everything
from kvctl.trace.facts import kernels_facts
from kvctl.trace.judge import judge
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.packet import WITH_PORTS, Packet, Question, first_packet
from kvctl.trace.question import trace
from tests.builders import service
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Worker, lab_pod, show_server_the_way
from tests.trace.other_programs import PORTS
from tests.trace.random_rules import Foreign
from tests.trace.random_services import program
from tests.trace.wire import VETHS, Arrived, Wire, know_neighbours

LONG = bool(os.environ.get("KVCTL_LONG"))
RULE_SETS = 150 if LONG else 6
OTHERS_ELSEWHERE = 5
PACKETS_EACH = 20
"""Of new connections; those of the rule set before come on top."""
_PATIENCE = 1.0
_NOTHING = "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "filter", "nat"))
_PORTS_OF_PODS = count(20_000)


@pytest.fixture
def worker(lab: Lab) -> Iterator[Worker]:
    show_server_the_way(lab)
    know_neighbours(lab)
    with ExitStack() as stack:
        for name in ("outside", "server", "pod", "peer", "worker"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        worker = Worker(lab)
        worker.bind(*SECOND_VIPS)
        # Whoever leaves with its own address gets its answer all the same.
        who = [Packets(lab, family).who for family in Family]
        lab["outside"].batch([f"route replace {each.pod_network} via {each.worker_eth1}" for each in who])
        yield worker


def restore(worker: Worker, family: Family, text: str, *, flush: bool, backend: str | None = None) -> None:
    argv = [program_of(worker, family, backend, "restore"), *([] if flush else ["--noflush"])]
    done = worker.lab["worker"].run(argv, stdin=text)
    assert done.status == 0, f"{done.stderr}\n{text}"


def saved(worker: Worker, family: Family, backend: str | None = None) -> str:
    text = worker.lab["worker"].run([program_of(worker, family, backend, "save")]).stdout
    tables = {part.split("\n", 1)[0] for part in text.split("\n*")}
    # What is there only later would not be emptied.
    return text + "".join(
        f"*{name}\nCOMMIT\n" for name in ("raw", "mangle", "filter", "nat") if name not in tables
    )


def program_of(worker: Worker, family: Family, backend: str | None, what: str) -> str:
    """By default of the back end that has kvctl's rules."""
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    return f"{name}-{backend or worker.lab.topology.backend}-{what}"


class Sent(NamedTuple):
    """A packet that somebody sends, with what was told of it before."""

    name: str
    packet: Packet
    told: Judgement
    number: int


class Comparison:
    """Packets judged and then sent, under one rule set after the other."""

    def __init__(self, worker: Worker, wire: Wire, family: Family) -> None:
        self._worker = worker
        self._wire = wire
        self._family = family
        self._before: list[Sent] = []
        self._silent: list[Sent] = []
        self.counted: Counter[str] = Counter()
        self.later: Counter[str] = Counter()

    def compare(self, chance: Random, rules: str) -> None:
        """New connections, and further packets of those of the last time."""
        with self._worker.lab["worker"].entered():
            reading, facts = read_everything(), kernels_facts()
            flows = self._flows()
            again = [
                self._send(each.name, each.packet, judge(each.packet, reading, facts, flows))
                for each in self._before
            ]
            packets = [self._packet(chance) for _ in range(PACKETS_EACH)]
            new = [self._send(name, packet, judge(packet, reading, facts)) for name, packet in packets]
        awaited = [each.number for each in (*again, *new) if each.told.verdict in _SEEN]
        arrived = self._wire.seen(awaited, patience=_PATIENCE)
        for sent in (*again, *new):
            contradiction = contradicts(sent.told, arrived.get(sent.number))
            assert not contradiction, f"{contradiction}\n{sent}\n{flows}\n{rules}"
        self.counted.update(str(each.told.verdict) for each in new)
        self.later.update(str(each.told.verdict) for each in again if each.told.flow is not None)
        self._before = [each for each in new if each.packet.protocol == "udp"]
        self._silent += [each for each in (*again, *new) if each.told.verdict is Verdict.DROPPED]

    def end(self) -> None:
        """What was to be dropped has not come later either."""
        arrived = self._wire.seen((), patience=0)
        assert not [each for each in self._silent if each.number in arrived]

    def _send(self, name: str, packet: Packet, told: Judgement) -> Sent:
        return Sent(name, packet, told, self._wire.send(name, packet))

    def _flows(self) -> list[Flow]:
        who = STANDARD[self._family]
        pods = tuple(host_network(parse_address(each)) for each in (who.pod, who.peer))
        return dump(family=self._family, sources=pods, reply_destinations=())

    def _packet(self, chance: Random) -> tuple[str, Packet]:
        who = STANDARD[self._family]
        name, source = chance.choice((("pod", who.pod), ("pod", who.pod), ("peer", who.peer)))
        others = (who.peer if name == "pod" else who.pod, who.worker_eth1, who.worker_eth0)
        outside = (who.outside_eth1, who.outside_eth1, who.outside_eth0, who.server, who.server_cluster_ip)
        ping = "icmp" if self._family is Family.IPV4 else "icmpv6"
        protocol = chance.choice(("udp", "udp", "udp", "tcp", "tcp", ping))
        asked = Question(
            source=parse_address(source),
            destination=parse_address(chance.choice((*outside, *outside, *others))),
            protocol=protocol,
            in_interface=VETHS[name],
        )
        if protocol in WITH_PORTS:
            asked = asked._replace(source_port=next(_PORTS_OF_PODS), destination_port=chance.choice(PORTS))
        return name, first_packet(asked)


_SEEN = (Verdict.REWRITTEN, Verdict.TRANSLATED, Verdict.UNCHANGED, Verdict.DELIVERED)


def contradicts(told: Judgement, arrived: Arrived | None) -> str | None:
    """How what was told is not what became of it; None: it is, or nothing was told."""
    if told.verdict is None or (arrived is None and told.notes):
        return None
    if told.verdict not in _SEEN:
        return None if arrived is None else f"it should not have arrived: {arrived}"
    if arrived is None:
        return f"told {told.verdict} {told.source} by {told.interface}, and it has not arrived"
    if (told.interface, str(told.source)) != (arrived.interface, arrived.source):
        return f"told {told.verdict} {told.source} by {told.interface}, seen {arrived}"
    several = any("one of several" in note for note in told.notes)
    if several or arrived.destination in ("::", str(told.destination)):
        return None
    return f"told that it goes to {told.destination}, seen {arrived}"


def test_the_verdict_is_what_becomes_of_the_packet(worker: Worker, family: Family) -> None:
    spare = SECOND_VIPS[0 if family is Family.IPV4 else 1]
    own = worker.lab.topology.backend
    other = "legacy" if own == "nft" else "nft"
    before = {own: saved(worker, family), other: _NOTHING}
    with Wire(worker.lab) as wire:
        comparison = Comparison(worker, wire, family)
        for seed in range(RULE_SETS):
            chance = Random(f"{seed} {family}")
            program(worker, chance)
            lines = Foreign(chance, family, spare=spare, unknowns=seed % 3 == 0).lines()
            text = "".join("\n".join((f"*{table}", *its, "COMMIT", "")) for table, its in lines.items())
            # Now and then the others use the other back end.
            backend = other if seed % 6 == OTHERS_ELSEWHERE else own
            restore(worker, family, text, flush=False, backend=backend)
            rules = "".join(saved(worker, family, each) for each in dict.fromkeys((own, backend)))
            comparison.compare(chance, f"seed {seed}\n{rules}")
            for each in dict.fromkeys((own, backend)):
                restore(worker, family, before[each], flush=True, backend=each)
        comparison.end()
    counted, later = comparison.counted, comparison.later
    print(dict(counted), dict(later))
    assert counted.total() == RULE_SETS * PACKETS_EACH
    assert min(counted[each] for each in ("rewritten", "translated", "unchanged", "dropped")) > 0
    assert later.total() > 0
    # What cannot be judged is no contradiction, but were all like that the test would say nothing.
    assert counted["None"] < counted.total() / 4


def test_connections_that_were_answered_go_on_as_told(worker: Worker, family: Family) -> None:
    spare = SECOND_VIPS[0 if family is Family.IPV4 else 1]
    before, who = saved(worker, family), STANDARD[family]
    counted: Counter[str] = Counter()
    for seed in range(RULE_SETS // 2):
        chance = Random(f"connections {seed} {family}")
        with ExitStack() as stack:
            there = [
                (
                    protocol,
                    to,
                    stack.enter_context(
                        Connection(worker.lab["pod"], destination=to, port=443, protocol=protocol)
                    ),
                )
                for protocol, to in product(("udp", "tcp"), (who.outside_eth0, who.outside_eth1))
            ]
            assert all(connection.ask() is not None for *_, connection in there)
            program(worker, chance)
            lines = Foreign(chance, family, spare=spare, unknowns=False).lines()
            text = "".join("\n".join((f"*{table}", *its, "COMMIT", "")) for table, its in lines.items())
            restore(worker, family, text, flush=False)
            for protocol, to, connection in there:
                asked = Question(
                    parse_address(who.pod), parse_address(to), protocol, connection.local_port, 443
                )
                with worker.lab["worker"].entered():
                    told = trace(asked)
                if told.flow is None:
                    continue  # it was deleted: what comes next is the first packet of another, and no SYN
                seen = None
                with suppress(PermissionError):  # icmp6-adm-prohibited
                    seen = connection.ask(timeout=0.15)
                counted["answered" if seen is not None else str(told.verdict)] += 1
                # Without an answer it is not known which of the two was lost.
                if seen is not None and told.verdict is not None:
                    assert (told.leaves, str(told.source)) == (True, seen.source), (
                        f"{told}\n{saved(worker, family)}"
                    )
        restore(worker, family, before, flush=True)
    print(dict(counted))
    assert counted["answered"] > 0


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
        seen = probe(lab["pod"], destination=who.outside_eth1, port=port, timeout=0.3)
        assert (seen.source if seen is not None else None) == (
            str(told[port].source) if port != 7000 else None
        )


def asked(worker: Worker, port: int) -> Judgement:
    """What is told of UDP of the lab's pod to the outside."""
    who = STANDARD[Family.IPV4]
    with worker.lab["worker"].entered():
        return trace(
            Question(parse_address(who.pod), parse_address(who.outside_eth1), "udp", destination_port=port)
        )
