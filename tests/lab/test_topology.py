"""The lab is what its picture says: judged by what the other end sees."""

from __future__ import annotations

import pytest

from kvctl.errors import ProcessError
from kvctl.lab.build import Lab, built, sweep, unique_prefix
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace, existing
from kvctl.lab.topology import STANDARD, Pod, standard
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.conftest import MakeLab


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_outside_sees_the_address_of_the_interface_that_the_node_leaves_by(
    lab: Lab, family: Family, protocol: str
) -> None:
    who = STANDARD[family]
    with Echo(lab.outside, ports=[5060]):
        near = probe(lab.pod, destination=who.outside_eth1, port=5060, protocol=protocol)
        far = probe(lab.pod, destination=who.outside_eth0, port=5060, protocol=protocol)
    assert near is not None
    assert near.source == who.worker_eth1
    assert far is not None
    assert far.source == who.worker_eth0


def test_pods_of_one_worker_see_each_other_unmasqueraded(lab: Lab, family: Family) -> None:
    who = STANDARD[family]
    with Echo(lab["peer"], ports=[53]):
        direct = probe(lab.pod, destination=who.peer, port=53)
        by_cluster_ip = probe(lab.pod, destination=who.peer_cluster_ip, port=53)
    assert direct is not None
    assert direct.source == who.pod
    assert by_cluster_ip is not None
    assert (by_cluster_ip.source, by_cluster_ip.destination) == (who.pod, who.peer)


@pytest.mark.parametrize("masquerade", [True, False])
def test_a_cluster_ip_leads_to_a_back_end_outside_the_pod_network(
    make_lab: MakeLab, backend: str, family: Family, masquerade: bool
) -> None:
    lab = make_lab(backend=backend, masquerade=masquerade)
    who = STANDARD[family]
    with Echo(lab["server"], ports=[443]):
        seen = probe(lab.pod, destination=who.server_cluster_ip, port=443, protocol="tcp")
    assert seen is not None
    assert seen.destination == who.server
    assert seen.source == (who.worker_eth0 if masquerade else who.pod)


def test_the_vip_answers_but_is_not_what_the_worker_itself_sends_from(
    make_lab: MakeLab, family: Family
) -> None:
    lab = make_lab()
    who = STANDARD[family]
    with Echo(lab.worker, ports=[7]), Echo(lab.outside, ports=[7]):
        to_vip = probe(lab.outside, destination=who.vip, port=7)
        from_worker = probe(lab.worker, destination=who.outside_eth1, port=7)
    assert to_vip is not None
    assert to_vip.destination == who.vip
    assert from_worker is not None
    assert from_worker.source == who.worker_eth1


def test_without_the_vip_nothing_answers_for_it(make_lab: MakeLab, family: Family) -> None:
    lab = make_lab(vip_here=False)
    with Echo(lab.worker, ports=[7]):
        assert probe(lab.outside, destination=STANDARD[family].vip, port=7, timeout=0.2) is None


def test_a_rewritten_source_is_seen_and_answered(lab: Lab, family: Family) -> None:
    who = STANDARD[family]
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    program = f"{name}-{lab.topology.backend}"
    rule = ["-t", "nat", "-I", "POSTROUTING", "-s", who.pod, "-j", "SNAT", "--to-source", who.vip]
    assert lab.worker.run([program, *rule]).status == 0
    with Echo(lab.outside, ports=[8080]):
        seen = probe(lab.pod, destination=who.outside_eth1, port=8080, protocol="tcp", source_port=40000)
        # Back through the interface of the default route, although the VIP lives on the other.
        other_way = probe(lab.pod, destination=who.outside_eth0, port=8080)
    assert seen is not None
    assert (seen.source, seen.source_port) == (who.vip, 40000)
    assert other_way is not None
    assert other_way.source == who.vip


def test_pods_on_other_workers_are_reached_and_leave_by_their_own_worker(make_lab: MakeLab) -> None:
    far = Pod(name="far", worker="worker-2", addresses=("10.0.1.1", "fd00:10::1:1"))
    lab = make_lab(workers=2, pods=(far,))
    with Echo(lab["far"], ports=[53]), Echo(lab.outside, ports=[53]):
        for family, address in zip(Family, far.addresses, strict=True):
            across = probe(lab.pod, destination=address, port=53)
            assert across is not None
            assert across.source == STANDARD[family].pod
        v4 = probe(lab["far"], destination=STANDARD[Family.IPV4].outside_eth1, port=53)
        v6 = probe(lab["far"], destination=STANDARD[Family.IPV6].outside_eth1, port=53)
    assert v4 is not None
    assert v4.source == "192.168.0.239"
    assert v6 is not None
    assert v6.source == "2001:db8:1::239"


def test_a_thousand_pod_addresses_live_in_one_namespace(make_lab: MakeLab) -> None:
    v4 = tuple(f"10.0.{100 + n // 250}.{1 + n % 250}" for n in range(1000))
    v6 = tuple(f"fd00:10::2:{n:x}" for n in range(1, 1001))
    lab = make_lab(pods=(Pod(name="many", worker="worker", addresses=v4 + v6),))
    sources = (*v4[::111], *v6[::111])
    with Echo(lab["peer"], ports=[53]):
        for source in sources:
            target = STANDARD[Family.IPV6 if ":" in source else Family.IPV4].peer
            seen = probe(lab["many"], source=source, destination=target, port=53)
            assert seen is not None
            assert seen.source == source


def test_nothing_is_left_after_the_block(kernel: None) -> None:
    prefix = unique_prefix("test")
    with built(standard(), prefix=prefix) as lab:
        assert len(existing(prefix)) == len(lab.topology.names)
    assert existing(prefix) == []


def test_nothing_is_left_after_an_exception_in_the_block(kernel: None) -> None:
    prefix = unique_prefix("test")
    with pytest.raises(ZeroDivisionError), built(standard(), prefix=prefix):
        raise ZeroDivisionError
    assert existing(prefix) == []


def test_nothing_is_left_of_a_lab_that_could_not_be_built(kernel: None) -> None:
    prefix = unique_prefix("test")
    wrong = standard(pods=(Pod(name="wrong", worker="worker", addresses=("10.0.0.300",)),))
    with pytest.raises(ProcessError, match=r"10\.0\.0\.300"), built(wrong, prefix=prefix):
        pytest.fail("a lab with an impossible address was built")
    assert existing(prefix) == []


def test_what_a_killed_maker_left_is_swept_and_what_a_living_one_uses_is_not(kernel: None) -> None:
    # No process has the pid 2**22, the largest the kernel gives is one less; our own pid lives, but
    # a namespace with another start time was made by a predecessor.
    own = unique_prefix("sweeptest")
    pid, started = own.split("-")[2:4]
    living = Namespace(own + "x")
    dead = [
        Namespace("kvctl-sweeptest-4194304-5-aaaaaa-x"),
        Namespace(f"kvctl-sweeptest-{pid}-1{started}-a-x"),
    ]
    try:
        for each in (living, *dead):
            each.create()
        assert {each.name for each in sweep("sweeptest")} == {each.name for each in dead}
        assert existing("kvctl-sweeptest-") == [living]
    finally:
        for each in (living, *dead):
            each.delete()
