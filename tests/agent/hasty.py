"""kvctl as it is, with little patience for an API server and much for who undoes its rules: for soaks.

    python -m tests.agent.hasty egress watch …

A watch that hangs is given up after seconds instead of minutes, and repairs are never put off.
"""

from __future__ import annotations

import functools

from kvctl.agent import pushback
from kvctl.cli.main import main
from kvctl.cluster import watched
from kvctl.cluster.pace import Pace

HASTY = functools.partial(
    Pace,
    first_delay=0.05,
    longest_delay=0.5,
    healthy_after=5.0,
    answer=2.0,
    silence=3.0,
    at_once=0.05,
    absent=2.0,
)

if __name__ == "__main__":
    watched.Pace = HASTY  # type: ignore[attr-defined, assignment]
    pushback.PATIENCE = 1_000_000
    main()
