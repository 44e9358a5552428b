"""The traffic fence: heartbeats that a node's rules need to use a VIP, in the lists of xt_recent.

A list is there while a rule names it, so rules come first, and then their heartbeat. Everything here is about
the network namespace of the calling thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from kvctl.errors import KvctlError, NetlinkError
from kvctl.model.net import Family
from kvctl.netfilter.compat import Kind, has_extension

# net/netfilter/xt_recent.c makes it in every network namespace once it is loaded.
_LISTS = Path("/proc/thread-self/net/xt_recent")
# Of the host's root, wherever it is looked at from; what is in /proc/sys/net has other owners.
_HOSTS_OWN = "/proc/sys/kernel/ostype"
# iptables-extensions(8), recent: what a list's file takes. The rules' empty mask leaves one entry to look for.
_ENTRY = {Family.IPV4: "+0.0.0.0\n", Family.IPV6: "+::\n"}
_CLEAR = "/\n"
_STAMPS = re.compile(r"last_seen: (?P<last>[0-9]+) ")

# linux/jiffies.h: the count begins five minutes before it overflows 32 bits; it goes with CLOCK_MONOTONIC.
_FIRST_SECONDS = -300
_JIFFIES = 1 << 32
# linux/time.h CLOCK_MONOTONIC_COARSE: its resolution is one jiffy.
_COARSE = 6

_NAME, _REVISION_WITH_MASK = "recent", 1


def beat(fences: Collection[tuple[Family, str]]) -> list[KvctlError]:
    """Write a heartbeat now to each of these lists; what cannot be written is an error in the result."""
    return [
        error for family, name in fences if (error := _write(name, _ENTRY[family], "renewed")) is not None
    ]


def still(names: Collection[str]) -> list[KvctlError]:
    """Take the heartbeats back: what needs them stops at the next packet. A list that is not there has none."""
    there = (name for name in names if (_LISTS / name).exists())
    return [error for name in there if (error := _write(name, _CLEAR, "cleared")) is not None]


def _write(name: str, text: str, what: str) -> KvctlError | None:
    # Not created: where there is no list a file cannot be, and the error says so.
    try:
        with open(_LISTS / name, "r+b", buffering=0) as file:
            file.write(text.encode("ascii"))
    except FileNotFoundError:
        return KvctlError(
            f"the heartbeat {name} cannot be {what}: no rule in the kernel names this list of xt_recent",
            hint="the rules were taken away; kvctl egress show tells what is there",
        )
    except OSError as error:
        return KvctlError(
            f"the heartbeat {name} cannot be {what}: {error.strerror}: {_LISTS / name}",
            hint="run as root, with /proc writable, in the network namespace of the node",
        )
    return None


def ages(names: Collection[str]) -> dict[str, float | None]:
    """How many seconds ago the last heartbeat of each list came, to about a second; None: there was none.

    A list that no rule names is absent.
    """
    result: dict[str, float | None] = {}
    for name in names:
        try:
            text = (_LISTS / name).read_text(encoding="ascii")
        except OSError:
            continue
        match = _STAMPS.search(text)
        result[name] = _age(int(match["last"])) if match else None
    return result


def _age(stamp: int) -> float:
    jiffy = time.clock_getres(_COARSE)
    now = int((time.clock_gettime(time.CLOCK_MONOTONIC) + _FIRST_SECONDS) / jiffy)
    passed = (now - stamp) % _JIFFIES
    return passed * jiffy if passed < _JIFFIES // 2 else 0.0


def obstacle() -> str | None:
    """Why there can be no fence, as the rest of a sentence; None: nothing is in the way.

    What needs heartbeats that nobody can write would never use its VIP.
    """
    if not available():
        return "this kernel has no xt_recent with masks (3.5)"
    if os.statvfs(_LISTS.parent).f_flag & os.ST_RDONLY:
        return "/proc/net is mounted read-only"
    if not _may_write():
        return "only root of the host may write to the lists of xt_recent, and this is a user namespace (hostUsers)"
    return None


def available() -> bool:
    """Whether this kernel has xt_recent, with masks (3.5).

    As a rule would, this loads it where the kernel has nf_tables; elsewhere it has to be loaded already.
    """
    return _LISTS.is_dir() or _has_match()


def _may_write() -> bool:
    """Whether this process may write to lists: to one that is there, or else by whose they would be.

    In every network namespace they are those of the host's uid 0 (recent_mt_check: ip_list_uid, unless set), which a
    user namespace that does not map it shows as another's, like the files of /proc/sys that never change their owner.
    """
    lists = list(_LISTS.glob("kvctl-*")) if _LISTS.is_dir() else []
    if lists:
        return os.access(lists[0], os.W_OK, effective_ids=True)
    return os.stat(_HOSTS_OWN).st_uid == os.geteuid() == 0


def _has_match() -> bool:
    """Whether there is a match of this name, of the revision that has masks."""
    try:
        return has_extension(_NAME, Kind.MATCH, Family.IPV4, revision=_REVISION_WITH_MASK)
    except NetlinkError:
        return False
