"""What a running agent tells: the log, Events, gates and metrics of one process, against server and kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvctl.lab.build import Lab
from tests.agent.process import Watching, eventually, pod_object, service_object, watching
from tests.apiserver import ApiServer, anything

GATE = "kube-vip.io/egress-enabled"
ALL = {"egress_readinessgates": "true"}


@pytest.fixture
def backend() -> str:
    """One back end: what is told does not depend on it."""
    return "nft"


def reasons(server: ApiServer) -> list[str]:
    return sorted({event["reason"] for event in server.objects("events")})


def condition(server: ApiServer) -> dict[str, Any]:
    pod = server.get("pods", "sip-client-0", namespace="sip")
    assert pod is not None
    found = [one for one in pod["status"].get("conditions", []) if one["type"] == GATE]
    return found[0] if found else {}


def metrics(agent: Watching) -> dict[tuple[str, ...], float]:
    status, text = agent.ask("/metrics")
    assert status == 200
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}


def test_a_pods_gate_opens_when_its_rules_are_in_and_metrics_log_and_events_say_so(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    server.put("services", service_object())
    server.put("pods", pod_object(gated=True))
    with watching(lab, server, tmp_path, env=ALL) as agent:
        eventually(lambda: condition(server).get("status") == "True", why=agent.text)
        assert condition(server)["reason"] == "RulesInKernel"
        eventually(lambda: reasons(server) == ["Programmed"], why=agent.text)
        values = metrics(agent)
        assert values["kvctl_services", "applied"] == 2
        assert values["kvctl_rule_changes_total", "added"] == 2
        eventually(lambda: metrics(agent).get(("kvctl_reports_total", "events", "sent")) == 2, why=agent.text)
        said = [line for line in agent.lines() if line.get("action") == "added"]
        assert [line["service"] for line in said] == ["sip/sip-client"] * 2
        assert agent.ask("/wait?namespace=sip&pod=sip-client-0")[0] == 200

        server.put("services", service_object(vips=("192.0.2.77",)))
        eventually(lambda: condition(server)["status"] == "False", why=agent.text)
        assert condition(server)["reason"] == "VIPElsewhere"
        eventually(lambda: "VIPElsewhere" in reasons(server), why=agent.text)
        assert agent.ask("/wait?namespace=sip&pod=sip-client-0")[0] == 503
        assert agent.end() == 0


def test_a_steady_state_is_told_once_also_by_the_next_agent(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    server.put("services", service_object())
    server.put("pods", pod_object(gated=True))
    for _ in range(2):
        with watching(lab, server, tmp_path, env=ALL) as agent:
            agent.wait_ready()
            eventually(lambda: condition(server).get("status") == "True", why=agent.text)
            eventually(lambda: len(server.asked(anything("events"))) >= 2, why=agent.text)
            assert agent.end() == 0
    assert [event["count"] for event in server.objects("events")] == [1, 1]
    patches = [request for request in server.asked(anything("pods")) if request.method == "PATCH"]
    assert len(patches) == 1


def test_without_the_permissions_the_rules_are_written_all_the_same(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    server.forbid("events")
    server.put("services", service_object())
    server.put("pods", pod_object())
    with watching(lab, server, tmp_path, env=ALL) as agent:
        agent.wait_ready()
        eventually(lambda: "events are not accepted" in agent.text(), why=agent.text)
        assert len([line for line in agent.lines() if "are not accepted" in line["message"]]) == 1
        assert "applied" in lab.kvctl("egress", "list").stdout
        assert agent.end() == 0


def test_events_and_gates_can_be_left_out(lab: Lab, server: ApiServer, tmp_path: Path) -> None:
    server.put("services", service_object())
    server.put("pods", pod_object(gated=True))
    with watching(lab, server, tmp_path, env={"egress_events": "false"}) as agent:
        agent.wait_ready()
        assert agent.end() == 0
    assert {request.method for request in server.asked(anything("pods"))} == {"GET"}
    assert server.asked(anything("events")) == []
