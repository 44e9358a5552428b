"""What a pod's first packets leave with: before it is ready, behind `egress wait`, and before there is an agent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvctl
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from tests.agent.process import eventually, pod_object, service_object, watching
from tests.apiserver import ApiServer, Object
from tests.kernel.node import VIPS

V4 = STANDARD[Family.IPV4]
SOON = 0.1
"""Seconds without an answer after which there is none."""
DROP = {"kvctl.io/without-vip": "drop"}

Wait = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def backend() -> str:
    """One back end: when rules are written does not depend on it."""
    return "nft"


@pytest.fixture
def outside(lab: Lab) -> Iterator[Echo]:
    """What it heard first is what the pod sent first."""
    with Echo(lab.outside, ports=(5060,)) as it:
        yield it


@pytest.fixture
def wait(lab: Lab) -> Iterator[Wait]:
    """`wait(*arguments)`: what deploy/examples/wait.yaml runs, begun in the pod's own network namespace."""
    begun: list[subprocess.Popen[str]] = []
    env = {
        "PYTHONPATH": str(Path(kvctl.__file__).parent.parent),
        "POD_NAME": "sip-client-0",
        "POD_NAMESPACE": "sip",
        "HOST_IP": V4.worker_eth0,
    }

    def begin(*arguments: str) -> subprocess.Popen[str]:
        argv = lab.pod.argv([sys.executable, "-m", "kvctl", "egress", "wait", *arguments])
        begun.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next thing that `wait` says."""
    assert process.stderr is not None
    return process.stderr.readline()


def starting(*, addresses: tuple[str, ...] = (V4.pod,)) -> Object:
    """A pod whose init containers run."""
    pod = pod_object(addresses=addresses)
    pod["status"] |= {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}
    return pod


def seen(lab: Lab) -> str | None:
    """The source that the outside sees of a new connection."""
    answer = probe(lab.pod, destination=V4.outside_eth1, port=5060, timeout=SOON)
    return answer.source if answer is not None else None


def test_rules_are_there_before_a_pod_is_ready(
    lab: Lab, server: ApiServer, outside: Echo, tmp_path: Path
) -> None:
    server.put("services", service_object())
    server.put("pods", starting(addresses=()))
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        server.put("pods", starting())
        eventually(lambda: seen(lab) == V4.vip, why=agent.text)
        shown = server.get("pods", "sip-client-0", namespace="sip")
        assert shown is not None
        assert shown["status"]["conditions"] == [{"type": "Ready", "status": "False"}]


def test_behind_wait_the_very_first_packet_has_the_vip(
    lab: Lab, server: ApiServer, outside: Echo, wait: Wait, tmp_path: Path
) -> None:
    server.put("services", service_object())
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        waiting = wait()
        assert "knows no pod sip/sip-client-0 (yet)" in line(waiting)
        server.put("pods", starting(addresses=()))
        assert "the pod has no address yet" in line(waiting)
        server.put("pods", starting())
        assert waiting.wait(30) == 0, agent.text()
        assert seen(lab) == V4.vip
    assert outside.sources() == {V4.vip}


def test_under_drop_nothing_but_wait_holds_back_a_pod_that_no_agent_has_heard_of(
    lab: Lab, server: ApiServer, outside: Echo, wait: Wait, tmp_path: Path
) -> None:
    lab.worker.batch([f"addr del {vip}/{128 if ':' in vip else 32} dev eth1" for vip in VIPS])
    server.put("services", service_object(annotations=DROP))
    server.put("pods", starting())
    # Without wait: the node's address, as README says.
    assert seen(lab) == V4.worker_eth1
    with Connection(lab.pod, destination=V4.outside_eth1, port=5060, timeout=SOON) as old:
        assert old.ask() is not None
        # With it the containers do not start as long as nobody answers.
        assert wait("--timeout", "0").wait(30) == 1
        waiting = wait()
        assert "no answer from http://172.16.0.2:9744: connection refused" in line(waiting)
        with watching(lab, server, tmp_path) as agent:
            assert waiting.wait(30) == 0, agent.text()
            assert "traffic is dropped" in line(waiting) + line(waiting)
            # From now on nothing leaves, what began before neither.
            outside.heard.clear()
            assert (seen(lab), old.ask()) == (None, None)
            agent.process.kill()
            agent.process.wait()
        assert (seen(lab), old.ask()) == (None, None)
    assert outside.sources() == set()
