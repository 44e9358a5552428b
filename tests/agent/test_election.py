"""serviceElection on three nodes, with packets: one holds the VIP, and it goes to another in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.agent.electing import (
    NAMES,
    PODS,
    WORKERS,
    Electing,
    elected_service,
    three_nodes,
    three_workers,
)
from tests.agent.onlooker import Onlooker
from tests.agent.process import eventually
from tests.conftest import MakeLab
from tests.deploy.reading import granted, permission


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """Nobody asks for a VIP yet."""
    with three_nodes(make_lab(three_workers(backend=backend)), tmp_path, family=family) as it:
        yield it


def seen(nodes: Electing, worker: str) -> str | None:
    """The source that the outside sees of a new connection of the node's pod."""
    answer = probe(nodes.lab[PODS[worker]], destination=nodes.who.outside_eth1, port=5060)
    return answer.source if answer is not None else None


def test_one_node_takes_the_vip_and_its_pods_leave_with_it(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    holder = nodes.settled()
    eventually(lambda: seen(nodes, holder) == nodes.who.vip, why=nodes.told)
    for other in set(WORKERS) - {holder}:
        assert seen(nodes, other) != nodes.who.vip
    service = nodes.server.get("services", "sip-client", namespace="sip")
    assert service is not None
    assert {one["ip"] for one in service["status"]["loadBalancer"]["ingress"]} == {
        "192.168.0.245",
        "2001:db8:1::245",
    }


@pytest.mark.parametrize("backend", ["nft"])
def test_where_the_pod_goes_the_vip_goes(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    nodes.server.delete(
        "pods",
        NAMES[first],
        namespace="sip",
    )
    eventually(lambda: nodes.holder() not in (None, first), why=nodes.told)
    second = nodes.settled()
    assert second != first
    eventually(lambda: seen(nodes, second) == nodes.who.vip, why=nodes.told)
    # All of that takes no more permission than the component of the deployment grants, and all of it.
    used = {permission(request) for request in nodes.server.requests}
    assert used <= granted()
    assert granted() - granted(besides={"election"}) <= used


@pytest.mark.parametrize("backend", ["nft"])
def test_when_the_service_goes_so_does_the_vip_and_then_the_lease_is_free(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    nodes.settled()
    nodes.server.delete("services", "sip-client", namespace="sip")
    eventually(lambda: nodes.holder() is None, why=nodes.told)
    assert nodes.having() == set()


@pytest.mark.parametrize("backend", ["nft"])
@pytest.mark.parametrize("where", ["worker", "worker-2"])
def test_an_address_that_an_admin_has_bound_is_left_as_it_is(nodes: Electing, where: str) -> None:
    for worker in WORKERS[1:]:
        nodes.server.delete("pods", NAMES[worker], namespace="sip")
    vips = [who.vip for who in STANDARD.values()]
    nodes.lab[where].batch([f"addr add {vip} dev eth1{' nodad' if ':' in vip else ''}" for vip in vips])
    before = nodes.lab[where].run(["ip", "-d", "addr", "show", "dev", "eth1"]).stdout
    with Onlooker(nodes, *Family) as onlooker:
        nodes.server.put("services", elected_service())
        # Only there it has a pod, so only that node contends.
        eventually(lambda: nodes.holder() == "worker", why=nodes.told)
        if where == "worker":
            eventually(lambda: seen(nodes, "worker") == nodes.who.vip, why=nodes.told)
        else:
            for vip in vips:
                eventually(lambda: f"{vip} is not bound: " in nodes.told(), why=nodes.told)  # noqa: B023
            assert seen(nodes, "worker") == nodes.who.worker_eth1
            assert onlooker.heard() == set()
        renewed = nodes.lease()["renewTime"]
        eventually(lambda: nodes.lease()["renewTime"] != renewed, why=nodes.told)
        if where == "worker":
            # Longer than one heartbeat lasts.
            end = time.monotonic() + nodes.terms.duration
            while time.monotonic() < end:
                assert seen(nodes, "worker") == nodes.who.vip
            assert onlooker.heard() == {"worker"}
            assert [onlooker.announcers(vip) for vip in vips] == [[], []]
        nodes.server.delete("services", "sip-client", namespace="sip")
        eventually(lambda: nodes.holder() is None, why=nodes.told)
        eventually(lambda: seen(nodes, "worker") == nodes.who.worker_eth1, why=nodes.told)
    assert [onlooker.owners(vip) for vip in vips] == [[{where}], [{where}]]
    assert nodes.lab[where].run(["ip", "-d", "addr", "show", "dev", "eth1"]).stdout == before


BEHIND = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8:77::7"}
"""Behind the gateway on eth1; by eth0, which the routing tables say, it is not to be had."""


def seen_behind(nodes: Electing, worker: str) -> str | None:
    """The source that a host behind the gateway of eth1 sees of the node's pod."""
    answer = probe(nodes.lab[PODS[worker]], destination=BEHIND[nodes.family], port=5060, timeout=0.3)
    return answer.source if answer is not None else None


@pytest.mark.parametrize("backend", ["nft"])
def test_the_way_out_by_a_second_interface_moves_with_the_vip(nodes: Electing) -> None:
    for family in Family:
        length, nodad = (32, "") if family is Family.IPV4 else (128, " nodad")
        nobody = "172.16.0.77" if family is Family.IPV4 else "2001:db8::77"
        nodes.lab.outside.batch([f"addr add {BEHIND[family]}/{length} dev lo{nodad}"])
        for worker in WORKERS:
            nodes.lab[worker].batch([f"route add {BEHIND[family]}/{length} via {nobody} dev eth0"])
    named = {"kube-vip.io/serviceInterface": "eth1", "kvctl.io/gateway": "192.168.0.250,2001:db8:1::250"}
    nodes.server.put("services", elected_service(annotations=named))
    first = nodes.settled()
    eventually(lambda: seen_behind(nodes, first) == nodes.who.vip, why=nodes.told)
    for other in set(WORKERS) - {first}:
        assert seen_behind(nodes, other) is None
    # What somebody takes away is put back.
    nodes.lab[first].batch(["rule del priority 7501"])
    eventually(lambda: "7501:" in nodes.lab[first].run(["ip", "rule"]).stdout, why=nodes.told)
    nodes.agents[first].process.kill()
    eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
    second = nodes.settled()
    eventually(lambda: seen_behind(nodes, second) == nodes.who.vip, why=nodes.told)
