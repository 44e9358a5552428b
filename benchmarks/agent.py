"""What one event costs, and what one agent is: `kvctl egress watch` beside an API server, measured from outside.

    sudo .venv/bin/python -m benchmarks.agent [--backend nft,legacy] [--measure watch,cost,one,scale] [--quick]

watch   From the moment a changed Pod is handed to those who watch until the first state of the kernel with its
        address, or with a later one of that pod: at 500 events a second several become one write.
cost    One event at a time with quiet around it: CPU of the agent and of what it starts, less what the agent takes
        in the same time without an event. Agents of small and large clusters get their events in turn.
one     One pod of many, event to kernel, against the bare restore of the same lines.
scale   Time until the first rules are in (with the time the API server takes for its part), memory, CPU at rest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.bare import bare_restores
from benchmarks.events import APART, Driven, Pace, drive_in_turn
from benchmarks.processes import surroundings
from benchmarks.rows import Bar, Row, median, spread
from benchmarks.table import table
from benchmarks.watched import Agent, Change, Node, Size, arrivals, node
from kvctl.signals import orderly

_OF_A_CORE = "% of a core"
_EVENT_BAR = Bar(1.5)


class Plan(NamedTuple):
    """How much is measured."""

    rates: tuple[tuple[int, float], ...] = ((20, 15.0), (500, 5.0))
    """Events a second, and for how many seconds."""
    few: Size = Size(services=50, pods=250, serving=50)
    many: Size = Size(services=5000, pods=250, serving=250)
    all_here: Size = Size(services=5000, pods=5000, serving=5000)
    among: Size = Size(services=1000, pods=1000, serving=1000)
    windows: int = 6
    pace: Pace = Pace(events=15, longest=8.0)
    scale: tuple[Size, ...] = (
        Size(services=5000, pods=250, serving=250),
        Size(services=5000, pods=1000, serving=1000),
        Size(services=20000, pods=250, serving=250),
        Size(services=20000, pods=1000, serving=1000),
    )
    settle: float = 3.0
    """Seconds after which an agent that is ready has nothing more to do."""
    idle: float = 60.0
    """Seconds: in a minute falls a full comparison."""


FULL = Plan()
QUICK = Plan(
    rates=((20, 2.0), (500, 1.0)),
    few=Size(services=10, pods=50, serving=10),
    many=Size(services=500, pods=50, serving=50),
    all_here=Size(services=200, pods=200, serving=200),
    among=Size(services=100, pods=100, serving=100),
    windows=2,
    pace=Pace(events=3, longest=3.0),
    scale=(Size(services=1000, pods=50, serving=50),),
    settle=0.5,
    idle=3.0,
)


def rows(*, backend: str, quick: bool) -> Iterator[Row]:
    """All measures of a back end, each as soon as it is there. Of small clusters (`quick`) there is no bar."""
    for measure in MEASURES:
        yield from _rows(measure, backend, quick=quick)


def _rows(measure: str, backend: str, *, quick: bool) -> Iterator[Row]:
    for row in MEASURES[measure](QUICK if quick else FULL, backend):
        yield row._replace(bar=None) if quick else row


# watch


def watch(plan: Plan, backend: str) -> Iterator[Row]:
    """Latency, programs, CPU and memory under steady load."""
    with (
        node(plan.many, backend=backend) as it,
        it.agent() as agent,
        it.hearing(agent) as heard,
    ):
        for rate, seconds in plan.rates:
            time.sleep(plan.settle)
            before, begun = agent.cpu(), time.monotonic()
            changes = _steadily(it, rate=rate, seconds=seconds)
            taken = sorted(arrivals(changes, heard))
            used = agent.cpu().since(before).whole / (time.monotonic() - begun)
            programs = len(heard.runs(since=begun)) / len(changes)
            yield _row(it, f"event to kernel at {rate}/s", median(taken), "s", spread(taken))
            yield _row(it, f"event to kernel at {rate}/s, 99 %", _percentile(taken, 0.99), "s")
            yield _row(it, f"programs a change at {rate}/s", programs, "processes")
            yield _row(it, f"CPU at {rate}/s", 100 * used, _OF_A_CORE)
        yield _row(it, "memory after that", agent.memory(), "MB")


def _steadily(it: Node, *, rate: int, seconds: float) -> list[Change]:
    begun = time.monotonic()
    changes = []
    for number in range(round(rate * seconds)):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        changes.append(it.change(number * APART))
    return changes


def _percentile(values: Sequence[float], part: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * part))]


# cost


def cost(plan: Plan, backend: str) -> Iterator[Row]:
    """One event in a small cluster, in a large one, and in a large one whose pods are all here."""
    with ExitStack() as stack:
        sizes = (plan.few, plan.many, plan.all_here)
        nodes = [stack.enter_context(node(size, backend=backend)) for size in sizes]
        driven = drive_in_turn(nodes, plan.pace, windows=plan.windows)
        # No agent may run where restores are repeated.
        bare = [_cpu_of_bare_restore(it, plan) for it in nodes]
    whole = [each.costs() for each in driven]
    beside = [[used - less for used in costs] for costs, less in zip(whole, bare, strict=True)]
    legacy = backend == "legacy"
    yield from _compared(driven, "CPU of one event", whole, bar=None if legacy else _EVENT_BAR)
    what = "CPU of one event without the bare restore's"
    yield from _compared(driven, what, beside, bar=_EVENT_BAR if legacy else None)
    yield from _compared(driven, "one event, to kernel", [each.taken for each in driven], bar=None)


def _cpu_of_bare_restore(it: Node, plan: Plan) -> float:
    # The mean: wait4(2) may count in ticks.
    return statistics.fmean(each.cpu for each in bare_restores(it, repetitions=plan.pace.events))


def _compared(
    driven: Sequence[Driven], what: str, values: Sequence[Sequence[float]], *, bar: Bar | None
) -> Iterator[Row]:
    """Each beside the first; the bar is the second's."""
    least = median(values[0])
    for number, (each, its) in enumerate(zip(driven, values, strict=True)):
        row = _row(each.node, what, median(its), "s", spread(its))
        if number:
            few = f"{driven[0].node.size.services} Services"
            row = row._replace(against=few, other=least, ratio=median(its) / least)
        yield row._replace(bar=bar if number == 1 else None)


# one


def one(plan: Plan, backend: str) -> Iterator[Row]:
    """One pod changed among many, all on the node, against what the binary alone takes."""
    with node(plan.among, backend=backend) as it:
        (driven,) = drive_in_turn([it], plan.pace, windows=plan.windows)
        bare = [each.seconds for each in bare_restores(it, repetitions=len(driven.taken))]
    taken, programs = driven.taken, driven.programs
    yield _row(it, "one pod changed, to kernel", median(taken), "s", spread(taken))._replace(
        against="bare iptables-restore", other=median(bare), ratio=median(taken) / median(bare), bar=Bar(3)
    )
    yield _row(it, "one pod changed, programs", median(programs), "processes", spread(programs))._replace(
        bar=Bar(1)
    )


# scale


def scale(plan: Plan, backend: str) -> Iterator[Row]:
    """Agents of large clusters, all at rest at the same time."""
    # The first that runs may have to compile what it imports, which takes time and leaves it larger (by 7 MB).
    with node(Size(services=1, pods=1, serving=1), backend=backend) as it, it.agent():
        pass
    with ExitStack() as stack:
        agents: list[tuple[Node, Agent]] = []
        for size in plan.scale:
            it = stack.enter_context(node(size, backend=backend))
            server = time.process_time()
            agent = stack.enter_context(it.agent())
            yield _row(it, "first rules", agent.first_rules, "s")._replace(
                against="CPU of the API server in it", other=time.process_time() - server
            )
            agents.append((it, agent))
        time.sleep(plan.settle)
        before = [(agent.cpu(), len(it.server.requests)) for it, agent in agents]
        begun = time.monotonic()
        time.sleep(plan.idle)
        passed = time.monotonic() - begun
        for number, ((it, agent), (then, asked)) in enumerate(zip(agents, before, strict=True)):
            used = agent.cpu().since(then).whole / passed
            requests = (len(it.server.requests) - asked) / passed
            memory, rest = (Bar(100), Bar(1)) if number == 0 else (None, None)
            yield _row(it, "memory", agent.memory(), "MB")._replace(bar=memory)
            yield _row(it, "memory at most so far", agent.memory("VmHWM"), "MB")
            yield _row(it, "CPU at rest", 100 * used, _OF_A_CORE)._replace(bar=rest)
            yield _row(it, "requests at rest", requests, "/s")


Measure = Callable[[Plan, str], Iterator[Row]]
MEASURES: dict[str, Measure] = {"watch": watch, "cost": cost, "one": one, "scale": scale}


def _row(it: Node, measure: str, value: float, unit: str, between: tuple[float, float] | None = None) -> Row:
    return Row(
        part="agent",
        measure=f"agent, {measure} ({it.size.pods} pods)",
        backend=it.backend,
        services=it.size.services,
        value=value,
        unit=unit,
        spread=between or (value, value),
    )


def main() -> None:
    """Print the rows, a table for each measure."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--backend", default="nft,legacy")
    options.add_argument("--measure", default=",".join(MEASURES))
    options.add_argument("--quick", action="store_true", help="small clusters, few events: to try it")
    told = options.parse_args()
    with orderly(), surroundings():
        for backend in told.backend.split(","):
            for name in told.measure.split(","):
                print(table(list(_rows(name, backend, quick=told.quick))), flush=True)


if __name__ == "__main__":
    main()
