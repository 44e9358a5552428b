"""Nodes on which a pod's packet does not leave as it should: the first line of trace names the cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.build import Lab, built, unique_prefix
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, standard
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family, parse_address
from kvctl.model.policy import Fence
from kvctl.netfilter import fence
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.lock import namespace_lock
from kvctl.netfilter.savetext import SavedTables
from kvctl.node.host import read_host
from kvctl.policy.layout import fence_name
from kvctl.policy.resolve import resolve
from kvctl.reconcile.leading import lead
from kvctl.reconcile.look import look
from kvctl.reconcile.run import apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from kvctl.trace import question
from kvctl.trace.packet import Question
from kvctl.trace.question import trace
from kvctl.trace.story import sentence
from tests.builders import objects, service
from tests.conftest import MakeLab
from tests.kernel.node import LAB_SETTINGS, VIPS, Worker, lab_pod
from tests.waiting import until

WHO = STANDARD[Family.IPV4]
ASKED = f"udp from {WHO.pod} to {WHO.outside_eth1}:5060"
OURS = f"leaves by eth1 with {WHO.vip}, the VIP of sip/sip-client"
MASQUERADED = f"leaves by eth1 with {WHO.worker_eth1}, by MASQUERADE (another program's)"
SOON = 0.15


def said(
    worker: Worker,
    *,
    to: str = WHO.outside_eth1,
    port: int = 5060,
    source: str = WHO.pod,
    source_port: int | None = None,
    protocol: str = "udp",
) -> str:
    """The first line, without the packet's own words."""
    asked = Question(
        source=parse_address(source),
        destination=parse_address(to),
        protocol=protocol,
        source_port=source_port,
        destination_port=port,
    )
    with worker.lab["worker"].entered():
        _, _, told = sentence(trace(asked)).partition(f"{f'[{to}]' if ':' in to else to}:{port}: ")
    return told


def seen(worker: Worker, *, port: int = 5060) -> str | None:
    """The source that the outside sees of a new connection."""
    answer = probe(worker.lab["pod"], destination=WHO.outside_eth1, port=port, timeout=SOON)
    return answer.source if answer is not None else None


@pytest.fixture
def worker(lab: Lab) -> Iterator[Worker]:
    """A node on which the lab's pod leaves with the VIP."""
    worker = Worker(lab)
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    with Echo(lab["outside"], ports=(5060, 5061)):
        yield worker


@pytest.fixture
def one(make_lab: MakeLab) -> Iterator[Worker]:
    """The same on one back end, for what does not depend on it."""
    worker = Worker(make_lab(backend="nft"))
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    with Echo(worker.lab["outside"], ports=(5060, 5061)):
        yield worker


@pytest.fixture(scope="module")
def lasting(kernel: None) -> Iterator[Worker]:
    """The node of all tests that change nothing but what is applied."""
    prefix = unique_prefix("test")
    with built(standard(backend="nft"), prefix=prefix) as lab, Echo(lab["outside"], ports=(5060, 5061)):
        yield Worker(lab)


@pytest.fixture
def same(lasting: Worker) -> Worker:
    """It, with the rules as they were."""
    lasting.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    return lasting


def test_of_a_node_that_works_the_first_line_says_no_more_than_that(worker: Worker) -> None:
    assert said(worker) == OURS
    assert seen(worker) == WHO.vip
    other = STANDARD[Family.IPV6]
    told = said(worker, source=other.pod, to=other.outside_eth1)
    assert told == f"leaves by eth1 with {other.vip}, the VIP of sip/sip-client"


class TestWhatTheServiceAsksFor:
    def test_a_port_that_is_not_listed(self, same: Worker) -> None:
        assert said(same, port=5061) == f"{MASQUERADED}, because sip/sip-client rewrites only udp:5060"
        assert seen(same, port=5061) == WHO.worker_eth1

    def test_another_protocol_than_the_listed(self, same: Worker) -> None:
        told = said(same, protocol="tcp")
        assert told == f"{MASQUERADED}, because sip/sip-client rewrites only udp:5060"

    def test_a_denied_network(self, same: Worker) -> None:
        same.apply(service(vip=VIPS, denied="192.168.0.0/24"), lab_pod())
        assert said(same) == f"{MASQUERADED}, because sip/sip-client denies 192.168.0.0/24"

    def test_a_network_that_is_not_allowed(self, same: Worker) -> None:
        same.apply(service(vip=VIPS, allowed="203.0.113.0/24"), lab_pod())
        assert (
            said(same) == f"{MASQUERADED}, because sip/sip-client rewrites only what goes to 203.0.113.0/24"
        )

    def test_a_pod_of_no_service(self, same: Worker) -> None:
        told = said(same, source=WHO.peer)
        assert told.startswith(
            f"{MASQUERADED}, because no Service's rules name the pod {WHO.peer}: kvctl egress"
        )

    def test_a_vip_that_is_on_another_node(self, same: Worker) -> None:
        same.apply(service(vip="192.168.0.99"), lab_pod())
        assert said(same).startswith(
            f"{MASQUERADED}, because kvctl has no rules in the kernel: kvctl egress list"
        )

    def test_silence_where_the_vip_is_not(self, same: Worker) -> None:
        drop = {"kvctl.io/without-vip": "drop"}
        same.apply(service(vip="192.168.0.99", annotations=drop), lab_pod())
        told = said(same)
        assert told.startswith("is dropped in mangle KVCTL-DROP-")
        assert told.endswith("sip/sip-client wants silence where its VIP is not (kvctl.io/without-vip)")
        assert seen(same) is None


class TestRanges:
    def test_a_default_service_cidr_that_is_wrong_for_this_cluster(self, same: Worker) -> None:
        # Another site's network, which the default takes for ClusterIPs.
        assert said(same, to="10.100.7.7") == (
            f"leaves by eth0 with {WHO.worker_eth0}, by MASQUERADE (another program's), because it goes to "
            "10.96.0.0/12, which is never rewritten to (service-cidr)"
        )

    def test_a_cluster_ip_whose_back_end_is_outside(self, same: Worker) -> None:
        assert said(same, to=WHO.server_cluster_ip).endswith(
            "because it was aimed at 10.96.0.0/12, which is never rewritten to (service-cidr)"
        )


class TestOthersRules:
    @pytest.mark.parametrize(
        ("target", "source"),
        [("MASQUERADE", WHO.worker_eth1), ("SNAT --to-source 192.168.0.9", "192.168.0.9")],
    )
    def test_translated_above(self, worker: Worker, target: str, source: str) -> None:
        worker.iptables(Family.IPV4, *f"-t nat -I POSTROUTING -s {WHO.pod_network} -j {target}".split())
        name = target.partition(" ")[0]
        assert said(worker).startswith(
            f"leaves by eth1 with {source}, by {name} (another program's), because its rule is asked before kvctl's"
        )

    def test_by_kube_vip(self, one: Worker) -> None:
        comment = "-m comment --comment a3ViZS12aXAK=kube-vip-sip"
        one.iptables(Family.IPV4, *f"-t mangle -A PREROUTING -s {WHO.pod} -j MARK --set-mark 64/64".split())
        one.iptables(
            Family.IPV4,
            *f"-t nat -I POSTROUTING -m mark --mark 64/64 {comment} -j SNAT --to-source {WHO.worker_eth0}".split(),
        )
        assert said(one) == (
            f"leaves by eth1 with {WHO.worker_eth0}, by SNAT (kube-vip's for namespace sip), "
            "because its rule is asked before kvctl's"
        )

    def test_accepted_above(self, one: Worker) -> None:
        one.iptables(Family.IPV4, "-t", "nat", "-I", "POSTROUTING", "-o", "eth1", "-j", "ACCEPT")
        assert said(one) == (
            "leaves by eth1 with its own address, because another program's rule ends the walk before kvctl's "
            "rules are asked"
        )

    def test_the_jump_has_gone(self, one: Worker) -> None:
        one.iptables(Family.IPV4, "-t", "nat", "-F", "POSTROUTING")
        assert said(one) == (
            "leaves by eth1 with its own address, because kvctl's rules are there, but no jump leads to them: "
            "see kvctl egress diff"
        )

    def test_in_the_other_back_end(self, worker: Worker) -> None:
        other = "legacy" if worker.lab.topology.backend == "nft" else "nft"
        rule = ["-t", "nat", "-A", "POSTROUTING", "-s", WHO.pod_network, "-j", "MASQUERADE"]
        assert worker.lab["worker"].run([f"iptables-{other}", "-w", "5", *rule]).status == 0
        told = said(worker)
        assert told.startswith(
            "cannot be judged: both back ends have rules for it, and which are asked first cannot be read"
        )
        assert f"{other}: nat -A POSTROUTING -s {WHO.pod_network} -j MASQUERADE" in told

    @pytest.mark.parametrize("refusal", ["DROP", "REJECT --reject-with icmp-port-unreachable"])
    def test_dropped_on_the_way(self, worker: Worker, refusal: str) -> None:
        worker.iptables(Family.IPV4, *f"-A FORWARD -d {WHO.outside_eth1} -j {refusal}".split())
        name = refusal.partition(" ")[0]
        assert said(worker) == f"is dropped in filter FORWARD, by a {name} (another program's)"
        assert seen(worker) is None

    def test_dropped_by_the_policy(self, one: Worker) -> None:
        one.iptables(Family.IPV4, "-P", "FORWARD", "DROP")
        assert said(one) == "is dropped in filter FORWARD, by the policy of the chain"

    def test_exempt_from_conntrack(self, worker: Worker) -> None:
        worker.iptables(Family.IPV4, *f"-t raw -A PREROUTING -s {WHO.pod_network} -j NOTRACK".split())
        assert said(worker) == (
            "leaves by eth1 with its own address, because raw -A PREROUTING -s 10.0.0.0/16 -j NOTRACK "
            "(another program's) exempts it from conntrack, and nat is not asked"
        )


def test_a_back_end_that_cannot_be_read_is_not_said_to_be_missing(
    same: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (Backend.NFT, Family.IPV4)
    broken = Reading(
        tables={(Backend.LEGACY, Family.IPV4): SavedTables()}, failed={key: KvctlError("it is broken")}
    )
    monkeypatch.setattr(question, "read_everything", lambda: broken)
    asked = Question(parse_address(WHO.pod), parse_address(WHO.outside_eth1), "udp")
    with same.lab["worker"].entered():
        judged = trace(asked)
    assert judged.unknown == ("the rules of the nft back end cannot be read: it is broken",)
    assert not any("not installed" in text for text in judged.notes)


class TestConnections:
    def test_one_that_began_before_the_rules(self, one: Worker) -> None:
        one.flush()
        with Connection(one.lab["pod"], destination=WHO.outside_eth1, port=5060) as connection:
            assert connection.ask() is not None
            one.apply(service(vip=VIPS), lab_pod(), keep_connections=True)
            kept = connection.ask()
            assert kept is not None
            assert kept.source == WHO.worker_eth1
            assert said(one, source_port=connection.local_port) == (
                f"leaves by eth1 with {WHO.worker_eth1}, as the connection that it is part of began: "
                "rules that rewrite are not asked again"
            )
            assert said(one) == f"{OURS}; 1 connection that is there already goes on with {WHO.worker_eth1}"

    def test_no_room_for_new_ones(
        self, same: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The limit is one for all namespaces of a host: it is not a test's to set.
        (tmp_path / "nf_conntrack_count").write_text("100\n")
        (tmp_path / "nf_conntrack_max").write_text("100\n")
        monkeypatch.setattr(question, "_CONNTRACK", tmp_path)
        assert said(same) == f"{OURS}; the table of connections is full (100 of 100): new ones are dropped"
        (tmp_path / "nf_conntrack_max").write_text("101\n")
        assert said(same) == OURS


class TestTheWay:
    def test_the_vip_is_on_no_interface(self, one: Worker) -> None:
        one.lab["worker"].batch([f"addr del {WHO.vip}/32 dev eth1"])
        assert said(one) == (
            f"{OURS}; no interface of this node has {WHO.vip}: answers come back only if something else leads "
            "them here"
        )
        assert seen(one) is None

    @pytest.mark.parametrize("interface", ["lo", "kube-ipvs0"])
    def test_the_vip_is_only_where_others_do_not_look_for_it(self, one: Worker, interface: str) -> None:
        one.lab["worker"].batch(
            [
                "link add kube-ipvs0 type veth peer name its-end",
                "link set kube-ipvs0 up",
                f"addr del {WHO.vip}/32 dev eth1",
                f"addr add {WHO.vip}/32 dev {interface}",
            ]
        )
        assert said(one) == (
            f"{OURS}; {WHO.vip} is only on {interface}, where others do not look for it: answers come back only "
            "if something else leads them here"
        )

    def test_nothing_is_plugged_in(self, one: Worker) -> None:
        one.lab["outside"].batch(["link set port1 down"])
        until(lambda: "no carrier" in said(one))
        assert said(one) == f"{OURS}; the interface eth1 has no carrier"

    def test_the_vip_is_on_an_interface_that_is_down(self, one: Worker) -> None:
        one.lab["worker"].batch(["link set eth1 down"])
        assert said(one) == (
            f"leaves by eth0 with {WHO.vip}, the VIP of sip/sip-client; {WHO.vip} is on eth1, and the interface eth1 "
            "is down: answers do not come back by it"
        )

    def test_it_leaves_by_another_interface_than_the_one_that_has_the_vip(self, one: Worker) -> None:
        asked = Question(
            parse_address(WHO.pod), parse_address(WHO.outside_eth1), protocol="udp", destination_port=5060
        )
        with one.lab["worker"].entered():
            assert not any(WHO.vip in text for text in trace(asked).notes)
            one.lab["worker"].batch(
                [
                    "route add default via 172.16.0.250 dev eth0 table 77",
                    f"rule add from {WHO.pod} lookup 77",
                ]
            )
            judged = trace(asked)
        assert sentence(judged).endswith(f"leaves by eth0 with {WHO.vip}, the VIP of sip/sip-client")
        assert any(f"it leaves by eth0, while {WHO.vip} is on eth1" in text for text in judged.notes)
        one.lab["worker"].batch(["link set eth1 down"])
        assert said(one).endswith("the interface eth1 is down: answers do not come back by it")

    def test_nothing_is_forwarded(self, one: Worker) -> None:
        one.lab["worker"].write_sysctls({"ipv4/ip_forward": "0"})
        assert said(one) == (
            "goes nowhere: net.ipv4.conf.veth0.forwarding is 0, which net.ipv4.ip_forward sets for all interfaces"
        )

    def test_no_ipv6_is_forwarded(self, one: Worker) -> None:
        who = STANDARD[Family.IPV6]
        one.lab["worker"].write_sysctls({"ipv6/conf/all/forwarding": "0"})
        told = said(one, source=who.pod, to=who.outside_eth1)
        assert told == "goes nowhere: net.ipv6.conf.all.forwarding is 0"

    def test_answers_are_not_forwarded(self, one: Worker) -> None:
        one.lab["worker"].write_sysctls({"ipv4/conf/eth1/forwarding": "0"})
        assert said(one) == (
            f"{OURS}; answers do not come back: net.ipv4.conf.eth1.forwarding is 0, which net.ipv4.ip_forward "
            "sets for all interfaces"
        )
        assert seen(one) is None

    def test_a_strict_reverse_path_filter_where_answers_arrive(self, one: Worker) -> None:
        program(
            one, annotations={"kube-vip.io/serviceInterface": "eth1", "kvctl.io/gateway": WHO.outside_eth1}
        )
        assert said(one, to=WHO.outside_eth0) == OURS
        one.lab["worker"].write_sysctls({"ipv4/conf/eth1/rp_filter": "1"})
        assert said(one, to=WHO.outside_eth0) == (
            f"{OURS}; answers do not come back: such a source may not come in by that interface "
            "(rp_filter, or a martian)"
        )

    def test_an_interface_that_leads_nowhere(self, one: Worker) -> None:
        program(one, annotations={"kube-vip.io/serviceInterface": "eth7"})
        assert said(one) == (
            "goes nowhere: sip/sip-client marks it (0x4) for an interface that leads nowhere (No route to host)"
        )
        assert seen(one) is None


class TestHeartbeats:
    def test_they_have_stopped(self, one: Worker) -> None:
        program(one, seconds=60)
        told = said(one)
        assert told == f"{MASQUERADED}, because the heartbeats of sip/sip-client have stopped"
        with one.lab["worker"].entered():
            assert not fence.beat([(Family.IPV4, fence_name(parse_address(WHO.vip)))])
        assert said(one) == OURS


def program(worker: Worker, *, annotations: dict[str, str] | None = None, seconds: int | None = None) -> None:
    """As an agent would: with the ways that Services name, and fenced."""
    with worker.lab["worker"].entered(), namespace_lock(timeout=10):
        host = read_host()
        asked = service(vip=VIPS, annotations=annotations)
        led = lead(resolve(objects(asked, lab_pod()), LAB_SETTINGS, host=host), host=host)
        assert led.open() == []
        resolution = led.resolution
        if seconds is not None:
            resolution = replace(
                resolution,
                wanted=tuple(
                    it._replace(policy=it.policy._replace(fence=Fence(fence_name(it.policy.vip), seconds)))
                    for it in resolution.wanted
                ),
            )
        wish = Wish(resolution, scope=Scope(), settings=LAB_SETTINGS, host=host)
        apply(look(told=None), wish, drop_connections=True)
