"""One VIP and several Services in an election: of one namespace they share it, of two namespaces one has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl.lab.topology import Pod, Topology
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.agent.electing import (
    LEASE,
    PODS,
    WORKERS,
    Electing,
    elected_service,
    senders,
    three_nodes,
    three_workers,
)
from tests.agent.harms import kill
from tests.agent.onlooker import Onlooker
from tests.agent.process import eventually, pod_object
from tests.apiserver import ApiServer
from tests.conftest import MakeLab

TRUNKS = {worker: f"trunk-{number}" for number, worker in enumerate(WORKERS, 1)}
"""The namespaces of further pods, one a node: those of the second Service."""
ADDRESSES = {
    worker: (f"10.0.0.{10 + number}", f"fd00:10::{10 + number}") for number, worker in enumerate(WORKERS, 1)
}
SHARED = {"kube-vip.io/leaseName": LEASE}
LONG = bool(os.environ.get("KVCTL_LONG"))
EARLIER, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def with_trunks(topology: Topology) -> Topology:
    """With a second pod on each node."""
    trunks = tuple(Pod(name=TRUNKS[w], worker=w, addresses=ADDRESSES[w]) for w in WORKERS)
    return replace(topology, pods=(*topology.pods, *trunks))


def put_trunk_pods(server: ApiServer, *, namespace: str) -> None:
    """What the API says of them."""
    for worker in WORKERS:
        pod = pod_object(
            f"trunk-on-{worker}", app="trunk", namespace=namespace, addresses=ADDRESSES[worker], node=worker
        )
        pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        server.put("pods", pod)


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """Nobody asks for a VIP yet."""
    with three_nodes(make_lab(with_trunks(three_workers(backend=backend))), tmp_path, family=family) as it:
        yield it


def put(
    nodes: Electing,
    name: str,
    *,
    created: str,
    namespace: str = "sip",
    annotations: dict[str, str] | None = None,
) -> None:
    """A Service, or what it says from now on."""
    service = elected_service(name, namespace=namespace, annotations=annotations or {})
    service["metadata"]["creationTimestamp"] = created
    nodes.server.put("services", service)


def seen(nodes: Electing, pod: str) -> str | None:
    """The source that the outside sees of a new connection of a pod."""
    answer = probe(nodes.lab[pod], destination=nodes.who.outside_eth1, port=5060, timeout=0.3)
    return answer.source if answer is not None else None


def said(nodes: Electing, name: str) -> list[str]:
    """What the logs say of a Service."""
    lines = (line for agent in nodes.agents.values() for line in agent.lines())
    return [f"{line['message']}: {line.get('reason')}" for line in lines if line.get("service") == name]


def test_services_that_share_a_vip_and_its_lease_move_together(nodes: Electing) -> None:
    put_trunk_pods(nodes.server, namespace="sip")
    put(nodes, "sip-client", created=EARLIER)
    put(nodes, "trunk", created=LATER, annotations=SHARED)
    first = nodes.settled()
    vip = nodes.who.vip
    with Onlooker(nodes) as look, senders(nodes) as clients, senders(nodes, pods=TRUNKS) as trunks:
        for sender in (*clients[first], *trunks[first]):
            eventually(lambda: sender.sources[vip] > 3, why=nodes.told)  # noqa: B023
        kill(nodes, first)
        eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
        second = nodes.settled()
        for sender in (*clients[second], *trunks[second]):
            eventually(lambda: sender.sources[vip] > 3, why=nodes.told)  # noqa: B023
        third = next(worker for worker in WORKERS if worker not in (first, second))
        # Of both, or of neither.
        assert all(sender.sources[vip] == 0 for sender in (*clients[third], *trunks[third]))
    look.saw_a_move(first, second)
    assert {o["metadata"]["name"] for o in nodes.server.objects("leases")} == {LEASE}


@pytest.mark.parametrize("backend", ["nft"])
def test_a_younger_service_of_another_lease_places_no_vip_that_is_an_older_ones(nodes: Electing) -> None:
    put_trunk_pods(nodes.server, namespace="sip")
    put(nodes, "sip-client", created=EARLIER)
    first = nodes.settled()
    with Onlooker(nodes) as look:
        put(nodes, "trunk", created=LATER, annotations={"kvctl.io/without-vip": "drop"})
        eventually(lambda: bool(said(nodes, "sip/trunk")), why=nodes.told)
        # One VIP has one Lease: whoever would have it by another is as one without it.
        for worker in WORKERS:
            eventually(lambda: seen(nodes, TRUNKS[worker]) is None, why=nodes.told)  # noqa: B023
        assert seen(nodes, PODS[first]) == nodes.who.vip
    why = f"sip/sip-client comes first and has the VIP {nodes.who.vip} by Lease sip/{LEASE}"
    assert any(why in text for text in said(nodes, "sip/trunk")), said(nodes, "sip/trunk")
    assert look.owners() == [{first}]
    assert {o["metadata"]["name"] for o in nodes.server.objects("leases")} == {LEASE}


@pytest.mark.parametrize("backend", ["nft"])
@pytest.mark.parametrize("without", ["node-address", "drop"] if LONG else ["drop"])
def test_a_vip_that_two_namespaces_claim_is_the_older_services(nodes: Electing, without: str) -> None:
    put_trunk_pods(nodes.server, namespace="other")
    with Onlooker(nodes) as look:
        put(nodes, "sip-client", created=EARLIER)
        put(nodes, "trunk", created=LATER, namespace="other", annotations={"kvctl.io/without-vip": without})
        first = nodes.settled()
        eventually(lambda: seen(nodes, PODS[first]) == nodes.who.vip, why=nodes.told)
        eventually(lambda: bool(said(nodes, "other/trunk")), why=nodes.told)
        for worker in WORKERS:
            source = seen(nodes, TRUNKS[worker])
            assert (source is None) if without == "drop" else (source not in (None, nodes.who.vip))
    why = "is claimed by Service sip/sip-client"
    assert any(why in text for text in said(nodes, "other/trunk")), said(nodes, "other/trunk")
    assert {o["metadata"]["namespace"] for o in nodes.server.objects("leases")} == {"sip"}
    look.saw_nothing_twice()
    assert look.owners() == [{first}]
