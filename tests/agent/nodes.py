"""Two nodes with an agent and a pod on each, one API server, and a VIP that moves between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, Addresses, Pod, Topology, standard
from kvctl.model.flows import Flow
from kvctl.model.net import Family, parse_address
from kvctl.netfilter import conntrack
from tests.agent.process import Watching, node_object, pod_object, watching
from tests.apiserver import ApiServer, listening, serving

WORKERS = ("worker", "worker-2")
PODS = {"worker": "pod", "worker-2": "pod-2"}
"""The namespace of each node's pod."""
_SECOND_POD = ("10.0.0.3", "fd00:10::3")


def two_workers(*, backend: str, vip_here: bool = True) -> Topology:
    """The standard lab with a second worker, which has a pod, too; the first one has the VIP."""
    pod = Pod(name="pod-2", worker="worker-2", addresses=_SECOND_POD)
    return standard(backend=backend, workers=2, pods=(pod,), vip_here=vip_here)


@dataclass(frozen=True)
class Nodes:
    """Both nodes while their agents run."""

    lab: Lab
    server: ApiServer
    agents: Mapping[str, Watching]
    outside: Echo
    family: Family
    """The one that packets are sent in; the VIPs of both move."""

    @property
    def who(self) -> Addresses:
        """The addresses of the standard lab."""
        return STANDARD[self.family]

    def address_of(self, worker: str) -> str:
        """The node's own address in the VIP's network."""
        own = {"worker": self.who.worker_eth1, "worker-2": self.who.worker_eth1.replace("240", "239")}
        return own[worker]

    def move(self, *, source: str | None, to: str | None) -> None:
        """Take the VIPs from one node to another, as who manages them would: gone first, then there, then told."""
        if source is not None:
            self.lab[source].batch([f"addr del {line} dev eth1" for line in _vips()])
        if to is not None:
            self.lab[to].batch([f"addr add {line} dev eth1 nodad" for line in _vips()])
            self.announce(to)

    def announce(self, worker: str) -> None:
        """From now on the outside sends what is for the VIPs to this node, whether it has them or not."""
        hardware = self.lab[worker].run(["cat", "/sys/class/net/eth1/address"]).stdout.strip()
        vips = (each.vip for each in STANDARD.values())
        self.lab.outside.batch(
            [f"neigh replace {vip} lladdr {hardware} dev eth1 nud permanent" for vip in vips]
        )

    def flows_with_vip(self, worker: str) -> list[Flow]:
        """The node's connections that carry the VIP."""
        with self.lab[worker].entered():
            return conntrack.dump(
                family=self.family, sources=(), reply_destinations=[parse_address(self.who.vip)]
            )

    def kvctl(self, worker: str, *arguments: str) -> str:
        """The standard output of a command on a node, which has to end well."""
        return self._run(worker, *arguments).stdout

    def said(self, worker: str, *arguments: str) -> str:
        """Its messages."""
        return self._run(worker, *arguments).stderr

    def _run(self, worker: str, *arguments: str) -> proc.Completed:
        done = self.lab.kvctl(*arguments, at=worker, env=self.agents[worker].settings)
        assert done.status == 0, (done.stdout, done.stderr)
        return done


def _vips() -> list[str]:
    return [f"{each.vip}/{128 if family is Family.IPV6 else 32}" for family, each in STANDARD.items()]


@contextmanager
def two_nodes(
    lab: Lab, directory: Path, *, family: Family, env: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    """Agents that run and have nothing to do yet: the API server holds both nodes and their pods, no Service."""
    with ExitStack() as stack:
        with lab.worker.entered():
            server = stack.enter_context(serving())
        with lab["worker-2"].entered():
            stack.enter_context(listening(server, port=int(server.url.rpartition(":")[2])))
        for worker in WORKERS:
            server.put("nodes", node_object(worker))
        server.put("pods", pod_object(gated=True))
        server.put("pods", pod_object("sip-client-1", addresses=_SECOND_POD, node="worker-2", gated=True))
        outside = stack.enter_context(Echo(lab.outside, ports=(5060, 8080)))
        agents = {
            worker: stack.enter_context(watching(lab, server, directory, at=worker, env=env))
            for worker in WORKERS
        }
        for agent in agents.values():
            agent.wait_ready()
        nodes = Nodes(lab=lab, server=server, agents=agents, outside=outside, family=family)
        yield nodes
        for agent in agents.values():
            assert agent.end() == 0
