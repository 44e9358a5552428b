"""What a benchmark has found: rows of one table, each a ratio within one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, Self


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
    """Empty where none is concerned."""
    services: int
    """0 where their number does not matter."""
    value: float
    """The median, in `unit`."""
    unit: str
    spread: tuple[float, float] = (0.0, 0.0)
    """Between them lie four fifths of the repetitions; twice the same: there was one only, or none differed."""
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

    def as_json(self) -> dict[str, Any]:
        """For json.dumps, by the names of the fields; whether it meets its bar is told, too."""
        return {
            **self._asdict(),
            "spread": list(self.spread),
            "bar": self.bar and self.bar._asdict(),
            "meets": self.meets,
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """The row that `as_json` gave."""
        fields = {name: value for name, value in told.items() if name != "meets"}
        fields["spread"] = tuple(told["spread"])
        fields["bar"] = told["bar"] and Bar(**told["bar"])
        return cls(**fields)


def median(values: Sequence[float]) -> float:
    """The median; at least one value is there."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The first and the last of nine values that part them into ten, as many in each."""
    if len(values) < 2:
        return values[0], values[0]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[-1]
