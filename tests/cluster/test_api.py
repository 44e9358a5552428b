"""Reading a cluster: pages, refusals, servers that misbehave, configurations that do not work."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from kvctl import proc
from kvctl.cli.source import load
from kvctl.cluster import api as cluster_api
from kvctl.cluster import kubeconfig as locations
from kvctl.cluster.api import default_namespace, is_configured, read_cluster
from kvctl.errors import ClusterError
from kvctl.model.objects import CidrKind, Objects
from kvctl.model.ref import ServiceRef

from .conftest import KUBEADM_CONFIG, LISTS, TOKEN, Answer, FakeApi, write_kubeconfig

SERVICES, PODS, NODES, SLICES, CIDRS, L2 = LISTS


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "sip"},
        "spec": spec,
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    annotations = {"kube-vip.io/egress": "true", "other.io/x": "1"}
    return {
        "metadata": {"name": name, "namespace": "sip", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "selector": {"app": "a"}, **spec},
    }


def read(api: FakeApi, **options: Any) -> Objects:
    return read_cluster(kubeconfig=api.kubeconfig, context=None, **options)


def test_pages_are_followed_to_the_last(api: FakeApi) -> None:
    api.objects[PODS] = [pod(f"p{i}") for i in range(1001)]
    assert [p.name for p in read(api).pods] == [f"p{i}" for i in range(1001)]
    assert api.asked(PODS) == 3


def test_what_comes_by_the_api_is_marked_so(api: FakeApi) -> None:
    api.objects[SERVICES] = [service("a")]
    objects = read(api)
    assert objects.from_api
    assert objects.errors == ()
    assert objects.warnings == ()
    assert [str(s.ref) for s in objects.services] == ["sip/a"]
    assert dict(objects.services[0].annotations) == {"kube-vip.io/egress": "true"}


def test_an_expired_list_is_begun_again_without_what_has_gone_meanwhile(api: FakeApi) -> None:
    api.objects[PODS] = [pod(f"old{i}") for i in range(501)]

    def expire_once(path: str, start: int) -> Answer | None:
        if path != PODS or start == 0 or api.objects[PODS][0]["metadata"]["name"] == "new":
            return None
        api.objects[PODS] = [pod("new")]
        return Answer(410)

    api.on_page = expire_once
    assert [p.name for p in read(api).pods] == ["new"]


def test_a_list_that_expires_again_and_again_is_given_up(api: FakeApi) -> None:
    api.objects[PODS] = [pod(f"p{i}") for i in range(501)]
    api.on_page = lambda path, start: Answer(410) if start else None
    with pytest.raises(ClusterError, match="expired 4 times"):
        read(api)
    assert api.asked(PODS) == 8


@pytest.mark.parametrize(("path", "what"), [(SERVICES, "services"), (PODS, "pods")])
def test_forbidden_services_or_pods_end_the_reading(api: FakeApi, path: str, what: str) -> None:
    api.always[path] = Answer(403)
    with pytest.raises(
        ClusterError, match=f"cannot list {what} at http://127.0.0.1:{api.port}: 403 Forbidden"
    ) as e:
        read(api)
    assert e.value.exit_status == 5
    assert e.value.hint is not None
    assert f"verb list on {what}" in e.value.hint


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (NODES, "cannot list nodes (403 Forbidden): addresses of Nodes are not excluded"),
        (
            CIDRS,
            "cannot list servicecidrs.networking.k8s.io (403 Forbidden): they do not tell the service CIDR",
        ),
        (KUBEADM_CONFIG, "kubeadm-config (403 Forbidden): it does not tell"),
        (SLICES, "cannot list endpointslices.discovery.k8s.io (403 Forbidden): Services without a selector"),
    ],
)
def test_what_is_forbidden_but_dispensable_is_a_warning(api: FakeApi, path: str, words: str) -> None:
    api.objects[SERVICES] = [service("a", selector=None)]
    api.always[path] = Answer(403)
    objects = read(api)
    assert len(objects.warnings) == 1
    assert words in objects.warnings[0]
    assert len(objects.services) == 1


@pytest.mark.parametrize("path", [NODES, CIDRS, SLICES, KUBEADM_CONFIG])
def test_what_an_older_server_does_not_know_is_passed_over(api: FakeApi, path: str) -> None:
    api.objects[SERVICES] = [service("a", selector=None)]
    api.always[path] = Answer(404)
    assert read(api).warnings == ()


@pytest.mark.parametrize("path", [SERVICES, PODS, NODES, CIDRS, SLICES, L2, KUBEADM_CONFIG])
def test_a_server_that_fails_is_never_read_as_one_that_has_nothing(api: FakeApi, path: str) -> None:
    api.objects[SERVICES] = [service("a", selector=None)]
    api.always[path] = Answer(500)
    with pytest.raises(ClusterError, match="500 Internal Server Error"):
        read(api)


@pytest.mark.parametrize("path", [SERVICES, NODES])
def test_a_server_that_hangs_is_given_up_after_the_timeout(api: FakeApi, path: str) -> None:
    api.always[path] = Answer(hang=True)
    with pytest.raises(ClusterError, match=r"no answer within 0\.2 s"):
        read(api, timeout=0.2)


def test_a_body_that_stops_in_the_middle_is_given_up(api: FakeApi) -> None:
    api.always[PODS] = Answer(body=b'{"items"', drip=True)
    with pytest.raises(ClusterError, match="cannot reach the API server"):
        read(api, timeout=0.2)


def test_a_connection_that_breaks_off_is_an_error_not_a_short_list(api: FakeApi) -> None:
    api.always[PODS] = Answer(body=b'{"items": []}', cut=True)
    with pytest.raises(ClusterError, match="broke off"):
        read(api)


def test_the_overall_deadline_ends_a_reading_that_goes_on_and_on(api: FakeApi) -> None:
    api.always[SERVICES] = Answer(hang=True)
    with pytest.raises(ClusterError):
        read(api, timeout=30, overall=0.3)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"",
        b"[]",
        b'{"items": 5}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"metadata": {"continue": 5}}',
    ],
)
def test_an_answer_that_is_not_the_apis_is_an_error(api: FakeApi, body: bytes) -> None:
    api.always[PODS] = Answer(body=body)
    with pytest.raises(ClusterError, match="not the API's"):
        read(api)


def test_a_server_that_continues_for_ever_is_stopped(api: FakeApi) -> None:
    api.always[PODS] = Answer(body=json.dumps({"items": [], "metadata": {"continue": "1"}}).encode())
    with pytest.raises(ClusterError, match="not the API's"):
        read(api)
    assert api.asked(PODS) == 2


def test_a_malformed_object_is_named_and_the_others_stay(api: FakeApi) -> None:
    api.objects[PODS] = [pod("good"), pod("bad", hostNetwork="yes"), 5]
    objects = read(api)
    assert [p.name for p in objects.pods] == ["good"]
    assert len(objects.errors) == 2
    assert objects.errors[0].message == 'Pod sip/bad: spec.hostNetwork is "yes", not true or false'


def test_a_wrong_token_is_refused_and_never_shown(api: FakeApi, tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "c", server=f"http://127.0.0.1:{api.port}", token="wr0ng")
    with pytest.raises(ClusterError, match="401 Unauthorized") as e:
        read_cluster(kubeconfig=config, context=None)
    assert "wr0ng" not in f"{e.value.message}{e.value.hint}"


def test_a_token_that_http_does_not_allow_is_not_in_the_traceback(api: FakeApi, tmp_path: Path) -> None:
    config = write_kubeconfig(
        tmp_path / "c", server=f"http://127.0.0.1:{api.port}", token=f'"{TOKEN}\\nX-Evil: 1"'
    )
    with pytest.raises(ClusterError, match="characters that HTTP does not allow") as e:
        read_cluster(kubeconfig=config, context=None)
    assert TOKEN not in "".join(traceback.format_exception(e.value))
    assert api.requests == []


def test_a_refused_connection_says_so_and_names_the_server(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound but not listening: nobody else gets the port meanwhile.
        taken.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = write_kubeconfig(tmp_path / "c", server=server.replace("//", "//me:pw@"))
        with pytest.raises(ClusterError) as e:
            read_cluster(kubeconfig=config, context=None)
    assert e.value.message == f"cannot reach the API server at {server}: connection refused"


def test_a_server_without_tls_behind_an_https_address_is_an_error_of_tls(
    api: FakeApi, tmp_path: Path
) -> None:
    config = write_kubeconfig(tmp_path / "c", server=f"https://127.0.0.1:{api.port}")
    with pytest.raises(ClusterError, match="TLS failed: "):
        read_cluster(kubeconfig=config, context=None)


def test_without_any_configuration_the_hint_is_a_kubeconfig_or_a_file() -> None:
    assert not is_configured(kubeconfig=None, context=None)
    assert default_namespace(kubeconfig=None, context=None) is None
    with pytest.raises(ClusterError, match="no cluster configured") as e:
        load(filenames=(), kubeconfig=None, context=None)
    assert e.value.hint == "name a kubeconfig with --kubeconfig, or give manifests with -f FILE"


def test_the_kubeconfig_named_comes_before_the_environment_and_that_before_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".kube" / "config"
    home.parent.mkdir()
    home.write_text("{}")
    found = locations.find_source(kubeconfig=None, context=None)
    assert found is not None
    assert found.files == (str(home),)
    monkeypatch.setenv("KUBECONFIG", f"/a{os.pathsep}/b")
    found = locations.find_source(kubeconfig=None, context="x")
    assert found == locations.Source(("/a", "/b"), "x")
    assert locations.find_source(kubeconfig="/c", context=None) == locations.Source(("/c",))


def test_the_account_of_a_pod_comes_between_kubeconfig_variable_and_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("t")
    (account / "namespace").write_text("kube-system\n")
    monkeypatch.setattr(locations, "ACCOUNT", str(account))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    home = tmp_path / "home" / ".kube" / "config"
    home.parent.mkdir()
    home.write_text("{}")
    assert locations.find_source(kubeconfig=None, context=None) == locations.Source(())
    assert default_namespace(kubeconfig=None, context=None) == "kube-system"
    # The account has no contexts.
    assert locations.find_source(kubeconfig=None, context="x") == locations.Source((str(home),), "x")


def test_the_namespace_is_that_of_the_context(api: FakeApi) -> None:
    assert default_namespace(kubeconfig=api.kubeconfig, context=None) == "sip"
    assert default_namespace(kubeconfig=api.kubeconfig, context="bare") is None
    with pytest.raises(ClusterError, match='no context "nope"'):
        default_namespace(kubeconfig=api.kubeconfig, context="nope")


def test_of_several_kubeconfigs_the_first_current_context_counts_also_for_the_connection(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("current-context: nowhere\ncontexts: []\n")
    missing = tmp_path / "missing"
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join((str(missing), api.kubeconfig, str(other))))
    assert default_namespace(kubeconfig=None, context=None) == "sip"
    assert read_cluster(kubeconfig=None, context=None).services == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "\0",
        "current-context: here",
        "current-context: 5",
        f"users: [{{name: me, user: {{token: {TOKEN}}}}}]\ncurrent-context: here\ncontexts: [{{name: here}}]",
        f"{{a: 'x{TOKEN}\n  b: c",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c}]",
    ],
)
def test_a_broken_kubeconfig_is_an_error_without_its_text(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c"
    config.write_text(text)
    with pytest.raises(ClusterError) as e:
        read_cluster(kubeconfig=str(config), context=None)
    assert e.value.hint
    assert TOKEN not in "".join(traceback.format_exception(e.value))


def test_a_missing_kubeconfig_is_an_error_that_names_it() -> None:
    with pytest.raises(ClusterError, match=r'there is no file "/nowhere/config"'):
        read_cluster(kubeconfig="/nowhere/config", context=None)


def test_a_certificate_that_is_none_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.write_text(
        """\
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: '%%%%'}}]
users: [{name: u, user: {client-certificate: /nowhere}}]
"""
    )
    with pytest.raises(ClusterError) as e:
        read_cluster(kubeconfig=str(config), context=None)
    assert e.value.hint


def test_a_credential_plugin_that_fails_ends_the_reading(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c"
    config.write_text(
        """\
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: 'false'}}}]
"""
    )
    with pytest.raises(ClusterError, match="credential plugin of the kubeconfig failed"):
        read_cluster(kubeconfig=str(config), context=None)
    assert capfd.readouterr() == ("", "")


def test_a_credential_plugin_that_hangs_is_given_up(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    config = tmp_path / "c"
    config.write_text(
        f"""\
current-context: a
contexts: [{{name: a, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]
users:
- name: u
  user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: cat, args: ['{pipe}']}}}}
"""
    )
    try:
        with pytest.raises(ClusterError, match=r"not read within 1 s"):
            read_cluster(kubeconfig=str(config), context=None, overall=1)
    finally:
        # The plugin waits for a writer; one that comes and goes lets it end.
        descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        os.close(descriptor)


def test_metallbs_word_on_who_announces_is_read_where_somebody_asks_for_egress(api: FakeApi) -> None:
    api.objects[L2] = [
        {
            "metadata": {"name": f"l2-{node}", "namespace": "metallb-system"},
            "status": {"node": node, "serviceName": "a", "serviceNamespace": "sip"},
        }
        for node in ("n1", "n2")
    ]
    api.objects[SERVICES] = [{"metadata": {"name": "kubernetes", "namespace": "default"}}]
    assert read(api).announced == {}
    assert api.asked(L2) == 0
    api.objects[SERVICES].append(service("a"))
    assert dict(read(api).announced) == {ServiceRef("sip", "a"): frozenset(("n1", "n2"))}


@pytest.mark.parametrize("status", [403, 404])
def test_without_metallb_or_the_right_to_ask_it_nothing_is_said(api: FakeApi, status: int) -> None:
    api.objects[SERVICES] = [service("a")]
    api.always[L2] = Answer(status)
    assert (read(api).announced, read(api).warnings) == ({}, ())


def test_slices_are_listed_only_for_egress_services_without_a_selector(api: FakeApi) -> None:
    labels = {"kubernetes.io/service-name": "a"}
    api.objects[SLICES] = [
        {
            "metadata": {"name": "a-1", "namespace": namespace, "labels": labels},
            "endpoints": [{"addresses": ["10.0.0.9"]}],
        }
        for namespace in ("sip", "other")
    ]
    kubernetes = {"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"type": "ClusterIP"}}
    api.objects[SERVICES] = [service("b"), kubernetes]
    assert read(api).endpoints == ()
    assert api.asked(SLICES) == 0
    api.objects[SERVICES].append(service("a", selector={}))
    assert [str(e.service) for e in read(api).endpoints] == ["sip/a"]


def test_ranges_are_found_in_the_order_of_their_evidence(api: FakeApi) -> None:
    api.objects[CIDRS] = [
        {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "fd01::/112"]}}
    ]
    api.objects[NODES] = [{"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.2.0.0/24"]}}]
    api.kubeadm = "networking:\n  podSubnet: 10.0.0.0/16,fd00::/56\n  serviceSubnet: 10.96.0.0/16\n"
    hints = [(h.kind, [str(n) for n in h.networks], h.origin) for h in read(api).cidr_hints]
    assert hints == [
        (CidrKind.SERVICE, ["10.96.0.0/12", "fd01::/112"], "ServiceCIDR objects"),
        (CidrKind.POD, ["10.0.0.0/16", "fd00::/56"], "podSubnet of kubeadm-config"),
        (CidrKind.SERVICE, ["10.96.0.0/16"], "serviceSubnet of kubeadm-config"),
        (CidrKind.POD, ["10.2.0.0/24"], "podCIDRs of the Nodes"),
    ]


def test_kubeadms_configuration_is_not_asked_where_the_flags_tell(api: FakeApi) -> None:
    flags = [
        "kube-controller-manager",
        "--cluster-cidr=10.0.0.0/16",
        "--service-cluster-ip-range=10.96.0.0/12",
    ]
    manager = pod(
        "kube-controller-manager-n", containers=[{"name": "kube-controller-manager", "command": flags}]
    )
    manager["metadata"]["namespace"] = "kube-system"
    api.objects[PODS] = [manager]
    assert read(api).cidr_hints[0].networks == (ip_network("10.0.0.0/16"),)
    assert api.asked(KUBEADM_CONFIG) == 0


@pytest.mark.parametrize("text", ["[", "- a", "networking: 5", "networking: {podSubnet: nonsense}"])
def test_a_kubeadm_configuration_that_makes_no_sense_gives_no_hint(api: FakeApi, text: str) -> None:
    api.kubeadm = text
    objects = read(api)
    assert objects.cidr_hints == ()
    assert objects.errors == ()


def test_importing_the_module_does_not_import_the_client_library() -> None:
    heavy = "{'kubernetes', 'yaml', 'urllib3'}"
    code = f"import sys, {cluster_api.__name__}; print(sorted({heavy} & set(sys.modules)))"
    done = proc.run([sys.executable, "-c", code], deadline=60, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
