"""What commands beside an electing agent tell: who has the VIP, by which Lease and interface; and no difference."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from kvctl import proc
from kvctl.lab.build import built, unique_prefix
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from tests.agent.electing import LEASE, WORKERS, Electing, elected_service, three_nodes, three_workers
from tests.agent.process import ENVIRONMENT, eventually
from tests.apiserver import ApiServer

V4, V6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
RANGES = {name: value for name, value in ENVIRONMENT.items() if name.startswith("egress_")}
"""What somebody has to know who has no more of the agents' environment than that."""


# Longer than elsewhere: a busy machine must not let lapse what is looked at.
TERMS = {"vip_leaseduration": "8", "vip_renewdeadline": "6", "vip_retryperiod": "1"}


@pytest.fixture(scope="module")
def nodes(kernel: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Electing]:
    """One lab for all: most tests only look."""

    def ask(server: ApiServer) -> None:
        server.put("services", elected_service())

    directory = tmp_path_factory.mktemp("telling")
    with (
        built(three_workers(backend="nft"), prefix=unique_prefix("test")) as lab,
        three_nodes(lab, directory, family=Family.IPV4, env=TERMS, then=ask) as nodes,
    ):
        nodes.settled()
        yield nodes


def kvctl(nodes: Electing, at: str, *words: str, cluster: bool = True) -> proc.Completed:
    """`kvctl egress WORDS` on a node, with the cluster named or not."""
    named = ("--kubeconfig", str(nodes.directory / f"{at}.kubeconfig")) if cluster else ()
    return nodes.lab.kvctl("egress", *words, *named, at=at, env={**RANGES, "NODE_NAME": at})


def item(done: proc.Completed) -> dict[str, Any]:
    """The first item, which is that of IPv4."""
    assert done.status == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["items"][0]
    return found


def ends(nodes: Electing) -> tuple[str, str]:
    """The holder, and a node that waits."""
    holder = nodes.holder()
    assert holder is not None
    return holder, next(worker for worker in WORKERS if worker != holder)


def test_show_tells_who_has_the_vip_by_which_lease_and_that_the_heart_beats(nodes: Electing) -> None:
    holder, other = ends(nodes)
    told = item(kvctl(nodes, holder, "show", "-o", "json"))
    lease = told.pop("lease")
    assert lease["renewed"] is not None
    assert {name: lease[name] for name in ("namespace", "name", "holder", "durationSeconds", "error")} == {
        "namespace": "sip",
        "name": LEASE,
        "holder": f"kvctl/{holder}",
        "durationSeconds": 8,
        "error": None,
    }
    assert told["address"].pop("lifetimeSeconds") in range(1, 7)
    assert told["address"] == {"interface": "eth1", "placedByKvctl": True, "announcedByAgent": True}
    assert told["fence"]["seconds"] == 6
    assert told["fence"]["late"] is False
    assert (told["holder"], told["vipHost"], told["vipInterface"]) == (holder, holder, "eth1")
    assert told["statusAddresses"] == [V4.vip, V6.vip]
    theirs = item(kvctl(nodes, other, "show", "-o", "json"))
    assert (theirs["holder"], theirs["address"], theirs["fence"]) == (holder, None, None)
    assert theirs["lease"]["holder"] == f"kvctl/{holder}"
    text = kvctl(nodes, holder, "show").stdout
    assert (
        f"  announced:          by the agent of this node (process {nodes.agents[holder].process.pid}" in text
    )
    assert f"  Lease:              sip/{LEASE} is held by kvctl/{holder} for 8 s, renewed " in text


def test_without_a_cluster_show_tells_what_the_kernel_has_and_nothing_of_a_lease(nodes: Electing) -> None:
    holder, _ = ends(nodes)
    told = item(kvctl(nodes, holder, "show", "-o", "json", cluster=False))
    assert (told["holder"], told["lease"], told["vipHost"], told["statusAddresses"]) == (
        holder,
        None,
        None,
        None,
    )
    assert told["fence"]["late"] is False
    text = kvctl(nodes, holder, "show", cluster=False)
    assert "Lease:" not in text.stdout
    assert text.stderr == ""
    assert "fence:              the last heartbeat came " in text.stdout


def test_list_tells_where_the_vip_is_and_wide_by_which_lease(nodes: Electing) -> None:
    holder, other = ends(nodes)
    for at, said in ((holder, "here"), (other, holder)):
        lines = [line.split() for line in kvctl(nodes, at, "list", "-o", "wide").stdout.splitlines()]
        row = dict(zip(lines[0], lines[1], strict=False))
        assert (row["VIP"], row["HOLDER"]) == (V4.vip, said) or at == other
        assert said in lines[1]
        assert f"sip/{LEASE}" in lines[1]
    plain = kvctl(nodes, holder, "list", cluster=False).stdout.splitlines()
    assert (plain[0].split()[-1], plain[1].split()[-1]) == ("HOLDER", "here")


def test_diff_by_hand_finds_no_difference_beside_the_agent(nodes: Electing) -> None:
    for at in WORKERS:
        done = kvctl(nodes, at, "diff")
        assert done.status == 0, done.stdout + done.stderr
        assert "no difference" in done.stderr


def test_a_vip_that_the_annotation_moves_goes_and_the_other_comes(nodes: Electing) -> None:
    holder, _ = ends(nodes)
    found = nodes.server.get("services", "sip-client", namespace="sip")
    assert found is not None
    changed = elected_service(annotations={"kube-vip.io/loadbalancerIPs": "192.168.0.246"})
    # The double keeps no record of who wrote what.
    changed["metadata"]["managedFields"] = [{"manager": "kvctl", "subresource": "status"}]
    nodes.server.put("services", {**changed, "status": found["status"]})

    def moved() -> bool:
        service = nodes.server.get("services", "sip-client", namespace="sip")
        status = service["status"]["loadBalancer"]["ingress"] if service is not None else []
        return status == [{"ip": "192.168.0.246"}] and nodes.having("192.168.0.246") == {holder}

    eventually(moved, why=nodes.told)
    eventually(lambda: nodes.having(V4.vip) == set() == nodes.having(V6.vip), why=nodes.told)
    # What is outside the ranges takes nothing away.
    changed["metadata"]["annotations"]["kube-vip.io/loadbalancerIPs"] = "203.0.113.9"
    status = {"loadBalancer": {"ingress": [{"ip": "192.168.0.246"}]}}
    nodes.server.put("services", {**changed, "status": status})
    eventually(lambda: "it keeps 192.168.0.246" in nodes.agents[holder].text(), why=nodes.told)
    assert nodes.having("192.168.0.246") == {holder}


def test_when_the_agent_has_died_show_says_so_and_when_it_ends(nodes: Electing) -> None:
    holder, _ = ends(nodes)
    nodes.agents[holder].end(signal.SIGKILL)
    text = kvctl(nodes, holder, "show", cluster=False).stdout
    assert "on eth1, placed by kvctl for " in text
    assert "announced:          by nobody any more: its agent has ended" in text
    eventually(lambda: "heartbeat came" in late(nodes, holder), why=lambda: late(nodes, holder))


def late(nodes: Electing, at: str) -> str:
    """The problem of rules whose heartbeat is late."""
    told = item(kvctl(nodes, at, "show", "-o", "json", cluster=False))
    return "".join(each for each in told["problems"] if "until the agent renews" in each)
