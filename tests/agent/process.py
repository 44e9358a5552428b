"""`kvctl egress watch` as a process in a lab's worker, beside an API server that speaks the real protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvctl
from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from tests.apiserver import ApiServer, Object

DEADLINE = 30.0
_PORT = 9744
ENVIRONMENT = {
    "PYTHONPATH": str(Path(kvctl.__file__).parent.parent),
    "egress_podcidr": "10.0.0.0/16,fd00:10::/64",
    "egress_servicecidr": "10.96.0.0/12,fd00:96::/112",
    "NODE_NAME": "worker",
}
"""The settings of an agent in the standard lab."""


def eventually(
    what: Callable[[], bool], *, within: float = DEADLINE, why: Callable[[], object] = str
) -> float:
    """Wait until this is true; the seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        if what():
            return time.monotonic() - begun
        time.sleep(0.005)
    raise AssertionError(f"not within {within} s: {why()}")


def service_object(
    name: str = "sip-client",
    *,
    vips: tuple[str, ...] = (STANDARD[Family.IPV4].vip, STANDARD[Family.IPV6].vip),
    namespace: str = "sip",
    annotations: dict[str, str] | None = None,
    ports: str | None = "udp:5060,tcp:8080",
) -> Object:
    """A Service as the API has it."""
    written = {"kube-vip.io/egress": "true", **(annotations or {})}
    if ports is not None:
        written["kube-vip.io/egress-destination-ports"] = ports
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": written},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"app": name}},
        "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in vips]}},
    }


def pod_object(
    name: str = "sip-client-0",
    *,
    app: str = "sip-client",
    namespace: str = "sip",
    addresses: tuple[str, ...] = (STANDARD[Family.IPV4].pod, STANDARD[Family.IPV6].pod),
    node: str = "worker",
    gated: bool = False,
) -> Object:
    """A Pod as the API has it."""
    gates = [{"conditionType": "kube-vip.io/egress-enabled"}] if gated else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "it", "image": "it"}], "readinessGates": gates},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def node_object(name: str = "worker") -> Object:
    """A Node as the API has it."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {}}


@dataclass
class Watching:
    """The process."""

    lab: Lab
    process: subprocess.Popen[bytes]
    log: Path
    settings: Mapping[str, str]
    """Its environment variables that are settings: of use for commands beside it."""
    at: str = "worker"

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def text(self) -> str:
        """The log as it is."""
        return self.log.read_text()

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a page of its port; 0 where nobody answers."""
        url = f"http://127.0.0.1:{_PORT}{path}"
        with self.lab[self.at].entered():
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

    def ready(self) -> bool:
        """Whether the first rules are written."""
        return self.ask("/readyz")[0] == 200

    def wait_ready(self) -> float:
        """Wait for that; seconds."""
        return eventually(self.ready, why=self.text)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end; its status."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(DEADLINE)


@contextmanager
def watching(
    lab: Lab,
    server: ApiServer,
    directory: Path,
    *arguments: str,
    at: str = "worker",
    env: Mapping[str, str] | None = None,
    module: str = "kvctl",
) -> Iterator[Watching]:
    """A running agent; it is killed at the end if it has not ended by itself. Faults of kvctl fail the test.

    `module`: what Python runs in the place of kvctl.
    """
    config = server.kubeconfig(directory / f"{at}.kubeconfig")
    log = directory / f"{at}-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", module, "egress", "watch", "--kubeconfig", config, *arguments]
    names = {
        name: value for name, value in os.environ.items() if not name.startswith(("egress_", "vip_", "svc_"))
    }
    settings = {**ENVIRONMENT, "NODE_NAME": at, **(env or {})}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            lab[at].argv(argv),
            stderr=sink,
            stdout=sink,
            stdin=subprocess.DEVNULL,
            env={**names, **settings},
        )
    it = Watching(lab, process, log, settings, at=at)
    try:
        yield it
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE)
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "fault of kvctl" not in said, said
