"""The way of the program that kvctl replaces: one process for each operation on a rule, pod after pod.

What is done for a pod, and in which order, is kube-vip's (pkg/vip/egress.go): look for the chain in mangle; for
the pod network, the service network and the pod look for its rule and append it if it is missing; look for the jump of
the pod's namespace, delete it if it is there, insert it again; look for the pod's SNAT rule and insert it.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from benchmarks import clusters
from benchmarks.processes import before_others, run
from kvctl import proc
from kvctl.lab.build import built, unique_prefix
from kvctl.lab.netns import binary
from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family

_CHAIN = "ONE-BY-ONE"
_WHERE = STANDARD[Family.IPV4]


class Peer(NamedTuple):
    """What it takes for the first, the first two, … pods."""

    ends: tuple[float, ...]
    """Seconds from the beginning until each of them was done; not all may have been begun."""

    def seconds(self, pods: int) -> float:
        """For so many. What was not reached is extrapolated in proportion: less than it would take."""
        reached = min(pods, len(self.ends))
        return self.ends[reached - 1] * pods / reached

    def name(self, pods: int) -> str:
        """What it is called in a table, and how far it came."""
        reached = len(self.ends)
        return "one process per rule" + (f" (extrapolated from {reached})" if reached < pods else "")


def measured(*, backend: str, pods: int, limit: float) -> Peer:
    """Do it once, in a lab of its own; after `limit` seconds no further pod is begun."""
    ends: list[float] = []
    with built(standard(backend=backend), prefix=unique_prefix("bench")) as lab, lab.worker.entered():
        program = _Program(proc.find(f"iptables-{backend}") or binary("iptables", package="iptables"))
        begun = time.perf_counter()
        with before_others():
            for number in range(pods):
                program.add(number)
                ends.append(time.perf_counter() - begun)
                if ends[-1] > limit:
                    break
        _expect_rules(program.path, pods=len(ends))
    return Peer(tuple(ends))


class _Program:
    def __init__(self, path: str) -> None:
        self.path = path
        self._environment = dict(os.environ)
        self._null = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(self._null, True)
        self._streams = [(os.POSIX_SPAWN_DUP2, self._null, number) for number in range(3)]

    def add(self, number: int) -> None:
        """All that is done for the pod of a Service."""
        mark = ("-m", "comment", "--comment", f"a-process-a-rule-ns{number % 10}")
        if not self._does("mangle", "-S", _CHAIN, "1"):
            self._has_to("mangle", "-N", _CHAIN)
        for rule in (
            ("-d", _WHERE.pod_network, "-j", "RETURN"),
            ("-d", _WHERE.service_network, "-j", "RETURN"),
            ("-s", clusters.pod_address(number), "-j", "MARK", "--set-mark", "64/64"),
        ):
            if not self._does("mangle", "-C", _CHAIN, *rule, *mark):
                self._has_to("mangle", "-A", _CHAIN, *rule, *mark)
        jump = ("-j", _CHAIN, *mark)
        if self._does("mangle", "-C", "PREROUTING", *jump):
            self._has_to("mangle", "-D", "PREROUTING", *jump)
        self._has_to("mangle", "-I", "PREROUTING", "1", *jump)
        rewrite = (
            *("-s", f"{clusters.pod_address(number)}/32", "-m", "mark", "--mark", "64/64"),
            *("-j", "SNAT", "--to-source", clusters.vip(number)),
        )
        if not self._does("nat", "-C", "POSTROUTING", *rewrite, *mark):
            self._has_to("nat", "-I", "POSTROUTING", "1", *rewrite, *mark)

    def _does(self, table: str, *arguments: str) -> bool:
        # Nothing lighter starts a process from Python: what is measured is the program, not this.
        argv = [self.path, "-w", "-t", table, *arguments]
        process = os.posix_spawn(self.path, argv, self._environment, file_actions=self._streams)
        return os.waitpid(process, 0)[1] == 0

    def _has_to(self, table: str, *arguments: str) -> None:
        if not self._does(table, *arguments):
            raise SystemExit(f"{self.path} -t {table} {' '.join(arguments)} failed")


def _expect_rules(path: str, *, pods: int) -> None:
    written = run([path, "-w", "-t", "nat", "-S", "POSTROUTING"]).stdout.count("-j SNAT")
    if written != pods:
        raise SystemExit(f"{path} wrote {written} SNAT rules for {pods} pods")
