"""What is deployed fits the code: permissions, settings, port; and asks for nothing besides."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

import kvctl
from kvctl.agent.address import DEFAULT_LISTEN, DEFAULT_PORT, parse_listen
from kvctl.agent.journal import parse_log_format
from kvctl.cli.settings import environment_bool, read_settings
from kvctl.cli.wait import command as wait
from kvctl.cluster import kinds
from kvctl.cluster.conditions import CONDITION
from tests.deploy.reading import (
    BASE,
    COMPONENTS,
    DEPLOY,
    commented_variables,
    containers,
    daemonset,
    documents,
    kustomizations,
    manifests,
    objects_of,
    pod_spec,
    settings_of_the_code,
    variables,
)

READ = {"list", "watch"}

# Everything the agent asks the API server for, as RBAC sees it: (group, resource) -> verbs. A double of the
# server that the agent is tested with sees no other request.
REQUESTS: dict[Path, dict[tuple[str, str], set[str]]] = {
    BASE: {
        ("", "services"): READ,
        ("", "pods"): READ,
        ("", "nodes"): READ,
        ("discovery.k8s.io", "endpointslices"): READ,
        ("networking.k8s.io", "servicecidrs"): {"list"},
    },
    COMPONENTS / "events": {("", "events"): {"create", "patch"}},
    COMPONENTS / "readiness-gates": {("", "pods/status"): {"patch"}},
    COMPONENTS / "metallb": {("metallb.io", "servicel2statuses"): READ},
    COMPONENTS / "election": {
        ("coordination.k8s.io", "leases"): {"get", "create", "patch"},
        ("", "services"): {"patch"},
        ("", "services/status"): {"patch"},
    },
    COMPONENTS / "sysctls": {},
}


def agent() -> dict[str, Any]:
    (only,) = pod_spec(daemonset(BASE))["containers"]
    assert isinstance(only, dict)
    return only


def permissions(folder: Path, kind: str = "ClusterRole") -> dict[tuple[str, str], set[str]]:
    """What the roles of a folder grant; each resource once."""
    found: dict[tuple[str, str], set[str]] = {}
    for role in objects_of(folder, kind):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    assert (group, resource) not in found
                    found[group, resource] = set(rule["verbs"])
    return found


@pytest.mark.parametrize("folder", REQUESTS, ids=lambda folder: str(folder.name))
def test_permissions_are_what_is_asked_for_and_no_more(folder: Path) -> None:
    assert permissions(folder) == REQUESTS[folder]


def test_every_component_is_judged_here() -> None:
    assert set(COMPONENTS.iterdir()) == set(REQUESTS) - {BASE}


def test_every_kind_that_is_read_is_granted_somewhere() -> None:
    read = {kind for kind in vars(kinds).values() if isinstance(kind, kinds.Kind)} - {kinds.ENDPOINTS}
    granted = {key for folder in REQUESTS for key in REQUESTS[folder]}
    assert {(kind.group, kind.resource) for kind in read} <= granted


def test_of_configmaps_one_may_be_read() -> None:
    (role,) = objects_of(BASE, "Role")
    assert role["metadata"]["namespace"] == "kube-system"
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["kubeadm-config"],
            "verbs": ["get"],
        }
    ]


@pytest.mark.parametrize("folder", REQUESTS, ids=lambda folder: str(folder.name))
def test_every_role_is_bound_to_the_agents_account_alone(folder: Path) -> None:
    for kind in ("ClusterRole", "Role"):
        roles = {role["metadata"]["name"] for role in objects_of(folder, kind)}
        bindings = objects_of(folder, f"{kind}Binding")
        assert {binding["roleRef"]["name"] for binding in bindings} == roles
        for binding in bindings:
            assert binding["roleRef"]["kind"] == kind
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": "kvctl", "namespace": "kvctl-system"}
            ]
    assert pod_spec(daemonset(BASE))["serviceAccountName"] == "kvctl"


def test_the_agent_has_two_capabilities_and_nothing_else() -> None:
    spec = pod_spec(daemonset(BASE))
    assert "initContainers" not in spec
    assert agent()["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    }
    assert spec["hostNetwork"] is True
    assert not {"hostPID", "hostIPC"} & set(spec)
    assert spec["volumes"] == [
        {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}}
    ]
    assert agent()["volumeMounts"] == [{"name": "xtables-lock", "mountPath": "/run/xtables.lock"}]


def test_it_runs_on_every_node_and_stays_there() -> None:
    workload = daemonset(BASE)
    spec = pod_spec(workload)
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}


def test_only_the_sysctls_are_privileged() -> None:
    privileged = {
        path
        for path in manifests()
        for workload in documents(path)
        if workload["kind"] in ("DaemonSet", "Deployment", "Pod")
        for container in containers(pod_spec(workload))
        if container.get("securityContext", {}).get("privileged")
    }
    assert privileged == {COMPONENTS / "sysctls" / "daemonset.yaml"}


def test_every_variable_is_known_to_the_code_and_the_other_way_round() -> None:
    example = DEPLOY / "examples" / "wait.yaml"
    (init,) = documents(example)[0]["spec"]["initContainers"]
    set_here = [variables(agent()), commented_variables(BASE / "daemonset.yaml")]
    asked_there = [variables(init), commented_variables(example)]
    assert set().union(*set_here, *asked_there) == settings_of_the_code()
    assert not set().union(*set_here) & set().union(*asked_there)


def test_example_values_of_the_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = commented_variables(BASE / "daemonset.yaml")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
        if value in ("true", "false"):
            assert environment_bool(name) is (value == "true")
    networks: dict[str, list[str]] = {
        name: [] for name in ("pod_cidrs", "service_cidrs", "exclude_cidrs", "vip_ranges")
    }
    settings = read_settings(networks, node=None, only_here=True, interface=None)
    assert [str(network) for network in settings.pod_cidrs] == values["egress_podcidr"].split(",")
    assert [str(network) for network in settings.vip_ranges] == [values["egress_vipranges"]]
    assert values["egress_listen"] == DEFAULT_LISTEN == str(parse_listen(values["egress_listen"]))
    assert parse_log_format(values["egress_logformat"]).value == values["egress_logformat"]


def test_components_switch_on_what_they_allow() -> None:
    assert variables(agent())["egress_events"] == "false"
    for component, name in (("events", "egress_events"), ("readiness-gates", "egress_readinessgates")):
        (patched,) = pod_spec(daemonset(COMPONENTS / component))["containers"]
        assert patched == {"name": "agent", "env": [{"name": name, "value": "true"}]}


def test_the_port_is_the_same_everywhere() -> None:
    annotations = daemonset(BASE)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(DEFAULT_PORT)
    assert agent()["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT, "hostPort": DEFAULT_PORT}]
    probes = {name: agent()[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


def test_the_init_container_of_the_example_may_do_nothing_but_ask() -> None:
    (init,) = documents(DEPLOY / "examples" / "wait.yaml")[0]["spec"]["initContainers"]
    egress, name, *arguments = init["args"]
    assert (egress, name) == ("egress", "wait")
    assert wait.make_context("wait", arguments).params["timeout"] == 60
    assert variables(init) == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "HOST_IP": "status.hostIP",
    }
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert init["securityContext"]["runAsNonRoot"] is True


def test_the_gate_of_the_example_is_the_one_that_is_set() -> None:
    (workload,) = documents(DEPLOY / "examples" / "readiness-gate.yaml")
    assert pod_spec(workload)["readinessGates"] == [{"conditionType": CONDITION}]


def test_the_service_of_the_example_has_nothing_to_object_to() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvctl", "egress", "compute", "-f", DEPLOY / "examples" / "service.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "annotation" in done.stderr, "Error" in done.stderr) == (0, False, False)
    assert "sip/sip-client" in done.stdout


@pytest.mark.parametrize("path", kustomizations(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_kustomization_names_every_file_beside_it_and_no_other(path: Path) -> None:
    (content,) = documents(path)
    component = path.is_relative_to(COMPONENTS)
    assert content["kind"] == ("Component" if component else "Kustomization")
    version = "v1alpha1" if component else "v1beta1"
    assert content["apiVersion"] == f"kustomize.config.k8s.io/{version}"
    # A namespace for all would move the Role that has to be in kube-system.
    assert "namespace" not in content
    named = {*content.get("resources", []), *(patch["path"] for patch in content.get("patches", []))}
    if path.parent != DEPLOY:
        assert named == {other.name for other in path.parent.iterdir()} - {path.name}


def test_the_whole_names_every_component_in_use_or_to_be_chosen() -> None:
    whole = DEPLOY / "kustomization.yaml"
    offered = set(re.findall(r"^  (?:# )?- (components/[a-z-]+)$", whole.read_text(), re.MULTILINE))
    assert offered == {f"components/{component.name}" for component in COMPONENTS.iterdir()}
    content = documents(whole)[0]
    assert content["resources"] == ["base"]
    assert content["components"] == ["components/events"]


def test_images_carry_the_version_of_the_package() -> None:
    (image,) = documents(DEPLOY / "kustomization.yaml")[0]["images"]
    assert image["newTag"] == kvctl.__version__
    (init,) = documents(DEPLOY / "examples" / "wait.yaml")[0]["spec"]["initContainers"]
    assert init["image"] == f"{image['newName']}:{image['newTag']}"
    assert init["image"] in (DEPLOY / "Containerfile").read_text()
    used = {
        container["image"]
        for folder in (BASE, COMPONENTS / "sysctls")
        for container in containers(pod_spec(daemonset(folder)))
    }
    assert used == {image["name"]}


def test_the_image_holds_what_the_agent_runs() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--)(.*) /src", text, re.MULTILINE):
        for name in line.split():
            assert (DEPLOY.parent / name).exists(), name
    assert re.search(
        r'^ENTRYPOINT \["/opt/kvctl/bin/kvctl"\]\nCMD \["egress", "watch"\]$', text, re.MULTILINE
    )
    for package in ("iptables", "nftables", "procps", "python3"):
        assert re.search(rf"install .*\b{package}\b", text.partition("AS build")[2].partition("FROM")[2])


@pytest.mark.parametrize("path", manifests(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_field_is_one_of_kubernetes(path: Path) -> None:
    for each in documents(path):
        assert unknown_fields(each, f"V1{each['kind']}", where=each["kind"]) == []


def unknown_fields(value: Any, kind: str, *, where: str) -> list[str]:
    """The places of fields that the client's model of that kind does not have."""
    if many := re.fullmatch(r"(?:List|Dict)\[(?:str, )?(\w+)\]", kind):
        inner = many[1]
        items = enumerate(value) if isinstance(value, list) else value.items()
        return [bad for key, item in items for bad in unknown_fields(item, inner, where=f"{where}.{key}")]
    model = getattr(client, kind, None)
    if model is None:
        return []
    fields = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
    return [
        bad
        for key, item in value.items()
        for bad in (
            unknown_fields(item, fields[key], where=f"{where}.{key}") if key in fields else [f"{where}.{key}"]
        )
    ]


def test_a_misspelt_field_would_be_found() -> None:
    workload = daemonset(BASE)
    pod_spec(workload)["containers"][0]["securityContext"]["capabilities"]["ad"] = []
    found = unknown_fields(workload, "V1DaemonSet", where="it")
    assert found == ["it.spec.template.spec.containers.0.securityContext.capabilities.ad"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_kustomize_puts_all_of_it_together(tmp_path: Path) -> None:
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy)
    whole = copy / "kustomization.yaml"
    whole.write_text(whole.read_text().replace("  # - components/", "  - components/"))
    done = subprocess.run(
        ["kubectl", "kustomize", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    built = list(yaml.safe_load_all(done.stdout))
    (workload,) = (each for each in built if each["kind"] == "DaemonSet")
    (image,) = documents(whole)[0]["images"]
    assert {c["image"] for c in containers(pod_spec(workload))} == {f"{image['newName']}:{image['newTag']}"}
    assert variables(pod_spec(workload)["containers"][0]) == {
        "NODE_NAME": "spec.nodeName",
        "egress_events": "true",
        "egress_readinessgates": "true",
        "svc_election": "true",
    }
    (role,) = (each for each in built if each["kind"] == "Role")
    assert role["metadata"]["namespace"] == "kube-system"
    assert sum(each["kind"] == "ClusterRole" for each in built) == 5
