"""What the commands say beside a running agent, and what they refuse: they agree with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.model.net import Family
from tests.agent.process import ENVIRONMENT, Watching, eventually, pod_object, service_object, watching
from tests.apiserver import ApiServer
from tests.kernel.node import Packets, Worker

WITHIN = 5.0
"""Seconds in which an agent mends what others did."""
DROP = {"kvctl.io/without-vip": "drop"}
AWAY = ("192.0.2.77", "2001:db8:9::77")

Run = Callable[..., proc.Completed]


@pytest.fixture
def run(lab: Lab, server: ApiServer, tmp_path: Path) -> Run:
    """`run("list", ...)`: the command on the worker, set up as the agent is; `cluster`: it asks the API server."""
    config = server.kubeconfig(tmp_path / "config")

    def run(*arguments: str, cluster: bool = False) -> proc.Completed:
        more = ("--kubeconfig", config) if cluster else ()
        return lab.kvctl("egress", *arguments, *more, env=ENVIRONMENT)

    return run


def put_everything(server: ApiServer) -> None:
    """Services that are rewritten, elsewhere, dropped, and skipped, each with a pod."""
    skipped = service_object("skipped")
    skipped["spec"]["externalTrafficPolicy"] = "Cluster"
    server.put("services", service_object())
    server.put("services", service_object("away", vips=AWAY))
    server.put("services", service_object("silent", vips=("192.0.2.78", "2001:db8:9::78"), annotations=DROP))
    server.put("services", skipped)
    server.put("pods", pod_object())
    for number, name in enumerate(("away", "silent", "skipped"), 2):
        addresses = (f"10.0.0.{number}", f"fd00:10::{number}")
        server.put("pods", pod_object(f"{name}-0", app=name, addresses=addresses))


def by_agent(agent: Watching) -> Counter[str]:
    """How many Services (in a family) have which status, by the agent's own word."""
    families = text_string_to_metric_families(agent.ask("/metrics")[1])
    samples = [s for family in families for s in family.samples if s.name == "kvctl_services"]
    return Counter({s.labels["status"]: int(s.value) for s in samples if s.value})


def items(done: proc.Completed) -> list[dict[str, Any]]:
    assert done.status == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return found


def agrees(run: Run, agent: Watching) -> list[dict[str, Any]]:
    """The items of `list` with a source, after `diff`, `list` and `show` have been found to say what the agent does."""
    done = run("diff", "--prune", cluster=True)
    assert done.status == 0, (done.stdout, done.stderr)
    listed = items(run("list", "-o", "json", cluster=True))
    assert Counter(item["status"] for item in listed) == by_agent(agent)
    in_kernel = {
        (item["service"], item["family"], item["status"]) for item in items(run("list", "-o", "json"))
    }
    asked = {(item["service"], item["family"], item["status"]) for item in listed}
    assert in_kernel <= asked
    shown = items(run("show", "-o", "json"))
    assert {(item["service"], item["family"], item["status"]) for item in shown} == in_kernel
    assert [item["problems"] for item in shown if item["status"] == "applied"] == [[], []]
    return listed


def test_list_show_and_diff_say_what_the_agent_says(
    lab: Lab, server: ApiServer, packets: Packets, run: Run, tmp_path: Path
) -> None:
    put_everything(server)
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        packets.seen()
        found = {(i["service"], i["family"]): i for i in agrees(run, agent)}
        assert {name: item["status"] for (name, family), item in found.items() if family != "ipv6"} == {
            "sip-client": "applied",
            "away": "elsewhere",
            "silent": "elsewhere",
            "skipped": "skipped",
        }
        assert found["sip-client", "ipv4"]["connections"] == 1
        # The reasons are those of the log, word for word.
        logged = " ".join(line["message"] + line.get("reason", "") for line in agent.lines())
        assert [i["reason"] for i in found.values() if i["reason"] and i["reason"] not in logged] == []

        Worker(lab).iptables(Family.IPV4, "-t", "nat", "-F")
        eventually(lambda: "repaired the rules" in agent.text(), within=WITHIN, why=agent.text)
        assert run("diff", "--prune", cluster=True).status == 0


@pytest.mark.parametrize("backend", ["nft"])
def test_what_is_changed_by_hand_is_refused_and_what_is_forced_is_put_back(
    lab: Lab, server: ApiServer, packets: Packets, run: Run, tmp_path: Path
) -> None:
    server.put("services", service_object())
    server.put("pods", pod_object())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(service_object(ports="udp:9999")))
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        before = Worker(lab).saved_tables()
        for command in (("apply", "-f", str(other)), ("flush", "--all"), ("flush", "sip/sip-client")):
            done = run(*command)
            assert done.status == 1
            assert (
                f"a kvctl agent keeps the rules of this network namespace (process {agent.process.pid}"
                in done.stderr
            )
            assert "--force" in done.stderr
        done = run("watch", "--once", cluster=True)
        assert done.status == 1
        assert f"(process {agent.process.pid}" in done.stderr
        assert "--force" not in done.stderr
        assert Worker(lab).saved_tables() == before

        for forced in (("flush", "--all", "--force"), ("apply", "--force", "-f", str(other))):
            done = run(*forced)
            assert done.status == 0, done.stderr
            eventually(lambda: Worker(lab).saved_tables() == before, within=WITHIN, why=agent.text)
        assert packets.seen() == packets.who.vip
        assert packets.seen(9999) == packets.who.worker_eth1
        assert agent.end() == 0


@pytest.mark.parametrize("backend", ["nft"])
def test_once_does_what_the_agent_would_and_prints_it_as_apply_does(
    lab: Lab, server: ApiServer, packets: Packets, run: Run
) -> None:
    put_everything(server)
    done = run("watch", "--once", cluster=True)
    assert done.status == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][0] == "SERVICE"
    assert {(row[0], row[1], row[-1]) for row in rows[1:]} == {
        (name, family, change)
        for name, change in (("sip/sip-client", "added"), ("sip/silent", "dropping"))
        for family in ("ipv4", "ipv6")
    }
    assert packets.seen() == packets.who.vip
    again = run("watch", "--once", cluster=True)
    assert (again.status, "nothing to change" in again.stderr) == (0, True)
    server.delete("services", "sip-client", namespace="sip")
    server.put("services", service_object("away", vips=AWAY, ports="5060"))
    done = run("watch", "--once", cluster=True)
    assert (done.status, "removed" in done.stdout, "write tcp:5060" in done.stderr) == (1, True, True)
    assert packets.seen() == packets.who.worker_eth1
