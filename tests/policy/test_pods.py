"""Which pod addresses belong to a Service."""

from __future__ import annotations

import pytest

from kvctl.model.host import Host, HostAddress
from kvctl.model.net import Family, parse_address
from kvctl.model.objects import Pod
from kvctl.policy.verdict import Fate
from tests.builders import DUAL_STACK, endpoint, node, pod, service, settings
from tests.policy.answers import addresses, only, policy_of, resolved, skip_of

WITHOUT_SELECTOR = service(selector={})


def test_all_matching_pods_of_the_namespace_count_sorted_by_address() -> None:
    answer = resolved(
        service(),
        pod("sip/sip-client-1", "10.0.0.10"),
        pod("sip/sip-client-0", "10.0.0.9"),
        pod("other/sip-client-2", "10.0.0.3"),
        pod("sip/web-0", "10.0.0.4"),
    )
    assert addresses(only(answer).policy) == ["10.0.0.9", "10.0.0.10"]


def test_every_label_of_the_selector_has_to_match() -> None:
    it = service(selector={"app": "sip-client", "tier": "edge"})
    answer = resolved(it, pod(), pod("sip/sip-client-1", "10.0.0.2", labels={"tier": "edge", "more": "x"}))
    assert addresses(only(answer).policy) == ["10.0.0.2"]


def test_a_pod_on_its_way_out_counts_until_it_has_ended() -> None:
    answer = resolved(
        service(), pod(deleting=True), pod("sip/sip-client-1", "10.0.0.2", finished=True, deleting=True)
    )
    assert addresses(only(answer).policy) == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("unusable", "why"),
    [
        (pod(host_network=True), "it uses the host's network, so its address is the node's"),
        (pod(finished=True), "it has finished"),
        (pod()._replace(addresses=()), "it has no address yet: its status.podIP is empty"),
    ],
)
def test_a_pod_without_an_address_of_its_own_never_counts_and_the_reason_is_said(
    unusable: Pod, why: str
) -> None:
    skip = skip_of(resolved(service(), unusable), "sip/sip-client")
    assert skip.reason == (
        f"no pod in namespace sip counts: pod sip-client-0 matches spec.selector, but {why}"
    )
    assert skip.fate is Fate.LOSE


def test_of_two_pods_with_one_address_the_newest_that_is_not_going_has_it() -> None:
    theirs = service("evil/b", vip="192.168.0.9")
    for old, new, winner in (
        (pod(created=1), pod("evil/b-0", "10.0.0.1", created=2), "evil/b"),
        (pod(created=1), pod("evil/b-0", "10.0.0.1", created=2, deleting=True), "sip/sip-client"),
        (pod(created=1, deleting=True), pod("evil/b-0", "10.0.0.1", created=2, deleting=True), "evil/b"),
    ):
        for things in ((old, new), (new, old)):
            answer = resolved(service(), theirs, *things)
            assert [str(wanted.policy.ref) for wanted in answer.wanted] == [winner]
            assert len(answer.skipped) == 1


@pytest.mark.parametrize(
    ("mine", "why"),
    [
        (pod(created=1), "that one is newer"),
        (pod(created=2), "only one of them can count"),
        (pod(created=3, deleting=True), "this one is being deleted"),
    ],
)
def test_a_pod_whose_address_another_pod_has_is_named_with_that_one(mine: Pod, why: str) -> None:
    other = pod("voip/phone-0", "10.0.0.1", created=2)
    skip = skip_of(resolved(service(), mine, other), "sip/sip-client")
    sentence = f"pod sip-client-0 has 10.0.0.1, which pod voip/phone-0 has too: {why}"
    assert skip.reason == f"no pod in namespace sip counts: {sentence}"
    assert skip.fate is Fate.LOSE


def test_one_pod_of_several_that_loses_its_address_is_a_warning() -> None:
    mine, other = pod("sip/sip-client-1", "10.0.0.2", created=1), pod("voip/phone-0", "10.0.0.2", created=2)
    wanted = only(resolved(service(), pod(), mine, other))
    assert wanted.warnings == (
        "pod sip-client-1 has 10.0.0.2, which pod voip/phone-0 has too: that one is newer",
    )
    going = mine._replace(deleting=True)
    assert only(resolved(service(), pod(), going, other)).warnings == ()


def test_a_pod_without_an_address_of_the_family_is_said_to_have_none() -> None:
    answer = resolved(service(vip="fd00:1::1"), pod(), settings=DUAL_STACK)
    assert skip_of(answer, "sip/sip-client").reason == (
        "no pod in namespace sip counts: pod sip-client-0 matches spec.selector, but it has no ipv6 address"
    )


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"app": "sip-cliant", "more": "x"}, ": pod sip-client-0 has app=sip-cliant"),
        ({"apps": "sip-client"}, ": pod sip-client-0 has apps=sip-client"),
        ({"app": "database"}, ""),
        ({"app": "sip client\x1b"}, ': pod sip-client-0 has "app=sip client\\x1b"'),
    ],
)
def test_a_pod_that_the_selector_misses_by_a_letter_is_named(labels: dict[str, str], told: str) -> None:
    skip = skip_of(resolved(service(), pod()._replace(labels=labels)), "sip/sip-client")
    assert skip.reason == f"no pod in namespace sip matches spec.selector app=sip-client{told}"


def test_pods_of_other_namespaces_are_not_told_of() -> None:
    skip = skip_of(resolved(service(), pod("evil/b", labels={"app": "sip-cliant"})), "sip/sip-client")
    assert skip.reason.endswith("matches spec.selector app=sip-client")


def test_an_agent_that_knows_only_its_nodes_pods_does_not_guess() -> None:
    answer = resolved(
        service(), pod(labels={"app": "sip-cliant"}), from_api=True, settings=settings(node="worker")
    )
    skip = skip_of(answer, "sip/sip-client")
    assert skip.reason.endswith("matches spec.selector app=sip-client")


def test_a_finished_pod_does_not_keep_its_address_from_the_next_one() -> None:
    answer = resolved(
        service(), pod("evil/b-0", "10.0.0.1", created=9, finished=True, deleting=True), pod(created=1)
    )
    assert addresses(only(answer).policy) == ["10.0.0.1"]


def test_a_pod_of_two_families_is_in_both() -> None:
    answer = resolved(
        service(vip=["192.168.0.245", "fd00:1::1"]),
        pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1"),
        settings=DUAL_STACK,
    )
    assert addresses(policy_of(answer, "sip/sip-client", Family.IPV4)) == ["10.0.0.1"]
    assert addresses(policy_of(answer, "sip/sip-client", Family.IPV6)) == ["fd00:10::1"]


class TestOfOneNode:
    """With a node named, only what runs there counts."""

    def test_pods_of_other_nodes_are_left_out_and_those_of_none_count(self) -> None:
        answer = resolved(
            service(),
            pod("sip/sip-client-0", "10.0.0.1", node="a"),
            pod("sip/sip-client-1", "10.0.0.2", node="b"),
            pod("sip/sip-client-2", "10.0.0.3", node=None),
            settings=settings(node="a"),
        )
        assert addresses(only(answer).policy) == ["10.0.0.1", "10.0.0.3"]

    def test_no_pod_there_names_the_nodes_where_they_are(self) -> None:
        answer = resolved(
            service(),
            pod("sip/sip-client-0", "10.0.0.1", node="b"),
            pod("sip/sip-client-1", "10.0.0.2", node="a"),
            settings=settings(node="x"),
        )
        skip = skip_of(answer, "sip/sip-client")
        assert skip.reason == "no pod on node x: the pods are on a, b"
        assert skip.fate is Fate.LOSE

    def test_no_pod_anywhere_names_the_selector(self) -> None:
        answer = resolved(service(), settings=settings(node="x"))
        assert skip_of(answer, "sip/sip-client").reason == (
            "no pod on node x matches spec.selector app=sip-client: "
            "the source has no Pods at all, give them too"
        )

    def test_pods_are_asked_for_of_files_alone(self) -> None:
        answer = resolved(service(), settings=settings(node="x"), from_api=True)
        assert skip_of(answer, "sip/sip-client").reason == (
            "no pod on node x matches spec.selector app=sip-client"
        )

    def test_a_node_that_the_source_does_not_have_keeps_the_rules(self) -> None:
        answer = resolved(service(), pod(node="a"), node("a"), node("b"), settings=settings(node="x"))
        skip = skip_of(answer, "sip/sip-client")
        assert skip.reason == "the source has no Node x (it has a, b): set --node or NODE_NAME"
        assert skip.fate is Fate.KEEP

    def test_a_node_that_the_source_has_and_that_has_no_pod_loses_them(self) -> None:
        answer = resolved(service(), pod(node="a"), node("a"), node("x"), settings=settings(node="x"))
        assert skip_of(answer, "sip/sip-client").fate is Fate.LOSE

    def test_hundreds_of_nodes_do_not_make_an_endless_sentence(self) -> None:
        pods = [pod(f"sip/sip-client-{n}", f"10.0.{n // 256}.{n % 256}", node=f"n{n}") for n in range(1, 500)]
        skip = skip_of(resolved(service(), *pods, settings=settings(node="x")), "sip/sip-client")
        assert skip.reason.endswith(" ...")
        assert len(skip.reason) < 150

    def test_endpoints_know_their_node_too(self) -> None:
        answer = resolved(
            WITHOUT_SELECTOR,
            endpoint("sip/sip-client", "10.0.0.1", node="a"),
            endpoint("sip/sip-client", "10.0.0.2", node="b"),
            settings=settings(node="a"),
        )
        assert addresses(only(answer).policy) == ["10.0.0.1"]


class TestWithoutASelector:
    """The addresses come from EndpointSlices, which anybody may write."""

    def test_endpoints_inside_the_pod_cidr_count(self) -> None:
        answer = resolved(
            WITHOUT_SELECTOR,
            endpoint("sip/sip-client", "10.0.0.2", pod_name="b"),
            endpoint("sip/sip-client", "10.0.0.1"),
            endpoint("sip/sip-client", "10.0.0.1", pod_name="again"),
            endpoint("sip/other", "10.0.0.3"),
        )
        pods = only(answer).policy.pods
        assert [(str(it.address), it.name) for it in pods] == [("10.0.0.1", None), ("10.0.0.2", "b")]

    def test_endpoints_are_not_asked_where_there_is_a_selector(self) -> None:
        answer = resolved(service(), pod(), endpoint("sip/sip-client", "10.0.0.2"))
        assert addresses(only(answer).policy) == ["10.0.0.1"]

    def test_a_pod_of_the_same_namespace_is_named_whatever_the_slice_says(self) -> None:
        answer = resolved(
            WITHOUT_SELECTOR,
            pod("sip/real-0", "10.0.0.2", node="a"),
            endpoint("sip/sip-client", "10.0.0.2", pod_name="lie", node="b"),
        )
        (it,) = only(answer).policy.pods
        assert (it.name, it.node) == ("real-0", "a")

    @pytest.mark.parametrize(
        ("other", "sentence"),
        [
            (pod("evil/b-0", "10.0.0.2"), "endpoint 10.0.0.2 is a pod of another namespace: left out"),
            (
                pod("sip/b-0", "10.0.0.2", host_network=True),
                "endpoint 10.0.0.2 is the address of a pod on the host's network: left out",
            ),
            (node("n", "10.0.0.2"), "endpoint 10.0.0.2 is an address of a Node: left out"),
        ],
        ids=["another tenant's pod", "host network", "node"],
    )
    def test_what_is_not_the_tenants_is_left_out_and_said(self, other: object, sentence: str) -> None:
        theirs = endpoint("sip/sip-client", "10.0.0.2")
        mine = endpoint("sip/sip-client", "10.0.0.1")
        wanted = only(resolved(WITHOUT_SELECTOR, other, mine, theirs))  # type: ignore[arg-type]
        assert addresses(wanted.policy) == ["10.0.0.1"]
        assert wanted.warnings == (sentence,)
        alone = resolved(WITHOUT_SELECTOR, other, theirs)  # type: ignore[arg-type]
        assert sentence in skip_of(alone, "sip/sip-client").reason

    def test_an_address_of_this_host_is_left_out(self) -> None:
        host = Host(
            addresses=(
                HostAddress(parse_address("10.0.0.254"), 24, "cni0"),
                HostAddress(parse_address("192.168.0.245"), 32, "eth0"),
            ),
            routes=(),
        )
        answer = resolved(
            WITHOUT_SELECTOR,
            endpoint("sip/sip-client", "10.0.0.254"),
            endpoint("sip/sip-client", "10.0.0.1"),
            host=host,
        )
        wanted = only(answer)
        assert addresses(wanted.policy) == ["10.0.0.1"]
        assert wanted.warnings == ("endpoint 10.0.0.254 is an address of this host: left out",)

    def test_an_address_outside_the_pod_cidr_is_left_out(self) -> None:
        answer = resolved(
            WITHOUT_SELECTOR,
            endpoint("sip/sip-client", "192.168.7.7"),
            endpoint("sip/sip-client", "10.0.0.1"),
        )
        wanted = only(answer)
        assert addresses(wanted.policy) == ["10.0.0.1"]
        assert "pod 192.168.7.7 is outside the pod CIDR 10.0.0.0/16 (default)" in wanted.warnings[0]

    def test_no_endpoint_at_all_says_so(self) -> None:
        assert skip_of(resolved(WITHOUT_SELECTOR), "sip/sip-client").reason == (
            "no usable EndpointSlice address in namespace sip: spec.selector is empty"
        )


@pytest.mark.parametrize(
    ("from_api", "endpoint_node", "counts"),
    [(False, None, True), (True, None, False), (True, "worker", False), (True, "other", False)],
)
def test_read_through_the_api_an_endpoint_counts_only_where_a_pod_has_it(
    from_api: bool, endpoint_node: str | None, counts: bool
) -> None:
    its = service(selector={})
    squatting = endpoint("sip/sip-client", "10.0.0.9", node=endpoint_node)
    answer = resolved(its, squatting, from_api=from_api, settings=settings(node="worker"))
    assert bool(answer.wanted) is counts
    if not counts and endpoint_node != "other":
        assert "endpoint 10.0.0.9 is no address of a Pod: left out" in answer.skipped[0].reason
    mine = pod("sip/mine", "10.0.0.9", node="worker")
    known = resolved(its, squatting, mine, from_api=from_api, settings=settings(node="worker"))
    assert bool(known.wanted)
