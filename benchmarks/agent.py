"""What one event costs, and what one agent is: `kvctl egress watch` beside an API server, measured from outside.

    sudo python -m benchmarks.agent [--backend nft,legacy] [--measure watch,cost,one,scale] [--quick]

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
from benchmarks.events import APART, SETTLE, Driven, drive_in_turn
from benchmarks.processes import surroundings
from benchmarks.rows import Bar, Row, median, spread
from benchmarks.watched import Agent, Change, Node, Size, arrivals, node
from kvctl.signals import orderly


class Plan(NamedTuple):
    """How much is measured."""

    rates: tuple[tuple[int, float], ...] = ((20, 15.0), (500, 5.0))
    """Events a second, and for how many seconds."""
    few: Size = Size(services=50, pods=250, serving=50)
    many: Size = Size(services=5000, pods=250, serving=250)
    all_here: Size = Size(services=5000, pods=5000, serving=5000)
    windows: int = 6
    events: int = 15
    """Of each window, unless they take longer than `longest`."""
    longest: float = 8.0
    """Seconds."""
    among: Size = Size(services=1000, pods=1000, serving=1000)
    single: int = 40
    """Events, and bare restores."""
    scale: tuple[Size, ...] = (
        Size(services=5000, pods=250, serving=250),
        Size(services=5000, pods=1000, serving=1000),
        Size(services=20000, pods=250, serving=250),
        Size(services=20000, pods=1000, serving=1000),
    )
    idle: float = 60.0
    """Seconds: in a minute falls a full comparison."""


FULL = Plan()
QUICK = Plan(
    rates=((20, 2.0), (500, 1.0)),
    few=Size(services=10, pods=50, serving=10),
    many=Size(services=500, pods=50, serving=50),
    all_here=Size(services=200, pods=200, serving=200),
    windows=2,
    events=4,
    among=Size(services=100, pods=100, serving=100),
    single=6,
    scale=(Size(services=1000, pods=50, serving=50),),
    idle=5.0,
)


def rows(*, backend: str, quick: bool) -> Iterator[Row]:
    """All measures of a back end, each as soon as it is there."""
    plan = QUICK if quick else FULL
    for measure in MEASURES.values():
        yield from measure(plan, backend)


# watch


def watch(plan: Plan, backend: str) -> Iterator[Row]:
    """Latency, processes, CPU and memory under steady load."""
    with (
        node(plan.many, backend=backend) as it,
        it.agent() as agent,
        it.hearing(agent) as heard,
    ):
        for rate, seconds in plan.rates:
            time.sleep(SETTLE)
            before, begun = agent.cpu(), time.monotonic()
            changes = _steadily(it, rate=rate, seconds=seconds)
            taken = sorted(each * 1000 for each in arrivals(changes, heard))
            passed = time.monotonic() - begun
            used = 100 * agent.cpu().since(before).whole / passed
            run = heard.runs(since=begun)
            yield _row("watch", it, f"event to kernel, {rate}/s", median(taken), "ms", spread(taken))
            yield _row("watch", it, f"event to kernel, {rate}/s, 99 %", _percentile(taken, 0.99), "ms")
            yield _row("watch", it, f"processes a change, {rate}/s", len(run) / len(changes), "")
            yield _row("watch", it, f"CPU, {rate}/s", used, "% of a core")
        yield _row("watch", it, "memory after that", agent.memory(), "MB")


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
        nodes = [
            stack.enter_context(node(size, backend=backend)) for size in (plan.few, plan.many, plan.all_here)
        ]
        driven = drive_in_turn(nodes, windows=plan.windows, events=plan.events, longest=plan.longest)
        # No agent may run where restores are repeated.
        bare = [
            statistics.fmean(each.cpu for each in bare_restores(it, repetitions=plan.events)) * 1000
            for it in nodes
        ]
    legacy = backend == "legacy"
    whole = [each.costs() for each in driven]
    beside = [[used - less for used in costs] for costs, less in zip(whole, bare, strict=True)]
    taken = [each.taken for each in driven]
    for what, values, barred in (
        ("CPU of one event", whole, not legacy),
        ("CPU of one event, less the bare restore's", beside, legacy),
        ("one event, to kernel", taken, False),
    ):
        yield from _compared(what, driven, values, bar=Bar(1.5) if barred else None)


def _compared(
    what: str, driven: Sequence[Driven], values: Sequence[Sequence[float]], *, bar: Bar | None
) -> Iterator[Row]:
    """Each beside the first; the bar is the second's."""
    least = median(values[0])
    for number, (each, its) in enumerate(zip(driven, values, strict=True)):
        row = _row("cost", each.node, what, median(its), "ms", spread(its))
        if number:
            row = row._replace(
                against=f"{driven[0].node.size.services} Services",
                other=least,
                ratio=median(its) / least,
                bar=bar if number == 1 else None,
            )
        yield row


# one


def one(plan: Plan, backend: str) -> Iterator[Row]:
    """One pod changed among many, all on the node, against what the binary alone takes."""
    with node(plan.among, backend=backend) as it:
        with it.agent() as agent, it.hearing(agent) as heard:
            driven = Driven(it, agent, heard)
            driven.drive(plan.single, longest=5 * plan.longest)
        taken = driven.taken
        bare = [each.seconds * 1000 for each in bare_restores(it, repetitions=plan.single)]
    yield _row("one", it, "one pod changed, to kernel", median(taken), "ms", spread(taken))._replace(
        against="the bare restore",
        other=median(bare),
        ratio=median(taken) / median(bare),
        bar=Bar(3),
    )
    yield _row("one", it, "processes for it", median(driven.programs), "")._replace(bar=Bar(1))


# scale


def scale(plan: Plan, backend: str) -> Iterator[Row]:
    """Agents of large clusters, all at rest at the same time."""
    with ExitStack() as stack:
        agents: list[tuple[Node, Agent]] = []
        for size in plan.scale:
            it = stack.enter_context(node(size, backend=backend))
            server = time.process_time()
            agent = stack.enter_context(it.agent())
            yield _row("scale", it, "first rules", agent.first_rules, "s")._replace(
                against="the API server", other=time.process_time() - server
            )
            agents.append((it, agent))
        time.sleep(SETTLE)
        before, begun = [agent.cpu() for _, agent in agents], time.monotonic()
        time.sleep(plan.idle)
        passed = time.monotonic() - begun
        used = [
            100 * agent.cpu().since(then).whole / passed
            for (_, agent), then in zip(agents, before, strict=True)
        ]
        for number, (it, agent) in enumerate(agents):
            barred = number == 0
            yield _row("scale", it, "memory", agent.memory(), "MB")._replace(bar=Bar(100) if barred else None)
            yield _row("scale", it, "memory at most so far", agent.memory("VmHWM"), "MB")
            yield _row("scale", it, "CPU at rest", used[number], "% of a core")._replace(
                bar=Bar(1) if barred else None
            )


Measure = Callable[[Plan, str], Iterator[Row]]
MEASURES: dict[str, Measure] = {"watch": watch, "cost": cost, "one": one, "scale": scale}


def _row(
    kind: str,
    it: Node,
    measure: str,
    value: float,
    unit: str,
    between: tuple[float, float] | None = None,
) -> Row:
    return Row(
        part="agent",
        measure=f"{kind}: {measure} ({it.size.pods} pods)",
        backend=it.backend,
        services=it.size.services,
        value=value,
        unit=unit,
        spread=between or (value, value),
    )


def main() -> None:
    """Print the rows, each as soon as it is there."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--backend", default="nft,legacy")
    options.add_argument("--measure", default=",".join(MEASURES))
    options.add_argument("--quick", action="store_true", help="small clusters, few events: to try it")
    told = options.parse_args()
    with orderly(), surroundings():
        for backend in told.backend.split(","):
            for name in told.measure.split(","):
                for row in MEASURES[name](QUICK if told.quick else FULL, backend):
                    _print(row)


def _print(row: Row) -> None:
    low, high = row.spread
    compared = f"{row.against} {row.other:.2f}" if row.other is not None else ""
    if row.ratio is not None:
        compared += f", ratio {row.ratio:.2f}"
    verdict = {True: f"met ({row.bar})", False: f"NOT MET ({row.bar})", None: ""}[row.meets]
    print(
        f"{row.backend:<6} {row.services:>5} Services  {row.measure:<55} {row.value:>8.2f} {row.unit:<11} "
        f"{low:>8.2f} to {high:<8.2f} {compared:<40} {verdict}",
        flush=True,
    )


if __name__ == "__main__":
    main()
