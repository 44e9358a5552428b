"""What was found as one table: Markdown that can be read as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.machine import Machine
from benchmarks.rows import Row

COLUMNS = (
    *("measure", "back end", "Services", "median", "spread"),
    *("against", "its median", "ratio", "bar", "met"),
)
PARTS = ("datapath", "apply", "startup", "agent")
_RIGHT = {"Services", "median", "spread", "its median", "ratio", "bar"}
_BACKENDS = ("", "nft", "legacy")


def report(machine: Machine, rows: Iterable[Row], *, barred_only: bool = False) -> str:
    """The table, how many bars are met, and the machine; `barred_only`: without the rows that have no bar."""
    several = in_order(rows)
    missed = sum(row.meets is False for row in several)
    met = sum(row.meets is True for row in several)
    shown = [row for row in several if row.bar is not None] if barred_only else several
    count = f"{met} bars met, {missed} not met." if met + missed else "No bar is at these sizes."
    return f"{table(shown)}\n{count} {machine}\n"


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Part by part, measures as they came first, in each the back ends, in each the sizes."""
    several = list(rows)
    measures = list(dict.fromkeys((row.part, row.measure) for row in several))
    return sorted(
        several,
        key=lambda row: (
            PARTS.index(row.part),
            measures.index((row.part, row.measure)),
            _BACKENDS.index(row.backend),
            row.services,
        ),
    )


def table(rows: Sequence[Row]) -> str:
    """Rows under a head, the columns as wide as what is in them."""
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    rule = [
        "-" * (width - 1) + ":" if name in _RIGHT else "-" * width
        for name, width in zip(COLUMNS, widths, strict=True)
    ]
    return "".join(_line(line, widths) for line in (COLUMNS, rule, *lines[1:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
    )
    return f"| {' | '.join(padded)} |\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.measure,
        row.backend or "-",
        str(row.services or "-"),
        quantity(row.value, row.unit),
        _spread(row),
        row.against or "-",
        "-" if row.other is None else quantity(row.other, row.unit),
        "-" if row.ratio is None else number(row.ratio),
        _bar(row),
        {True: "met", False: "NOT MET", None: "-"}[row.meets],
    )


def quantity(value: float, unit: str) -> str:
    """A value as it is said: three digits, and thousandths of a second where there is no whole one."""
    factor, name = _scale(value, unit)
    return f"{number(value * factor)}{name}"


def number(value: float) -> str:
    """Three digits, more only before the point; thousands are parted."""
    if value == 0 or abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value == int(value) else f"{value:#.3g}".rstrip(".")


def _scale(value: float, unit: str) -> tuple[float, str]:
    if unit == "s" and 0 < value < 1:
        return 1000, " ms"
    # What it is that is counted, the measure says.
    return (1, "/s") if unit.endswith("/s") else (1, f" {unit}" if unit and unit != "processes" else "")


def _spread(row: Row) -> str:
    least, most = row.spread
    if least == most:
        return "-"
    factor, name = _scale(row.value, row.unit)
    return f"{number(least * factor)}–{number(most * factor)}{name}"


def _bar(row: Row) -> str:
    if row.bar is None:
        return "-"
    factor, name = (1, "") if row.ratio is not None else _scale(row.bar.bound, row.unit)
    return f"{'≤' if row.bar.at_most else '≥'} {row.bar.bound * factor:g}{name}"
