"""What a run has found, as a file, and what is made of it: the table and the plot of the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.machine import Machine
from benchmarks.plot import plot
from benchmarks.rows import Row
from benchmarks.table import report

_HERE = Path(__file__).parent
_README = _HERE.parent / "README.md"
_IN_README = re.compile(r"(?<=<!-- python -m benchmarks -->\n).*?(?=<!-- end of it -->)", re.DOTALL)


class Results(NamedTuple):
    """One run."""

    machine: Machine
    rows: list[Row]

    def as_json(self) -> str:
        """The text of the file: a line a row."""
        rows = ",\n".join(json.dumps(row.as_json(), ensure_ascii=False) for row in self.rows)
        machine = json.dumps(self.machine._asdict(), ensure_ascii=False)
        return f'{{"schemaVersion": 1, "machine": {machine}, "rows": [\n{rows}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `as_json` gave."""
        told = json.loads(text)
        return cls(Machine(**told["machine"]), [Row.from_json(each) for each in told["rows"]])

    def with_later(self, later: Self) -> Self:
        """This run, with what a later one on the same machine measured instead: each part of a back end as a whole."""
        again = {(row.part, row.backend) for row in later.rows}
        kept = [row for row in self.rows if (row.part, row.backend) not in again]
        return self._replace(rows=[*kept, *later.rows])

    def files(self) -> dict[Path, str]:
        """What the repository has of it, by file: this run, the plot, the whole table, and what the README shows."""
        shown = report(self.machine, self.rows, barred_only=True)
        return {
            _HERE / "results.json": self.as_json(),
            _HERE / "results.svg": plot(self.rows),
            _HERE / "results.md": f"# A run of `python -m benchmarks`\n\n{report(self.machine, self.rows)}",
            _README: _IN_README.sub(lambda _: f"\n{shown}\n", _README.read_text("utf-8")),
        }
