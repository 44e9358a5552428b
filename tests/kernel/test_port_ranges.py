"""From which ports the kernel chooses where a pod's own is taken: what `show` counts the use of a VIP against."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from kvctl.reconcile.port_use import _RANGES
from tests.builders import service
from tests.kernel.node import Worker, lab_pod

V4 = STANDARD[Family.IPV4]


@pytest.mark.parametrize(
    ("port", "span"), [(300, _RANGES[0]), (700, _RANGES[1]), (550, _RANGES[1]), (5060, _RANGES[2])]
)
def test_a_port_that_is_taken_becomes_another_of_its_range(
    worker: Worker, port: int, span: tuple[int, int]
) -> None:
    both = (lab_pod(), lab_pod("sip/sip-client-1", app="sip-client", namespace="peer"))
    worker.apply(service(vip=V4.vip), *both)
    with ExitStack() as stack:
        stack.enter_context(Echo(worker.lab.outside, ports=[7000]))
        seen = []
        for name in ("pod", "peer"):
            connection = Connection(
                worker.lab[name], destination=V4.outside_eth1, port=7000, source_port=port
            )
            seen.append(stack.enter_context(connection).ask())
    assert [each.source if each is not None else None for each in seen] == [V4.vip, V4.vip]
    first, second = (each.source_port for each in seen if each is not None)
    assert first == port
    assert second != port
    assert span[0] <= second <= span[1]
