"""Which Services are programmed, and the sentence for each that is not."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.objects import Service
from kvctl.policy.annotations import (
    ADDRESSES,
    ALLOWED,
    DENIED,
    EGRESS,
    IGNORE,
    INTERFACE,
    IPV6,
    KVCTL_EGRESS,
    PORTS,
    WITHOUT_EFFECT,
    read_annotations,
)
from kvctl.policy.verdict import Fate, SkipStatus
from tests.builders import DUAL_STACK, networks, pod, service, settings
from tests.policy.answers import only, policy_of, resolved, skip_of, wanted_names

POD = pod()
NAME = "sip/sip-client"
VIP = parse_address("192.168.0.245")


def host(*places: tuple[str, str], default: str = "eth0", kind: str | None = None) -> Host:
    return Host(
        addresses=tuple(HostAddress(parse_address(text), 32, name, kind) for text, name in places),
        routes=(Route(parse_network("0.0.0.0/0"), default),),
        interfaces=("lo", "eth0", "eth1"),
    )


def test_a_service_becomes_a_policy_with_everything_it_asks_for() -> None:
    it = service(
        ports="udp:5060, tcp:1-2",
        allowed="192.168.0.0/16",
        denied="192.168.9.0/24",
        annotations={"kube-vip.io/serviceInterface": "eth1", "kube-vip.io/egress-ipv6": "true"},
        created=7,
    )
    wanted = only(resolved(it, POD))
    assert wanted.warnings == ()
    policy = wanted.policy
    assert (policy.vip, policy.interface, policy.created) == (VIP, "eth1", 7)
    assert [str(port) for port in policy.ports] == ["tcp:1-2", "udp:5060"]
    assert policy.allowed == networks("192.168.0.0/16")
    assert policy.denied == networks("192.168.9.0/24")
    assert [(p.name, p.node) for p in policy.pods] == [("sip-client-0", "worker")]


def test_a_service_that_does_not_ask_is_no_item_at_all() -> None:
    answer = resolved(
        service(egress=False), service("a/off", annotations={"kube-vip.io/egress": "false"}), POD
    )
    assert (answer.wanted, answer.skipped) == ((), ())
    assert len(answer.present) == 2


@pytest.mark.parametrize(
    ("it", "reason"),
    [
        (service(type="ClusterIP"), "spec.type is ClusterIP, not LoadBalancer"),
        (service(policy="Cluster"), "spec.externalTrafficPolicy is Cluster, not Local"),
        (
            service(type="NodePort", policy="Cluster"),
            "spec.type is NodePort, not LoadBalancer; spec.externalTrafficPolicy is Cluster, not Local",
        ),
        (
            service(vip=None),
            (
                "no VIP: status.loadBalancer.ingress is empty, and neither kube-vip.io/loadbalancerIPs nor "
                "spec.loadBalancerIP is set"
            ),
        ),
        (
            service(selector={"app": "nobody"}),
            "no pod in namespace sip matches spec.selector app=nobody",
        ),
        (service(annotations={"kube-vip.io/ignore": "true"}), "kube-vip.io/ignore is true"),
    ],
)
def test_what_cannot_be_programmed_as_things_are_loses_its_rules_and_says_why(
    it: Service, reason: str
) -> None:
    skip = skip_of(resolved(it, POD), NAME)
    assert skip.reason == reason
    assert skip.fate is Fate.LOSE
    assert skip.problems == ()


def test_an_ignored_service_is_left_alone_with_all_its_errors() -> None:
    it = service(ports="udp:0", annotations={"kube-vip.io/ignore": "true"})
    assert skip_of(resolved(it, POD), NAME).problems == ()


def test_a_faulty_ignore_is_an_input_error() -> None:
    skip = skip_of(resolved(service(annotations={"kube-vip.io/ignore": "yes"}), POD), NAME)
    assert skip.fate is Fate.KEEP


def test_kvctls_own_switch_counts_where_both_are_set() -> None:
    on = service(
        "a/a", vip="192.168.0.1", annotations={"kube-vip.io/egress": "false", "kvctl.io/egress": "true"}
    )
    off = service("b/b", vip="192.168.0.2", annotations={"kvctl.io/egress": "false"})
    assert wanted_names(resolved(on, off, pod("a/a-0"), pod("b/b-0", "10.0.0.2"))) == ["a/a"]


def test_every_problem_of_a_service_is_reported_at_once_and_keeps_its_rules() -> None:
    it = service(ports="5060,udp:0", allowed="10.0.0.0/33", denied="x", vip="127.0.0.1")
    skip = skip_of(resolved(it, POD), NAME)
    assert skip.fate is Fate.KEEP
    assert len(skip.problems) == 5
    assert [problem.hint for problem in skip.problems if problem.hint] == ["write tcp:5060"]
    for piece in ('"5060"', '"udp:0"', '"10.0.0.0/33"', '"x"', '"127.0.0.1"'):
        assert piece in skip.reason


def test_a_state_and_an_error_together_lose_the_rules_and_name_both() -> None:
    skip = skip_of(resolved(service(ports="udp:0", policy="Cluster"), POD), NAME)
    assert skip.fate is Fate.LOSE
    assert "externalTrafficPolicy" in skip.reason
    assert '"udp:0"' in skip.reason


def test_a_selector_from_a_file_reaches_no_terminal_unescaped() -> None:
    skip = skip_of(resolved(service(selector={"app": "\x1b[31mred\n" * 100}), POD), NAME)
    assert skip.reason.isascii()
    assert skip.reason.isprintable()
    assert len(skip.reason) < 200


def test_services_are_independent_of_each_others_errors() -> None:
    answer = resolved(service("a/a", ports="x"), service("b/b", vip="192.168.0.2"), pod("b/b-0"))
    assert wanted_names(answer) == ["b/b"]


class TestNetworks:
    """Allowed and denied networks, family by family."""

    def test_allowed_networks_of_one_family_skip_the_other(self) -> None:
        it = service(vip=["192.168.0.245", "fd00:1::1"], allowed="192.168.0.0/16")
        answer = resolved(it, pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1"), settings=DUAL_STACK)
        assert policy_of(answer, NAME).allowed == networks("192.168.0.0/16")
        skip = skip_of(answer, NAME, Family.IPV6)
        assert skip.reason == "kube-vip.io/egress-allowed-networks has no ipv6 network"
        assert skip.fate is Fate.LOSE

    def test_denied_networks_apply_to_their_own_family(self) -> None:
        it = service(vip=["192.168.0.245", "fd00:1::1"], denied="192.168.9.0/24,fd00:9::/64")
        answer = resolved(it, pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1"), settings=DUAL_STACK)
        assert policy_of(answer, NAME).denied == networks("192.168.9.0/24")
        assert policy_of(answer, NAME, Family.IPV6).denied == networks("fd00:9::/64")

    def test_all_networks_allowed_is_no_restriction(self) -> None:
        policy = only(resolved(service(allowed="0.0.0.0/0, 192.168.0.0/16"), POD)).policy
        assert policy.allowed == ()

    @pytest.mark.parametrize(
        ("allowed", "denied"),
        [
            (None, "0.0.0.0/0"),
            (None, "0.0.0.0/1,128.0.0.0/1"),
            ("192.168.0.0/16", "192.168.0.0/16"),
            ("192.168.0.0/16", "192.168.0.0/17,192.168.128.0/17"),
            ("192.168.1.0/24,192.168.2.0/24", "192.168.0.0/16"),
        ],
    )
    def test_denying_everything_is_said(self, allowed: str | None, denied: str) -> None:
        skip = skip_of(resolved(service(allowed=allowed, denied=denied), POD), NAME)
        assert skip.reason == "kube-vip.io/egress-denied-networks leaves no ipv4 network to rewrite to"

    def test_denying_a_part_is_no_reason_to_skip(self) -> None:
        policy = only(resolved(service(allowed="192.168.0.0/16", denied="192.168.0.0/17"), POD)).policy
        assert (policy.allowed, policy.denied) == (networks("192.168.0.0/16"), networks("192.168.0.0/17"))


class TestTheHost:
    """What this machine's addresses and routes say."""

    def test_where_the_vip_is_not_here_the_service_is_elsewhere(self) -> None:
        skip = skip_of(resolved(service(), POD, host=host()), NAME)
        assert (skip.status, skip.fate) == (SkipStatus.ELSEWHERE, Fate.LOSE)
        assert "192.168.0.245 is on no interface of this node" in skip.reason
        assert "--assume-vip" in skip.reason

    @pytest.mark.parametrize(("name", "kind"), [("lo", None), ("kube-ipvs0", None), ("d0", "dummy")])
    def test_an_address_on_lo_or_a_dummy_is_not_here(self, name: str, kind: str | None) -> None:
        answer = resolved(service(), POD, host=host(("192.168.0.245", name), kind=kind))
        assert f"is only on {name}, which does not answer ARP" in skip_of(answer, NAME).reason

    def test_assume_vip_takes_it_as_here(self) -> None:
        answer = resolved(service(), POD, host=host(), settings=settings(assume_vip=True))
        assert str(only(answer).policy.vip) == "192.168.0.245"

    def test_a_service_with_another_fault_is_skipped_not_elsewhere(self) -> None:
        skip = skip_of(resolved(service(selector={"app": "x"}), POD, host=host()), NAME)
        assert skip.status is SkipStatus.SKIPPED
        assert "no pod" in skip.reason
        assert "no interface" in skip.reason

    def test_elsewhere_beats_an_error_in_an_annotation(self) -> None:
        skip = skip_of(resolved(service(ports="x"), POD, host=host()), NAME)
        assert (skip.status, skip.fate) == (SkipStatus.ELSEWHERE, Fate.LOSE)
        assert '"x"' in skip.reason

    def test_an_interface_this_host_does_not_have_is_a_warning(self) -> None:
        it = service(annotations={"kube-vip.io/serviceInterface": "eth7"})
        (warning,) = only(resolved(it, POD, host=host(("192.168.0.245", "eth0")))).warnings
        assert warning == "this host has no interface eth7 (kube-vip.io/serviceInterface)"

    def test_the_interface_setting_stands_in_where_the_service_names_none(self) -> None:
        here = host(("192.168.0.245", "eth0"))
        wanted = only(resolved(service(), POD, host=here, settings=settings(interface="eth0")))
        assert (wanted.policy.interface, wanted.warnings) == ("eth0", ())
        named = service(annotations={"kube-vip.io/serviceInterface": "eth1"})
        wanted = only(resolved(named, POD, settings=settings(interface="eth0")))
        assert wanted.policy.interface == "eth1"


class TestBesideKubeVip:
    """kube-vip marks the Services it programs itself."""

    def test_a_service_that_kube_vip_programs_too_is_programmed_with_a_warning(self) -> None:
        it = service(annotations={"kube-vip.io/active-endpoint": "10.0.0.1"})
        (warning,) = only(resolved(it, POD)).warnings
        assert "use kvctl.io/egress instead of kube-vip.io/egress" in warning

    def test_kvctls_own_switch_is_the_mend(self) -> None:
        it = service(
            egress=False, annotations={"kube-vip.io/active-endpoint": "10.0.0.1", "kvctl.io/egress": "true"}
        )
        assert only(resolved(it, POD)).warnings == ()

    def test_annotations_without_effect_are_warned_about_once_a_family(self) -> None:
        it = service(annotations={"kube-vip.io/egress-source-ports": "tcp:80"})
        (warning,) = only(resolved(it, POD)).warnings
        assert warning.startswith("kube-vip.io/egress-source-ports has no effect here")


# Pieces of what is accepted, and of what nobody should accept, so that they meet in odd ways.
_PIECES = st.sampled_from(
    (
        "tcp",
        "udp:",
        ":",
        "-",
        ",",
        " ",
        "80",
        "65536",
        "/",
        "10.0.0.0",
        "::",
        "/24",
        "true",
        "\n",
        "\0",
        "\x1b[",
        "٣",
    )
)
_TEXTS = st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=8).map("".join))


@hypothesis_settings(max_examples=1000 if os.environ.get("KVCTL_LONG") else 150, deadline=None)
@given(
    annotations=st.dictionaries(
        st.one_of(
            st.sampled_from(
                (
                    EGRESS,
                    KVCTL_EGRESS,
                    PORTS,
                    ALLOWED,
                    DENIED,
                    ADDRESSES,
                    INTERFACE,
                    IGNORE,
                    IPV6,
                    *WITHOUT_EFFECT,
                )
            ),
            st.text(max_size=20).map("kvctl.io/".__add__),
        ),
        _TEXTS,
    ),
    status=st.lists(_TEXTS, max_size=3),
    spec_ip=st.one_of(st.none(), _TEXTS),
    cluster_ips=st.lists(_TEXTS, max_size=2),
    selector=st.dictionaries(st.text(max_size=10), _TEXTS, max_size=2),
)
def test_whatever_is_written_there_is_an_answer_fit_for_a_terminal(
    annotations: dict[str, str],
    status: list[str],
    spec_ip: str | None,
    cluster_ips: list[str],
    selector: dict[str, str],
) -> None:
    it = service(
        vip=[text for text in status if text],
        annotations={KVCTL_EGRESS: "true", **annotations},
        spec_ip=spec_ip,
        cluster_ips=cluster_ips,
        selector=selector,
    )
    answer = resolved(it, POD, settings=DUAL_STACK)
    asks = read_annotations(it.annotations).asks
    assert bool(answer.wanted or answer.skipped) == asks
    texts = [skip.reason for skip in answer.skipped] + [w for skip in answer.skipped for w in skip.warnings]
    texts += [problem.hint for skip in answer.skipped for problem in skip.problems if problem.hint]
    texts += [warning for wanted in answer.wanted for warning in wanted.warnings]
    for text in texts:
        assert text.isascii()
        assert text.isprintable()
        assert text
