"""What `deploy/` holds, parsed: with the settings that are commented out, and as kustomize would put it together."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

import kvctl
from tests.apiserver import Request

DEPLOY = Path(kvctl.__file__).parent.parent / "deploy"
BASE = DEPLOY / "base"
COMPONENTS = DEPLOY / "components"

# A list entry in YAML's flow style behind a #.
_COMMENTED = re.compile(r"^ *# (?P<entry>- \{name: .*\})$", re.MULTILINE)

# Strings of the code that look like variables of the environment and are none.
_NO_VARIABLES = {"vip_ranges"}
Permission = tuple[str, str, str]
"""Group, resource and verb, as RBAC has them."""
_GROUP = re.compile(r"/apis/(?P<group>[^/]+)/")
_A_VARIABLE = re.compile(
    r"(egress|vip)_[a-z_]+|NODE_NAME|POD_NAME|POD_NAMESPACE|HOST_IP|KUBECONFIG|svc_election"
)


def documents(path: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def manifests() -> list[Path]:
    """Every YAML file that is no kustomization."""
    return [path for path in sorted(DEPLOY.rglob("*.yaml")) if path.name != "kustomization.yaml"]


def kustomizations() -> list[Path]:
    """Every kustomization, of the whole, the base and the components."""
    return sorted(DEPLOY.rglob("kustomization.yaml"))


def commented_variables(path: Path) -> dict[str, str]:
    """The environment variables that a file names behind a #, with their example values."""
    entries = [yaml.safe_load(match["entry"])[0] for match in _COMMENTED.finditer(path.read_text())]
    return {entry["name"]: entry["value"] for entry in entries}


def objects_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The objects of a kind in the files that a kustomization lists as resources."""
    listed = documents(folder / "kustomization.yaml")[0].get("resources", [])
    found = [each for name in listed for each in documents(folder / name)]
    return [each for each in found if each["kind"] == kind]


def daemonset(folder: Path) -> dict[str, Any]:
    """The DaemonSet of the base, or a component's patch of it."""
    return documents(folder / "daemonset.yaml")[0]


def pod_spec(workload: dict[str, Any]) -> dict[str, Any]:
    """The pod's spec of a Pod, DaemonSet or Deployment."""
    spec: dict[str, Any] = workload["spec"]
    return spec if workload["kind"] == "Pod" else spec["template"]["spec"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Init containers and containers."""
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Name and value (or the field it is taken from) of what a container's environment holds."""
    return {
        each["name"]: each["value"] if "value" in each else each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container.get("env", [])
    }


def settings_of_the_code() -> set[str]:
    """The variables that are read, as whole strings; those of messages are parts of longer ones."""
    found: set[str] = set()
    for module in Path(kvctl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if _A_VARIABLE.fullmatch(node.value) else set()
    return found - _NO_VARIABLES


def permission(request: Request) -> Permission:
    """What RBAC asks for a request."""
    found = _GROUP.match(request.path)
    group = found["group"] if found is not None else ""
    last = request.path.rpartition("/")[2]
    resource = f"{request.resource}/status" if last == "status" else request.resource
    verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    reading = "watch" if request.is_watch else "list" if last == request.resource else "get"
    return group, resource, verbs.get(request.method, reading)


def granted(*, besides: Collection[str] = ()) -> set[Permission]:
    """What the base and all components but these allow."""
    return {
        (group, resource, verb)
        for folder in (BASE, *(each for each in COMPONENTS.iterdir() if each.name not in besides))
        for kind in ("ClusterRole", "Role")
        for role in objects_of(folder, kind)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
