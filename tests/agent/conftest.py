"""An API server inside a lab's worker, with this node and nothing else in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.model.net import Family
from tests.agent.process import node_object
from tests.apiserver import ApiServer, serving
from tests.kernel.node import Packets, show_server_the_way


@pytest.fixture
def server(lab: Lab) -> Iterator[ApiServer]:
    """Listens on the worker's loopback."""
    with ExitStack() as stack:
        with lab.worker.entered():
            it = stack.enter_context(serving())
        it.put("nodes", node_object())
        yield it


@pytest.fixture
def packets(lab: Lab) -> Iterator[Packets]:
    """What the outside sees, in IPv4: families have tests of their own elsewhere."""
    show_server_the_way(lab)
    with Echo(lab["outside"], ports=(5060, 8080, 9999)):
        yield Packets(lab, Family.IPV4)
