"""An agent for as long as wanted, while everything around it happens at random and packets are sent all the time.

    scripts/soak --minutes 5 --backend legacy

Phases follow each other: changes of the cluster alone, or with faults of the API, kills of the agent, or harm to
the kernel's rules. Each ends in quiet, and then the rules, connections and others' rules have to be right. The
Service `steady` drops where its VIP is not, and its VIP comes and goes: but where rules are harmed, the outside
may never see another source of its pod.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kvctl.cluster.api import read_cluster
from kvctl.errors import KvctlError
from kvctl.lab.build import Lab, built, sweep, unique_prefix
from kvctl.lab.echo import Echo
from kvctl.lab.topology import BACKENDS, STANDARD, standard
from kvctl.lab.traffic import Sender, probe
from kvctl.model.net import Family
from tests.agent.changes import change
from tests.agent.faults import FROM_OUTSIDE, api_fault, harm
from tests.agent.process import Watching, eventually, pod_object, service_object, watching
from tests.agent.world import World, node
from tests.apiserver import serving
from tests.kernel.node import LAB_SETTINGS, VIPS
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node

PHASES = ("events", "api", "kills", "kernel")
PHASE_SECONDS = 6.0
QUIET_SECONDS = 60.0
PORTS = (5060, 5061)
_SILENCE = 0.2
"""Seconds without an answer after which there is none."""


@dataclass
class Tally:
    """What there is to tell."""

    phases: int = 0
    kills: int = 0
    repairs: int = 0
    wrong: int = 0
    """Packets with another source than the VIP, in phases where there may be none."""
    exposed: int = 0
    """The same where rules were harmed."""
    rss: list[int] = field(default_factory=list)
    """KiB, at the end of each phase."""


@dataclass
class Soak:
    """A worker, its agent, and what happens to them."""

    lab: Lab
    world: World
    directory: Path
    chance: random.Random
    echo: Echo
    tally: Tally = field(default_factory=Tally)
    vip_here: bool = True
    _life: ExitStack = field(default_factory=ExitStack)
    _agent: Watching | None = None

    @property
    def agent(self) -> Watching:
        """The one that lives."""
        assert self._agent is not None
        return self._agent

    def start(self) -> None:
        """Let an agent begin."""
        self._agent = self._life.enter_context(
            watching(self.lab, self.world.server, self.directory, module="tests.agent.hasty")
        )

    def kill(self) -> None:
        """By SIGKILL; what it said is searched for faults of kvctl."""
        ended = self.agent
        self._life.close()
        self.tally.repairs += sum(line.get("action") == "repaired" for line in ended.lines())
        ended.log.unlink()

    def phase(self, kind: str) -> None:
        """Some seconds of this, then quiet, then all has to be right."""
        self.echo.heard.clear()
        end = time.monotonic() + PHASE_SECONDS
        while time.monotonic() < end:
            self._happen(kind)
            time.sleep(self.chance.uniform(0, 0.1))
        self._check()
        wrong = sum(
            count
            for heard, count in list(self.echo.heard.items())
            if heard.destination_port in PORTS and heard.source not in VIPS
        )
        self.tally.phases += 1
        if kind == "kernel":
            self.tally.exposed += wrong
        else:
            self.tally.wrong += wrong
            assert wrong == 0, f"{wrong} packets left with another source than the VIP: {self.echo.heard}"

    def _happen(self, kind: str) -> None:
        chance = self.chance
        if chance.random() < 0.05:
            self._move_vip()
        elif kind == "kills" and chance.random() < 0.15:
            self.kill()
            self.tally.kills += 1
            self.start()
        elif kind == "api" and chance.random() < 0.4:
            api_fault(chance.choice).do(self.world)
        elif kind == "kernel" and chance.random() < 0.15:
            harm(chance.choice, kinds=FROM_OUTSIDE).do(self.world)
        else:
            change(chance.choice).do(self.world)

    def _move_vip(self) -> None:
        word, more = ("del", "") if self.vip_here else ("add", " nodad preferred_lft 0")
        four, six = VIPS
        self.lab.worker.batch([f"addr {word} {four}/32 dev eth1", f"addr {word} {six}/128 dev eth1{more}"])
        self.vip_here = not self.vip_here
        self.world.events += 1

    def _check(self) -> None:
        """Quiet: the next apply by hand has nothing to do, and packets leave as they should."""
        self.world.server.mend()
        self.agent.wait_ready()
        with self.lab.worker.entered():
            config = self.world.server.kubeconfig(self.directory / "by-hand")
            wanted = read_cluster(kubeconfig=config, context=None)
        by_hand = self.world.node
        eventually(
            lambda: not by_hand.diff(wanted, prune=True).differs, within=QUIET_SECONDS, why=self._last_words
        )
        assert self.agent.process.poll() is None, self._last_words()
        again = by_hand.apply(wanted, prune=True)
        left = (again.restores, [len(outcome.dropped) for outcome in again.outcomes])
        assert left == (0, [0, 0]), f"an apply by hand had something to do: {left}"
        assert self.world.foreign() == self.world.theirs, "another program's rules were touched"
        for family in Family:
            who = STANDARD[family]
            seen = probe(self.lab.pod, destination=who.outside_eth1, port=PORTS[0], timeout=_SILENCE)
            expected = who.vip if self.vip_here else None
            assert (seen.source if seen else None) == expected, self._last_words()
        self.tally.rss.append(_rss(self.agent.process.pid))

    def _last_words(self) -> str:
        return "\n".join(self.agent.text().splitlines()[-20:])

    def close(self) -> None:
        """The end of the last agent."""
        if self._agent is not None:
            self.kill()


def _rss(pid: int) -> int:
    """KiB that a process has in memory (proc(5), VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@contextmanager
def soaking(*, backend: str, seed: str) -> Iterator[Soak]:
    """Everything in place, an agent that is ready, and senders that do not pause."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["XTABLES_LOCKFILE"] = str(directory / "xtables.lock")
        lab = stack.enter_context(built(standard(backend=backend), prefix=unique_prefix("soak")))
        with lab.worker.entered():
            server = stack.enter_context(serving())
        by_hand = Node(lab.worker, backend=backend, settings=LAB_SETTINGS)
        for family in Family:
            for program in ("kube-proxy", "ufw"):
                by_hand.restore(rules_of(program, family), family=family)
        world = World(server, by_hand)
        world.noted()
        server.put("nodes", node("worker", "172.16.0.2"))
        drop = {"kvctl.io/without-vip": "drop"}
        server.put("services", service_object("steady", ports="udp:5060-5061", annotations=drop))
        server.put("pods", pod_object("steady-0", app="steady"))
        echo = stack.enter_context(Echo(lab.outside, ports=PORTS, protocols=("udp",)))
        it = Soak(lab, world, directory, random.Random(f"{backend} {seed}"), echo)
        stack.callback(it.close)
        it.start()
        it._check()
        for family in Family:
            to = STANDARD[family].outside_eth1
            for port, fresh in zip(PORTS, (True, False), strict=True):
                sender = Sender(
                    lab.pod, destination=to, port=port, fresh=fresh, interval=0.02, timeout=_SILENCE
                )
                stack.enter_context(sender)
        yield it


def soak(*, backend: str, minutes: float, seed: str) -> None:
    """Raises AssertionError as soon as something is wrong."""
    with soaking(backend=backend, seed=seed) as it:
        begun = said = time.monotonic()
        while time.monotonic() - begun < minutes * 60:
            it.phase(PHASES[it.tally.phases % len(PHASES)])
            if time.monotonic() - said >= 60:
                said += 60
                print(_line(it, begun), flush=True)
        it.close()
        it._agent = None
        print(f"{_line(it, begun)}: all was right", flush=True)


def _line(it: Soak, begun: float) -> str:
    world, tally = it.world, it.tally
    heard = f"{tally.wrong} wrong packets, {tally.exposed} while rules were harmed"
    return (
        f"{it.lab.topology.backend} {(time.monotonic() - begun) / 60:.1f} min: {tally.phases} phases, "
        f"{world.events} events, {world.faults} API faults, {world.harms} harms, {tally.kills} kills, "
        f"{tally.repairs} repairs told by agents that ended, {heard}, "
        f"RSS {tally.rss[0] // 1024} -> {tally.rss[-1] // 1024} MiB (most {max(tally.rss) // 1024})"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="for each back end")
    parser.add_argument("--backend", choices=(*BACKENDS, "both"), default="both")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of what happens; when is another matter")
    told = parser.parse_args()
    sweep("soak")
    for backend in BACKENDS if told.backend == "both" else (told.backend,):
        print(f"{backend}: seed {told.seed}", flush=True)
        try:
            soak(backend=backend, minutes=told.minutes, seed=told.seed)
        except KvctlError as error:
            print(f"Error: {error}\nHint: {error.hint}", file=sys.stderr)
            return 4
        except Exception:
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
