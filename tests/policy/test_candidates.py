"""Which VIPs a node contends for, by which Lease, and why it leaves others alone."""

from __future__ import annotations

import pytest

from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.lease import LeaseKey
from kvctl.model.net import parse_address, parse_network
from kvctl.model.objects import Objects, Service
from kvctl.model.policy import DROPPED
from kvctl.model.settings import Settings
from kvctl.policy.candidates import Candidates, find_candidates
from kvctl.policy.resolve import resolve
from kvctl.policy.verdict import Skipped
from tests.builders import endpoint, objects, pod, ref, service, settings

OWN = LeaseKey("sip", "kubevip-sip-client")
ASSUMED = settings(node="worker", assume_vip=True)._replace(elects=True)


def found(
    *things: object, announced: dict[str, str] | None = None, settings: Settings = ASSUMED
) -> Candidates:
    """What the worker contends for."""
    its: Objects = objects(*things)  # type: ignore[arg-type]
    its = its._replace(announced={ref(name): frozenset({node}) for name, node in (announced or {}).items()})
    return find_candidates(resolve(its, settings, host=None), its)


def skips(*things: object, settings: Settings = ASSUMED) -> dict[str, Skipped]:
    """What the worker makes of Services that have no rules."""
    resolution = resolve(objects(*things), settings, host=None)  # type: ignore[arg-type]
    return {str(skip.ref): skip for skip in resolution.skipped}


def names(candidates: Candidates, key: LeaseKey = OWN) -> list[str]:
    return [str(candidate.ref) for candidate in candidates.by_lease.get(key, ())]


def test_a_service_with_a_pod_here_is_contended_for_by_the_lease_of_kube_vips_name() -> None:
    candidates = found(service(), pod())
    (candidate,) = candidates.by_lease[OWN]
    assert candidate.ref == ref("sip/sip-client")
    assert candidate.vips == {parse_address("192.168.0.245")}
    assert not candidate.ready
    assert candidates.refused == {}


def test_a_node_without_a_pod_that_counts_does_not_contend() -> None:
    for away in (pod(node="other"), pod(finished=True), pod(host_network=True)):
        assert found(service(), away).by_lease == {}
    assert found(service(annotations={"kube-vip.io/ignore": "true"}), pod()).by_lease == {}
    assert found(service(ports="tcp:0"), pod()).by_lease == {}


def test_one_ready_pod_is_enough_to_be_ready() -> None:
    ready = pod("sip/sip-client-1", "10.0.0.2")._replace(ready=True)
    (candidate,) = found(service(), pod(), ready).by_lease[OWN]
    assert candidate.ready


def test_pods_of_endpoint_slices_count_too() -> None:
    it = service(selector={})
    ready = pod()._replace(ready=True)
    (candidate,) = found(it, ready, endpoint("sip/sip-client", "10.0.0.1", pod_name="sip-client-0")).by_lease[
        OWN
    ]
    assert candidate.ready


def test_services_that_share_a_vip_share_a_lease_or_the_younger_is_left_out() -> None:
    older = service(created=1)
    younger = service("sip/b", created=2)
    pods = pod(), pod("sip/b-0", "10.0.0.2")
    assert found(older, younger, *pods).by_lease.keys() == {OWN}
    assert skips(older, younger, *pods)["sip/b"].reason == (
        "sip/sip-client comes first and has the VIP 192.168.0.245 by Lease sip/kubevip-sip-client, this one would by "
        "sip/kubevip-b: give both one kube-vip.io/leaseName"
    )
    shared = {"kube-vip.io/leaseName": "sip-lease"}
    both = [
        service(created=1, annotations=shared),
        service("sip/b", created=2, annotations=shared),
    ]
    assert set(names(found(*both, *pods), LeaseKey("sip", "sip-lease"))) == {"sip/sip-client", "sip/b"}
    assert skips(*both, *pods) == {}


def test_which_lease_decides_is_the_same_on_a_node_that_has_pods_of_the_younger_one_alone() -> None:
    older, younger = service(created=1), service("sip/b", created=2)
    elsewhere, here = pod(node="other"), pod("sip/b-0", "10.0.0.2")
    assert found(older, younger, elsewhere, here).by_lease == {}
    assert "by Lease sip/kubevip-sip-client" in skips(older, younger, elsewhere, here)["sip/b"].reason


def test_without_an_election_services_share_a_vip_as_they_like() -> None:
    both = service(created=1), service("sip/b", created=2)
    assert skips(*both, pod(), pod("sip/b-0", "10.0.0.2"), settings=ASSUMED._replace(elects=False)) == {}


def test_whose_status_has_the_vip_comes_before_an_older_one_that_only_asks_for_it() -> None:
    asking = service(created=1, annotations={"kube-vip.io/loadbalancerIPs": "192.168.0.245"})._replace(
        ingress=()
    )
    having = service("sip/b", created=2)
    within = ASSUMED._replace(vip_ranges=(parse_network("192.168.0.0/24"),))
    things = asking, having, pod(), pod("sip/b-0", "10.0.0.2")
    assert found(*things, settings=within).by_lease.keys() == {LeaseKey("sip", "kubevip-b")}
    assert "sip/b comes first" in skips(*things, settings=within)["sip/sip-client"].reason


def test_who_lost_the_vip_to_another_and_wants_silence_without_it_is_silent() -> None:
    pods = pod(), pod("sip/b-0", "10.0.0.2")
    older = service(created=1)
    younger = service("sip/b", created=2, annotations={"kvctl.io/without-vip": "drop"})
    other = service("sip/b", created=2, annotations={"kvctl.io/without-vip": "node-address"})
    skip = skips(older, younger, *pods)["sip/b"]
    assert skip.drop is not None
    assert [str(each.address) for each in skip.drop.pods] == ["10.0.0.2"]
    assert skip.reason.endswith(DROPPED)
    assert skips(older, other, *pods)["sip/b"].drop is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"load_balancer_class": "metallb"},
            'spec.loadBalancerClass is "metallb": another program manages the VIP',
        ),
        (
            {"status_managers": ("kubectl-edit", "controller")},
            '"controller" writes its status: that program manages the VIP',
        ),
    ],
)
def test_what_another_program_manages_is_left_alone(changed: dict[str, object], why: str) -> None:
    it: Service = service()._replace(**changed)  # type: ignore[arg-type]
    candidates = found(it, pod())
    assert candidates.by_lease == {}
    assert candidates.refused[it.ref] == why


def test_what_metallb_announces_is_left_alone() -> None:
    candidates = found(service(), pod(), announced={"sip/sip-client": "worker"})
    assert candidates.refused[ref("sip/sip-client")] == "MetalLB announces the VIP (worker)"


@pytest.mark.parametrize("managers", [("kvctl",), ("kubectl-edit", "kvctl"), ()])
def test_what_kvctl_or_a_person_wrote_is_kvctls_to_place(managers: tuple[str, ...]) -> None:
    assert names(found(service()._replace(status_managers=managers), pod())) == ["sip/sip-client"]


def test_the_interface_is_the_one_that_is_named_else_that_of_the_route() -> None:
    host = Host(
        addresses=(HostAddress(parse_address("192.168.0.240"), 24, "eth1"),),
        routes=(Route(parse_network("192.168.0.0/24"), "eth1"), Route(parse_network("0.0.0.0/0"), "eth0")),
    )
    vip = parse_address("192.168.0.245")
    assert found(service(), pod()).interfaces(host, OWN) == {vip: "eth1"}
    named = service(annotations={"kube-vip.io/serviceInterface": "eth2"})
    assert found(named, pod()).interfaces(host, OWN) == {vip: "eth2"}
    assert found(service(), pod()).interfaces(Host(addresses=(), routes=()), OWN) == {}


def test_a_vip_does_not_move_to_the_default_route_when_its_own_interface_is_down() -> None:
    default = Route(parse_network("0.0.0.0/0"), "eth0")
    host = Host(
        addresses=(
            HostAddress(parse_address("172.16.0.2"), 24, "eth0"),
            HostAddress(parse_address("192.168.0.240"), 24, "eth1"),
        ),
        routes=(default,),
        interfaces=("eth0", "eth1"),
        down=frozenset({"eth1"}),
    )
    candidates = found(service(), pod())
    assert candidates.located(host).unable == {
        OWN: "the VIP 192.168.0.245 of sip/sip-client cannot be here: the interface eth1 is down"
    }
    # A second interface of the network does as well, and so does the way that a Service names.
    beside = HostAddress(parse_address("192.168.0.239"), 24, "eth0")
    assert candidates.located(host._replace(addresses=(*host.addresses, beside))).unable == {}
    named = found(service(annotations={"kube-vip.io/serviceInterface": "eth0"}), pod())
    assert named.located(host).unable == {}


@pytest.mark.parametrize("ends", ["192.168.0.0", "192.168.0.255"])
def test_the_ends_of_a_network_are_no_hosts_to_have(ends: str) -> None:
    own = HostAddress(parse_address("192.168.0.240"), 24, "eth1")
    near = Route(parse_network("192.168.0.0/24"), "eth1")
    at = Host(addresses=(own,), routes=(near,), interfaces=("eth1",))
    candidates = found(service(vip=ends), pod())
    assert candidates.located(at).unable == {
        OWN: f"the VIP {ends} of sip/sip-client cannot be here: it is the first or the last address of "
        "192.168.0.0/24, which no host may have"
    }
    # What other hosts call the ends of theirs is not known here.
    beside = at._replace(addresses=(HostAddress(parse_address("192.168.0.240"), 31, "eth1"),))
    assert candidates.located(beside).unable == {}


def test_a_lease_is_for_hosts_with_an_interface_for_each_of_its_vips() -> None:
    near = Route(parse_network("192.168.0.0/24"), "eth1")
    candidates = found(service(), pod())
    usable = candidates.located(Host(addresses=(), routes=(near,), interfaces=("eth1",)))
    assert usable.interfaces == {OWN: {parse_address("192.168.0.245"): "eth1"}}
    assert usable.unable == {}
    gone = candidates.located(Host(addresses=(), routes=(near,), interfaces=("eth0",)))
    assert gone.interfaces == {}
    assert gone.unable == {
        OWN: "the VIP 192.168.0.245 of sip/sip-client cannot be here: this node has no interface eth1"
    }
    there = Host(addresses=(), routes=(near,), interfaces=("eth0", "eth1"))
    eth1 = frozenset({"eth1"})
    for dead, why in (
        (there._replace(down=eth1), "is down"),
        (there._replace(unplugged=eth1), "has no carrier"),
    ):
        assert candidates.located(dead).unable == {
            OWN: f"the VIP 192.168.0.245 of sip/sip-client cannot be here: the interface eth1 {why}"
        }
    assert candidates.located(there._replace(down=frozenset({"eth0"}))).unable == {}
    unrouted = candidates.located(Host(addresses=(), routes=(), interfaces=("eth1",)))
    assert unrouted.unable == {
        OWN: "the VIP 192.168.0.245 of sip/sip-client cannot be here: no route leads to it"
    }
