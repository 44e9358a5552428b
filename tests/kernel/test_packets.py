"""What the other end sees: the VIP for what a Service asks for, the node's or the pod's address for the rest."""

from __future__ import annotations

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.topology import Pod as LabPod
from kvctl.lab.traffic import probe
from kvctl.model.net import Family, parse_network
from kvctl.reconcile.report import Status
from tests.builders import networks, node, pod, service
from tests.conftest import MakeLab
from tests.kernel.conftest import PORTS
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Worker, lab_pod, show_server_the_way, statuses

PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])


@PROTOCOLS
def test_all_traffic_of_a_service_without_ports_leaves_with_the_vip(
    worker: Worker, packets: Packets, protocol: str
) -> None:
    assert packets.seen(protocol=protocol) == packets.who.worker_eth1
    worker.apply(service(vip=VIPS), lab_pod())
    assert packets.seen(protocol=protocol) == packets.who.vip
    assert packets.seen(7000, protocol=protocol) == packets.who.vip
    # By the default route, although the VIP lives on another interface: the reply comes back all the same.
    assert packets.seen(protocol=protocol, to=packets.who.outside_eth0) == packets.who.vip
    assert packets.seen(protocol=protocol, pod="peer") == packets.who.worker_eth1


def test_only_listed_ports_leave_with_the_vip(worker: Worker, packets: Packets) -> None:
    who = packets.who
    worker.apply(service(vip=VIPS, ports="udp:5060,tcp:8000-8100"), lab_pod())
    assert packets.seen(5060) == who.vip
    assert packets.seen(5060, protocol="tcp") == who.worker_eth1
    assert packets.seen(5061) == who.worker_eth1
    assert packets.seen(8050) == who.worker_eth1
    inside = [packets.seen(port, protocol="tcp") for port in (8000, 8050, 8100)]
    assert inside == [who.vip] * 3
    assert packets.seen(8101, protocol="tcp") == who.worker_eth1


def test_more_ports_than_one_rule_can_name_are_all_rewritten(worker: Worker, packets: Packets) -> None:
    others = [f"udp:{port}-{port + 1}" for port in range(100, 160, 3)]
    worker.apply(service(vip=VIPS, ports=",".join([*others, "udp:8101", "udp:53", "tcp:5060"])), lab_pod())
    assert [packets.seen(53), packets.seen(8101)] == [packets.who.vip] * 2
    assert packets.seen(5060, protocol="tcp") == packets.who.vip
    assert packets.seen(5060) == packets.who.worker_eth1


def test_the_source_port_is_kept_where_it_is_free(worker: Worker, packets: Packets) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    seen = probe(packets.lab.pod, destination=packets.who.outside_eth1, port=5060, source_port=5060)
    assert seen is not None
    assert (seen.source, seen.source_port) == (packets.who.vip, 5060)


def test_sctp_ports_are_in_the_rules(worker: Worker, family: Family) -> None:
    worker.apply(service(vip=VIPS, ports="sctp:2905,sctp:2907-2910,sctp:5000"), lab_pod())
    rules = [line for line in worker.saved(family) if "--to-source" in line]
    assert len(rules) == 1
    assert "-p sctp -m multiport --dports 2905,2907:2910,5000" in rules[0]
    single = worker.apply(service(vip=VIPS, ports="sctp:2905"), lab_pod())
    assert not single.after.differs
    assert any("-p sctp -m sctp --dport 2905 " in line for line in worker.saved(family))


@pytest.mark.parametrize("ports", [None, "udp:5060,tcp:7000"])
def test_allowed_networks_alone_are_rewritten_to(worker: Worker, packets: Packets, ports: str | None) -> None:
    who = packets.who
    allowed = "192.168.0.128/25,203.0.113.0/24,2001:db8:1::/64"
    worker.apply(service(vip=VIPS, allowed=allowed, ports=ports), lab_pod())
    assert packets.seen() == who.vip
    assert packets.seen(to=who.outside_eth0) == who.worker_eth0
    assert packets.seen(7000, protocol="tcp") == who.vip
    assert packets.seen(7000, protocol="udp") == (who.vip if ports is None else who.worker_eth1)


@pytest.mark.parametrize("ports", [None, "udp:5060"])
def test_denied_networks_are_never_rewritten_to(worker: Worker, packets: Packets, ports: str | None) -> None:
    who = packets.who
    denied = f"{who.outside_eth1},10.9.0.0/16,fd00:9::/32"
    worker.apply(service(vip=VIPS, denied=denied, ports=ports), lab_pod())
    assert packets.seen() == who.worker_eth1
    assert packets.seen(to=who.outside_eth0) == who.vip


@pytest.mark.parametrize("ports", [None, "udp:5060"])
def test_a_denied_network_is_a_hole_in_an_allowed_one(
    worker: Worker, packets: Packets, ports: str | None
) -> None:
    who = packets.who
    allowed = "172.16.0.0/12,192.168.0.0/16,2001:db8::/32"
    worker.apply(service(vip=VIPS, allowed=allowed, denied=who.outside_eth1, ports=ports), lab_pod())
    assert packets.seen() == who.worker_eth1
    assert packets.seen(to=who.outside_eth0) == who.vip


def test_what_one_service_denies_another_rewrites(worker: Worker, packets: Packets) -> None:
    who = packets.who
    worker.bind(*SECOND_VIPS)
    second = SECOND_VIPS[packets.family is Family.IPV6]
    worker.apply(
        service("sip/a", vip=VIPS, denied="192.168.0.0/24,2001:db8:1::/64"),
        service("web/b", vip=SECOND_VIPS, denied="172.16.0.0/24,2001:db8::/64"),
        lab_pod("sip/a-0"),
        lab_pod("web/b-0", namespace="peer"),
    )
    assert packets.seen() == who.worker_eth1
    assert packets.seen(to=who.outside_eth0) == who.vip
    assert packets.seen(pod="peer") == second
    assert packets.seen(pod="peer", to=who.outside_eth0) == who.worker_eth0


def test_a_pod_in_two_services_falls_through_to_the_second(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    second = SECOND_VIPS[packets.family is Family.IPV6]
    # The one without ports is older and comes first by name: ports count before both.
    everything = service("sip/all", vip=SECOND_VIPS, selector={"app": "phone"}, created=1_600_000_000)
    some = service("sip/some", vip=VIPS, ports="udp:5060", selector={"app": "phone"})
    applied = worker.apply(everything, some, lab_pod("sip/phone-0"))
    assert packets.seen(5060) == packets.who.vip
    assert packets.seen(5060, protocol="tcp") == second
    assert packets.seen(5061) == second
    assert statuses(applied.after.items, packets.family) == {"sip/all": "applied", "sip/some": "applied"}
    worker.apply(everything, lab_pod("sip/phone-0"), prune=True)
    assert packets.seen(5060) == second


def test_what_the_first_of_two_services_denies_falls_through_to_the_second(
    worker: Worker, packets: Packets
) -> None:
    worker.bind(*SECOND_VIPS)
    second = SECOND_VIPS[packets.family is Family.IPV6]
    selector = {"app": "phone"}
    worker.apply(
        service("sip/first", vip=VIPS, ports="udp:5060", denied=packets.who.outside_eth0, selector=selector),
        service("sip/second", vip=SECOND_VIPS, selector=selector),
        lab_pod("sip/phone-0"),
    )
    assert packets.seen() == packets.who.vip
    assert packets.seen(to=packets.who.outside_eth0) == second


def test_a_wholly_shadowed_service_is_skipped_and_the_older_one_serves(
    worker: Worker, packets: Packets
) -> None:
    worker.bind(*SECOND_VIPS)
    selector = {"app": "phone"}
    applied = worker.apply(
        service("sip/young", vip=SECOND_VIPS, selector=selector, created=1_700_000_001),
        service("sip/old", vip=VIPS, selector=selector, created=1_700_000_000),
        lab_pod("sip/phone-0"),
    )
    assert packets.seen() == packets.who.vip
    assert statuses(applied.after.items, packets.family) == {"sip/old": "applied", "sip/young": "skipped"}


@pytest.mark.parametrize("masquerade", [True, False])
@PROTOCOLS
def test_a_cluster_ip_with_a_back_end_outside_the_pod_network_is_not_rewritten(
    make_lab: MakeLab, backend: str, family: Family, masquerade: bool, protocol: str
) -> None:
    lab = make_lab(backend=backend, masquerade=masquerade)
    who = STANDARD[family]
    show_server_the_way(lab)
    Worker(lab).apply(service(vip=VIPS), lab_pod())
    with Echo(lab["server"], ports=PORTS):
        by_cluster_ip = Packets(lab, family).ask(443, protocol=protocol, to=who.server_cluster_ip)
        directly = Packets(lab, family).ask(443, protocol=protocol, to=who.server)
    assert by_cluster_ip is not None
    assert by_cluster_ip.destination == who.server
    assert by_cluster_ip.source == (who.worker_eth0 if masquerade else who.pod)
    assert directly is not None
    assert directly.source == who.vip


def test_an_excluded_back_end_is_not_rewritten_to_directly_either(worker: Worker, packets: Packets) -> None:
    who = packets.who
    worker.told_to(exclude_cidrs=networks(who.server)).apply(service(vip=VIPS), lab_pod())
    assert packets.seen(443, to=who.server) == who.worker_eth0
    assert packets.seen(443, to=who.outside_eth0) == who.vip


def test_pods_and_nodes_are_never_rewritten_to(worker: Worker, packets: Packets) -> None:
    who = packets.who
    nodes = [node("worker", who.worker_eth0), node("worker-2", who.server)]
    with Echo(worker.lab.worker, ports=PORTS):
        worker.apply(service(vip=VIPS), lab_pod(), *nodes)
        assert packets.seen(to=who.peer) == who.pod
        assert packets.seen(to=who.peer_cluster_ip) == who.pod
        assert packets.seen(to=who.worker_eth0) == who.pod
        assert packets.seen(to=who.worker_eth1) == who.pod
        assert packets.seen(to=who.vip) == who.pod
        assert packets.seen(to=who.server) == who.worker_eth0
        assert packets.seen() == who.vip


def test_nodes_are_rewritten_to_where_they_are_not_excluded(worker: Worker, packets: Packets) -> None:
    told = worker.told_to(exclude_nodes=False)
    told.apply(service(vip=VIPS), lab_pod(), node("worker-2", packets.who.server))
    assert packets.seen(to=packets.who.server) == packets.who.vip


def test_all_pods_of_a_service_leave_with_the_vip_and_no_other(make_lab: MakeLab, backend: str) -> None:
    extra = LabPod(name="extra", worker="worker", addresses=("10.0.3.1", "10.0.3.2", "fd00:10::3:1"))
    lab = make_lab(backend=backend, pods=(extra,))
    Worker(lab).apply(
        service(vip=VIPS),
        lab_pod(),
        pod("sip/sip-client-1", "10.0.3.1", "fd00:10::3:1"),
        pod("sip/other-0", "10.0.3.2"),
        pod("web/sip-client-0", "10.0.0.2"),
    )
    with Echo(lab.outside, ports=PORTS):
        for family in Family:
            v = Packets(lab, family)
            own = "10.0.3.1" if family is Family.IPV4 else "fd00:10::3:1"
            assert v.seen() == v.who.vip
            assert v.seen(pod="extra", source=own) == v.who.vip
            assert v.seen(pod="peer") == v.who.worker_eth1
        assert Packets(lab, Family.IPV4).seen(pod="extra", source="10.0.3.2") == "192.168.0.240"


def test_a_host_network_pod_is_never_rewritten(lab: Lab, family: Family) -> None:
    who = STANDARD[family]
    addresses = [each.worker_eth1 for each in STANDARD.values()]
    on_host = pod("sip/sip-client-1", *addresses, host_network=True)
    Worker(lab).apply(service(vip=VIPS), lab_pod(), on_host)
    with Echo(lab.outside, ports=PORTS):
        seen = probe(lab.worker, source=who.worker_eth1, destination=who.outside_eth1, port=5060)
    assert seen is not None
    assert seen.source == who.worker_eth1


def test_a_pod_that_is_deleted_or_not_on_this_node_counts_as_the_contract_says(
    worker: Worker, packets: Packets
) -> None:
    addresses = [each.pod for each in STANDARD.values()]
    worker.apply(service(vip=VIPS), pod("sip/sip-client-0", *addresses, deleting=True))
    assert packets.seen() == packets.who.vip
    worker.apply(service(vip=VIPS), pod("sip/sip-client-0", *addresses, finished=True))
    assert packets.seen() == packets.who.worker_eth1
    applied = worker.apply(service(vip=VIPS), pod("sip/sip-client-0", *addresses, node="worker-2"))
    assert packets.seen() == packets.who.worker_eth1
    reasons = {item.reason for item in applied.after.items}
    assert reasons == {"no pod on node worker: the pods are on worker-2"}


def test_a_dual_stack_service_loses_one_family_and_keeps_the_other(worker: Worker, packets: Packets) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    one, other = packets, Packets(packets.lab, next(f for f in Family if f is not packets.family))
    assert (one.seen(), other.seen()) == (one.who.vip, other.who.vip)
    worker.apply(service(vip=one.who.vip), lab_pod())
    assert (one.seen(), other.seen()) == (one.who.vip, other.who.worker_eth1)


def test_a_family_without_known_ranges_is_skipped_and_the_other_works(worker: Worker, lab: Lab) -> None:
    told = worker.told_to(pod_cidrs=networks("10.0.0.0/16"), service_cidrs=networks("10.96.0.0/12"))
    applied = told.apply(service(vip=VIPS), lab_pod())
    with Echo(lab.outside, ports=PORTS):
        assert Packets(lab, Family.IPV4).seen() == STANDARD[Family.IPV4].vip
        assert Packets(lab, Family.IPV6).seen() == STANDARD[Family.IPV6].worker_eth1
    by_family = {item.family: item for item in applied.after.items}
    assert by_family[Family.IPV6].status is Status.SKIPPED
    assert "IPv6" in (by_family[Family.IPV6].reason or "") or "ipv6" in (by_family[Family.IPV6].reason or "")


def test_a_thousand_pods_are_rewritten_and_a_bystander_is_not(make_lab: MakeLab, backend: str) -> None:
    v4 = tuple(f"10.0.{100 + n // 250}.{1 + n % 250}" for n in range(1000))
    v6 = tuple(f"fd00:10::2:{n:x}" for n in range(1, 1001))
    lab = make_lab(backend=backend, pods=(LabPod(name="many", worker="worker", addresses=v4 + v6),))
    worker = Worker(lab)
    pods = [pod(f"sip/sip-client-{n}", a, b) for n, (a, b) in enumerate(zip(v4, v6, strict=True)) if n != 500]
    worker.apply(service(vip=VIPS), *pods)
    assert worker.apply(service(vip=VIPS), *pods).restores == 0
    with Echo(lab.outside, ports=PORTS):
        for family, addresses in zip(Family, (v4, v6), strict=True):
            packets = Packets(lab, family)
            for number in (0, 1, 249, 250, 499, 501, 777, 999):
                assert packets.seen(pod="many", source=addresses[number]) == packets.who.vip
            assert packets.seen(pod="many", source=addresses[500]) == packets.who.worker_eth1
            assert packets.seen(pod="peer") == packets.who.worker_eth1
            assert packets.seen(to=packets.who.peer, pod="many", source=addresses[7]) is None
    gone = worker.flush()
    assert gone.after.items == []


@pytest.mark.parametrize("pod_cidr", ["10.0.0.0/8", "0.0.0.0/1"])
def test_a_pod_network_of_any_length_is_excluded(worker: Worker, lab: Lab, pod_cidr: str) -> None:
    told = worker.told_to(pod_cidrs=(parse_network(pod_cidr),))
    with Echo(lab.outside, ports=PORTS), Echo(lab["peer"], ports=PORTS):
        told.apply(service(vip=STANDARD[Family.IPV4].vip), lab_pod())
        packets = Packets(lab, Family.IPV4)
        assert packets.seen() == packets.who.vip
        assert packets.seen(to=packets.who.peer) == packets.who.pod
