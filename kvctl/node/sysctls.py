"""What in this host's settings keeps traffic by a second interface from coming back: looked at, never changed.

The files are those of the kernel's Documentation/networking/ip-sysctl.rst, below /proc/sys/net, which shows the network
namespace of the thread that opens them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kvctl.model.net import Family

_ROOT = Path("/proc/sys/net")


class Wrong(NamedTuple):
    """A setting that keeps traffic from coming back."""

    path: str
    """Below /proc/sys/net."""
    counts: int
    """What the kernel goes by now."""
    why: str
    value: int
    """What it should be."""

    @property
    def mend(self) -> str:
        """The command that mends it until the next boot."""
        # With slashes, because a dot may be part of an interface's name (sysctl(8)).
        return f"sysctl -w net/{self.path}={self.value}"

    def __str__(self) -> str:
        return f"net/{self.path} counts as {self.counts}: {self.why} ({self.mend})"


def checks(interface: str, family: Family) -> list[str]:
    """Sentences about what is set wrong for traffic out by `interface`, each with its mend; empty: nothing.

    What cannot be read (an interface that is not there) is not judged.
    """
    return list(map(str, wrong(interface, family)))


def wrong(interface: str, family: Family) -> list[Wrong]:
    """The same as values."""
    if family is Family.IPV6:
        return _forwarding("ipv6/conf/all/forwarding", why="this host forwards no IPv6 packets")
    return [
        *_reverse_path(interface),
        *_announce(interface),
        *_forwarding(
            f"ipv4/conf/{interface}/forwarding",
            why=f"replies that arrive at {interface} are not forwarded to the pods",
        ),
    ]


def _reverse_path(interface: str) -> list[Wrong]:
    if effective("rp_filter", interface) != 1:
        return []
    why = f"replies that arrive at {interface} are dropped where the main table leads elsewhere"
    return [Wrong(f"ipv4/conf/{interface}/rp_filter", counts=1, why=why, value=2)]


def _announce(interface: str) -> list[Wrong]:
    counts = effective("arp_announce", interface)
    if counts is None or counts >= 2:
        return []
    why = "this host's ARP requests name the VIP as sender, even when another node has it already"
    return [Wrong(f"ipv4/conf/{interface}/arp_announce", counts=counts, why=why, value=2)]


def _forwarding(path: str, *, why: str) -> list[Wrong]:
    if read_setting(path) != 0:
        return []
    return [Wrong(path, counts=0, why=why, value=1)]


def effective(name: str, interface: str) -> int | None:
    """What counts of rp_filter, arp_announce or arp_ignore: the greater of what is set for all and for the interface.

    None: it cannot be read.
    """
    values = [read_setting(f"ipv4/conf/{each}/{name}") for each in ("all", interface)]
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def read_setting(path: str) -> int | None:
    """The number in a file below /proc/sys/net; None: there is none, or it cannot be read."""
    try:
        return int((_ROOT / path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
