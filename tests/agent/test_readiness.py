"""When a pod is ready: its rules are in, or nobody wants any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvctl.agent.readiness import PENDING, Reason, judge_pod, pod_ready
from kvctl.agent.round import Round
from kvctl.model.host import Host
from kvctl.model.objects import Pod
from kvctl.model.policy import EgressPod
from kvctl.reconcile.report import Status
from tests.agent.rounds import round_with, with_items
from tests.builders import endpoint, pod, service

NOWHERE = Host(addresses=(), routes=())
DUAL = pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")


def judged(done: Round, one: Pod | None = None) -> tuple[bool, Reason]:
    verdict = judge_pod(done, one or done.objects.pods[0])
    assert verdict.message.isprintable()
    return verdict.ready, verdict.reason


def test_a_pod_is_ready_when_its_rules_are_in_the_kernel() -> None:
    assert judged(round_with(service(), pod())) == (True, Reason.RULES_IN_KERNEL)


def test_a_pod_that_no_service_asks_for_is_not_held_back() -> None:
    assert judged(round_with(service(egress=False), pod())) == (True, Reason.NO_EGRESS_SERVICE)
    assert judged(round_with(service("other/sip-client"), pod())) == (True, Reason.NO_EGRESS_SERVICE)


def test_a_service_that_is_to_be_ignored_asks_for_nothing() -> None:
    done = round_with(service(annotations={"kube-vip.io/ignore": "true"}), pod())
    assert judged(done) == (True, Reason.NO_EGRESS_SERVICE)


@pytest.mark.parametrize("status", [Status.MISSING, Status.DRIFTED, Status.RETIRING, Status.ORPHANED])
def test_rules_that_are_not_right_are_not_there(status: Status) -> None:
    assert judged(with_items(round_with(service(), pod()), status=status)) == (False, Reason.RULES_PENDING)


def test_rules_for_another_pod_of_the_service_do_not_count() -> None:
    done = round_with(service(), pod())
    late = pod("sip/sip-client-1", "10.0.0.2")
    assert judged(done, late) == (False, Reason.NOT_PROGRAMMED)


def test_every_service_that_selects_the_pod_counts() -> None:
    done = round_with(
        service(ports="udp:5060"),
        service("sip/more", vip=None, selector={"app": "sip-client"}),
        pod(),
    )
    ready, reason, message = judge_pod(done, done.objects.pods[0])
    assert (ready, reason) == (False, Reason.NOT_PROGRAMMED)
    assert "sip/more" in message
    assert "no VIP" in message


def test_both_families_of_a_pod_count() -> None:
    done = round_with(service(vip=("192.168.0.245", "fd00:1::245")), DUAL)
    assert judged(done) == (True, Reason.RULES_IN_KERNEL)
    half = replace(
        done,
        items=tuple(i._replace(status=Status.MISSING) if i.family == "ipv6" else i for i in done.items),
    )
    assert judged(half) == (False, Reason.RULES_PENDING)


def test_a_family_without_a_vip_is_not_waited_for() -> None:
    assert judged(round_with(service(), DUAL)) == (True, Reason.RULES_IN_KERNEL)
    only_ipv6 = round_with(service(), pod("sip/sip-client-0", "fd00:10::1"), pod("sip/sip-client-1"))
    assert judged(only_ipv6) == (True, Reason.NO_EGRESS_SERVICE)


def test_where_the_vip_is_elsewhere_a_pod_is_not_ready() -> None:
    done = round_with(service(), pod(), host=NOWHERE)
    assert judged(done) == (False, Reason.VIP_ELSEWHERE)


def test_where_its_traffic_is_dropped_it_is_ready_once_that_is_in_place() -> None:
    done = round_with(service(annotations={"kvctl.io/without-vip": "drop"}), pod(), host=NOWHERE)
    dropping = with_items(done, pods=(EgressPod(done.objects.pods[0].addresses[0]),))
    assert judged(dropping) == (True, Reason.TRAFFIC_DROPPED)
    assert judged(with_items(dropping, changes=("something",))) == (False, Reason.VIP_ELSEWHERE)
    assert judged(with_items(dropping, pods=())) == (False, Reason.VIP_ELSEWHERE)


def test_rules_that_another_program_forestalls_do_not_make_it_ready() -> None:
    done = with_items(round_with(service(), pod()), status=Status.OVERRIDDEN, reason="nft does it")
    assert judged(done) == (False, Reason.OVERRIDDEN)


def test_a_pod_on_the_hosts_network_never_becomes_ready_if_a_service_wants_it() -> None:
    assert judged(round_with(service(), pod(host_network=True))) == (False, Reason.HOST_NETWORK)
    assert judged(round_with(pod(host_network=True))) == (True, Reason.NO_EGRESS_SERVICE)


def test_a_pod_without_an_address_waits() -> None:
    one = pod()._replace(addresses=())
    assert judged(round_with(service(), one)) == (False, Reason.NO_ADDRESS)


def test_a_pod_that_ends_is_not_ready_for_its_successor_of_the_same_name() -> None:
    assert judged(round_with(service(), pod(deleting=True))) == (False, Reason.TERMINATING)


def test_pods_of_endpoints_count_too() -> None:
    done = round_with(service(selector={}), pod(app="none"), endpoint("sip/sip-client", "10.0.0.1"))
    assert judged(done) == (True, Reason.RULES_IN_KERNEL)


def test_the_last_good_rules_serve_the_pods_that_they_were_written_for() -> None:
    done = round_with(service(ports="5060"), pod())
    assert judged(done) == (False, Reason.NOT_PROGRAMMED)
    kept = replace(done, items=round_with(service(), pod()).items)
    assert judged(kept) == (True, Reason.RULES_IN_KERNEL)


def test_before_the_first_round_nobody_is_ready() -> None:
    assert judge_pod(Round(causes=frozenset(), ended=0, duration=0), pod()) == PENDING


def test_a_pod_is_found_by_its_name() -> None:
    done = round_with(service(), pod())
    assert pod_ready(done, "sip", "sip-client-0") == (True, judge_pod(done, done.objects.pods[0]).message)
    assert pod_ready(done, "sip", "sip-client-7") is None
    assert pod_ready(done, "other", "sip-client-0") is None
