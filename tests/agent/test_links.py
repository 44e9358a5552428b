"""A node whose interface dies while it has the VIP: another takes over at once, and nothing is stuck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, standard
from kvctl.lab.traffic import Sender, probe
from kvctl.model.net import Family
from tests.agent.electing import (
    WORKERS,
    Electing,
    elected_service,
    senders,
    three_nodes,
    three_workers,
    until_all_have_the_vip,
)
from tests.agent.onlooker import Onlooker
from tests.agent.process import eventually, node_object, pod_object, service_object, watching
from tests.apiserver import serving
from tests.conftest import MakeLab
from tests.kernel.test_second_interface import GATEWAYS, Leaks


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """All contend for one VIP a family."""
    with three_nodes(make_lab(three_workers(backend=backend)), tmp_path, family=family) as it:
        it.server.put("services", elected_service())
        yield it


def far_end(nodes: Electing, worker: str) -> str:
    """The port of the segment that a node's eth1 is plugged into."""
    index = nodes.lab[worker].run(["cat", "/sys/class/net/eth1/iflink"]).stdout.strip()
    listed = nodes.lab.outside.run(["ip", "-o", "link"]).stdout.splitlines()
    line = next(line for line in listed if line.startswith(f"{index}: "))
    return line.split(": ")[1].partition("@")[0]


def takes_over(nodes: Electing, first: str, sending: dict[str, list[Sender]]) -> tuple[str, float]:
    """Wait until another node has all that the first had; which one, and after how many seconds."""
    begun = time.monotonic()
    eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
    seconds = time.monotonic() - begun
    second = nodes.settled()
    until_all_have_the_vip(nodes, sending[second])
    return second, seconds


def test_another_takes_over_from_a_holder_whose_link_dies(nodes: Electing) -> None:
    first = nodes.settled()
    port = far_end(nodes, first)
    with Onlooker(nodes) as seen, senders(nodes) as sending:
        until_all_have_the_vip(nodes, sending[first])
        nodes.lab.outside.batch([f"link set {port} down"])
        second, seconds = takes_over(nodes, first, sending)
    assert second != first
    seen.saw_a_move(first, second)
    print(f"taken over after {seconds:.2f} s")
    # Given up, not run out: a retry period, and what noticing, probing and this machine take.
    assert seconds < nodes.terms.retry_period + 1.5 < nodes.terms.duration + nodes.terms.retry_period
    assert first not in nodes.having()
    eventually(lambda: "the interface eth1 has no carrier" in nodes.agents[first].text(), why=nodes.told)
    # It contends again as soon as its link is back, and takes nothing from who has it.
    nodes.lab.outside.batch([f"link set {port} up"])
    for worker in WORKERS:
        if worker not in (first, second):
            nodes.agents[worker].process.kill()
    nodes.lab[second].batch(["link set eth1 down"])
    eventually(lambda: nodes.having() == {first}, why=nodes.told)
    assert nodes.settled() == first


@pytest.mark.parametrize("backend", ["nft"])
def test_where_no_node_has_a_link_nobody_has_the_vip_and_the_first_to_get_one_has_it(nodes: Electing) -> None:
    nodes.settled()
    ports = {worker: far_end(nodes, worker) for worker in WORKERS}
    nodes.lab.outside.batch([f"link set {port} down" for port in ports.values()])
    eventually(lambda: not nodes.having() and nodes.holder() is None, why=nodes.told)
    nodes.lab.outside.batch([f"link set {ports['worker-2']} up"])
    assert nodes.settled(on="worker-2") == "worker-2"


@pytest.mark.parametrize("backend", ["nft"])
def test_the_way_out_is_shut_with_its_interface_and_opens_with_it(
    make_lab: MakeLab, backend: str, tmp_path: Path
) -> None:
    lab = make_lab(standard(backend=backend))
    who = STANDARD[Family.IPV4]
    led = {"kube-vip.io/serviceInterface": "eth1", "kvctl.io/gateway": GATEWAYS}

    def source() -> str | None:
        """What the outside's address on eth0 sees, which eth1 leads to as well."""
        answer = probe(lab.pod, destination=who.outside_eth0, port=5060, timeout=0.2)
        return answer.source if answer is not None else None

    with ExitStack() as stack:
        with lab.worker.entered():
            server = stack.enter_context(serving())
        server.put("nodes", node_object())
        server.put("services", service_object(annotations=led, ports=None))
        server.put("pods", pod_object())
        stack.enter_context(Echo(lab.outside, ports=(5060,)))
        agent = stack.enter_context(watching(lab, server, tmp_path))
        agent.wait_ready()
        assert source() == who.vip
        told = "sysctl -w net/ipv4/conf/eth1/arp_announce=2"
        eventually(lambda: told in agent.text())
        with Leaks(lab) as leaks:
            lab.worker.batch(["link set eth1 down"])
            eventually(lambda: f"nothing leaves with {who.vip}: the interface eth1 is down" in agent.text())
            assert source() is None
            lab.worker.batch(["link set eth1 up"])
            eventually(lambda: source() == who.vip, why=agent.text)
            assert leaks.count() == 0
