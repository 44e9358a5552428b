"""The cluster as one node sees it: which kinds are watched how, and when the picture counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster.watched import LONGEST_ANNOTATION, LONGEST_ANNOTATION_NAME, WatchedCluster
from kvctl.model.objects import CidrKind, Gate, Objects
from kvctl.model.ref import ServiceRef
from kvctl.policy import annotations as policy_annotations
from kvctl.policy.annotations import DENIED, read_annotations
from tests.apiserver import ApiServer, Drop, Hang, Status, anything, lists, watches
from tests.cluster.watching import QUICK, Marks, connect, endpoint_slice, node, pod, service
from tests.waiting import until

KINDS = ("services", "pods", "nodes", "servicecidrs", "servicel2statuses")


class Cluster:
    """A watched cluster of node `n1`."""

    def __init__(self, server: ApiServer, tmp_path: Path) -> None:
        self.server = server
        self.marks = Marks()
        self.watched = WatchedCluster(connect(server, tmp_path), node="n1", notify=self.marks, pace=QUICK)

    def sync(self) -> None:
        self.watched.start()
        until(lambda: self.watched.synced)

    def until_seen(self, condition: Callable[[Objects], object]) -> None:
        until(lambda: condition(self.watched.objects()))

    def pods(self) -> set[str]:
        return {pod.name for pod in self.watched.objects().pods}


@pytest.fixture
def it(server: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(server, tmp_path)
    yield cluster
    cluster.watched.stop()


def endpoints(objects: Objects) -> set[str]:
    return {f"{endpoint.service.name} {endpoint.address}" for endpoint in objects.endpoints}


def test_only_the_pods_of_this_node_are_asked_for(it: Cluster) -> None:
    it.server.put("pods", pod("here"))
    it.server.put("pods", pod("there", node="n2"))
    it.sync()
    assert it.pods() == {"here"}
    it.server.put("pods", pod("later"))
    it.until_seen(lambda objects: len(objects.pods) == 2)
    assert {request.query["fieldSelector"] for request in it.server.asked(watches("pods"))} == {
        "spec.nodeName=n1"
    }


def test_the_picture_comes_from_the_api_and_keeps_what_identifies_an_object(it: Cluster) -> None:
    stored = it.server.put("services", service("a"))
    it.server.put("pods", pod("p", readinessGates=[{"conditionType": "kube-vip.io/egress-enabled"}]))
    it.sync()
    objects = it.watched.objects()
    assert objects.from_api
    assert objects.services[0].uid == stored["metadata"]["uid"]
    assert objects.pods[0].uid
    assert objects.pods[0].gate == Gate()


def test_a_condition_that_somebody_sets_is_seen(it: Cluster) -> None:
    value = pod("p", readinessGates=[{"conditionType": "kube-vip.io/egress-enabled"}])
    it.server.put("pods", value)
    it.sync()
    condition = {
        "type": "kube-vip.io/egress-enabled",
        "status": "True",
        "reason": "Programmed",
        "message": "m",
    }
    value["status"]["conditions"] = [{"type": "Ready", "status": "True"}, condition]
    it.server.put("pods", value)
    it.until_seen(lambda objects: objects.pods[0].gate == Gate("True", "Programmed", "m"))


@pytest.mark.parametrize("kind", KINDS)
def test_until_each_kind_is_in_nothing_counts(it: Cluster, kind: str) -> None:
    it.server.put("services", service("a"))
    it.server.fail(Status(500), on=anything(kind), times=None)
    it.watched.start()
    blocked = {kind, f"{kind}.metallb.io", "ranges"}
    others = {state.name for state in it.watched.states()} - blocked
    until(lambda: others <= {state.name for state in it.watched.states() if state.synced})
    until(lambda: any(state.errors > 2 for state in it.watched.states()))
    assert not it.watched.synced
    it.server.mend()
    until(lambda: it.watched.synced)


def test_what_is_missing_is_said_by_its_cause_once_for_all_kinds_that_it_keeps_away(it: Cluster) -> None:
    it.server.fail(Status(500), on=anything("services"), times=None)
    it.server.fail(Status(500), on=anything("nodes"), times=None)
    it.watched.start()
    said = '"as the test wants it" (services, nodes)'
    until(lambda: it.watched.missing().endswith(said) and ";" not in it.watched.missing())
    it.server.mend()
    until(lambda: it.watched.missing() == "")


def test_slices_count_too_where_a_service_has_no_selector(it: Cluster) -> None:
    it.server.put("services", service("a", selector=None))
    it.server.put("endpointslices", endpoint_slice("a", "10.0.0.9"))
    it.server.fail(Status(500), on=anything("endpointslices"), times=3)
    it.watched.start()
    until(lambda: len(it.server.asked(anything("endpointslices"))) >= 3)
    assert not it.watched.synced
    until(lambda: it.watched.synced)
    assert endpoints(it.watched.objects()) == {"a 10.0.0.9"}


def test_slices_are_not_asked_for_while_nobody_needs_them(it: Cluster) -> None:
    it.server.put("services", service("a"))
    it.server.put("services", service("kubernetes", egress=False, selector=None))
    it.sync()
    assert it.server.asked(anything("endpointslices")) == []
    assert "endpointslices.discovery.k8s.io" not in {state.name for state in it.watched.states()}


def test_slices_follow_the_services_that_need_them(it: Cluster) -> None:
    for name in "abc":
        it.server.put("endpointslices", endpoint_slice(name, "10.0.0.9"))
    it.server.put(
        "endpointslices",
        {
            **endpoint_slice("a", "10.0.0.8"),
            "metadata": {"name": "a-1", "namespace": "other", "labels": {"kubernetes.io/service-name": "a"}},
        },
    )
    it.server.put("services", service("a", selector=None))
    it.sync()
    assert endpoints(it.watched.objects()) == {"a 10.0.0.9"}
    it.server.put("services", service("b", selector=None))
    it.until_seen(lambda objects: endpoints(objects) == {"a 10.0.0.9", "b 10.0.0.9"})
    it.server.put("endpointslices", endpoint_slice("b", "10.0.0.7", "10.0.0.6"))
    it.until_seen(lambda objects: endpoints(objects) == {"a 10.0.0.9", "b 10.0.0.7", "b 10.0.0.6"})
    it.server.put("services", service("a"))
    it.server.delete("services", "b", namespace="sip")
    it.until_seen(lambda objects: endpoints(objects) == set())
    until(lambda: it.server.watching("endpointslices") == 0)
    asked = {request.query.get("labelSelector") for request in it.server.asked(anything("endpointslices"))}
    assert asked == {"kubernetes.io/service-name in (a)", "kubernetes.io/service-name in (a,b)"} | (
        asked & {"kubernetes.io/service-name in (b)"}
    )


def test_until_the_slices_of_a_new_service_are_in_endpoints_are_said_to_be_unknown(it: Cluster) -> None:
    it.server.put("endpointslices", endpoint_slice("a", "10.0.0.9"))
    it.server.put("services", service("a", selector=None))
    it.sync()
    it.server.fail(Hang(), on=lists("endpointslices"))
    it.server.put("services", service("b", selector=None))
    it.until_seen(lambda objects: len(objects.services) == 2)
    objects = it.watched.objects()
    assert not objects.endpoints_known
    assert endpoints(objects) == {"a 10.0.0.9"}
    assert it.watched.synced
    it.until_seen(lambda objects: objects.endpoints_known)


def test_many_services_without_a_selector_are_not_all_named_in_the_url(it: Cluster) -> None:
    for i in range(51):
        it.server.put("services", service(f"s{i}", selector=None))
    it.server.put("endpointslices", endpoint_slice("s1", "10.0.0.9"))
    it.server.put("endpointslices", endpoint_slice("another", "10.0.0.8"))
    it.sync()
    it.until_seen(lambda objects: endpoints(objects) == {"s1 10.0.0.9"})
    assert it.server.asked(lists("endpointslices"))[-1].query["labelSelector"] == "kubernetes.io/service-name"


def test_up_to_32_nodes_are_watched(it: Cluster) -> None:
    for i in range(32):
        it.server.put("nodes", node(f"n{i}"))
    it.sync()
    until(lambda: it.server.watching("nodes"))
    assert "fieldSelector" not in it.server.asked(watches("nodes"))[0].query
    it.server.put("nodes", node("n5", "192.168.0.99"))
    it.until_seen(lambda objects: any(str(n.internal_ips[0]) == "192.168.0.99" for n in objects.nodes))


def test_of_more_nodes_this_one_is_watched_and_the_others_stay_as_listed(it: Cluster) -> None:
    for i in range(33):
        it.server.put("nodes", node(f"n{i}"))
    it.sync()
    until(lambda: it.server.watching("nodes"))
    assert it.server.asked(watches("nodes"))[0].query["fieldSelector"] == "metadata.name=n1"
    it.server.delete("nodes", "n7")
    it.server.put("nodes", node("n1", "192.168.0.99"))
    it.until_seen(lambda objects: any(str(n.internal_ips[0]) == "192.168.0.99" for n in objects.nodes))
    it.server.compact()
    it.server.upset("nodes", Status(410, "Expired"))
    until(lambda: len(it.server.asked(lists("nodes"))) == 2)
    until(lambda: it.server.watching("nodes"))
    assert it.server.asked(lists("nodes"))[-1].query["fieldSelector"] == "metadata.name=n1"
    assert {n.name for n in it.watched.objects().nodes} == {f"n{i}" for i in range(33)}


def l2_status(name: str, service_name: str, node_name: str) -> dict[str, Any]:
    status = {"node": node_name, "serviceName": service_name, "serviceNamespace": "sip"}
    return {"metadata": {"name": name, "namespace": "metallb-system"}, "status": status}


def test_metallb_says_who_announces(it: Cluster) -> None:
    it.server.put("servicel2statuses", l2_status("l2-1", "a", "n2"))
    it.sync()
    it.until_seen(lambda objects: dict(objects.announced) == {ServiceRef("sip", "a"): frozenset(("n2",))})
    it.server.put("servicel2statuses", l2_status("l2-2", "a", "n1"))
    it.server.delete("servicel2statuses", "l2-1", namespace="metallb-system")
    it.until_seen(lambda objects: dict(objects.announced) == {ServiceRef("sip", "a"): frozenset(("n1",))})


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_cluster_without_metallb_is_quite_normal(it: Cluster, *, forbidden: bool) -> None:
    if forbidden:
        it.server.forbid("servicel2statuses")
    else:
        it.server.absent("servicel2statuses")
    it.sync()
    until(lambda: it.server.asked(anything("servicel2statuses")))
    assert it.watched.objects().announced == {}
    assert it.watched.objects().warnings == ()
    assert [state.errors for state in it.watched.states()] == [0] * 5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nodes", "cannot list nodes (403 Forbidden)"),
        ("endpointslices", "cannot list endpointslices.discovery.k8s.io (403 Forbidden)"),
        ("servicecidrs", "cannot list servicecidrs.networking.k8s.io (403 Forbidden)"),
        ("configmaps", "cannot get the ConfigMap kube-system/kubeadm-config (403 Forbidden)"),
    ],
)
def test_what_is_forbidden_but_dispensable_is_a_warning(it: Cluster, kind: str, words: str) -> None:
    it.server.put("services", service("a", selector=None))
    it.server.forbid(kind)
    it.sync()
    warnings = it.watched.objects().warnings
    assert len(warnings) == 1
    assert words in warnings[0]
    assert it.watched.objects().endpoints_known is (kind != "endpointslices")


def test_forbidden_pods_are_told_and_tried_again(it: Cluster) -> None:
    it.server.forbid("pods")
    it.watched.start()
    until(lambda: any("403 Forbidden" in str(s.last_error) for s in it.watched.states() if s.name == "pods"))
    assert not it.watched.synced
    it.server.mend()
    until(lambda: it.watched.synced)


def manager(*flags: str) -> dict[str, Any]:
    container = {"name": "kube-controller-manager", "command": ["kube-controller-manager", *flags]}
    return {
        "metadata": {
            "name": "kube-controller-manager-cp",
            "namespace": "kube-system",
            "labels": {"component": "kube-controller-manager"},
        },
        "spec": {"nodeName": "cp", "hostNetwork": True, "containers": [container]},
    }


def test_the_ranges_of_the_cluster_are_read_without_reading_every_pod(it: Cluster) -> None:
    it.server.put("pods", manager("--cluster-cidr=10.0.0.0/16"))
    it.server.put("servicecidrs", {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}})
    it.sync()
    hints = {hint.kind: [str(n) for n in hint.networks] for hint in it.watched.objects().cidr_hints}
    assert hints == {CidrKind.SERVICE: ["10.96.0.0/12"], CidrKind.POD: ["10.0.0.0/16"]}
    assert it.server.asked(anything("configmaps")) == []
    it.server.put("pods", manager("--cluster-cidr=10.0.0.0/15"))
    it.until_seen(lambda o: any(str(n) == "10.0.0.0/15" for hint in o.cidr_hints for n in hint.networks))


def test_kubeadm_tells_where_nothing_else_does(it: Cluster) -> None:
    text = "networking: {podSubnet: 10.0.0.0/16, serviceSubnet: 10.96.0.0/12}"
    meta = {"name": "kubeadm-config", "namespace": "kube-system"}
    it.server.put("configmaps", {"metadata": meta, "data": {"ClusterConfiguration": text}})
    it.sync()
    assert len(it.watched.objects().cidr_hints) == 2


def test_while_nothing_changes_the_picture_is_the_same_value(it: Cluster) -> None:
    it.server.put("services", service("a"))
    it.sync()
    before = it.watched.objects()
    assert it.watched.objects() is before
    it.server.put("services", {**service("a"), "status": {"loadBalancer": {}}})
    it.server.put("nodes", node("n9"))
    it.until_seen(lambda objects: len(objects.nodes) == 1)
    after = it.watched.objects()
    assert after is not before
    assert after.services is before.services


def test_services_that_do_not_concern_us_are_no_more_than_a_name(it: Cluster) -> None:
    it.server.put("services", service("web", egress=False))
    it.sync()
    marks = it.marks.count
    [kept] = it.watched.objects().services
    assert (str(kept.ref), kept.selector, kept.uid) == ("sip/web", {}, "")
    it.server.put("services", service("web", egress=False, ports=[{"port": 80}]))
    it.server.put("services", service("b"))
    it.until_seen(lambda objects: len(objects.services) == 2)
    assert it.marks.count == marks + 1


def test_a_tenants_annotations_are_kept_in_bounds(it: Cluster) -> None:
    fat = service("fat")
    fat["metadata"]["annotations"] |= {
        "kvctl.io/egress": "y" * 20_000,
        "kube-vip.io/egress-denied-networks": "x" * 16_384,
        f"kube-vip.io/{'n' * 69}": "too long a name",
        **{f"kvctl.io/z{i:03}": "" for i in range(1000)},
    }
    it.server.put("services", fat)
    it.sync()
    [kept] = it.watched.objects().services
    assert len(kept.annotations) == 64
    assert max(map(len, kept.annotations)) <= 80
    assert kept.annotations["kube-vip.io/egress"] == "true"
    assert kept.annotations["kube-vip.io/egress-denied-networks"] == "x" * 16_384
    assert kept.annotations["kvctl.io/egress"] == "y" * 16_500


def test_a_value_that_is_cut_is_refused_by_those_who_read_it() -> None:
    networks = ",".join(["10.0.0.0/8"] * 2000)
    read = read_annotations({DENIED: networks[:LONGEST_ANNOTATION]})
    assert [problem.annotation for problem in read.problems] == [DENIED]
    known = {
        name for name in vars(policy_annotations).values() if isinstance(name, str) and "io/" in name[:13]
    }
    assert max(map(len, known)) <= LONGEST_ANNOTATION_NAME


def test_a_broken_service_is_known_to_be_there(it: Cluster) -> None:
    it.server.put("services", service("bad", loadBalancerIP=5))
    it.sync()
    objects = it.watched.objects()
    assert objects.broken == {ServiceRef("sip", "bad")}
    assert not objects.unidentified
    assert len(objects.errors) == 1


def test_a_cluster_that_is_away_leaves_the_picture_as_it_was(it: Cluster) -> None:
    it.server.put("services", service("a"))
    it.server.put("pods", pod("p"))
    it.sync()
    before = it.watched.objects()
    it.server.fail(Drop(), on=lambda request: True, times=None)
    for kind in ("services", "pods", "nodes", "servicel2statuses"):
        it.server.upset(kind, Drop())
    until(
        lambda: all(state.errors >= 2 for state in it.watched.states() if state.name in ("services", "pods"))
    )
    assert it.watched.synced
    assert it.watched.objects() is before
    it.server.delete("pods", "p", namespace="sip")
    it.server.mend()
    it.until_seen(lambda objects: objects.pods == ())


def test_a_credential_that_is_renewed_is_taken_up(it: Cluster, tmp_path: Path) -> None:
    it.sync()
    it.server.token = "renewed"
    for kind in ("services", "pods", "nodes", "servicel2statuses"):
        it.server.upset(kind, Drop())
    until(lambda: any("401" in str(state.last_error) for state in it.watched.states()))
    it.server.kubeconfig(tmp_path / "kubeconfig", token="renewed")
    it.server.put("pods", pod("p"))
    it.until_seen(lambda objects: objects.pods)


def test_stopping_is_prompt_with_every_request_hanging(it: Cluster) -> None:
    it.server.fail(Hang(), on=lambda request: True, times=None)
    it.watched.start()
    until(lambda: len(it.server.requests) >= 4)
    began = time.monotonic()
    it.watched.stop()
    assert time.monotonic() - began < 1
