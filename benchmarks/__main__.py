"""All benchmarks by one command, as root: one table on standard output, as JSON and as a plot too.

    sudo .venv/bin/python -m benchmarks [--part datapath,apply,startup,agent] [--quick] [--json FILE] [--plot FILE.svg]

With --publish the run becomes the one that the repository shows: README.md and benchmarks/results.*.
With --from FILE nothing is measured: the table and whatever else is asked for is made of a run's JSON.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import chain, product
from pathlib import Path

from benchmarks import apply, datapath, startup
from benchmarks.machine import this_machine
from benchmarks.plot import plot
from benchmarks.processes import surroundings
from benchmarks.results import Results
from benchmarks.rows import Row
from benchmarks.table import PARTS, number, quantity, report
from kvctl.lab.build import sweep
from kvctl.lab.topology import BACKENDS
from kvctl.signals import orderly

_SIZES, _QUICK_SIZES = "1,10,100,1000,5000", "1,100"


def main() -> int:
    """Measure, or read, and print; 1 where a part could not be measured. A bar that is not met is no failure."""
    told = _options().parse_args()
    failed: list[str] = []
    if told.read:
        runs = [Results.from_json(path.read_text("utf-8")) for path in told.read]
        results = reduce(Results.with_later, runs)
    else:
        machine = this_machine()
        with orderly(), surroundings():
            results = Results(machine, list(_measured(told, failed)))
    if told.json is not None:
        told.json.write_text(results.as_json(), encoding="utf-8")
    if told.plot is not None:
        told.plot.write_text(plot(results.rows), encoding="utf-8")
    for path, text in results.files().items() if told.publish and not failed else ():
        path.write_text(text, encoding="utf-8")
    print(report(results.machine, results.rows), end="")
    for each in failed:
        _say(f"Not measured, see above: {each}.")
    return 1 if failed else 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    options.add_argument("--part", type=_some_of(PARTS), default=PARTS, metavar="PART,...", help=_said(PARTS))
    options.add_argument("--services", type=_sizes, metavar="N,...", help=f"how many; default {_SIZES}")
    options.add_argument(
        "--backend", type=_some_of(BACKENDS), default=BACKENDS, metavar="NAME,...", help=_said(BACKENDS)
    )
    options.add_argument(
        "--quick", action="store_true", help="to try it: few repetitions, 1 and 100 Services"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the machine and all rows")
    options.add_argument("--plot", type=Path, metavar="FILE.svg", help="write the picture")
    options.add_argument("--publish", action="store_true", help="write README.md and benchmarks/results.*")
    reading = "measure nothing, read a run's JSON; of several, what a later one has replaces it"
    options.add_argument("--from", dest="read", type=Path, metavar="FILE", action="append", help=reading)
    return options


def _measured(told: argparse.Namespace, failed: list[str]) -> Iterator[Row]:
    sizes = told.services or _sizes(_QUICK_SIZES if told.quick else _SIZES)
    sweep("bench")
    for part, backend in product(told.part, told.backend):
        name, first = f"{part}, {backend}", backend == told.backend[0]
        _say(f"{name}: ...")
        try:
            for row in _rows(part, backend, sizes=sizes, quick=told.quick, first=first):
                _say(f"{name}: {_brief(row)}")
                yield row
        # One that fails is told; what else there is to be measured still is, unless a signal says to end.
        except (Exception, KeyboardInterrupt, SystemExit) as fault:
            traceback.print_exc()
            failed.append(name)
            if isinstance(fault, KeyboardInterrupt) or isinstance(getattr(fault, "code", None), int):
                return


def _rows(part: str, backend: str, *, sizes: Sequence[int], quick: bool, first: bool) -> Iterator[Row]:
    match part:
        case "datapath":
            return datapath.measure(backend=backend, sizes=sizes, quick=quick)
        case "apply":
            return apply.measure(backend=backend, sizes=sizes, quick=quick)
        case "startup":
            alone = startup.measure_alone(quick=quick) if first else ()
            return chain(alone, startup.measure(backend=backend, sizes=sizes, quick=quick))
        case _:
            # It needs what the tests have, an API server above all.
            from benchmarks import agent

            return agent.rows(backend=backend, quick=quick)


def _brief(row: Row) -> str:
    ratio = "" if row.ratio is None else f", ratio {number(row.ratio)}"
    return f"{row.services or '-'} Services: {row.measure}: {quantity(row.value, row.unit)}{ratio}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _said(several: Sequence[str]) -> str:
    return f"some of {', '.join(several)}; default all"


def _some_of(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def some(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := [each for each in chosen if each not in choices]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
        return chosen

    return some


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(sorted({int(each) for each in text.split(",")}))
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= 20_000:
        raise argparse.ArgumentTypeError("1 to 20000 Services")
    return sizes


if __name__ == "__main__":
    sys.exit(main())
