"""One raw object at a time: what is kept, what is refused, and in which words."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kvctl.cluster.collect import ObjectsBuilder
from kvctl.model.objects import CidrKind, Endpoint, Ingress, Objects
from kvctl.model.ref import ServiceRef


def collect(*raw: Any) -> Objects:
    builder = ObjectsBuilder(from_api=False)
    for one in raw:
        builder.add(one)
    return builder.build()


def messages(*raw: Any) -> list[str]:
    return [error.message for error in collect(*raw).errors]


def service(name: Any = "a", namespace: Any = "sip", **parts: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, **parts.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, **parts}


def pod(name: Any = "p", namespace: Any = "sip", **parts: Any) -> dict[str, Any]:
    return {**service(name, namespace, **parts), "kind": "Pod"}


def endpoint_slice(name: str, owner: str, *endpoints: Any, **parts: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": owner}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "sip", "labels": labels},
        "endpoints": list(endpoints),
        **parts,
    }


def test_a_service_keeps_what_egress_needs() -> None:
    raw = service(
        metadata={
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "annotations": {
                "kube-vip.io/egress": "true",
                "kvctl.io/gateway": "",
                "other": 5,
                "kube-vip.iox/a": "b",
            },
        },
        spec={
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app": "a"},
            "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7", "fd01::7"],
            "loadBalancerIP": "192.168.0.9",
        },
        status={"loadBalancer": {"ingress": [{"ip": "192.168.0.1", "ipMode": "VIP"}, {"hostname": "x"}]}},
    )
    objects = collect(raw)
    assert objects.errors == ()
    (it,) = objects.services
    assert it.ref == ServiceRef("sip", "a")
    assert (it.type, it.external_traffic_policy) == ("LoadBalancer", "Local")
    assert it.created == 1767323045
    assert dict(it.selector) == {"app": "a"}
    assert dict(it.annotations) == {"kube-vip.io/egress": "true", "kvctl.io/gateway": ""}
    assert it.ingress == (Ingress("192.168.0.1", "VIP"),)
    assert it.load_balancer_ip == "192.168.0.9"
    assert it.cluster_ips == ("10.96.0.7", "fd01::7")


def test_a_bare_service_has_the_defaults_of_kubernetes() -> None:
    (it,) = collect({"kind": "Service", "metadata": {"name": "a"}}).services
    assert it.ref == ServiceRef("default", "a")
    assert (it.type, it.external_traffic_policy, it.created) == ("ClusterIP", "Cluster", 0)
    assert (it.ingress, it.cluster_ips, it.load_balancer_ip) == ((), (), None)


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"clusterIPs": ["None"]}, {"clusterIP": ""}])
def test_a_headless_service_has_no_cluster_ip(spec: Any) -> None:
    assert collect(service(spec=spec)).services[0].cluster_ips == ()


def test_an_annotation_without_quotes_is_refused_with_the_line_to_write() -> None:
    (error,) = collect(service(metadata={"annotations": {"kube-vip.io/egress": True}})).errors
    assert error.message == "Service sip/a: metadata.annotations[kube-vip.io/egress] is true, not text"
    assert error.hint == 'put it in quotes: kube-vip.io/egress: "true"'


def test_all_problems_of_an_object_come_out_at_once_and_it_is_left_out() -> None:
    raw = service(
        metadata={"annotations": []}, spec={"type": 5, "selector": "x", "clusterIPs": [7]}, status=[]
    )
    objects = collect(raw, service("b"))
    assert [str(s.ref) for s in objects.services] == ["sip/b"]
    assert [error.message for error in objects.errors] == [
        "Service sip/a: spec.clusterIPs[0] is 7, not text",
        "Service sip/a: status is a list, not an object",
        "Service sip/a: spec.type is 5, not text",
        'Service sip/a: spec.selector is "x", not an object',
        "Service sip/a: metadata.annotations is a list, not an object",
    ]


@pytest.mark.parametrize(
    "name", ["", None, "A", "a_b", "-a", "a-", "a.b", "x" * 64, "a\n", "a\x1b[31m", "é", 5, ["a"]]
)
def test_a_service_name_that_is_no_label_is_refused(name: Any) -> None:
    (message,) = messages(service(name))
    assert "metadata.name is" in message
    assert "an RFC 1123 label" in message
    assert message.isascii()
    assert message.isprintable()


@pytest.mark.parametrize("namespace", ["A", "a.b", "x" * 64, "a/b", True])
def test_a_namespace_that_is_no_label_is_refused(namespace: Any) -> None:
    (message,) = messages(pod(namespace=namespace))
    assert "metadata.namespace is" in message


@pytest.mark.parametrize("name", ["a.b", "x" * 64, "x" * 253, "1"])
def test_a_pod_may_have_dots_and_a_long_name(name: str) -> None:
    assert collect(pod(name)).pods[0].name == name


@pytest.mark.parametrize("name", ["x" * 254, "a..b", ".a", "a.", "A.b"])
def test_a_pod_name_that_is_no_subdomain_is_refused(name: str) -> None:
    (message,) = messages(pod(name))
    assert "RFC 1123 subdomain" in message


def test_a_pod_keeps_what_egress_needs() -> None:
    raw = pod(
        metadata={"labels": {"app": "a", "empty": ""}, "deletionTimestamp": "2026-01-02T03:04:05Z"},
        spec={"nodeName": "worker.lan", "hostNetwork": True},
        status={"phase": "Failed", "podIP": "10.9.9.9", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    )
    (it,) = collect(raw).pods
    assert (it.deleting, it.finished, it.host_network, it.node) == (True, True, True, "worker.lan")
    assert it.addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert dict(it.labels) == {"app": "a", "empty": ""}


def test_a_pod_of_an_old_cluster_has_its_one_address() -> None:
    assert collect(pod(status={"podIP": "10.0.0.1"})).pods[0].addresses == (ip_address("10.0.0.1"),)
    assert collect(pod(status={"phase": "Pending"})).pods[0].addresses == ()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"status": {"podIPs": [{"ip": "10.0.0.300"}]}},
            'status.podIPs[0].ip is "10.0.0.300", not an IP address',
        ),
        ({"status": {"podIP": "10.0.0.01"}}, 'status.podIP is "10.0.0.01", not an IP address'),
        ({"status": {"podIP": "fe80::1%eth0"}}, "not an IP address"),
        ({"status": {"podIPs": {"ip": "10.0.0.1"}}}, "status.podIPs is an object, not a list"),
        ({"spec": {"hostNetwork": "true"}}, 'spec.hostNetwork is "true", not true or false'),
        ({"spec": {"nodeName": "No De"}}, 'spec.nodeName is "No De", not an RFC 1123 subdomain'),
        ({"metadata": {"labels": {"version": 1.5}}}, "metadata.labels[version] is 1.5, not text"),
        ({"metadata": {"labels": {"a\x1b": None}}}, 'metadata.labels["a\\x1b"] is empty, not text'),
        ({"metadata": {"labels": {5: "x"}}}, "a key of metadata.labels is 5, not text"),
        ({"metadata": {"creationTimestamp": "yesterday"}}, "not an RFC 3339 time"),
        ({"metadata": {"creationTimestamp": "2026-02-30T00:00:00Z"}}, "not an RFC 3339 time"),
        ({"metadata": {"creationTimestamp": "2026-01-02T03:04:05"}}, "not an RFC 3339 time"),
        ({"metadata": {"creationTimestamp": 10**5000}}, "metadata.creationTimestamp is a number, not text"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_with_its_value(parts: Any, words: str) -> None:
    (message,) = messages(pod(**parts))
    assert message.startswith("Pod sip/p: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("2026-01-02T03:04:05.999999999Z", 1767323045),
        ("2026-01-02T05:04:05+02:00", 1767323045),
        ("2026-01-02t03:04:05z", 1767323045),
        ("0001-01-01T00:00:00Z", 0),
        (None, 0),
    ],
)
def test_times_are_seconds_since_the_epoch(text: str | None, seconds: int) -> None:
    assert collect(pod(metadata={"creationTimestamp": text})).pods[0].created == seconds


@pytest.mark.parametrize(
    "raw",
    [
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "NOT OURS"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": 5},
        {"apiVersion": "v1", "kind": "ConfigMap"},
    ],
)
def test_other_kinds_are_passed_over_in_silence(raw: Any) -> None:
    assert collect(raw)._replace(passed_over=()) == Objects()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (5, "it is 5, not an object"),
        (None, "it is empty, not an object"),
        ([], "it is a list, not an object"),
        ({}, "kind is empty, not text"),
        ({"kind": ["Pod"]}, "kind is a list, not text"),
        ({"kind": "Pod", "apiVersion": 1}, "apiVersion is 1, not text"),
        ({"kind": "Pod"}, "Pod without a name: metadata.name is empty"),
        ({"kind": "Pod", "metadata": "x"}, 'Pod without a name: metadata is "x", not an object'),
    ],
)
def test_what_is_no_object_is_refused(raw: Any, words: str) -> None:
    assert words in messages(raw)[0]


def test_of_two_objects_with_one_name_the_last_counts_good_or_bad() -> None:
    good, bad, better = pod(spec={"nodeName": "a"}), pod(spec={"nodeName": 5}), pod(spec={"nodeName": "b"})
    assert collect(good, bad).pods == ()
    objects = collect(good, bad, better)
    assert [p.node for p in objects.pods] == ["b"]
    assert objects.errors == ()


def test_slices_are_united_by_address_and_pod() -> None:
    def one(address: str, target: str | None, **more: Any) -> dict[str, Any]:
        ref = {"targetRef": {"kind": "Pod", "name": target, "namespace": "sip"}} if target else {}
        return {"addresses": [address], **ref, **more}

    objects = collect(
        endpoint_slice("s1", "a", one("10.0.0.1", "p1"), one("10.0.0.2", None, conditions={"ready": False})),
        endpoint_slice("s2", "a", one("10.0.0.1", "p1", nodeName="n"), one("10.0.0.1", "p2")),
        endpoint_slice("s3", "b", one("10.0.0.1", "p1")),
    )
    a, b = ServiceRef("sip", "a"), ServiceRef("sip", "b")
    assert objects.endpoints == (
        Endpoint(a, ip_address("10.0.0.1"), "p1"),
        Endpoint(a, ip_address("10.0.0.2")),
        Endpoint(a, ip_address("10.0.0.1"), "p2"),
        Endpoint(b, ip_address("10.0.0.1"), "p1"),
    )


def test_host_names_and_slices_of_no_service_are_passed_over() -> None:
    objects = collect(
        endpoint_slice("s1", "a", {"addresses": ["db.example.com"]}, addressType="FQDN"),
        endpoint_slice("s2", "Not A Service", {"addresses": ["nonsense"]}),
        endpoint_slice("s3", "", {"addresses": ["10.0.0.1"]}),
    )
    assert (objects.endpoints, objects.errors) == ((), ())


@pytest.mark.parametrize(
    "target",
    [
        {"kind": "Pod", "name": "../../x"},
        {"kind": "Pod", "name": "p", "namespace": "other"},
        {"kind": "VirtualMachine", "name": "p"},
    ],
)
def test_an_endpoint_that_points_to_no_pod_of_its_namespace_has_none(target: Any) -> None:
    objects = collect(endpoint_slice("s", "a", {"addresses": ["10.0.0.1"], "targetRef": target}))
    assert [e.pod for e in objects.endpoints] == [None]
    assert objects.errors == ()


def test_endpoints_objects_count_only_for_services_without_any_slice() -> None:
    def endpoints(name: str) -> dict[str, Any]:
        subset = {
            "addresses": [{"ip": "10.0.0.1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2", "nodeName": "n"}],
        }
        return {**service(name), "kind": "Endpoints", "subsets": [subset]}

    objects = collect(endpoints("a"), endpoints("b"), endpoint_slice("s", "b"))
    assert [(str(e.service), str(e.address), e.node) for e in objects.endpoints] == [
        ("sip/a", "10.0.0.1", None),
        ("sip/a", "10.0.0.2", "n"),
    ]


def node(name: str, *cidrs: str, **status: Any) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": list(cidrs)}, "status": status}


def test_a_node_keeps_its_internal_addresses_only() -> None:
    addresses = [
        {"type": "Hostname", "address": "not an address"},
        {"type": "InternalIP", "address": "192.168.0.2"},
        {"type": "ExternalIP", "address": "203.0.113.2"},
        {"type": "InternalIP", "address": "fd02::2"},
    ]
    (it,) = collect(node("worker", addresses=addresses)).nodes
    assert it.internal_ips == (ip_address("192.168.0.2"), ip_address("fd02::2"))


def test_podcidrs_of_nodes_are_collapsed_by_family() -> None:
    objects = collect(*(node(f"n{i}", f"10.0.{i}.0/24", f"fd00:0:0:{i:x}::/64") for i in range(12)))
    (v4, v6) = objects.cidr_hints
    assert v4.networks == (ip_network("10.0.0.0/21"), ip_network("10.0.8.0/22"))
    assert v6.networks == (ip_network("fd00::/61"), ip_network("fd00:0:0:8::/62"))
    assert {v4.kind, v6.kind} == {CidrKind.POD}


def test_scattered_podcidrs_of_one_family_give_no_hint_but_a_warning() -> None:
    objects = collect(*(node(f"n{i}", f"10.{2 * i}.0.0/24", f"fd00:0:0:{i:x}::/64") for i in range(9)))
    assert [network.version for hint in objects.cidr_hints for network in hint.networks] == [6, 6]
    (warning,) = objects.warnings
    assert "9 separate ipv4 networks" in warning
    assert "--pod-cidr" in warning


def test_a_single_podcidr_of_an_old_node_counts() -> None:
    raw = {"kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.3.0/24"}}
    assert collect(raw).cidr_hints[0].networks == (ip_network("10.0.3.0/24"),)


def manager(
    *command: str, namespace: str = "kube-system", name: str = "c", args: Any = None
) -> dict[str, Any]:
    return pod("m", namespace, spec={"containers": [{"name": name, "command": list(command), "args": args}]})


@pytest.mark.parametrize(
    "raw",
    [
        manager("kube-controller-manager", "--cluster-cidr=10.1.0.0/16,fd00::/56", "--leader-elect=true"),
        manager(
            "/usr/local/bin/kube-controller-manager",
            args=["--v=2", "--cluster-cidr", "10.1.0.0/16,fd00::/56"],
        ),
        manager(
            "/bin/sh",
            "-c",
            "exec kcm --cluster-cidr=10.1.0.0/16,fd00::/56 2>&1",
            name="kube-controller-manager",
        ),
        manager(
            "kube-controller-manager", "--cluster-cidr=10.9.0.0/16", "-cluster-cidr='10.1.0.0/16,fd00::/56'"
        ),
    ],
)
def test_flags_of_the_controller_manager_tell_the_pod_cidr(raw: Any) -> None:
    objects = collect(raw)
    (hint,) = objects.cidr_hints
    assert hint.kind is CidrKind.POD
    assert hint.networks == (ip_network("10.1.0.0/16"), ip_network("fd00::/56"))
    assert hint.origin == "--cluster-cidr of kube-controller-manager"


def test_nobody_elses_flags_tell_anything() -> None:
    flags = ("kube-controller-manager", "--cluster-cidr=10.1.0.0/16")
    assert collect(manager(*flags, namespace="tenant")).cidr_hints == ()
    assert collect(manager("proxy", "--cluster-cidr=10.1.0.0/16")).cidr_hints == ()


@pytest.mark.parametrize("value", ["$(POD_CIDR)", "10.0.0.0", "10.0.0.0/33", "nonsense,10.0.0.0/8"])
def test_a_flag_that_makes_no_sense_is_a_warning(value: str) -> None:
    objects = collect(manager("kube-controller-manager", f"--cluster-cidr={value}"))
    assert objects.cidr_hints == ()
    assert len(objects.pods) == 1
    assert f'--cluster-cidr of pod kube-system/m is "{value}"' in objects.warnings[0]


@pytest.mark.parametrize("args", [["--cluster-cidr="], ["--cluster-cidr"], ["--cluster-cidr", "--v=2"]])
def test_an_empty_flag_tells_nothing(args: list[str]) -> None:
    objects = collect(manager("kube-controller-manager", *args))
    assert (objects.cidr_hints, objects.warnings) == ((), ())


def test_service_cidrs_come_first_and_are_united() -> None:
    def cidr(name: str, *cidrs: str) -> dict[str, Any]:
        api = "networking.k8s.io/v1"
        return {
            "apiVersion": api,
            "kind": "ServiceCIDR",
            "metadata": {"name": name},
            "spec": {"cidrs": list(cidrs)},
        }

    flags = manager("kube-controller-manager", "--service-cluster-ip-range=10.97.0.0/16")
    objects = collect(flags, cidr("kubernetes", "10.96.0.0/16"), cidr("more", "10.98.0.0/16"))
    assert [(h.origin, [str(n) for n in h.networks]) for h in objects.cidr_hints] == [
        ("ServiceCIDR objects", ["10.96.0.0/16", "10.98.0.0/16"]),
        ("--service-cluster-ip-range of kube-controller-manager", ["10.97.0.0/16"]),
    ]
    assert "spec.cidrs[0]" in messages(cidr("x", "10.96.0.0"))[0]


def test_an_object_says_where_it_was_read() -> None:
    builder = ObjectsBuilder(from_api=False)
    builder.add(pod(spec=5), origin="a.yaml")
    assert builder.build().errors[0].message == "Pod sip/p in a.yaml: spec is 5, not an object"
