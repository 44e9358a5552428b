"""`kvctl egress watch` from end to end: a process, an API server, a kernel, packets."""

from __future__ import annotations

import signal
from pathlib import Path

from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from tests.agent.process import eventually, pod_object, service_object, watching
from tests.apiserver import ApiServer
from tests.kernel.node import Packets

VIP, NODE = STANDARD[Family.IPV4].vip, STANDARD[Family.IPV4].worker_eth1


def test_from_nothing_to_the_vip_and_back(
    lab: Lab, server: ApiServer, packets: Packets, tmp_path: Path
) -> None:
    server.put("services", service_object())
    server.put("pods", pod_object())
    with watching(lab, server, tmp_path) as agent:
        agent.wait_ready()
        assert packets.seen() == VIP
        assert packets.seen(9999) == NODE
        listed = lab.kvctl("egress", "list").stdout
        assert "sip/sip-client" in listed
        assert "applied" in listed

        server.delete("services", "sip-client", namespace="sip")
        eventually(lambda: packets.seen() == NODE, why=agent.text)
        server.put("services", service_object())
        eventually(lambda: packets.seen() == VIP, why=agent.text)
        assert agent.end(signal.SIGTERM) == 0
    # A rolling update of the agent interrupts nobody.
    assert packets.seen() == VIP
    assert [event["reason"] for event in server.objects("events")]
