"""Where the cluster's ranges come from, what is excluded, and that nothing is guessed."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family
from kvctl.model.objects import CidrHint, CidrKind, Node
from kvctl.model.policy import ExclusionKind
from kvctl.model.settings import Settings
from kvctl.policy.cidrs import MAX_NODES, ClusterNetworks, cluster_networks
from kvctl.policy.verdict import Fate
from tests.builders import DUAL_STACK, networks, node, pod, service, settings
from tests.policy.answers import addresses, only, resolved, skip_of, wanted_names

ALWAYS = ["169.254.0.0/16", "224.0.0.0/4"]


def hint(kind: CidrKind, *texts: str, origin: str = "ServiceCIDR objects") -> CidrHint:
    return CidrHint(kind=kind, networks=networks(*texts), origin=origin)


def of(its: Settings, *hints: CidrHint, nodes: tuple[Node, ...] = ()) -> ClusterNetworks:
    return cluster_networks(its, hints=hints, nodes=nodes)


def excluded(found: ClusterNetworks, family: Family = Family.IPV4) -> list[str]:
    return [str(exclusion.network) for exclusion in found.exclusions[family]]


class TestWhereRangesComeFrom:
    """Told, else discovered, else the default; each family by itself."""

    def test_the_defaults_are_those_of_kube_vip_and_ipv6_has_none(self) -> None:
        found = of(settings())
        assert str(found.pod[Family.IPV4]) == "10.0.0.0/16 (default)"
        assert str(found.service[Family.IPV4]) == "10.96.0.0/12 (default)"
        assert str(found.pod[Family.IPV6]) == str(found.service[Family.IPV6]) == "unknown"

    def test_what_is_discovered_replaces_the_default_and_the_first_evidence_counts(self) -> None:
        found = of(
            settings(),
            hint(CidrKind.POD, "10.244.0.0/16", origin="flags"),
            hint(CidrKind.POD, "10.32.0.0/12", origin="nodes"),
        )
        assert str(found.pod[Family.IPV4]) == "10.244.0.0/16 (flags)"
        assert str(found.service[Family.IPV4]) == "10.96.0.0/12 (default)"

    def test_what_is_told_replaces_what_is_discovered(self) -> None:
        found = of(settings(pod_cidrs=["10.1.0.0/16"]), hint(CidrKind.POD, "10.244.0.0/16"))
        assert str(found.pod[Family.IPV4]) == "10.1.0.0/16 (--pod-cidr)"

    def test_each_family_is_found_by_itself(self) -> None:
        found = of(
            settings(pod_cidrs=["10.1.0.0/16"]),
            hint(CidrKind.POD, "10.244.0.0/16", "fd00:10::/56", origin="flags"),
            hint(CidrKind.SERVICE, "fd00:96::/108", origin="flags"),
        )
        assert str(found.pod[Family.IPV4]) == "10.1.0.0/16 (--pod-cidr)"
        assert str(found.pod[Family.IPV6]) == "fd00:10::/56 (flags)"
        assert str(found.service[Family.IPV6]) == "fd00:96::/108 (flags)"
        assert str(found.service[Family.IPV4]) == "10.96.0.0/12 (default)"

    def test_neighbouring_prefixes_become_one(self) -> None:
        found = of(settings(), hint(CidrKind.POD, "10.244.1.0/24", "10.244.0.0/24"))
        assert [str(n) for n in found.pod[Family.IPV4].networks] == ["10.244.0.0/23"]


class TestExclusions:
    """What no pod's traffic is rewritten to."""

    def test_both_ranges_link_local_and_multicast_always(self) -> None:
        assert excluded(of(settings())) == ["10.0.0.0/16", "10.96.0.0/12", *ALWAYS]
        assert excluded(of(DUAL_STACK), Family.IPV6) == [
            "fd00:10::/48",
            "fd00:96::/108",
            "fe80::/10",
            "ff00::/8",
        ]

    def test_what_the_admin_excludes_comes_in_by_family(self) -> None:
        found = of(settings(exclude_cidrs=["192.168.5.0/24", "fd00:5::/64"]))
        assert "192.168.5.0/24" in excluded(found)
        assert "fd00:5::/64" in excluded(found, Family.IPV6)

    def test_a_network_inside_another_is_left_out(self) -> None:
        found = of(settings(exclude_cidrs=["10.0.0.0/8", "10.7.0.0/16", "10.0.0.0/16"]))
        assert excluded(found) == ["10.0.0.0/8", *ALWAYS]

    def test_an_equal_network_keeps_the_better_reason(self) -> None:
        found = of(settings(exclude_cidrs=["10.0.0.0/16"]))
        assert found.exclusions[Family.IPV4][0].kind is ExclusionKind.POD

    def test_the_order_of_the_input_does_not_matter(self) -> None:
        one = of(settings(exclude_cidrs=["1.0.0.0/8", "9.0.0.0/8", "1.2.0.0/16"]))
        other = of(settings(exclude_cidrs=["1.2.0.0/16", "9.0.0.0/8", "1.0.0.0/8"]))
        assert one.exclusions == other.exclusions

    def test_nodes_are_excluded_unless_that_is_turned_off(self) -> None:
        nodes = (node("a", "172.16.0.1", "fd00:2::1"), node("b", "172.16.0.2"))
        found = of(settings(), nodes=nodes)
        assert {"172.16.0.1/32", "172.16.0.2/32"} <= set(excluded(found))
        assert "fd00:2::1/128" in excluded(found, Family.IPV6)
        assert found.warnings == ()
        off = of(settings(exclude_nodes=False), nodes=nodes)
        assert excluded(off) == ["10.0.0.0/16", "10.96.0.0/12", *ALWAYS]

    def test_beyond_32_nodes_only_this_one_counts_and_a_warning_names_the_flag(self) -> None:
        nodes = tuple(node(f"n{n}", f"172.16.0.{n}", f"fd00:2::{n:x}") for n in range(1, MAX_NODES + 1))
        full = of(settings(this_node="n7"), nodes=nodes)
        assert len([n for n in excluded(full) if n.startswith("172.")]) == MAX_NODES
        assert full.warnings == ()
        more = of(settings(this_node="n7"), nodes=(*nodes, node("late", "172.16.1.1")))
        assert [n for n in excluded(more) if n.startswith("172.")] == ["172.16.0.7/32"]
        (warning,) = more.warnings
        assert "--exclude-cidr" in warning
        off = of(settings(exclude_nodes=False), nodes=(*nodes, node("late", "172.16.1.1")))
        assert off.warnings == ()


class TestNoGuess:
    """No guess may rewrite cluster traffic."""

    def test_a_pod_outside_the_pod_cidr_is_left_out_in_the_contracts_words(self) -> None:
        wanted = only(resolved(service(), pod(), pod("sip/sip-client-1", "10.244.1.5")))
        assert addresses(wanted.policy) == ["10.0.0.1"]
        assert wanted.warnings == (
            "pod 10.244.1.5 is outside the pod CIDR 10.0.0.0/16 (default): set --pod-cidr or egress_podcidr",
        )

    def test_all_pods_outside_skips_the_service_and_keeps_its_rules(self) -> None:
        skip = skip_of(resolved(service(), pod("sip/sip-client-0", "10.244.1.5")), "sip/sip-client")
        assert skip.reason == (
            "pod 10.244.1.5 is outside the pod CIDR 10.0.0.0/16 (default): set --pod-cidr or egress_podcidr"
        )
        assert skip.fate is Fate.KEEP

    def test_a_thousand_pods_outside_are_counted_not_listed(self) -> None:
        pods = [pod(f"sip/sip-client-{n}", f"10.244.{n // 256}.{n % 256}") for n in range(1000)]
        assert skip_of(resolved(service(), *pods), "sip/sip-client").reason.endswith("; and 997 more")
        warnings = only(resolved(service(), pod("sip/sip-client-x", "10.0.0.1"), *pods)).warnings
        assert len(warnings) == 4
        assert warnings[-1] == "and 997 more"

    def test_a_cluster_ip_outside_the_service_cidr_skips_the_service(self) -> None:
        skip = skip_of(resolved(service(cluster_ips=["172.20.0.7"]), pod()), "sip/sip-client")
        assert skip.reason == (
            "clusterIP 172.20.0.7 is outside the service CIDR 10.96.0.0/12 (default): "
            "set --service-cidr or egress_servicecidr"
        )
        assert skip.fate is Fate.KEEP

    def test_both_ranges_wrong_are_said_at_once(self) -> None:
        answer = resolved(service(cluster_ips=["172.20.0.7"]), pod("sip/sip-client-0", "10.244.1.5"))
        reason = skip_of(answer, "sip/sip-client").reason
        assert "--service-cidr" in reason
        assert "--pod-cidr" in reason

    @pytest.mark.parametrize("cluster_ips", [[], ["10.96.0.7"], ["10.111.255.255"]])
    def test_no_cluster_ip_is_not_judged(self, cluster_ips: list[str]) -> None:
        assert only(resolved(service(cluster_ips=cluster_ips), pod())).warnings == ()

    def test_a_cluster_ip_that_is_none_is_said_so(self) -> None:
        skip = skip_of(resolved(service(cluster_ips=["\x1b[1m"]), pod()), "sip/sip-client")
        assert skip.reason == "spec.clusterIP is not an IP address"

    def test_unknown_ipv6_ranges_skip_that_family_alone(self) -> None:
        answer = resolved(
            service(vip=["192.168.0.245", "fd00:1::1"]), pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")
        )
        assert wanted_names(answer) == ["sip/sip-client"]
        skip = skip_of(answer, "sip/sip-client")
        assert skip.family is Family.IPV6
        assert "the ipv6 pod CIDR is unknown: set --pod-cidr or egress_podcidr" in skip.reason
        assert "the ipv6 service CIDR is unknown: set --service-cidr or egress_servicecidr" in skip.reason

    def test_a_dual_stack_cluster_ip_is_judged_in_its_own_family(self) -> None:
        it = service(vip=["192.168.0.245", "fd00:1::1"], cluster_ips=["10.96.0.7", "fd00:97::7"])
        answer = resolved(it, pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1"), settings=DUAL_STACK)
        assert [wanted.policy.family for wanted in answer.wanted] == [Family.IPV4]
        assert "clusterIP fd00:97::7 is outside" in skip_of(answer, "sip/sip-client").reason

    def test_discovered_ranges_name_their_origin(self) -> None:
        it = hint(CidrKind.POD, "10.244.0.0/24", "10.244.9.0/24", origin="podCIDRs of the Nodes")
        skip = skip_of(resolved(service(), pod(), it), "sip/sip-client")
        assert skip.reason == (
            "pod 10.0.0.1 is outside the pod CIDRs 10.244.0.0/24, 10.244.9.0/24 (podCIDRs of the Nodes): "
            "set --pod-cidr or egress_podcidr"
        )
