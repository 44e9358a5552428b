"""What a benchmark has found: rows of one table, each a ratio within one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Bar(NamedTuple):
    """What a ratio or a value has to be."""

    bound: float
    at_most: bool = True

    def met_by(self, value: float) -> bool:
        """Whether it is."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


class Row(NamedTuple):
    """One measure at one size."""

    part: str
    measure: str
    backend: str
    services: int
    value: float
    """The median, in `unit`."""
    unit: str
    spread: tuple[float, float] = (0.0, 0.0)
    """The least and the greatest."""
    against: str = ""
    """What it is compared with."""
    other: float | None = None
    """The median of that, in `unit`."""
    ratio: float | None = None
    bar: Bar | None = None
    """What the ratio has to be; without one, the value."""

    @property
    def meets(self) -> bool | None:
        """Whether the bar is met; None: there is none."""
        if self.bar is None:
            return None
        return self.bar.met_by(self.value if self.ratio is None else self.ratio)


def median(values: Sequence[float]) -> float:
    """The median; at least one value is there."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest."""
    return min(values), max(values)
