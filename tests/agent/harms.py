"""What happens to an agent that holds a VIP, and what undoes it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.agent.electing import Electing
from tests.agent.process import eventually

Harm = Callable[[Electing, str], None]


def kill(nodes: Electing, worker: str) -> None:
    """The agent dies."""
    nodes.agents[worker].process.kill()


def stop(nodes: Electing, worker: str) -> None:
    """The agent hangs."""
    os.kill(nodes.agents[worker].process.pid, signal.SIGSTOP)


def go_on(nodes: Electing, worker: str) -> None:
    """The agent that hung goes on where it was."""
    os.kill(nodes.agents[worker].process.pid, signal.SIGCONT)


def cut_off(nodes: Electing, worker: str) -> None:
    """The node alone does not reach the API server: what it sends there is lost."""
    nodes.lab[worker].batch(["addr del 127.0.0.1/8 dev lo"])


HARMS = (kill, stop, cut_off)


def revive(nodes: Electing, worker: str, harm: Harm) -> None:
    """The agent of the node is as it was before the harm."""
    if harm == kill:
        nodes.start(worker)
    elif harm == stop:
        go_on(nodes, worker)
    else:
        nodes.lab[worker].batch(["addr add 127.0.0.1/8 dev lo"])
    eventually(nodes.agents[worker].ready, why=nodes.told)


def cordon(nodes: Electing, worker: str) -> None:
    """`kubectl drain` begins."""
    node = nodes.server.get("nodes", worker)
    assert node is not None
    node["spec"]["unschedulable"] = True
    nodes.server.put("nodes", node)
