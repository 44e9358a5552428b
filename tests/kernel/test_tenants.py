"""What becomes of rules when the input is faulty, the Service goes, or its addresses pass to somebody else."""

from __future__ import annotations

import pytest

from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from kvctl.model.objects import Service
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.run import Applied
from tests.builders import networks, objects, pod, ref, service
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Thing, Worker, lab_pod

BROKEN_PORTS = {"kube-vip.io/egress-destination-ports": "udp:0"}
BROKEN = [
    BROKEN_PORTS,
    {"kube-vip.io/egress-denied-networks": "10.0.0.0/33"},
    {"kube-vip.io/egress": "yes"},
    {"kube-vip.io/ignore": "perhaps"},
    {"kube-vip.io/serviceInterface": "eth1; reboot"},
]


@pytest.fixture
def family(backend: str) -> Family:
    """One family a back end: who loses which rules is decided the same way in all four."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


def one(applied: Applied, name: str, family: Family) -> Item:
    """The item of a Service after a run."""
    return next(i for i in applied.after.items if str(i.ref) == name and i.family in (None, family))


def broken(annotations: dict[str, str] | None = None, **arguments: object) -> Service:
    """The Service with an annotation that is not accepted."""
    wrong = BROKEN_PORTS if annotations is None else annotations
    return service(vip=VIPS, annotations=wrong, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("annotations", BROKEN, ids=lambda a: next(iter(a)))
def test_a_broken_annotation_keeps_the_last_good_rules(
    worker: Worker, packets: Packets, annotations: dict[str, str]
) -> None:
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    before = worker.saved(packets.family)
    applied = worker.apply(broken(annotations), lab_pod())
    assert worker.saved(packets.family) == before
    item = one(applied, "sip/sip-client", packets.family)
    assert item.status is Status.APPLIED
    assert item.warnings[0].startswith("the last good rules are kept: ")
    assert packets.seen() == packets.who.vip
    assert packets.seen(5061) == packets.who.worker_eth1


def test_a_broken_service_without_rules_gets_none(worker: Worker, packets: Packets) -> None:
    applied = worker.apply(broken(), lab_pod())
    assert packets.seen() == packets.who.worker_eth1
    assert one(applied, "sip/sip-client", packets.family).status is Status.SKIPPED
    assert applied.restores == 0


def test_new_pods_of_a_broken_service_get_the_kept_rules(worker: Worker, packets: Packets) -> None:
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    worker.apply(broken(), lab_pod(), lab_pod("sip/sip-client-1", namespace="peer"))
    assert packets.seen(pod="peer") == packets.who.vip
    assert packets.seen(5061, pod="peer") == packets.who.worker_eth1
    worker.apply(broken(), lab_pod("sip/sip-client-1", namespace="peer"))
    assert packets.seen(pod="peer") == packets.who.vip
    assert packets.seen() == packets.who.worker_eth1


@pytest.mark.parametrize("kind", ["annotation", "vip", "malformed", "outside", "orphan"])
@pytest.mark.parametrize("served", [False, True], ids=["new owner without egress", "new owner with egress"])
def test_an_address_that_passed_to_another_tenant_never_leaves_by_the_old_vip(
    worker: Worker, packets: Packets, kind: str, served: bool
) -> None:
    worker.bind(*SECOND_VIPS)
    who, second = packets.who, SECOND_VIPS[packets.family is Family.IPV6]
    worker.apply(service(vip=VIPS), lab_pod())
    heirs: list[Thing] = [lab_pod("evil/b-0"), *([service("evil/b", vip=SECOND_VIPS)] if served else [])]
    old = {
        "annotation": [broken()],
        "vip": [service(vip=("127.0.0.1",))],
        "malformed": [],
        "outside": [service(vip=VIPS)._replace(cluster_ips=("10.200.0.1", "fd00:200::1"))],
        "orphan": [],
    }[kind]
    source = objects(*old, *heirs, pod("sip/sip-client-0", "10.0.5.5", "fd00:10::5"))
    if kind == "malformed":
        source = source._replace(broken=frozenset((ref("sip/sip-client"),)))
    with Connection(packets.lab.pod, destination=who.outside_eth1, port=5060) as old_flow:
        assert old_flow.ask() is not None
        worker.apply(source=source)
        answer = old_flow.ask()
    expected = second if served else who.worker_eth1
    assert answer is not None
    assert answer.source == expected
    assert packets.seen() == expected
    assert packets.seen(5060, protocol="tcp") == expected
    worker.apply(source=source)
    assert packets.seen() == expected


def test_while_a_broken_service_has_rules_no_excluded_network_goes(worker: Worker, packets: Packets) -> None:
    who = packets.who
    careful = worker.told_to(exclude_cidrs=networks(who.outside_eth0))
    careful.apply(service(vip=VIPS), lab_pod())
    assert packets.seen(to=who.outside_eth0) == who.worker_eth0
    worker.apply(broken(), lab_pod())
    assert packets.seen(to=who.outside_eth0) == who.worker_eth0
    assert packets.seen() == who.vip
    worker.told_to(exclude_cidrs=networks(who.outside_eth1)).apply(broken(), lab_pod())
    assert packets.seen() == who.worker_eth1
    worker.apply(service(vip=VIPS), lab_pod())
    assert packets.seen() == who.vip
    assert packets.seen(to=who.outside_eth0) == who.vip


def test_pods_outside_the_known_ranges_keep_their_rules_and_the_ranges_stay_excluded(
    worker: Worker, packets: Packets
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    other = worker.told_to(pod_cidrs=networks("10.44.0.0/16", "fd00:44::/64"))
    applied = other.apply(service(vip=VIPS), lab_pod())
    assert packets.seen() == packets.who.vip
    assert packets.seen(to=packets.who.peer) == packets.who.pod
    warnings = one(applied, "sip/sip-client", packets.family).warnings
    assert "is outside the pod CIDR" in warnings[0]


def gone(item: str) -> list[Service]:
    """The Service as it is when it cannot be programmed any more."""
    good = service(vip=VIPS)
    return {
        "asks no more": [service(vip=VIPS, egress=False)],
        "switched off": [service(vip=VIPS, annotations={"kvctl.io/egress": "false"})],
        "ignored": [service(vip=VIPS, annotations={"kube-vip.io/ignore": "true"})],
        "type": [service(vip=VIPS, type="ClusterIP")],
        "policy": [service(vip=VIPS, policy="Cluster")],
        "no VIP": [service(vip=None)],
        "no pod": [good._replace(selector={"app": "nobody"})],
        "claim lost": [good, service("older/b", vip=VIPS, created=1_600_000_000, egress=False)],
        "broken and no pod": [broken()._replace(selector={"app": "nobody"})],
        "broken and not asking": [broken({**BROKEN_PORTS, "kube-vip.io/egress": "false"})],
        "broken and of another type": [broken(type="NodePort")],
    }[item]


@pytest.mark.parametrize(
    "state",
    [
        "asks no more",
        "switched off",
        "ignored",
        "type",
        "policy",
        "no VIP",
        "no pod",
        "claim lost",
        "broken and no pod",
        "broken and not asking",
        "broken and of another type",
    ],
)
def test_a_service_that_cannot_be_programmed_loses_its_rules(
    worker: Worker, packets: Packets, state: str
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    assert packets.seen() == packets.who.vip
    compared = worker.compare(*gone(state), lab_pod())
    assert compared.differs
    applied = worker.apply(*gone(state), lab_pod())
    assert packets.seen() == packets.who.worker_eth1
    assert not any("KVCTL" in line for line in worker.saved(packets.family))
    item = next(
        i for i in applied.before.items if str(i.ref) == "sip/sip-client" and i.family is packets.family
    )
    assert item.status in (Status.SKIPPED, Status.ORPHANED)
    assert item.reason


def test_a_service_whose_vip_left_this_node_is_elsewhere_and_loses_its_rules(
    worker: Worker, packets: Packets
) -> None:
    who, length = packets.who, 128 if packets.family is Family.IPV6 else 32
    worker.apply(service(vip=VIPS), lab_pod())
    worker.lab.worker.batch([f"addr del {who.vip}/{length} dev eth1"])
    applied = worker.apply(service(vip=VIPS), lab_pod())
    item = one(applied, "sip/sip-client", packets.family)
    assert item.status is Status.ELSEWHERE
    assert "--assume-vip" in (item.reason or "")
    assert packets.seen() == who.worker_eth1


@pytest.mark.parametrize("interface", ["lo", "kube-ipvs0"])
def test_a_vip_that_only_rests_on_this_node_needs_assume_vip(
    worker: Worker, packets: Packets, interface: str
) -> None:
    who, length = packets.who, 128 if packets.family is Family.IPV6 else 32
    lines = [f"addr del {who.vip}/{length} dev eth1"]
    if interface == "kube-ipvs0":  # where kube-proxy parks every VIP; of what type it is does not matter
        lines += [f"link add {interface} type bridge", f"link set {interface} up"]
    nodad = " nodad" if packets.family is Family.IPV6 else ""
    worker.lab.worker.batch([*lines, f"addr add {who.vip}/{length} dev {interface}{nodad}"])
    applied = worker.apply(service(vip=who.vip), lab_pod())
    item = one(applied, "sip/sip-client", packets.family)
    assert (item.status, interface in (item.reason or "")) == (Status.ELSEWHERE, True)
    assert packets.seen() == who.worker_eth1
    # The outside finds the VIP because somebody announces it: the worker answers neighbours for any address.
    assumed = worker.told_to(assume_vip=True).apply(service(vip=who.vip), lab_pod())
    assert one(assumed, "sip/sip-client", packets.family).status is Status.APPLIED
    prefix = "-A POSTROUTING"
    assert any(line.startswith(prefix) and "KVCTL" in line for line in worker.saved(packets.family))
    via = who.worker_eth1
    worker.lab.outside.batch([f"route add {who.vip}/{length} via {via} dev eth1"])
    assert packets.seen() == who.vip


def test_a_service_absent_from_the_source_stays_until_it_is_pruned(worker: Worker, packets: Packets) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    applied = worker.apply(lab_pod())
    item = one(applied, "sip/sip-client", packets.family)
    assert (item.status, item.changes) == (Status.ORPHANED, ())
    assert packets.seen() == packets.who.vip
    assert not worker.compare(lab_pod()).differs
    compared = worker.compare(lab_pod(), prune=True)
    assert compared.differs
    assert all(item.changes for item in compared.items)
    worker.apply(lab_pod(), prune=True)
    assert packets.seen() == packets.who.worker_eth1
    assert not any("KVCTL" in line for line in worker.saved(packets.family))


def test_the_excluded_networks_stay_for_an_orphan(worker: Worker, packets: Packets) -> None:
    who = packets.who
    worker.told_to(exclude_cidrs=networks(who.outside_eth0)).apply(service(vip=VIPS), lab_pod())
    worker.apply(lab_pod())
    assert packets.seen(to=who.outside_eth0) == who.worker_eth0
    worker.apply(service("web/b", vip=VIPS), lab_pod("web/b-0", namespace="peer"))
    assert packets.seen(to=who.outside_eth0) == who.worker_eth0


@pytest.mark.parametrize("fault", ["vip", "annotation", "malformed"])
def test_a_broken_service_without_a_pod_loses_its_rules(worker: Worker, packets: Packets, fault: str) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    source = {
        "vip": objects(service(vip="not an address")),
        "annotation": objects(broken()),
        "malformed": objects()._replace(broken=frozenset((ref("sip/sip-client"),))),
    }[fault]
    applied = worker.apply(source=source)
    assert packets.seen() == packets.who.worker_eth1
    assert not any("KVCTL" in line for line in worker.saved(packets.family))
    assert {item.status for item in applied.before.items} == {Status.SKIPPED}
    assert worker.apply(source=source).restores == 0


def test_a_vip_that_another_tenant_takes_is_his(worker: Worker, packets: Packets) -> None:
    mine = service(vip=(), annotations={"kube-vip.io/loadbalancerIPs": ",".join(VIPS)})
    worker.apply(mine, lab_pod())
    assert packets.seen() == packets.who.vip
    worker.apply(
        mine,
        lab_pod(),
        service("web/b", vip=VIPS, created=1_800_000_000),
        lab_pod("web/b-0", namespace="peer"),
    )
    assert packets.seen() == packets.who.worker_eth1
    assert packets.seen(pod="peer") == packets.who.vip


def test_what_a_tenant_says_through_the_api_counts_only_inside_the_vip_range(
    worker: Worker, packets: Packets
) -> None:
    mine = service(vip=(), annotations={"kube-vip.io/loadbalancerIPs": packets.who.vip})
    source = objects(mine, lab_pod(), from_api=True)
    applied = worker.apply(source=source)
    assert packets.seen() == packets.who.worker_eth1
    assert "--vip-range" in (one(applied, "sip/sip-client", packets.family).reason or "")
    worker.told_to(vip_ranges=networks(packets.who.vip)).apply(source=source)
    assert packets.seen() == packets.who.vip
