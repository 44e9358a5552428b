"""What has to be seen, where somebody has changed the rules that say it."""

from __future__ import annotations

import pytest

from kvctl.lab.build import Lab
from kvctl.model.net import Family, parse_address
from kvctl.node.host import read_host
from kvctl.policy.layout import service_chain
from kvctl.reconcile.look import look
from kvctl.verify.expected import Expectation, Kind, Rules
from tests.builders import pod, ref, service
from tests.conftest import MakeLab
from tests.kernel.node import SECOND_VIPS, VIPS, Worker, lab_pod

POD, OUTSIDE = map(parse_address, ("10.0.0.1", "192.168.0.250"))


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(backend="nft")


def rules(lab: Lab) -> Rules:
    with lab["worker"].entered():
        return Rules(look(told=None), read_host())


def expected(lab: Lab, protocol: str) -> Expectation:
    return rules(lab).expected(POD, OUTSIDE, protocol=protocol, port=5060)


def test_of_two_services_the_one_that_is_whole_keeps_its_word(lab: Lab) -> None:
    worker = Worker(lab)
    worker.bind(*SECOND_VIPS)
    worker.apply(
        service("sip/ports", vip=VIPS, ports="udp:5060", selector={"app": "a"}),
        service("sip/all", vip=SECOND_VIPS, selector={"app": "a"}),
        lab_pod(app="a"),
    )
    worker.iptables(Family.IPV4, "-t", "nat", "-F", service_chain(ref("sip/all")))
    udp, tcp = expected(lab, "udp"), expected(lab, "tcp")
    assert (udp.kind, str(udp.address), udp.service) == (Kind.VIP, VIPS[0], ref("sip/ports"))
    assert (tcp.kind, tcp.service) == (Kind.BROKEN, ref("sip/all"))
    worker.iptables(Family.IPV4, "-t", "nat", "-F", service_chain(ref("sip/ports")))
    assert expected(lab, "udp").service == ref("sip/ports")


def test_a_changed_chain_keeps_its_vip_and_tells_its_fault(lab: Lab) -> None:
    worker = Worker(lab)
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    chain = service_chain(ref("sip/sip-client"))
    worker.iptables(Family.IPV4, "-t", "nat", "-I", chain, "-j", "RETURN")
    told = expected(lab, "udp")
    assert (told.kind, told.fault) == (Kind.VIP, f"somebody has changed {chain}")


def test_one_flushed_branch_of_the_tree_is_told_though_other_pods_are_led_on(lab: Lab) -> None:
    worker = Worker(lab)
    pods = [pod(f"sip/sip-client-{n}", f"10.0.{n}.{m}") for n in range(2) for m in range(1, 20)]
    worker.apply(service(vip=VIPS), *pods)
    assert rules(lab).flushed(Family) == []
    leaf = next(
        line.split()[1] for line in worker.saved(Family.IPV4) if line.startswith("-A KVCTL-IN-10.0.1.")
    )
    worker.iptables(Family.IPV4, "-t", "nat", "-F", leaf)
    assert rules(lab).flushed(Family) == [f"{leaf} is empty, somebody has flushed it"]
    assert rules(lab).flushed((Family.IPV6,)) == []


def test_the_ports_of_a_service_are_told_where_they_would_be_rewritten(lab: Lab) -> None:
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060,tcp:80", denied="192.168.0.251/32"), lab_pod())
    found = rules(lab)
    ports = found.ports_of(ref("sip/sip-client"), POD, OUTSIDE)
    assert sorted(map(str, ports)) == ["tcp:80", "udp:5060"]
    assert found.ports_of(ref("sip/sip-client"), POD, parse_address("192.168.0.251")) == ()
    assert found.ports_of(ref("sip/sip-client"), POD, parse_address("10.0.0.9")) == ()
    assert found.ports_of(ref("sip/other"), POD, OUTSIDE) == ()
