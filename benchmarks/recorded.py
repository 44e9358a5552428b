"""kvctl with a record of every program it starts: `python -m benchmarks.recorded FILE ARGUMENT...`.

A line of JSON a program. Wrappers in PATH would tell less truly: kvctl asks a program it does not know for its version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvctl import proc
from kvctl.cli.main import main


class _Recorded(proc.Running):
    log: Path

    def __init__(
        self, argv: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        with self.log.open("a") as log:
            print(json.dumps({"argv": list(argv), "stdin": stdin}), file=log)
        super().__init__(argv, stdin=stdin, env=env)


if __name__ == "__main__":
    _Recorded.log = Path(sys.argv.pop(1))
    proc.Running = _Recorded  # type: ignore[misc]
    main()
