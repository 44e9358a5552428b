"""Agents that end, die, follow one another, and begin without an API server: what becomes of rules and packets."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.traffic import Sender, probe
from kvctl.model.net import Family, parse_address
from kvctl.netfilter import conntrack
from tests.agent.process import eventually, node_object, pod_object, service_object, watching
from tests.apiserver import ApiServer, Hang, listening, lists
from tests.builders import service
from tests.kernel.node import VIPS, Packets, Worker, lab_pod

QUICK = 5.0
"""Seconds in which an agent ends, whatever it waits for."""


def put_both(server: ApiServer) -> None:
    """A Service that is rewritten here, and one whose VIP is elsewhere and whose pod's traffic is dropped."""
    away = {"kvctl.io/without-vip": "drop"}
    server.put("services", service_object())
    server.put("pods", pod_object())
    server.put("services", service_object("away", vips=("192.0.2.77", "2001:db8:9::77"), annotations=away))
    server.put("pods", pod_object("away-0", app="away", addresses=("10.0.0.2", "fd00:10::2")))


def is_dropped(packets: Packets) -> bool:
    """Whether nothing comes back to the pod whose traffic is to be dropped."""
    return probe(packets.lab["peer"], destination=packets.who.outside_eth1, port=5060, timeout=0.1) is None


@contextmanager
def sending(packets: Packets) -> Iterator[list[Sender]]:
    """New connections without a pause, and ones that stay, of UDP and of TCP."""
    with ExitStack() as stack:
        senders = [
            stack.enter_context(
                Sender(
                    packets.lab.pod,
                    destination=packets.who.outside_eth1,
                    port=port,
                    protocol=protocol,
                    fresh=fresh,
                    interval=0.003,
                )
            )
            for protocol, port in (("udp", 5060), ("tcp", 8080))
            for fresh in (True, False)
        ]
        for sender in senders:
            sender.wait_for(5)
        yield senders


def test_a_sender_is_never_interrupted_while_agents_end_die_and_follow(
    lab: Lab, server: ApiServer, packets: Packets, tmp_path: Path
) -> None:
    put_both(server)
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        with sending(packets) as senders:
            assert agent.end(signal.SIGTERM) == 0
            assert "the rules stay in the kernel" in agent.text()
            with watching(lab, server, tmp_path) as following:
                following.wait_ready()
                assert following.end(signal.SIGKILL) == -signal.SIGKILL
            assert is_dropped(packets)
            for sender in senders:
                sender.wait_for(5)
    assert [(set(s.sources), s.unanswered) for s in senders] == [({packets.who.vip}, 0)] * 4


def test_an_agent_told_to_clean_leaves_nothing_of_its_own_and_everything_of_others(
    lab: Lab, server: ApiServer, packets: Packets, tmp_path: Path
) -> None:
    worker = Worker(lab)
    for family in Family:
        worker.iptables(family, "-t", "mangle", "-N", "OTHERS")
        worker.iptables(family, "-t", "mangle", "-A", "POSTROUTING", "-p", "udp", "-j", "OTHERS")
        worker.iptables(family, "-t", "nat", "-N", "KVCTL")  # not ours: ours begin with KVCTL-
    before = worker.saved_tables()
    put_both(server)
    with watching(lab, server, tmp_path, env={"egress_clean": "true"}) as agent:
        agent.wait_ready()
        assert packets.seen() == packets.who.vip
        assert is_dropped(packets)
        assert worker.saved_tables() != before
        with sending(packets) as senders:
            assert agent.end() == 0
            assert "the rules are removed (egress_clean)" in agent.text()
            assert worker.saved_tables() == before
            with lab.worker.entered():
                vips = [parse_address(packets.who.vip)]
                assert conntrack.dump(family=packets.family, sources=(), reply_destinations=vips) == []
            for sender in senders[:2]:
                sender.wait_for(2)
                sender.sources.clear()
                sender.wait_for(2)
                assert set(sender.sources) == {packets.who.worker_eth1}
    assert not is_dropped(packets)


@pytest.mark.parametrize("clean", ["false", "true"])
@pytest.mark.parametrize("backend", ["nft"])
def test_before_the_first_full_picture_it_ends_at_once_and_as_it_was_told(
    lab: Lab, server: ApiServer, packets: Packets, tmp_path: Path, clean: str
) -> None:
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    server.fail(Hang(), on=lists("pods"), times=None)
    with watching(lab, server, tmp_path, env={"egress_clean": clean}) as agent:
        eventually(lambda: bool(server.asked(lists("pods"))), why=agent.text)
        assert agent.ask("/healthz")[0] == 200
        assert agent.ask("/readyz")[0] == 503
        os.kill(agent.process.pid, signal.SIGTERM)
        assert agent.process.wait(QUICK) == 0
    assert packets.seen() == (packets.who.worker_eth1 if clean == "true" else packets.who.vip)


def slow(directory: Path, name: str) -> tuple[Path, Path]:
    """A directory to put in front of PATH, with a program that says when it begins and takes a while; that word."""
    real = proc.find(name)
    assert real is not None
    begun = directory / "begun"
    programs = directory / "programs"
    programs.mkdir()
    (programs / name).write_text(f'#!/bin/sh\necho $$ >> {begun}\nsleep 0.7\nexec {real} "$@"\n')
    (programs / name).chmod(0o755)
    return programs, begun


def test_a_write_that_has_begun_is_finished(
    lab: Lab, server: ApiServer, packets: Packets, tmp_path: Path
) -> None:
    programs, begun = slow(tmp_path, f"iptables-{lab.topology.backend}-restore")
    put_both(server)
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    with watching(lab, server, tmp_path, env=env) as agent:
        eventually(begun.exists, why=agent.text)
        os.kill(agent.process.pid, signal.SIGTERM)
        assert agent.process.wait(3 * QUICK) == 0
    assert packets.seen() == packets.who.vip
    assert is_dropped(packets)
    assert {str(item.status) for item in Worker(lab).listed()} == {"applied", "elsewhere"}


@pytest.mark.parametrize("backend", ["nft"])
def test_a_second_agent_refuses_beside_a_living_one_and_says_which(
    lab: Lab, server: ApiServer, tmp_path: Path
) -> None:
    with watching(lab, server, tmp_path) as first:
        first.wait_ready()
        with watching(lab, server, tmp_path, "--listen", "off") as second:
            assert second.process.wait(QUICK) == 1
        who = f"process {first.process.pid}, node worker, version "
        assert f"Error: another kvctl agent lives in this network namespace: {who}" in second.text()
        assert "Hint: one agent a node" in second.text()
        assert first.ready()
        first.process.kill()
        first.process.wait(QUICK)
    with watching(lab, server, tmp_path) as third:
        third.wait_ready()


@pytest.mark.parametrize("backend", ["nft"])
def test_without_an_api_server_it_waits_says_so_and_leaves_the_rules_alone(
    lab: Lab, packets: Packets, tmp_path: Path
) -> None:
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    server = ApiServer()
    server.put("nodes", node_object())
    with lab.worker.entered(), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"
    with watching(lab, server, tmp_path) as agent:
        eventually(lambda: "the first full picture" in agent.ask("/readyz")[1], why=agent.text)
        assert [agent.ask(page)[0] for page in ("/readyz", "/healthz")] == [503, 200]
        eventually(
            lambda: "connection refused; trying again, the rules stay as they are" in agent.text(),
            why=agent.text,
        )
        assert "connection refused" in agent.ask("/readyz")[1]
        assert packets.seen() == packets.who.vip
        # A Service that has gone meanwhile goes when the server is there to say so.
        with lab.worker.entered(), listening(server, port=port):
            agent.wait_ready()
            assert packets.seen() == packets.who.worker_eth1
            eventually(lambda: "the cluster is heard, after" in agent.text(), why=agent.text)
            assert agent.end() == 0
    assert server.complaints == []
