"""VIPs by hand: what a Lease decides about is refused, and what nobody needs any more goes again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family, parse_address
from kvctl.node.addresses import Wanted, bind
from tests.conftest import MakeLab
from tests.kernel.test_commands import FLAGS, pod, service
from tests.kernel.test_with_vip import NAMED, Node

V4 = STANDARD[Family.IPV4]
ADDRESSES, VIP_HOST = "kube-vip.io/loadbalancerIPs", "kube-vip.io/vipHost"
OTHER = "192.168.0.248"
DECIDES = f"Error: sip/sip-client: Lease sip/kubevip-sip-client decides who has {V4.vip} "
FOR_EVER = "--with-vip would keep it here for ever"
PORTS = "kube-vip.io/egress-destination-ports"
NAMED_V4 = {**NAMED, ADDRESSES: V4.vip, PORTS: "tcp:5060"}
NAMED_OTHER = {**NAMED_V4, ADDRESSES: OTHER, PORTS: "tcp:5061"}


@pytest.fixture
def node(make_lab: MakeLab, tmp_path: Path) -> Node:
    found = Node(make_lab(standard(backend="nft", vip_here=False)), tmp_path)
    found.write(service(annotations=NAMED_V4, vips=()), pod())
    return found


def lines(node: Node, *words: str) -> tuple[int, list[str]]:
    """Exit status and the lines about addresses of a diff with VIPs."""
    source = ("-f", str(node.source), "--node", "worker", *FLAGS)
    done = node.lab.kvctl("egress", "diff", "--with-vip", *words, *source, env={})
    return done.status, [line for line in done.stdout.splitlines() if " ip addr " in line]


def test_what_a_lease_decides_about_is_refused_unless_it_is_forced_and_others_go_on(node: Node) -> None:
    held = service(annotations={**NAMED_V4, VIP_HOST: "worker-2"}, vips=())
    node.write(held, service(name="other", annotations=NAMED_OTHER, vips=()), pod())
    status, added = lines(node)
    assert (status, added) == (1, [f"+ ip addr {OTHER}/32 dev eth1, and announced there"])
    done = node.apply("--with-vip")
    assert done.status == 1
    assert f"{DECIDES}(worker-2 by its last word): {FOR_EVER}" in done.stderr
    assert "Hint: start the agent again, or --force" in done.stderr
    assert node.ours() == {OTHER: None}
    assert node.apply("--with-vip", "--force").status == 0
    assert node.ours() == {OTHER: None, V4.vip: None}


def test_an_agents_address_is_neither_kept_for_ever_nor_taken_away(node: Node) -> None:
    vip = parse_address(V4.vip)
    with node.lab.worker.entered():
        assert bind([Wanted(vip, "eth1", 300)]) == []
    done = node.apply("--with-vip")
    assert done.status == 1
    assert DECIDES in done.stderr
    assert "more, by an agent): " + FOR_EVER in done.stderr
    assert node.ours()[V4.vip] is not None
    node.write(pod())
    assert node.apply("--with-vip", "--prune").status == 0
    assert node.ours()[V4.vip] is not None
    node.write(service(annotations=NAMED_V4, vips=()), pod())
    assert node.apply("--with-vip", "--force").status == 0
    assert node.ours() == {V4.vip: None}


def test_the_vip_of_yesterday_goes_with_the_next_run_that_places_and_is_told_by_others(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    node.write(service(annotations={**NAMED_V4, ADDRESSES: OTHER}, vips=()), pod())
    stays = (
        f"Note: {V4.vip} stays on eth1: apply --with-vip placed it, and no Service has rules with it any more"
    )
    assert stays in node.apply().stderr
    assert stays in node.lab.kvctl("egress", "list", env={}).stderr
    assert lines(node) == (
        3,
        [f"+ ip addr {OTHER}/32 dev eth1, and announced there", f"- ip addr {V4.vip}/32 dev eth1"],
    )
    dry = node.apply("--with-vip", "--dry-run")
    assert f"- ip addr {V4.vip}/32 dev eth1" in dry.stdout
    assert set(node.ours()) == {V4.vip}
    done = node.apply("--with-vip")
    assert (done.status, f"Note: {V4.vip} is not on eth1 any more" in done.stderr) == (0, True)
    assert node.ours() == {OTHER: None}
    assert lines(node) == (0, [])
    assert "stays" not in node.apply().stderr


def test_with_the_last_pod_the_vip_goes_and_a_run_for_one_service_takes_its_own_alone(node: Node) -> None:
    its = service(annotations=NAMED_V4, vips=())
    other = service(name="other", annotations=NAMED_OTHER, vips=())
    node.write(its, other, pod())
    assert node.apply("--with-vip").status == 0
    assert node.ours() == {V4.vip: None, OTHER: None}
    node.write(its, other)
    # Its exit status is that of a Service that was named and has no rules.
    done = node.apply("sip/sip-client", "--with-vip")
    assert done.status == 1
    assert "Note: no VIP of sip/sip-client is placed: no pod on node worker" in done.stderr
    assert node.ours() == {OTHER: None}
    node.write(its)
    assert node.apply("--with-vip").status == 0
    # Without --prune the rules of what is absent stay, and so does their VIP.
    assert node.ours() == {OTHER: None}
    assert node.apply("--with-vip", "--prune").status == 0
    assert node.ours() == {}


def test_an_address_or_a_route_that_comes_alone_is_not_nothing(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    node.lab.worker.batch([f"addr del {V4.vip}/32 dev eth1"])
    done = node.apply("--with-vip")
    assert (f"{V4.vip} is on eth1 now" in done.stderr, "nothing to change" in done.stderr) == (True, False)
    node.lab.worker.batch(["rule del priority 7501"])
    done = node.apply()
    assert "Note: changed 1 of the routes and routing rules that lead out" in done.stderr
    assert "nothing to change" not in done.stderr
    assert "nothing to change" in node.apply("--with-vip").stderr


def test_the_address_of_the_host_itself_is_told_as_that(node: Node) -> None:
    node.write(service(annotations={**NAMED_V4, ADDRESSES: V4.worker_eth1}, vips=()), pod())
    told = f"Warning: the VIP {V4.worker_eth1} is this host's own address ({V4.worker_eth1}/24 on eth1)"
    assert told in node.apply("--with-vip").stderr
    assert node.ours() == {}


def test_a_vip_that_anothers_rules_use_outlives_the_flush_of_one(node: Node) -> None:
    other = service(name="other", annotations={**NAMED_V4, PORTS: "tcp:5061"}, vips=())
    node.write(service(annotations=NAMED_V4, vips=()), other, pod())
    assert node.apply("--with-vip").status == 0
    done = node.flush("sip/sip-client")
    assert (done.status, "not on eth1" in done.stderr) == (0, False), done.stderr
    assert node.ours() == {V4.vip: None}
    assert f"{V4.vip} is not on eth1 any more" in node.flush("sip/other").stderr
    assert node.ours() == {}


def test_a_flush_that_finds_no_rules_tells_of_the_address_that_a_killed_run_has_left(node: Node) -> None:
    with node.lab.worker.entered():
        assert bind([Wanted(parse_address(V4.vip), "eth1", None)]) == []
    assert f"Note: {V4.vip} stays on eth1: " in node.flush("sip/sip-client").stderr
    assert f"{V4.vip} is not on eth1 any more" in node.flush("--all").stderr
    assert node.ours() == {}


def test_a_vip_goes_to_the_interface_that_its_service_names_by_now(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    moved = {**NAMED_V4, "kube-vip.io/serviceInterface": "eth0"}
    node.write(service(annotations=moved, vips=()), pod())
    assert lines(node) == (
        3,
        [f"+ ip addr {V4.vip}/32 dev eth0, and announced there", f"- ip addr {V4.vip}/32 dev eth1"],
    )
    done = node.apply("--with-vip")
    assert (done.status, f"{V4.vip} is on eth0 now" in done.stderr) == (0, True), done.stderr
    assert lines(node) == (0, [])
    assert f"{V4.vip} is not on eth0 any more" in node.flush("--all").stderr
