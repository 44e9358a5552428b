"""The agent as it is deployed, from an API server's objects to a packet, with every component chosen."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvctl.agent.address import DEFAULT_PORT
from kvctl.cluster.conditions import CONDITION
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.apiserver import ApiServer, serving
from tests.deploy.confining import KVCTL, confined, environment, make_lock_file, powerless
from tests.deploy.reading import BASE, COMPONENTS, daemonset, granted, permission, pod_spec, variables

V4 = STANDARD[Family.IPV4]
DEADLINE = 20.0


def egress_service(name: str, *, vip: str = V4.vip, **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "sip", "annotations": {"kvctl.io/egress": "true"}},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
    }


def gated_pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "phone-0", "namespace": "sip", "labels": {"app": "phone"}},
        "spec": {"nodeName": "worker", "readinessGates": [{"conditionType": CONDITION}]},
        "status": {"phase": "Running", "podIP": V4.pod, "podIPs": [{"ip": V4.pod}]},
    }


@pytest.fixture
def server(lab: Lab) -> Iterator[ApiServer]:
    """An API server on the worker, with a cluster that has no pod of interest yet."""
    with lab.worker.entered():
        begun = serving()
        found = begun.__enter__()
    try:
        found.put("nodes", {"metadata": {"name": "worker"}, "spec": {}, "status": {}})
        found.put("services", egress_service("phone", selector={"app": "phone"}))
        # Makes the agent ask for EndpointSlices.
        found.put("services", egress_service("by-hand", vip="192.168.0.246"))
        yield found
    finally:
        begun.__exit__(None, None, None)


@contextmanager
def agent(
    lab: Lab, server: ApiServer, tmp_path: Path, *, components: Collection[str], **more: str
) -> Iterator[subprocess.Popen[str]]:
    """The DaemonSet's container with the components' settings, and `more`, for the block."""
    make_lock_file()
    (container,) = pod_spec(daemonset(BASE))["containers"]
    settings = variables(container)
    for component in components:
        (patched,) = pod_spec(daemonset(COMPONENTS / component))["containers"]
        settings |= variables(patched)
    settings["NODE_NAME"] = "worker"
    settings["KUBECONFIG"] = server.kubeconfig(tmp_path / "kubeconfig")
    settings["egress_podcidr"], settings["egress_servicecidr"] = V4.pod_network, V4.service_network
    settings["egress_withnftables"] = str(lab.topology.backend == "nft").lower()
    settings |= more
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            lab.worker.argv(confined(*KVCTL, *container["args"])),
            env=dict(environment(**settings)),
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], bool], *, what: str, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: {log.read_text()}"
        time.sleep(0.05)


def page(namespace: Namespace, path: str) -> tuple[int, str]:
    """Status and content; 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", DEFAULT_PORT, timeout=10)
    try:
        with namespace.entered():
            connection.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def condition_of(server: ApiServer) -> str | None:
    stored = server.get("pods", "phone-0", namespace="sip") or {}
    found = [c for c in stored["status"].get("conditions", []) if c["type"] == CONDITION]
    return found[0]["status"] if found else None


def test_the_agent_as_deployed_makes_rules_and_says_so_everywhere(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    deployed = agent(lab, server, tmp_path, components=("events", "readiness-gates"))
    with Echo(lab.outside, ports=[5060]), deployed as process:
        eventually(
            lambda: process.poll() is not None or page(lab.worker, "/readyz")[0] == 200,
            what="not ready",
            log=log,
        )
        assert process.poll() is None, log.read_text()
        waiting = subprocess.Popen(
            lab.pod.argv(powerless(*KVCTL, "egress", "wait")),
            env=dict(environment(POD_NAME="phone-0", POD_NAMESPACE="sip", HOST_IP=V4.worker_eth0)),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "knows no pod sip/phone-0 (yet)" in waiting.stderr.readline()
        server.put("pods", gated_pod())
        assert waiting.communicate(timeout=DEADLINE)[1].startswith("Note: sip/phone-0 may start: ")
        assert waiting.returncode == 0
        seen = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert seen is not None
        assert seen.source == V4.vip
        eventually(lambda: condition_of(server) == "True", what="no condition", log=log)
        eventually(
            lambda: any(e["reason"] == "Programmed" for e in server.objects("events")),
            what="no Event",
            log=log,
        )
        assert page(lab.worker, "/healthz")[0] == 200
        metrics = page(lab.worker, "/metrics")[1]
        assert re.search(r'^kvctl_services\{status="applied"\} 1\.0$', metrics, re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        kept = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert kept is not None
        assert kept.source == V4.vip
    for line in log.read_text().splitlines():
        assert json.loads(line)["level"] in ("info", "warning"), line
    used = {permission(request) for request in server.requests}
    assert used <= granted(besides={"election"})
    # An Event is patched when the same has to be told again.
    assert granted(besides={"election"}) - used <= {("", "events", "patch")}
    assert os.environ["XTABLES_LOCKFILE"] not in log.read_text()


def test_an_agent_with_election_as_deployed_places_the_vip_and_leaves_it_to_the_next_one(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    lab.worker.batch([f"address delete {V4.vip}/32 dev eth1"])
    wanted = egress_service("phone", selector={"app": "phone"})
    wanted["metadata"]["annotations"]["kube-vip.io/loadbalancerIPs"] = V4.vip
    server.put("services", {**wanted, "status": {}})
    server.put("pods", gated_pod())
    deployed = agent(lab, server, tmp_path, components=("election",), egress_vipranges="192.168.0.240/28")

    def told() -> tuple[str | None, str | None]:
        service: Any = server.get("services", "phone", namespace="sip")
        (ingress,) = service["status"].get("loadBalancer", {}).get("ingress", [{}])
        return ingress.get("ip"), service["metadata"]["annotations"].get("kube-vip.io/vipHost")

    def source() -> str | None:
        seen = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        return seen.source if seen is not None else None

    with Echo(lab.outside, ports=[5060]), deployed as process:
        eventually(lambda: told() == (V4.vip, "worker"), what="nobody holds it", log=log)
        eventually(lambda: source() == V4.vip, what="not the VIP", log=log)
        found = lab.worker.run(["ip", "-4", "-oneline", "address", "show", "to", V4.vip]).stdout
        assert " valid_lft forever" not in found
        assert re.search(r" valid_lft \d+sec ", found), found
        renewal = ("coordination.k8s.io", "leases", "patch")
        eventually(lambda: renewal in map(permission, server.requests), what="no renewal", log=log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        # A restart is no reason to hand over: who comes next in time goes on.
        assert source() == V4.vip
    for line in log.read_text().splitlines():
        assert json.loads(line)["level"] in ("info", "warning"), line
    used = {permission(request) for request in server.requests}
    assert used <= granted(besides={"events", "readiness-gates"})
    alone = granted(besides={"events", "readiness-gates"}) - granted(besides={"election"})
    # A Service is read only when its VIP is given up.
    assert alone - used <= {("", "services", "get")}
