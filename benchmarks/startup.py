"""How soon a command answers whoever types it: help, completion, and a look at the rules of so many Services."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import clusters
from benchmarks.processes import NOTHING, choice, in_turn, kvctl, run, seconds
from benchmarks.rows import Bar, Row, median, spread
from kvctl import proc
from kvctl.lab.build import built, unique_prefix
from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family

_REPETITIONS, _FEWER_REPETITIONS, _QUICK_REPETITIONS = 15, 5, 3
_MANY = 1000
"""Services; of more, fewer repetitions have to do."""
_BARS = {
    ("kvctl --help", 0): Bar(0.1),
    ("completion of a command", 0): Bar(0.1),
    ("completion of a Service", 1): Bar(0.1),
    ("list, piped", 1000): Bar(0.4),
}
_TYPED = """\
source "$1"
COMP_LINE='kvctl egress ' COMP_POINT=13 COMP_WORDS=(kvctl egress '') COMP_CWORD=2
_kvctl
[[ " ${COMPREPLY[*]} " == *' apply '* ]]
"""
"""What bash does when the tabulator is pressed behind `kvctl egress `; the commands are in the script."""
_SCRIPT = Path(__file__).parent.parent / "completions" / "kvctl.bash"
_WHERE = STANDARD[Family.IPV4]

Commands = Mapping[str, Sequence[str]]


def measure(*, backend: str, sizes: Sequence[int], quick: bool) -> Iterator[Row]:
    """The rows of a back end, size by size."""
    with built(standard(backend=backend), prefix=unique_prefix("bench")) as lab:
        for services in sizes:
            with lab.worker.entered():
                _write_rules(backend=backend, services=services)
                repetitions = _repetitions(services, quick=quick)
                rows = list(_rows(_looking(backend), repetitions, backend=backend, services=services))
            yield from rows


def measure_alone(*, quick: bool) -> Iterator[Row]:
    """The rows of what asks no kernel."""
    commands: dict[str, Sequence[str]] = {
        "kvctl --help": kvctl("--help"),
        "kvctl egress apply --help": kvctl("egress", "apply", "--help"),
        "completion of a command": ("bash", "--norc", "-c", _TYPED, "bash", str(_SCRIPT)),
    }
    if proc.find("kubectl"):
        commands["kubectl version --client"] = ("kubectl", "version", "--client")
    yield from _rows(commands, _repetitions(0, quick=quick), backend="", services=0)


def _repetitions(services: int, *, quick: bool) -> int:
    if quick:
        return _QUICK_REPETITIONS
    return _REPETITIONS if services <= _MANY else _FEWER_REPETITIONS


def _looking(backend: str) -> Commands:
    return {
        "list, piped": kvctl("egress", "list", choice(backend)),
        "show of a Service": kvctl("egress", "show", clusters.name(0), choice(backend)),
        "trace": kvctl(
            *("egress", "trace", "--from", clusters.EGRESS_POD),
            *("--to", f"{_WHERE.outside_eth1}:5060", "--proto", "udp"),
        ),
        "completion of a Service": kvctl("complete", "services", "--", "kvctl", "egress", "show"),
    }


def _write_rules(*, backend: str, services: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source = str(clusters.write(Path(directory, "cluster.json"), services=services))
        told = ("--node", "worker", "--prune", "--assume-vip", choice(backend))
        run(kvctl("egress", "apply", "-f", source, *told))


def _rows(commands: Commands, repetitions: int, *, backend: str, services: int) -> Iterator[Row]:
    every = {**commands, "": NOTHING}
    for argv in every.values():
        run(argv)
    taken = in_turn({name: _timed(argv) for name, argv in every.items()}, repetitions=repetitions)
    nothing = median(taken.pop(""))
    for name, values in taken.items():
        yield Row(
            part="startup",
            measure=name,
            backend=backend,
            services=services,
            value=median(values),
            unit="s",
            spread=spread(values),
            against="python -c pass",
            other=nothing,
            bar=_BARS.get((name, services)),
        )


def _timed(argv: Sequence[str]) -> Callable[[], float]:
    return lambda: seconds(argv)
