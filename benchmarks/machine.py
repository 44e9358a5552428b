"""The machine that a benchmark ran on, as far as it says something about the figures."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from kvctl import proc


class Machine(NamedTuple):
    """What a reader has to know of it."""

    date: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    iptables: str
    python: str
    load: float
    """What ran besides when the benchmark began: the mean of a minute (getloadavg(3))."""

    def __str__(self) -> str:
        return (
            f"{self.date}: {self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, Linux {self.kernel}, "
            f"{self.iptables}, Python {self.python}, load {self.load:.2f} at the beginning"
        )


def this_machine() -> Machine:
    """This one, now."""
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        cpu=_value_in("/proc/cpuinfo", "model name") or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=int(_value_in("/proc/meminfo", "MemTotal").split()[0]) / 2**20,
        kernel=platform.release(),
        iptables=_iptables(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def _value_in(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _iptables() -> str:
    path = proc.find("iptables-nft") or proc.find("iptables")
    return proc.run([path, "--version"], deadline=10).stdout.strip() if path else "no iptables"
