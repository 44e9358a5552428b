"""Three nodes in election mode, a pod on each, one API server, and an outside that learns by ARP who has the VIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvctl.election.terms import Terms
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, Addresses, Pod, Topology, standard
from kvctl.lab.traffic import Sender
from kvctl.model.net import Family
from tests.agent.process import Watching, eventually, node_object, pod_object, service_object, watching
from tests.apiserver import ApiServer, Object, listening, serving

WORKERS = ("worker", "worker-2", "worker-3")
PODS = {"worker": "pod", "worker-2": "pod-2", "worker-3": "pod-3"}
"""The namespace of each node's pod."""
NAMES = {"worker": "sip-client-0", "worker-2": "sip-client-1", "worker-3": "sip-client-2"}
"""The Pod of each node."""
LEASE = "kubevip-sip-client"
TERMS = {"vip_leaseduration": "3", "vip_renewdeadline": "2", "vip_retryperiod": "1"}
SETTINGS = {
    **TERMS,
    "svc_election": "true",
    "egress_vipranges": "192.168.0.0/24,2001:db8:1::/64",
    "vip_servicesinterface": "eth1",
}
_ADDRESSES = {
    "worker": (STANDARD[Family.IPV4].pod, STANDARD[Family.IPV6].pod),
    "worker-2": ("10.0.0.3", "fd00:10::3"),
    "worker-3": ("10.0.0.4", "fd00:10::4"),
}


def three_workers(*, backend: str) -> Topology:
    """The standard lab with two more workers, each with a pod; nobody has the VIP."""
    pods = tuple(Pod(name=PODS[w], worker=w, addresses=_ADDRESSES[w]) for w in WORKERS[1:])
    return standard(backend=backend, workers=3, pods=pods, vip_here=False)


def elected_service(name: str = "sip-client", **more: Any) -> Object:
    """A Service that names its VIPs by annotation: kvctl is to place them."""
    vips = ",".join(each.vip for each in STANDARD.values())
    annotations = {"kube-vip.io/loadbalancerIPs": vips, **more.pop("annotations", {})}
    return service_object(name, vips=(), annotations=annotations, **more)


def elected_pod(worker: str, *, ready: bool = True) -> Object:
    """The Pod of a node."""
    pod = pod_object(NAMES[worker], addresses=_ADDRESSES[worker], node=worker)
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    return pod


@dataclass
class Electing:
    """The nodes while their agents run."""

    lab: Lab
    server: ApiServer
    outside: Echo
    family: Family
    directory: Path
    env: Mapping[str, str]
    module: str = "kvctl"
    """What Python runs as the agents."""
    agents: dict[str, Watching] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def who(self) -> Addresses:
        """The addresses of the standard lab."""
        return STANDARD[self.family]

    @property
    def terms(self) -> Terms:
        """Those that the agents are told."""
        told = {**SETTINGS, **self.env}
        names = ("vip_leaseduration", "vip_renewdeadline", "vip_retryperiod")
        return Terms(*(float(told[name]) for name in names))

    def start(self, worker: str) -> Watching:
        """Run the agent of a node (again)."""
        agent = self._stack.enter_context(
            watching(
                self.lab,
                self.server,
                self.directory,
                at=worker,
                env={**SETTINGS, **self.env},
                module=self.module,
            )
        )
        self.agents[worker] = agent
        return agent

    def lease(self, name: str = LEASE) -> Object:
        """The spec of a Lease; empty if there is none."""
        found = self.server.get("leases", name, namespace="sip")
        return dict(found["spec"]) if found is not None else {}

    def holder(self) -> str | None:
        """The node that the Lease names."""
        named = self.lease().get("holderIdentity") or ""
        return named.removeprefix("kvctl/") or None

    def having(self, address: str | None = None) -> set[str]:
        """The nodes that have the VIP on an interface."""
        wanted = address or self.who.vip
        return {w for w in WORKERS if f"{wanted}/" in self.lab[w].run(["ip", "-o", "addr", "show"]).stdout}

    def settled(self, *, on: str | None = None) -> str:
        """Wait until one node holds the Lease, has the VIP and is named by the Service; which one."""

        def so() -> bool:
            holder = self.holder()
            if holder is None or (on is not None and holder != on):
                return False
            service = self.server.get("services", "sip-client", namespace="sip")
            named = (service or {}).get("metadata", {}).get("annotations", {}).get("kube-vip.io/vipHost")
            return self.having() == {holder} and named == holder

        eventually(so, why=self.told)
        holder = self.holder()
        assert holder is not None
        return holder

    def kernel_is_clean(self, worker: str) -> bool:
        """Whether no rule of kvctl's rewrites on a node."""
        saved = self.lab[worker].run([f"iptables-{self.lab.topology.backend}-save"]).stdout
        return "--to-source" not in "".join(line for line in saved.splitlines() if "KVCTL-" in line)

    def told(self) -> str:
        """All logs, for a failure's sake."""
        return "\n".join(f"--- {w}\n{agent.text()}" for w, agent in self.agents.items()) + str(self.lease())


@contextmanager
def three_nodes(
    lab: Lab,
    directory: Path,
    *,
    family: Family,
    env: Mapping[str, str] | None = None,
    module: str = "kvctl",
    then: Callable[[ApiServer], None] = lambda server: None,
) -> Iterator[Electing]:
    """Agents that run, with all pods ready; `then` puts further objects before they start."""
    with ExitStack() as stack:
        with lab.worker.entered():
            server = stack.enter_context(serving())
        for worker in WORKERS[1:]:
            with lab[worker].entered():
                stack.enter_context(listening(server, port=int(server.url.rpartition(":")[2])))
        for worker in WORKERS:
            server.put("nodes", node_object(worker))
            server.put("pods", elected_pod(worker))
        then(server)
        outside = stack.enter_context(Echo(lab.outside, ports=(5060, 8080)))
        nodes = Electing(lab, server, outside, family, directory, env or {}, module)
        stack.enter_context(nodes._stack)
        for worker in WORKERS:
            nodes.start(worker)
        for agent in nodes.agents.values():
            agent.wait_ready()
        yield nodes


@contextmanager
def senders(
    nodes: Electing, *families: Family, pods: Mapping[str, str] = PODS, timeout: float = 0.05
) -> Iterator[dict[str, list[Sender]]]:
    """In a pod of each node senders that never pause: UDP each from a new port and all from one, TCP.

    In the nodes' family if none is named.
    """
    with ExitStack() as stack:
        yield {
            worker: [
                stack.enter_context(
                    Sender(
                        nodes.lab[pods[worker]],
                        destination=STANDARD[family].outside_eth1,
                        port=8080 if protocol == "tcp" else 5060,
                        protocol=protocol,
                        fresh=fresh,
                        interval=0.005,
                        timeout=timeout,
                    )
                )
                for family in families or (nodes.family,)
                for protocol, fresh in (("udp", True), ("udp", False), ("tcp", True))
            ]
            for worker in WORKERS
        }


def until_all_have_the_vip(nodes: Electing, several: Iterable[Sender]) -> None:
    """Wait until each gets answers to what it sends with the VIP (of its family) from now on."""
    for sender in several:
        sender.sources.clear()
        eventually(
            lambda: max(sender.sources[who.vip] for who in STANDARD.values()) > 3,  # noqa: B023
            why=nodes.told,
        )
