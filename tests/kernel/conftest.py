"""Labs whose worker is kvctl's node, with servers at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.model.net import Family
from tests.kernel.node import Packets, Worker, show_server_the_way

PORTS = (53, 443, 5060, 5061, 7000, 8000, 8050, 8100, 8101)


@pytest.fixture
def worker(lab: Lab) -> Worker:
    """The standard lab's worker, on each back end."""
    return Worker(lab)


@pytest.fixture
def packets(lab: Lab, family: Family) -> Iterator[Packets]:
    """What the outside, the server and the other pod see of the lab's pod, in each family."""
    show_server_the_way(lab)
    with ExitStack() as stack:
        for name in ("outside", "server", "peer"):
            stack.enter_context(Echo(lab[name], ports=PORTS))
        yield Packets(lab, family)
