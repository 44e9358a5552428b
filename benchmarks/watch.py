"""How fast, how big, how idle: `kvctl egress watch` beside an API server, measured from outside.

    sudo python -m benchmarks.watch [--services 200] [--cluster 5000] [--pods 250] [--changes 200] [--backend nft]

From the moment a changed Pod is handed to the watchers until the commit with its rule is heard from the kernel
(legacy: until its contents differ, looked at every few milliseconds); then a burst; then what it takes to do nothing.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from kvctl.lab.build import built, unique_prefix
from kvctl.lab.topology import standard
from kvctl.model.net import Family
from kvctl.netfilter.legacy_tables import LegacyTables
from tests.agent.process import Watching, eventually, node_object, pod_object, service_object, watching
from tests.apiserver import ApiServer, Object, serving

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP = 12, 270, 1, 7
_TICKS = os.sysconf("SC_CLK_TCK")


class _Commits:
    """Hears commits of the namespace it was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
        self._socket.setblocking(False)

    def drain(self, *, quiet: float) -> int:
        """Read until nothing has come for so many seconds; how many datagrams there were."""
        count = 0
        while select.select([self._socket], [], [], quiet)[0]:
            self._socket.recv(1 << 20)
            count += 1
        return count

    def wait(self) -> float:
        """The time of the next commit."""
        if not select.select([self._socket], [], [], 30)[0]:
            raise SystemExit("no commit within 30 s")
        return time.monotonic()


class _Contents:
    """The same for legacy tables, by looking."""

    def __init__(self) -> None:
        self._tables = LegacyTables()
        self._last = self._tables.read(Family.IPV4)

    def drain(self, *, quiet: float) -> int:
        count, end = 0, time.monotonic() + quiet
        while time.monotonic() < end:
            now = self._tables.read(Family.IPV4)
            if now != self._last:
                self._last, count, end = now, count + 1, time.monotonic() + quiet
            time.sleep(0.004)
        return count

    def wait(self) -> float:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            now = self._tables.read(Family.IPV4)
            if now != self._last:
                self._last = now
                return time.monotonic()
            time.sleep(0.004)  # a look takes the kernel's lock: more of them would hold up what they wait for
        raise SystemExit("no change within 30 s")


def _address(number: int) -> str:
    return f"10.0.{number // 250}.{number % 250 + 1}"


def _fill(server: ApiServer, *, here: int, cluster: int, pods: int) -> list[Object]:
    server.put("nodes", node_object())
    for number in range(here):
        vip = f"192.168.{number // 250 + 1}.{number % 250 + 1}"
        server.put("services", service_object(f"s{number}", vips=(vip,)))
    for number in range(cluster - here):
        other = service_object(f"other{number}", vips=())
        other["metadata"]["annotations"] = {"example.com/some": "text " * 10}
        other["spec"] = {"type": "ClusterIP", "selector": {"app": f"other{number}"}, "clusterIP": "10.96.0.1"}
        server.put("services", other)
    every = [pod_object(f"p{n}", app=f"s{n % here}", addresses=(_address(n),)) for n in range(pods)]
    for each in every:
        server.put("pods", each)
    return every


def _cpu(agent: Watching) -> float:
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _status(agent: Watching, key: str) -> str:
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key + ":"))


def _latency(
    server: ApiServer, pods: list[Object], commits: _Commits | _Contents, changes: int
) -> list[float]:
    taken = []
    for number in range(changes):
        pod = pods[number % len(pods)]
        commits.drain(quiet=0.15)
        pod["status"]["podIPs"] = [{"ip": _address(1000 + number)}]
        begun = time.monotonic()
        server.put("pods", pod)
        taken.append((commits.wait() - begun) * 1000)
    return sorted(taken)


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("services", 200), ("cluster", 5000), ("pods", 250), ("changes", 200), ("idle", 30)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--backend", choices=("nft", "legacy"), default="nft")
    told = options.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["XTABLES_LOCKFILE"] = str(directory / "lock")
        lab = stack.enter_context(built(standard(backend=told.backend), prefix=unique_prefix("bench")))
        with lab.worker.entered():
            server = stack.enter_context(serving())
        server.bookmark_seconds = 60
        pods = _fill(server, here=told.services, cluster=told.cluster, pods=told.pods)
        agent = stack.enter_context(watching(lab, server, directory, "--assume-vip"))
        print(f"first full picture and rules: {agent.wait_ready():.2f} s")
        stack.enter_context(lab.worker.entered())
        commits = _Commits() if told.backend == "nft" else _Contents()
        commits.drain(quiet=1)
        taken = _latency(server, pods, commits, told.changes)
        print(
            f"event to rule, {len(taken)} changes: median {statistics.median(taken):.0f} ms, "
            f"p99 {taken[int(len(taken) * 0.99) - 1]:.0f} ms, longest {taken[-1]:.0f} ms"
        )
        for number in range(500):
            server.put("pods", pod_object(f"b{number}", app="s1", addresses=(_address(5000 + number),)))
        print(f"burst of 500 events: {_writes(agent, commits)} writes")
        for number in range(500):
            server.delete("pods", f"b{number}", namespace="sip")
        _settle(server)
        requests, before = len(server.requests), _cpu(agent)
        time.sleep(told.idle)
        used = 100 * (_cpu(agent) - before) / told.idle
        asked = Counter(f"{r.method} {r.resource}" for r in server.requests[requests:])
        print(f"idle for {told.idle} s: {used:.2f} % of a core; requests: {dict(asked) or 'none'}")
        print(f"memory: {_status(agent, 'VmRSS')} now, {_status(agent, 'VmHWM')} at most")
        eventually(lambda: agent.process.poll() is None)


def _settle(server: ApiServer) -> None:
    """Wait until what is still to be told (Events, a few a second) has been."""
    seen = -1
    while seen != len(server.requests):
        seen = len(server.requests)
        time.sleep(3)


def _writes(agent: Watching, commits: _Commits | _Contents) -> int:
    before = _restores(agent)
    commits.drain(quiet=2)
    return _restores(agent) - before


def _restores(agent: Watching) -> int:
    for line in agent.ask("/metrics")[1].splitlines():
        if line.startswith("kvctl_restores_total "):
            return int(float(line.split()[1]))
    return 0


if __name__ == "__main__":
    main()
