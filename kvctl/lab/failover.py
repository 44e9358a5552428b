"""The story of a VIP that moves, by command and by a kill -9: who holds it, what the outside sees, how long it took."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from kvctl import proc
from kvctl.errors import KvctlError
from kvctl.lab.api.kinds import Object
from kvctl.lab.api.objects import ApiObjects
from kvctl.lab.api.server import KUBECONFIG, serving
from kvctl.lab.build import Lab, built, sweep, unique_prefix
from kvctl.lab.echo import Echo
from kvctl.lab.electing import (
    DURATION,
    LEASE,
    NAMESPACE,
    RETRY,
    SERVICE,
    Node,
    asking_service,
    in_memory,
    objects_of,
    require_root,
    start_agent,
    topology_of,
)
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.lab.witness import Witness, longest_silence
from kvctl.model.lease import IDENTITY_PREFIX
from kvctl.model.net import Family

_WHO = STANDARD[Family.IPV4]
_ASKED, _HEARD = 8080, 5060
"""The port of single questions, and that of the senders which never pause."""

_MOVE_SECONDS = 1.0
_FAILOVER_SECONDS = float(DURATION + 3 * RETRY)
_PATIENCE = 30.0
_ANSWER_SECONDS = 0.3
_PROCESS_SECONDS = 10.0
_STEADY = 20
"""As many packets with the VIP from one pod in a row, and it is there."""
_LOG_LINES = 12

_NOTHING = "nothing"


class _Row(NamedTuple):
    """How things stand on a node."""

    node: str
    agent: str
    lease: bool
    vip: bool
    sees: str
    """The source that the outside sees of the pod."""


def run(*, backend: str, workers: int, say: Callable[[str], None]) -> None:
    """Build a lab with so many workers, walk through the story, remove all; `say` takes one line.

    Raises NetfilterUnavailableError without root (`require_root`), KvctlError at the first thing that is not as
    promised, and whatever building a lab raises.
    """
    require_root()
    sweep("demo")
    topology, nodes = topology_of(backend=backend, workers=workers)
    with ExitStack() as stack:
        lab = stack.enter_context(built(topology, prefix=unique_prefix("demo")))
        stack.enter_context(Echo(lab.outside, ports=(_ASKED,), protocols=("tcp",)))
        objects = stack.enter_context(serving([lab[node.name] for node in nodes]))
        for kind, value in objects_of(nodes):
            objects.put(kind, value)
        story = _Story(lab, objects, nodes, say)
        story.before()
        stack.enter_context(story.agents())
        first = story.begin()
        witness = Witness(
            {node.pod: lab[node.pod] for node in nodes},
            outside=lab.outside,
            destination=_WHO.outside_eth1,
            port=_HEARD,
        )
        with witness:
            second = story.move(witness, first)
            story.kill(witness, second)
    say("")
    say("All as promised. The lab has been removed.")


class _Story:
    """The steps, each with what has to be so after it."""

    def __init__(
        self, lab: Lab, objects: ApiObjects, nodes: Sequence[Node], say: Callable[[str], None]
    ) -> None:
        self._lab = lab
        self._objects = objects
        self._nodes = nodes
        self._say = say
        self._agents: dict[str, proc.Running] = {}
        self._killed: set[str] = set()
        self._kubeconfig = ""

    def before(self) -> None:
        """Nobody has the VIP."""
        self._tell(
            f"{len(self._nodes)} workers with a pod each, iptables back end {self._lab.topology.backend}."
        )
        self._tell("1. Before: no agent, no VIP; each pod leaves as its node.")
        wanted = {node.name: _Row(node.name, "none", False, False, node.address) for node in self._nodes}
        self._until(lambda: wanted, what="each pod leaves as its node")

    @contextmanager
    def agents(self) -> Iterator[None]:
        """One on each node, until the end of the block; where that is an error, with the ends of their logs."""
        with in_memory(KUBECONFIG) as self._kubeconfig, ExitStack() as stack:
            logs: dict[str, list[str]] = {}
            for node in self._nodes:
                self._agents[node.name] = start_agent(self._lab, node, kubeconfig=self._kubeconfig)
                stack.callback(self._end, node.name, logs)
            try:
                yield
            except KvctlError:
                stack.close()
                for name, lines in logs.items():
                    self._tell(f"The agent on {name} said last:")
                    for line in lines[-_LOG_LINES:]:
                        self._say(f"  {line}")
                raise

    def _end(self, name: str, logs: dict[str, list[str]]) -> None:
        agent = self._agents[name]
        agent.kill()
        logs[name] = agent.finish(deadline=_PROCESS_SECONDS).stderr.splitlines()

    def begin(self) -> Node:
        """A Service asks for the VIP; the node that has it then."""
        self._tell(
            f"2. A Service asks for egress with {_WHO.vip}, and for silence rather than another address (drop).\n"
            f"   The agents contend for its Lease, which lasts {DURATION} s and is renewed each {RETRY} s."
        )
        self._say("")
        self._say(f"  {', '.join(node.name for node in self._nodes)}# kvctl egress watch --elect")
        self._objects.put("services", asking_service())
        return self._settled(of=self._nodes)

    def move(self, witness: Witness, first: Node) -> Node:
        """Hand over by command."""
        second = self._nodes[(self._nodes.index(first) + 1) % len(self._nodes)]
        self._tell("3. A planned move, while all pods send without a pause.")
        argv = ("egress", "move", f"{NAMESPACE}/{SERVICE}", "--to", second.name)
        self._steady(witness, first)
        begun = time.monotonic()
        self._say("")
        self._say(f"  {first.name}# {' '.join(('kvctl', *argv))}")
        done = self._lab.kvctl(*argv, "--kubeconfig", self._kubeconfig, at=first.name)
        for line in (done.stdout + done.stderr).splitlines():
            self._say(f"  {line}")
        if done.status != 0:
            raise _not_so(f"{' '.join(argv)} ended with status {done.status}")
        self._judge(witness, first, self._settled(of=[second]), begun, "command", promised=_MOVE_SECONDS)
        return second

    def kill(self, witness: Witness, first: Node) -> None:
        """End the agent that holds, without a chance to hand over."""
        self._tell("4. The agent of the holder is killed: nobody hands over, its Lease has to run out.")
        self._steady(witness, first)
        begun = time.monotonic()
        agent = self._agents[first.name]
        self._say("")
        self._say(f"  {first.name}# kill -9 {agent.pid}")
        os.kill(agent.pid, signal.SIGKILL)
        self._killed.add(first.name)
        others = [node for node in self._nodes if node is not first]
        self._judge(witness, first, self._settled(of=others), begun, "kill", promised=_FAILOVER_SECONDS)

    # What is there.

    def _rows(self) -> dict[str, _Row]:
        holder = self._holder()
        return {
            node.name: _Row(
                node.name, self._agent(node), holder == node.name, self._has_vip(node), self._seen(node)
            )
            for node in self._nodes
        }

    def _wanted(self, holder: Node) -> dict[str, _Row]:
        return {
            node.name: _Row(
                node.name,
                self._agent(node),
                node is holder,
                node is holder,
                _WHO.vip if node is holder else _NOTHING,
            )
            for node in self._nodes
        }

    def _agent(self, node: Node) -> str:
        if node.name in self._killed:
            return "killed"
        return "runs" if node.name in self._agents else "none"

    def _holder(self) -> str | None:
        lease = self._objects.get("leases", LEASE, namespace=NAMESPACE)
        return _named(lease) if lease is not None else None

    def _has_vip(self, node: Node) -> bool:
        said = self._lab[node.name].run(["ip", "-o", "addr", "show", "to", _WHO.vip])
        return bool(said.stdout.strip())

    def _seen(self, node: Node) -> str:
        answer = probe(
            self._lab[node.pod],
            destination=_WHO.outside_eth1,
            port=_ASKED,
            protocol="tcp",
            timeout=_ANSWER_SECONDS,
        )
        return answer.source if answer is not None else _NOTHING

    def _settled(self, *, of: Sequence[Node]) -> Node:
        """Wait until one of these holds the Lease, alone has the VIP, and its pod leaves with it; show it."""
        by_name = {node.name: node for node in of}
        self._until(
            lambda: self._wanted(by_name[holder]) if (holder := self._holder()) in by_name else {},
            what=f"the VIP is on {' or '.join(by_name)} alone",
        )
        return by_name[self._holder() or ""]

    def _until(self, wanted: Callable[[], Mapping[str, _Row]], *, what: str) -> None:
        """Wait until things stand so, and show them; raises KvctlError where they never do."""
        end = time.monotonic() + _PATIENCE
        while not (so := (rows := self._rows()) == wanted()) and time.monotonic() < end:
            time.sleep(0.05)
        self._show(rows)
        if not so:
            found = "; ".join(" ".join(cells) for cells in _cells(rows.values()))
            raise _not_so(f"not within {_PATIENCE:g} s {what}: {found}")

    def _show(self, rows: Mapping[str, _Row]) -> None:
        self._say("")
        header = ("NODE", "AGENT", "HOLDS THE LEASE", "HAS THE VIP", "THE OUTSIDE SEES OF ITS POD")
        lines = [header, *_cells(rows.values())]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            self._say(f"  {'  '.join(cells)}".rstrip())

    def _steady(self, witness: Witness, node: Node) -> None:
        """Wait until the VIP is heard from this node's pod, in a row."""
        begun = time.monotonic()
        while time.monotonic() < begun + _PATIENCE:
            heard = witness.heard(since=begun)
            if sum(packet.source == _WHO.vip and packet.pod == node.pod for packet in heard) >= _STEADY:
                return
            time.sleep(0.02)
        raise _not_so(f"the outside does not hear {node.name}'s pod with {_WHO.vip}")

    # What is promised.

    def _judge(
        self, witness: Witness, first: Node, second: Node, begun: float, what: str, *, promised: float
    ) -> None:
        """Tell what the outside has heard since `what` began, and raise KvctlError if it is not as promised."""
        self._steady(witness, second)
        heard, answers, now = witness.heard(since=begun), list(witness.answers), time.monotonic()
        vip = [packet for packet in heard if packet.source == _WHO.vip]
        silent = longest_silence([packet.at for packet in vip], since=begun, until=now)
        unanswered = longest_silence([at for at, _ in answers], since=begun, until=now)
        last = max((packet.at for packet in vip if packet.pod == first.pod), default=begun)
        heard_again = next(packet.at for packet in vip if packet.pod == second.pod)
        taken = self._taken(second, since=begun)
        others = ", ".join(sorted({packet.source for packet in heard} - {_WHO.vip}))
        third = ", ".join(sorted({packet.pod for packet in vip} - {first.pod, second.pod}))
        self._say("")
        for name, text in (
            ("had it", first.name),
            ("has it", f"{second.name}, heard {heard_again - begun:.2f} s after the {what}"),
            (
                "silent",
                f"{silent:.2f} s in which the outside heard nothing with the VIP, of {promised:g} s allowed",
            ),
            ("unanswered", f"{unanswered:.2f} s in which no open flow of the pods had an answer"),
            (
                "in order",
                f"{first.name} was last heard {taken - last:.2f} s before {second.name} took the Lease",
            ),
            ("others", f"{others or 'no other address'} was seen, in {len(heard)} packets"),
        ):
            self._say(f"  {name:<12}{text}")
        if silent > promised:
            raise _not_so(
                f"the outside heard nothing with the VIP for {silent:.2f} s, more than {promised:g} s"
            )
        if others:
            raise _not_so(f"the outside saw {others}, not {_WHO.vip} or nothing")
        if last >= taken:
            raise _not_so(f"{first.name} still used the VIP when {second.name} had the Lease")
        if third:
            raise _not_so(f"the outside heard the VIP also from {third}")

    def _taken(self, node: Node, *, since: float) -> float:
        """When the Lease first named this node."""
        changes = self._objects.changes("leases", LEASE, namespace=NAMESPACE)
        return next(each.at for each in changes if each.at >= since and _named(each.shown) == node.name)

    def _tell(self, text: str) -> None:
        self._say("")
        for line in text.splitlines():
            self._say(line)


def _named(lease: Object) -> str | None:
    """The node that a Lease names as its holder."""
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    return holder.removeprefix(IDENTITY_PREFIX) or None


def _cells(rows: Iterable[_Row]) -> list[tuple[str, ...]]:
    words = {True: "yes", False: "-"}
    return [(row.node, row.agent, words[row.lease], words[row.vip], row.sees) for row in rows]


def _not_so(what: str) -> KvctlError:
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    return KvctlError(
        f"the demo is not as promised: {what}",
        hint=f"try again when this machine is less busy: its load is {load:.1f} on {processors} processors"
        if load > processors
        else "try again; the logs of the agents are above",
    )
