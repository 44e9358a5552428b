"""Connection tracking: is there room for new connections, and has the kernel refused some?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvctl.doctor.finding import Finding, failure, fine, unknown, warning
from kvctl.model.text import plural

CHECK = "conntrack"
_SETTINGS = Path("/proc/sys/net/netfilter")
_STATISTICS = Path("/proc/thread-self/net/stat/nf_conntrack")
_WARN_SHARE = 0.8
_REFUSED = ("insert_failed", "drop", "early_drop")


def check(*, settings: Path = _SETTINGS, statistics: Path = _STATISTICS) -> Iterator[Finding]:
    """`settings`: the directory of nf_conntrack_count and _max; `statistics`: the counters since the boot."""
    count, limit = _number(settings / "nf_conntrack_count"), _number(settings / "nf_conntrack_max")
    if count is None or limit is None:
        text = "how full the table of connections is cannot be read: nf_conntrack is not loaded, which a rule would do"
        yield unknown(CHECK, text, evidence=str(settings / "nf_conntrack_count"))
        return
    yield _fill(count, limit)
    refused = _counters(statistics)
    told = ", ".join(f"{name} {refused[name]}" for name in _REFUSED if name in refused)
    if number := sum(refused.get(name, 0) for name in _REFUSED):
        text = f"the kernel has refused {plural(number, 'connection')} so far: no free port for a VIP, or a full table"
        mend = "see whether it grows: conntrack -S; kvctl_port_share of the agent's metrics tells which VIP"
        yield warning(CHECK, text, evidence=told, mend=mend)
    elif refused:
        yield fine(CHECK, "no connection was refused since the kernel started", evidence=told)
    if _number(settings / "nf_conntrack_acct") == 0:
        text = "bytes and packets of connections are not counted, which egress does not need"
        yield fine(CHECK, text, evidence="nf_conntrack_acct is 0")


def _fill(count: int, limit: int) -> Finding:
    evidence = f"nf_conntrack_count is {count}, nf_conntrack_max {limit}"
    mend = f"sysctl -w net/netfilter/nf_conntrack_max={2 * limit}, or see who has them: conntrack -L"
    if limit and count >= limit:
        text = f"the table of connections is full ({count} of {limit}): new ones are dropped"
        return failure(CHECK, text, evidence=evidence, mend=mend)
    if limit and count >= _WARN_SHARE * limit:
        text = f"the table of connections is {100 * count // limit} % full"
        return warning(CHECK, text, evidence=evidence, mend=mend)
    return fine(
        CHECK, f"there is room for {plural(max(limit - count, 0), 'connection')} more", evidence=evidence
    )


def _counters(path: Path) -> dict[str, int]:
    """Names first, then a line of hexadecimal numbers for each CPU; empty where it cannot be read."""
    try:
        names, *rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {name: sum(int(row[at], 16) for row in rows) for at, name in enumerate(names)}
    except (OSError, ValueError, IndexError):
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
