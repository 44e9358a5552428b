"""Who holds the VIP, by the evidence of the host, of MetalLB and of kube-vip."""

from __future__ import annotations

import pytest

from kvctl.model.host import Host, HostAddress
from kvctl.model.net import parse_address
from kvctl.policy.holder import Evidence, disagreement, evidence_of, holder_of, not_here
from kvctl.policy.resolve import resolve
from kvctl.policy.verdict import SkipStatus
from tests.builders import objects, pod, ref, service, settings
from tests.policy.answers import only, resolved, skip_of

VIP = parse_address("192.168.0.245")


def host(*interfaces: str) -> Host:
    """A host that has the VIP on these interfaces."""
    return Host(addresses=tuple(HostAddress(VIP, 32, name) for name in interfaces), routes=())


def evidence(announced: str = "", vip_host: str | None = None) -> Evidence:
    return Evidence(node="here", announced=frozenset(announced.split()), vip_host=vip_host)


@pytest.mark.parametrize(
    ("interfaces", "said", "reason"),
    [
        (("eth0",), evidence(), None),
        (("lo", "eth0"), evidence(announced="there", vip_host="there"), None),
        (
            (),
            evidence(),
            "is on no interface of this node (put it there with apply --with-vip, or use --assume-vip",
        ),
        (("lo",), evidence(), "is only on lo, which does not answer ARP"),
        ((), evidence(announced="here"), None),
        (("kube-ipvs0",), evidence(announced="here there", vip_host="there"), None),
        (("kube-ipvs0",), evidence(announced="there", vip_host="here"), "is announced by there"),
        ((), evidence(announced="d c b a"), "is announced by a, b, c and others"),
        ((), evidence(vip_host="there"), "is held by there"),
        (("lo",), evidence(vip_host="there"), "is held by there"),
        (("lo",), evidence(vip_host="here"), None),
        (("kube-ipvs0",), evidence(vip_host="here"), None),
        ((), evidence(vip_host="here"), "is on no interface of this node (its Lease decides"),
    ],
)
def test_the_address_comes_first_then_metallb_then_kube_vip(
    interfaces: tuple[str, ...], said: Evidence, reason: str | None
) -> None:
    sentence = not_here(VIP, host=host(*interfaces), assume=False, evidence=said)
    if reason is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert f"the VIP 192.168.0.245 {reason}" in sentence
    assert not_here(VIP, host=host(*interfaces), assume=True, evidence=said) is None
    assert not_here(VIP, host=None, assume=False, evidence=said) is None


@pytest.mark.parametrize(
    ("interfaces", "vip_host", "sentence"),
    [
        ((), None, "is on no interface of this node (its Lease decides which node has it)"),
        (
            ("lo",),
            None,
            "is only on lo, which does not answer ARP for it: its Lease decides which node has it",
        ),
        ((), "there", "is held by there"),
    ],
)
def test_where_nodes_are_elected_nobody_is_told_to_place_or_assume_it(
    interfaces: tuple[str, ...], vip_host: str | None, sentence: str
) -> None:
    told = not_here(
        VIP, host=host(*interfaces), assume=False, evidence=evidence(vip_host=vip_host), elected=True
    )
    assert told == f"the VIP 192.168.0.245 {sentence}"


@pytest.mark.parametrize("lb_class", ["", "example.com/lb"])
def test_who_elects_says_so_of_its_own_services_alone(lb_class: str) -> None:
    its = service()._replace(load_balancer_class=lb_class)
    electing = settings()._replace(elects=True)
    skip = skip_of(resolved(its, pod(), host=host(), settings=electing), "sip/sip-client")
    assert ("its Lease decides" in skip.reason) is not bool(lb_class)
    assert ("--assume-vip" in skip.reason) is bool(lb_class)


@pytest.mark.parametrize(
    ("interfaces", "said", "words"),
    [
        (("eth0",), evidence(), None),
        (("eth0",), evidence(announced="here", vip_host="here"), None),
        (
            ("eth0",),
            evidence(announced="there"),
            "is on eth0 of this node, but MetalLB says that there announces it",
        ),
        (
            ("eth0",),
            evidence(announced="there", vip_host="other"),
            "announces it and kube-vip.io/vipHost names other",
        ),
        ((), evidence(), None),
        ((), evidence(vip_host="there"), None),
        ((), evidence(announced="there"), None),
        (
            (),
            evidence(vip_host="here"),
            "names this node, but the VIP 192.168.0.245 is on no interface of it",
        ),
        (("lo",), evidence(vip_host="here"), None),
        ((), evidence(announced="here", vip_host="there"), "two programs disagree"),
        ((), evidence(announced="there", vip_host="here"), "two programs disagree"),
        ((), evidence(announced="here", vip_host="here"), None),
    ],
)
def test_evidence_that_contradicts_itself_is_told(
    interfaces: tuple[str, ...], said: Evidence, words: str | None
) -> None:
    told = disagreement(VIP, host=host(*interfaces), evidence=said)
    assert told is None if words is None else told is not None and words in told


@pytest.mark.parametrize("text", ["", "There", "a b", "a\nb", "-a", "x" * 254, "\x1b[1m"])
def test_what_is_no_name_of_a_node_is_no_evidence(text: str) -> None:
    found = evidence_of({"kube-vip.io/vipHost": text}, node="here")
    assert found == Evidence(node="here")


def test_the_holder_is_told_where_the_service_is_elsewhere() -> None:
    away = service(annotations={"kube-vip.io/vipHost": "worker-2"})
    skip = skip_of(
        resolved(away, pod(), host=host(), settings=settings(this_node="worker")), "sip/sip-client"
    )
    assert skip.status is SkipStatus.ELSEWHERE
    assert skip.reason.startswith("the VIP 192.168.0.245 is held by worker-2: ")


@pytest.mark.parametrize(("node", "reason"), [("worker", None), ("other", "announced by worker")])
def test_what_metallb_announces_here_is_programmed(node: str, reason: str | None) -> None:
    announced = {ref("sip/sip-client"): frozenset(("worker",))}
    source = objects(service(), pod())._replace(announced=announced)
    answer = resolve(source, settings(this_node=node), host=host())
    if reason is None:
        assert only(answer).policy.vip == VIP
    else:
        assert reason in skip_of(answer, "sip/sip-client").reason


@pytest.mark.parametrize(
    ("on", "said", "holder"),
    [
        ("eth1", Evidence("worker", vip_host="other"), "worker"),
        (None, Evidence("worker", vip_host="other"), "other"),
        (None, Evidence("worker", frozenset({"b", "a"}), "other"), "a"),
        (None, Evidence("worker", frozenset({"worker", "a"})), "worker"),
        # Its name has not been taken back yet.
        (None, Evidence("worker", vip_host="worker"), None),
        ("lo", Evidence("worker", vip_host="worker"), "worker"),
        (None, Evidence("worker"), None),
        ("lo", Evidence("worker"), None),
    ],
)
def test_the_holder_is_named_by_the_best_evidence(on: str | None, said: Evidence, holder: str | None) -> None:
    addresses = () if on is None else (HostAddress(VIP, 32, on),)
    assert holder_of(VIP, host=Host(addresses=addresses, routes=()), evidence=said) == holder
