"""What in this host's settings keeps traffic by a second interface from coming back: looked at, never changed.

The files are those of the kernel's Documentation/networking/ip-sysctl.rst, below /proc/sys/net, which shows the network
namespace of the thread that opens them.
"""

from __future__ import annotations

from pathlib import Path

from kvctl.model.net import Family

_ROOT = Path("/proc/sys/net")


def checks(interface: str, family: Family) -> list[str]:
    """Sentences about what is set wrong for traffic out by `interface`, each with its mend; empty: nothing.

    What cannot be read (an interface that is not there) is not judged.
    """
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


def _reverse_path(interface: str) -> list[str]:
    if _effective("rp_filter", interface) != 1:
        return []
    why = f"replies that arrive at {interface} are dropped where the main table leads elsewhere"
    return [_sentence(f"ipv4/conf/{interface}/rp_filter", counts=1, why=why, mend=2)]


def _announce(interface: str) -> list[str]:
    value = _effective("arp_announce", interface)
    if value is None or value >= 2:
        return []
    why = "this host's ARP requests name the VIP as sender, even when another node has it already"
    return [_sentence(f"ipv4/conf/{interface}/arp_announce", counts=value, why=why, mend=2)]


def _forwarding(path: str, *, why: str) -> list[str]:
    if _value(path) != 0:
        return []
    return [_sentence(path, counts=0, why=why, mend=1)]


def _effective(name: str, interface: str) -> int | None:
    """The greater of what is set for all and for the interface: that is what the kernel goes by, for both names."""
    values = [_value(f"ipv4/conf/{each}/{name}") for each in ("all", interface)]
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _value(path: str) -> int | None:
    try:
        return int((_ROOT / path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _sentence(path: str, *, counts: int, why: str, mend: int) -> str:
    # With slashes, because a dot may be part of an interface's name (sysctl(8)).
    return f"net/{path} counts as {counts}: {why} (sysctl -w net/{path}={mend})"
