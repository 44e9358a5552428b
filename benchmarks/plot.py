"""The figures as a picture (SVG): ratios and seconds over the number of Services, a panel each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.rows import Row
from benchmarks.svg import Axis, Line, Panel, Point, document
from benchmarks.table import quantity

_BACKENDS = ("nft", "legacy")
_BACKEND_COLOURS = ("#0b62b8", "#c24e00")
_WAY_COLOURS = ("#6f3fb5", "#b3261e", "#2f7d32")


def plot(rows: Iterable[Row]) -> str:
    """Two rows of panels: what a bystander's and an egress pod's traffic keep, and how long a cold apply takes."""
    several = list(rows)
    panels = [
        panel
        for who, backend in (("bystander", "nft"), ("egress pod", "legacy"))
        for panel in (
            _ratios(several, f"{who}, packets"),
            _ratios(several, f"{who}, new connections"),
            _seconds(several, backend),
        )
    ]
    return document(panels, columns=3)


def _ratios(rows: Sequence[Row], measure: str) -> Panel:
    found = [row for row in rows if row.part == "datapath" and row.measure == measure]
    lines = [
        _line(backend, colour, (row for row in found if row.backend == backend), lambda row: row.ratio)
        for backend, colour in zip(_BACKENDS, _BACKEND_COLOURS, strict=True)
    ]
    least = min([0.85, *(point.y for line in lines for point in line.points)])
    most = max([1.05, *(point.y for line in lines for point in line.points)])
    ticks = [number / 20 for number in range(math.floor(least * 20), math.ceil(most * 20) + 1)]
    against = next((row.against for row in found), "")
    return Panel(
        title=measure,
        subtitle=f"rate, of that with {against}" if against else "",
        x=_sizes(found),
        y=Axis(tuple((tick, f"{tick:.2f}") for tick in ticks), logarithmic=False),
        lines=[*lines, *_bars(found)],
    )


def _seconds(rows: Sequence[Row], backend: str) -> Panel:
    of_it = [row for row in rows if row.part == "apply" and row.backend == backend]
    bare = [row for row in of_it if row.measure == "cold apply"]
    peer = [row for row in of_it if row.measure == "cold apply, times faster"]
    lines = [
        _line("kvctl", _WAY_COLOURS[0], bare, lambda row: row.value),
        _line("one process per rule", _WAY_COLOURS[1], peer, lambda row: row.other),
        _line("bare restore", _WAY_COLOURS[2], bare, lambda row: row.other),
    ]
    values = [point.y for line in lines for point in line.points] or [0.01, 1]
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return Panel(
        title=f"cold apply, {backend}",
        subtitle="whole process; hollow: extrapolated",
        x=_sizes(bare),
        y=Axis(tuple((10.0**each, quantity(10.0**each, "s")) for each in decades), logarithmic=True),
        lines=lines,
    )


def _line(name: str, colour: str, rows: Iterable[Row], value: Callable[[Row], float | None]) -> Line:
    points = []
    for row in sorted(rows, key=lambda row: row.services):
        height = value(row)
        if height is not None:
            # A row says of what it is compared with whether that was measured to its end.
            guessed = "extrapolated" in row.against and height == row.other
            points.append(Point(row.services, height, hollow=guessed))
    return Line(name=name, colour=colour, points=points)


def _bars(rows: Sequence[Row]) -> Iterator[Line]:
    bars = sorted({(row.services, row.bar.bound) for row in rows if row.bar is not None})
    if bars:
        sizes = [row.services for row in rows]
        ends = [(min(sizes), bars[0][1]), *bars, (max(sizes), bars[-1][1])]
        yield Line(name="bar", colour="#666666", points=[Point(*each) for each in ends], dashed=True)


def _sizes(rows: Iterable[Row]) -> Axis:
    sizes = sorted({row.services for row in rows}) or [1, 1000]
    return Axis(tuple((size, f"{size:,}") for size in sizes), logarithmic=True)
