"""Which address a Service may use, and who has it where several claim one."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family
from kvctl.model.objects import Ingress, Service
from kvctl.model.settings import Settings
from kvctl.policy.annotations import ADDRESSES
from kvctl.policy.verdict import Fate
from tests.builders import DUAL_STACK, endpoint, networks, node, pod, service, settings
from tests.policy.answers import only, policy_of, resolved, skip_of, wanted_names

POD = pod()


def annotated(addresses: str, name: str = "sip/sip-client", **more: object) -> Service:
    return service(name, vip=None, annotations={ADDRESSES: addresses}, **more)  # type: ignore[arg-type]


def test_status_comes_before_the_annotation_and_the_annotation_before_spec() -> None:
    everything = service(annotations={ADDRESSES: "192.168.0.2"}, spec_ip="192.168.0.3")
    without_status = everything._replace(ingress=())
    spec_alone = without_status._replace(annotations={"kube-vip.io/egress": "true"})
    found = [str(only(resolved(it, POD)).policy.vip) for it in (everything, without_status, spec_alone)]
    assert found == ["192.168.0.245", "192.168.0.2", "192.168.0.3"]


def test_an_ingress_of_mode_proxy_is_no_vip() -> None:
    mixed = service()._replace(ingress=(Ingress("192.168.0.1", "Proxy"), Ingress("192.168.0.2", "VIP")))
    assert str(only(resolved(mixed, POD)).policy.vip) == "192.168.0.2"
    proxy = service()._replace(ingress=(Ingress("192.168.0.1", "Proxy"),))
    assert skip_of(resolved(proxy, POD), "sip/sip-client").reason == (
        "no VIP: status.loadBalancer.ingress is empty, and neither kube-vip.io/loadbalancerIPs nor "
        "spec.loadBalancerIP is set"
    )


def test_the_first_address_of_a_family_counts_and_further_ones_are_reported() -> None:
    wanted = only(resolved(annotated("192.168.0.9,192.168.0.1, 192.168.0.9"), POD))
    assert str(wanted.policy.vip) == "192.168.0.9"
    assert wanted.warnings == (
        "kube-vip.io/loadbalancerIPs has a further ipv4 address, 192.168.0.1: not used",
    )


def test_each_family_has_the_first_address_of_its_own() -> None:
    both = service(vip=["fd00:1::9", "192.168.0.9", "fd00:1::1"])
    answer = resolved(both, pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1"), settings=DUAL_STACK)
    assert str(policy_of(answer, "sip/sip-client").vip) == "192.168.0.9"
    assert str(policy_of(answer, "sip/sip-client", Family.IPV6).vip) == "fd00:1::9"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "is the unspecified address"),
        ("127.0.0.1", "is a loopback address"),
        ("127.255.0.1", "is a loopback address"),
        ("169.254.1.1", "is a link-local address"),
        ("224.0.0.1", "is a multicast address"),
        ("10.0.3.4", "lies in the pod CIDR 10.0.0.0/16, fd00:10::/48"),
        ("10.96.0.1", "lies in the service CIDR 10.96.0.0/12"),
        ("172.16.0.2", "is an address of Node worker"),
        ("::", "is the unspecified address"),
        ("::1", "is a loopback address"),
        ("fe80::1", "is a link-local address"),
        ("ff02::1", "is a multicast address"),
        ("::ffff:192.168.0.1", "is an IPv4-mapped address"),
        ("fd00:10::5", "lies in the pod CIDR"),
        ("fd00:96::5", "lies in the service CIDR"),
        ("fd00:2::2", "is an address of Node worker"),
    ],
)
@pytest.mark.parametrize("where", ["status", "annotation", "spec"])
def test_some_addresses_are_accepted_from_nowhere(where: str, address: str, why: str) -> None:
    it = service(
        vip=address if where == "status" else None,
        annotations={ADDRESSES: address} if where == "annotation" else None,
        spec_ip=address if where == "spec" else None,
    )
    skip = skip_of(
        resolved(it, POD, node("worker", "172.16.0.2", "fd00:2::2"), settings=DUAL_STACK), "sip/sip-client"
    )
    assert skip.fate is Fate.KEEP
    (problem,) = skip.problems
    assert problem.why.startswith(why.split(",", maxsplit=1)[0])
    assert problem.why.endswith(": no VIP")


def test_an_address_of_a_node_is_no_vip_even_where_nodes_are_not_excluded() -> None:
    it = service(vip="172.16.0.2")
    answer = resolved(it, POD, node("worker", "172.16.0.2"), settings=settings(exclude_nodes=False))
    assert "is an address of Node worker" in skip_of(answer, "sip/sip-client").reason


@pytest.mark.parametrize("text", ["vip.example.com", "192.168.0.1/32", "\x1b[31m", "1" * 100_000])
def test_what_is_no_address_is_said_so_whoever_wrote_it(text: str) -> None:
    skip = skip_of(resolved(service(vip=text), POD), "sip/sip-client")
    assert "is not an IP address" in skip.reason
    assert skip.reason.isascii()
    assert skip.reason.isprintable()
    assert len(skip.reason) < 200


def test_a_faulty_address_of_one_family_keeps_the_rules_of_both() -> None:
    answer = resolved(
        service(vip=["127.0.0.1", "fd00:1::9"]), pod("sip/sip-client-0", "fd00:10::1"), settings=DUAL_STACK
    )
    skip = skip_of(answer, "sip/sip-client")
    assert (skip.family, skip.fate, skip.vip_unclear) == (Family.IPV6, Fate.KEEP, True)


class TestTheApi:
    """Read through the API, only status is out of a tenant's reach."""

    @pytest.mark.parametrize(
        "it", [annotated("192.168.0.9"), service(vip=None, spec_ip="192.168.0.9")], ids=["annotation", "spec"]
    )
    def test_what_a_tenant_writes_counts_only_inside_the_vip_range(self, it: Service) -> None:
        refused = skip_of(resolved(it, POD, from_api=True), "sip/sip-client")
        assert "is outside --vip-range (none set)" in refused.reason
        assert "egress_vipranges" in refused.reason
        outside = settings(vip_ranges=["192.168.1.0/24"])
        assert "outside --vip-range (192.168.1.0/24)" in (
            skip_of(resolved(it, POD, from_api=True, settings=outside), "sip/sip-client").reason
        )
        inside = settings(vip_ranges=["fd00::/64", "192.168.0.0/29", "192.168.0.8/29"])
        assert str(only(resolved(it, POD, from_api=True, settings=inside)).policy.vip) == "192.168.0.9"

    def test_status_counts_without_a_vip_range(self) -> None:
        assert str(only(resolved(service(), POD, from_api=True)).policy.vip) == "192.168.0.245"

    def test_the_range_does_not_open_what_is_never_accepted(self) -> None:
        wide = settings(vip_ranges=["0.0.0.0/0"])
        answer = resolved(annotated("10.96.0.9"), POD, from_api=True, settings=wide)
        assert "lies in the service CIDR" in skip_of(answer, "sip/sip-client").reason

    def test_a_file_needs_no_range(self) -> None:
        elsewhere = settings(vip_ranges=["192.168.1.0/24"])
        answer = resolved(annotated("192.168.0.9"), POD, settings=elsewhere)
        assert str(only(answer).policy.vip) == "192.168.0.9"

    def test_an_address_outside_the_range_claims_nothing(self) -> None:
        thief = annotated("192.168.0.245", "evil/a", created=1)
        answer = resolved(
            service()._replace(created=2), thief, POD, pod("evil/a-0", "10.0.0.9"), from_api=True
        )
        assert wanted_names(answer) == ["sip/sip-client"]


class TestClaims:
    """One VIP, Services of two namespaces."""

    def winner(self, *services: Service) -> str:
        pods = [pod(f"{it.ref}-0", f"10.0.0.{n}") for n, it in enumerate(services, 1)]
        for order in (services, services[::-1]):
            answer = resolved(*order, *pods)
            (won,) = wanted_names(answer)
            (lost,) = answer.skipped
            assert lost.fate is Fate.LOSE
            assert lost.reason.startswith(f"the VIP 192.168.0.245 is claimed by Service {won} (")
        return won

    def test_a_claim_by_status_beats_an_older_one_by_annotation(self) -> None:
        assert self.winner(annotated("192.168.0.245", "a/a", created=1), service("b/b", created=9)) == "b/b"

    def test_a_claim_by_status_beats_an_older_one_by_spec(self) -> None:
        spec = service("a/a", vip=None, spec_ip="192.168.0.245", created=1)
        assert self.winner(spec, service("b/b", created=9)) == "b/b"

    def test_annotation_and_spec_are_equals(self) -> None:
        spec = service("a/a", vip=None, spec_ip="192.168.0.245", created=9)
        assert self.winner(spec, annotated("192.168.0.245", "b/b", created=1)) == "b/b"

    def test_among_equals_the_older_has_it(self) -> None:
        assert self.winner(service("a/a", created=9), service("b/b", created=1)) == "b/b"

    def test_an_unknown_age_comes_last(self) -> None:
        assert self.winner(service("a/a", created=0), service("b/b", created=9)) == "b/b"

    def test_of_the_same_age_the_name_decides(self) -> None:
        assert self.winner(service("b/a", created=5), service("a/z", created=5)) == "a/z"

    def test_services_of_one_namespace_share_a_vip(self) -> None:
        answer = resolved(
            service("a/a", ports="tcp:1"),
            service("a/b", ports="tcp:2"),
            pod("a/a-0", "10.0.0.1"),
            pod("a/b-0", "10.0.0.2"),
        )
        assert wanted_names(answer) == ["a/a", "a/b"]

    def test_a_service_that_asks_for_no_egress_claims_its_vip_all_the_same(self) -> None:
        owner = service("a/a", egress=False, created=1)
        answer = resolved(owner, service("b/b", created=9), pod("b/b-0"))
        assert "is claimed by Service a/a (status.loadBalancer.ingress;" in skip_of(answer, "b/b").reason

    @pytest.mark.parametrize(
        ("mine", "why"),
        [
            (service("b/b", created=9), "status.loadBalancer.ingress; the older claim counts"),
            (
                service("b/b", created=1),
                "status.loadBalancer.ingress; neither claim is known to be older, so the first name counts",
            ),
            (
                service("b/b", vip=None, annotations={ADDRESSES: "192.168.0.245"}, created=1),
                f"status.loadBalancer.ingress comes before {ADDRESSES}",
            ),
        ],
    )
    def test_the_reason_says_why_a_service_has_the_vip_even_if_it_has_no_pod(
        self, mine: Service, why: str
    ) -> None:
        answer = resolved(service("a/a", created=1), mine, pod("b/b-0"))
        sentence = f"the VIP 192.168.0.245 is claimed by Service a/a ({why}, wherever its pods are)"
        assert sentence in skip_of(answer, "b/b").reason
        assert skip_of(answer, "a/a").reason.startswith("no pod in namespace a matches")

    def test_an_ignored_service_claims_its_vip_all_the_same(self) -> None:
        owner = service("a/a", annotations={"kube-vip.io/ignore": "true"}, created=1)
        answer = resolved(owner, service("b/b", created=9), pod("b/b-0"))
        assert "is claimed by Service a/a" in skip_of(answer, "b/b").reason

    def test_a_further_address_of_a_status_is_claimed_though_it_is_not_used(self) -> None:
        theirs = service("a/a", vip=["192.168.0.1", "192.168.0.245"], egress=False, created=2)
        mine = service("b/b", vip=None, annotations={ADDRESSES: "192.168.0.245"}, created=1)
        answer = resolved(theirs, mine, pod("b/b-0"))
        assert "is claimed by Service a/a" in skip_of(answer, "b/b", Family.IPV4).reason

    def test_an_address_that_the_load_balancer_only_proxies_is_claimed_too(self) -> None:
        theirs = service("a/a", egress=False, created=2)._replace(
            ingress=(Ingress("192.168.0.245", ip_mode="Proxy"),)
        )
        mine = service("b/b", vip=None, annotations={ADDRESSES: "192.168.0.245"}, created=1)
        answer = resolved(theirs, mine, pod("b/b-0"))
        assert "is claimed by Service a/a" in skip_of(answer, "b/b", Family.IPV4).reason

    def test_a_service_of_another_type_claims_nothing(self) -> None:
        other = service("a/a", type="ClusterIP", created=1)
        assert wanted_names(resolved(other, service("b/b", created=9), pod("b/b-0"))) == ["b/b"]

    def test_a_claim_in_one_family_leaves_the_other_alone(self) -> None:
        answer = resolved(
            service("a/a", created=1),
            service("b/b", vip=["192.168.0.245", "fd00:1::1"], created=2),
            pod("a/a-0", "10.0.0.1"),
            pod("b/b-0", "10.0.0.2", "fd00:10::2"),
            settings=DUAL_STACK,
        )
        assert "is claimed by" in skip_of(answer, "b/b", Family.IPV4).reason
        policy_of(answer, "b/b", Family.IPV6)

    def test_the_claim_of_a_service_without_pods_holds(self) -> None:
        answer = resolved(service("a/a", created=1), service("b/b", created=2), pod("b/b-0"))
        assert wanted_names(answer) == []

    def test_an_endpoint_gives_no_right_to_a_vip(self) -> None:
        answer = resolved(
            service("a/a", created=1),
            service("b/b", selector={}, created=2),
            pod("a/a-0", "10.0.0.1"),
            endpoint("b/b", "10.0.0.7"),
        )
        assert wanted_names(answer) == ["a/a"]


ELECTING = DUAL_STACK._replace(elects=True, vip_ranges=networks("192.168.0.0/24", "fd00:1::/64"))


def held(*vips: str, asks: str = "", spec_ip: str | None = None, by: str = "kvctl") -> Service:
    """A Service whose status `by` has written, and that names addresses itself."""
    its = service(vip=vips, annotations={ADDRESSES: asks}, spec_ip=spec_ip)
    return its._replace(status_managers=(by,))


def vips_of(it: Service, *others: Service, settings: Settings = ELECTING) -> dict[Family, str]:
    """The VIPs that it gets, read through the API."""
    both = pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")
    answer = resolved(it, both, *others, settings=settings, from_api=True)
    return {w.policy.family: str(w.policy.vip) for w in answer.wanted if w.policy.ref == it.ref}


def test_where_kvctl_wrote_the_status_what_the_service_asks_for_comes_first() -> None:
    moved = held("192.168.0.245", asks="192.168.0.7")
    assert vips_of(moved) == {Family.IPV4: "192.168.0.7"}
    assert vips_of(held("192.168.0.245", spec_ip="192.168.0.8")) == {Family.IPV4: "192.168.0.8"}
    # By hand, and where another or a person has a say, the status is what counts.
    assert vips_of(moved, settings=ELECTING._replace(elects=False)) == {Family.IPV4: "192.168.0.245"}
    for by in ("kubectl", "metallb-controller"):
        assert vips_of(moved._replace(status_managers=("kvctl", by))) == {Family.IPV4: "192.168.0.245"}


def test_who_asks_for_nothing_keeps_what_it_has_and_who_asks_for_less_gets_less() -> None:
    both = {Family.IPV4: "192.168.0.245", Family.IPV6: "fd00:1::9"}
    assert vips_of(held(*both.values())) == both
    assert vips_of(held(*both.values(), asks="192.168.0.245")) == {Family.IPV4: "192.168.0.245"}
    assert vips_of(held(*both.values(), asks="fd00:1::9,192.168.0.7")) == {**both, Family.IPV4: "192.168.0.7"}


def test_an_address_out_of_the_ranges_takes_nothing_away_and_is_told() -> None:
    both = pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")
    it = held("192.168.0.245", "fd00:1::9", asks="203.0.113.9")
    answer = resolved(it, both, settings=ELECTING, from_api=True)
    assert vips_of(it) == {Family.IPV4: "192.168.0.245", Family.IPV6: "fd00:1::9"}
    warning = answer.wanted[0].warnings[0]
    assert "203.0.113.9 of kube-vip.io/loadbalancerIPs is outside --vip-range" in warning
    assert warning.endswith("; it keeps 192.168.0.245")
    # What it has may be outside by now: nobody has asked for that to change.
    narrow = ELECTING._replace(vip_ranges=())
    assert vips_of(held("192.168.0.245", asks="192.168.0.245"), settings=narrow) == {
        Family.IPV4: "192.168.0.245"
    }


def test_one_that_another_namespace_has_takes_nothing_away_and_is_told() -> None:
    it = held("192.168.0.245", asks="192.168.0.7")
    other = service("other/other", vip="192.168.0.7")
    assert vips_of(it, other) == {Family.IPV4: "192.168.0.245"}
    answer = resolved(it, POD, other, settings=ELECTING, from_api=True)
    assert str(policy_of(answer, "sip/sip-client").vip) == "192.168.0.245"
    (wanted,) = (w for w in answer.wanted if w.policy.ref == it.ref)
    assert "claimed by Service other/other" in wanted.warnings[0]
    assert wanted.warnings[0].endswith("; it keeps 192.168.0.245")


@pytest.mark.parametrize(("asks", "spec_ip"), [("192.168.0.300", None), ("10.0.3.4", None), ("", "nowhere")])
def test_one_that_is_none_leaves_the_rules_as_they_are(asks: str, spec_ip: str | None) -> None:
    it = held("192.168.0.245", asks=asks, spec_ip=spec_ip)
    skip = skip_of(resolved(it, POD, settings=ELECTING, from_api=True), "sip/sip-client")
    assert (skip.fate, str(skip.vip)) == (Fate.KEEP, "192.168.0.245")
    assert skip.problems
