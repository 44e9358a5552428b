"""What many VIPs cost, and how fast they change hands: three agents in election mode, measured from outside.

    sudo python -m benchmarks.election [--services 200] [--terms 15/10/2] [--shared 1] [--dual] [--backend nft]

Each Service has a VIP of its own and a pod on each node; --shared says how many of them share one Lease. First they
are created all at once; then nothing happens for a while; then one node is drained, and later another killed. Some
pods send all the time in the last two, and the outside notes by the kernel's clock whose packets carry which VIP.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.packets import sending, sink
from kvctl.lab.build import Lab, built, unique_prefix
from kvctl.lab.ear import Ear
from kvctl.lab.topology import Pod, Topology, standard
from kvctl.node.addresses import bound
from kvctl.signals import orderly
from tests.agent.electing import SETTINGS, WORKERS
from tests.agent.process import Watching, node_object, pod_object, service_object, watching
from tests.apiserver import ApiServer, Object, Request, listening, serving

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_GAP = 0.05
_MANY = {worker: f"many-{number}" for number, worker in enumerate(WORKERS, 1)}
"""The namespace that stands for all pods of a node."""


class _Told(NamedTuple):
    """What the command line says."""

    services: int
    shared: int
    terms: str
    dual: bool
    backend: str
    idle: float
    samples: int


class _Stamped(list[Request]):
    """Requests, with the times at which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, request: Request) -> None:
        self.times.append(time.monotonic())
        super().append(request)


class _Cluster:
    """The nodes, and what happens to them."""

    def __init__(self, lab: Lab, server: ApiServer, directory: Path, told: _Told, stack: ExitStack) -> None:
        self.lab = lab
        self.server = server
        self.told = told
        self.requests = _Stamped()
        self.agents: dict[str, Watching] = {}
        self._directory = directory
        self._stack = stack
        server.requests = self.requests
        self.vips = [vip for number in range(told.services) for vip in _vips(number, dual=told.dual)]

    def start(self, worker: str) -> None:
        """Run the agent of a node; it does not tell Events, which come a few a second for a long time."""
        names = ("vip_leaseduration", "vip_renewdeadline", "vip_retryperiod")
        terms = dict(zip(names, self.told.terms.split("/"), strict=True))
        env = {
            **SETTINGS,
            **terms,
            "egress_events": "false",
            "egress_vipranges": "192.168.0.0/16,2001:db8:1::/64",
        }
        self.agents[worker] = self._stack.enter_context(
            watching(self.lab, self.server, self._directory, at=worker, env=env)
        )

    def spread(self) -> dict[str, int]:
        """How many VIPs each node has."""
        return {worker: len(its) for worker, its in self._having().items()}

    def until_placed(self, *, but: str | None = None, since: float) -> float:
        """Wait until each VIP is on a node, none on `but`; the seconds from `since`."""
        end = time.monotonic() + 90
        while time.monotonic() < end:
            having = self._having()
            others = [address for worker, its in having.items() if worker != but for address in its]
            if len(others) == len(self.vips) and not having.get(but or ""):
                return time.monotonic() - since
            time.sleep(_LOOK_GAP)
        raise SystemExit(f"not placed within 90 s: {self.spread()}")

    def _having(self) -> dict[str, list[str]]:
        found = {}
        for worker in WORKERS:
            with self.lab[worker].entered():
                found[worker] = [str(each.address) for each in bound()]
        return found

    def until_quiet(self) -> None:
        """Wait until nothing but Leases is asked for."""
        end = time.monotonic() + 40
        seen = -1
        while time.monotonic() < end and seen != (seen := sum(r.resource != "leases" for r in self.requests)):
            time.sleep(3)

    def most_loaded(self) -> str:
        """The node with the most VIPs."""
        spread = self.spread()
        return max(spread, key=lambda worker: spread[worker])


def _vips(number: int, *, dual: bool) -> tuple[str, ...]:
    v4 = f"192.168.{number // 230}.{number % 230 + 1}"
    return (v4, f"2001:db8:1::1:{number:x}") if dual else (v4,)


def _pods(worker: int, count: int, *, dual: bool) -> list[tuple[str, ...]]:
    """The addresses of a node's pods, one a Service."""
    found: list[tuple[str, ...]] = []
    for number in range(count):
        v4 = f"10.0.{64 * (worker + 1) + number // 250}.{number % 250 + 1}"
        found.append((v4, f"fd00:10::{worker + 1}:{number:x}") if dual else (v4,))
    return found


def _topology(told: _Told) -> Topology:
    pods = tuple(
        Pod(
            name=_MANY[worker],
            worker=worker,
            addresses=tuple(a for its in _pods(number, told.services, dual=told.dual) for a in its),
        )
        for number, worker in enumerate(WORKERS)
    )
    return standard(backend=told.backend, workers=len(WORKERS), pods=pods, vip_here=False)


def _service(number: int, told: _Told) -> Object:
    annotations = {"kube-vip.io/loadbalancerIPs": ",".join(_vips(number, dual=told.dual))}
    if told.shared > 1:
        annotations["kube-vip.io/leaseName"] = f"shared-{number // told.shared}"
    return service_object(f"s{number}", vips=(), annotations=annotations)


def _fill(server: ApiServer, told: _Told) -> None:
    for place, worker in enumerate(WORKERS):
        server.put("nodes", node_object(worker))
        for number, addresses in enumerate(_pods(place, told.services, dual=told.dual)):
            pod = pod_object(f"{worker}-{number}", app=f"s{number}", addresses=addresses, node=worker)
            pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
            server.put("pods", pod)


@contextmanager
def _sending(cluster: _Cluster) -> Iterator[Ear]:
    """Some pods of each node send, and the outside listens."""
    told = cluster.told
    chosen = range(0, told.services, max(1, told.services // told.samples))
    with ExitStack() as stack:
        stack.enter_context(sink(cluster.lab))
        ear = stack.enter_context(Ear(cluster.lab, [_vips(n, dual=False)[0] for n in chosen]))
        for place, worker in enumerate(WORKERS):
            pods = _pods(place, told.services, dual=False)
            stack.enter_context(sending(cluster.lab[_MANY[worker]], sources=[pods[n][0] for n in chosen]))
        time.sleep(1)
        yield ear


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _memory(agent: Watching) -> str:
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:"))
    return f"{int(kilobytes) / 1024:.0f} MB"


def _rounds(agent: Watching) -> int:
    lines = agent.ask("/metrics")[1].splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("kvctl_syncs_total{")))


def _placing(cluster: _Cluster) -> None:
    told, before = cluster.told, {w: _cpu(a.process.pid) for w, a in cluster.agents.items()}
    begun = time.monotonic()
    for number in range(told.services):
        cluster.server.put("services", _service(number, told))
    taken = cluster.until_placed(since=begun)
    used = ", ".join(f"{_cpu(a.process.pid) - before[w]:.1f}" for w, a in cluster.agents.items())
    print(
        f"{told.services} Services, from their creation to all {len(cluster.vips)} VIPs placed: {taken:.2f} s"
    )
    print(f"  spread {_spread(cluster)}; seconds of CPU {used}; rounds {_all_rounds(cluster)}")
    cluster.until_quiet()


def _resting(cluster: _Cluster) -> None:
    agents, idle = cluster.agents, cluster.told.idle
    rounds, first = _all_rounds(cluster), len(cluster.requests)
    before, own, begun = (
        {w: _cpu(a.process.pid) for w, a in agents.items()},
        time.process_time(),
        time.monotonic(),
    )
    time.sleep(idle)
    passed = time.monotonic() - begun
    used = ", ".join(f"{100 * (_cpu(a.process.pid) - before[w]) / passed:.1f} %" for w, a in agents.items())
    own = 100 * (time.process_time() - own) / passed
    asked = Counter(f"{r.method} {r.resource}" for r in cluster.requests[first:])
    rates = ", ".join(f"{name} {count / passed:.1f}" for name, count in asked.most_common())
    print(f"at rest for {passed:.0f} s: requests a second: {asked.total() / passed:.1f} in all; {rates}")
    times = cluster.requests.times[first:]
    busiest = max(Counter(int(at * 10) for at in times).values(), default=0)
    print(f"  busiest tenth of a second: {busiest}, on average {len(times) / passed / 10:.1f}")
    print(f"  CPU of each agent, of a core: {used} (of the API server: {own:.0f} %)")
    print(
        f"  memory {', '.join(map(_memory, agents.values()))}; rounds {rounds}, then {_all_rounds(cluster)}"
    )


def _losing(cluster: _Cluster, what: str, harm: Callable[[str], None]) -> None:
    """A node goes: how long until all VIPs are with others, and for how long the outside misses them."""
    node = cluster.most_loaded()
    count = cluster.spread()[node]
    with _sending(cluster) as ear:
        before = {vip: packets[-1].worker for vip, packets in ear.packets.items() if packets}
        harm(node)
        begun = time.monotonic()
        taken = cluster.until_placed(but=node, since=begun)
        time.sleep(2)
    moved = [vip for vip, was in before.items() if was == node]
    gaps = sorted(ear.longest_gap(vip) for vip in moved)
    twice = sum(ear.changes(vip) for vip in moved) - len(moved)
    print(f"{what}: {count} VIPs of {node} with others after {taken:.2f} s; spread {_spread(cluster)}")
    if gaps:
        print(
            f"  {len(gaps)} of them watched: gaps of {gaps[0]:.2f} to {gaps[-1]:.2f} s; more changes than one: {twice}"
        )
    kept = sorted(ear.longest_gap(vip) for vip in before.keys() - set(moved))
    if kept:
        print(f"  {len(kept)} watched that stay where they are: longest gap {kept[-1]:.2f} s")


def _drain(cluster: _Cluster, node: str) -> None:
    there = cluster.server.get("nodes", node)
    assert there is not None
    there["spec"]["unschedulable"] = True
    cluster.server.put("nodes", there)
    time.sleep(0.5)
    cluster.agents[node].process.terminate()


def _return(cluster: _Cluster, node: str) -> None:
    """The drained node comes back, and nothing moves for it."""
    status = cluster.agents[node].process.wait(60)
    cluster.server.put("nodes", node_object(node))
    cluster.start(node)
    cluster.agents[node].wait_ready()
    cluster.until_quiet()
    print(f"the agent of {node} ended with {status}; back again: spread {_spread(cluster)}")


def _all_rounds(cluster: _Cluster) -> str:
    return "/".join(str(_rounds(agent)) for agent in cluster.agents.values())


def _spread(cluster: _Cluster) -> str:
    return "/".join(map(str, cluster.spread().values()))


def main() -> None:
    """Print the figures."""
    told = _told()
    with orderly(), ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["XTABLES_LOCKFILE"] = str(directory / "lock")
        lab = stack.enter_context(built(_topology(told), prefix=unique_prefix("bench")))
        with lab.worker.entered():
            server = stack.enter_context(serving())
        server.bookmark_seconds = 60
        for worker in WORKERS[1:]:
            with lab[worker].entered():
                stack.enter_context(listening(server, port=int(server.url.rpartition(":")[2])))
        _fill(server, told)
        cluster = _Cluster(lab, server, directory, told, stack)
        for worker in WORKERS:
            cluster.start(worker)
        for agent in cluster.agents.values():
            agent.wait_ready()
        _placing(cluster)
        _resting(cluster)
        drained = cluster.most_loaded()
        _losing(cluster, "drained", lambda node: _drain(cluster, node))
        _return(cluster, drained)
        _losing(cluster, "killed", lambda node: cluster.agents[node].process.kill())


def _told() -> _Told:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--services", type=int, default=200)
    options.add_argument("--shared", type=int, default=1, help="Services that share one Lease")
    options.add_argument("--terms", default="15/10/2", help="lease duration, renew deadline, retry period")
    options.add_argument("--dual", action="store_true", help="a VIP of each family")
    options.add_argument("--backend", choices=("nft", "legacy"), default="nft")
    options.add_argument("--idle", type=float, default=30, help="seconds at rest")
    options.add_argument("--samples", type=int, default=24, help="Services whose packets are watched")
    return _Told(**vars(options.parse_args()))


if __name__ == "__main__":
    main()
