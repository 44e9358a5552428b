"""The number of the last nf_tables commit in a network namespace: whether anybody has written meanwhile.

Every commit, whoever makes it, raises the generation of its namespace by one (linux/netfilter/nf_tables.h,
NFT_MSG_GETGEN); `iptables-nft-restore` makes one for each COMMIT line that changes something (1.8.9).
"""

from __future__ import annotations

from collections.abc import Callable

from kvctl.errors import NetlinkError
from kvctl.netlink import NETLINK_NETFILTER, open_netlink
from kvctl.netlink.messages import read_attributes

# linux/netfilter/nfnetlink.h: the subsystem in the high byte of a type
GET_GENERATION = 10 << 8 | 16
HEADER = bytes(4)
"""struct nfgenmsg: family, version, resource id."""
_ID = 1
_WHAT = "cannot ask for the generation of the rules"


def generation() -> int | None:
    """That of the calling thread's network namespace; None where the kernel does not say."""
    try:
        with open_netlink(protocol=NETLINK_NETFILTER, what=_WHAT) as netlink:
            return netlink.ask(kind=GET_GENERATION, payload=HEADER, read=read_generation, what=_WHAT)
    except NetlinkError:
        return None


def read_generation(buffer: bytearray, start: int, end: int) -> int:
    """The number in an answer, or in what is multicast at the end of a commit."""
    return int.from_bytes(read_attributes(buffer, start + len(HEADER), end).get(_ID, b""), "big")


def following(number: int | None, commits: int) -> tuple[int, ...]:
    """The generations of the next `commits` commits; counted in 32 bits, round and round."""
    return () if number is None else tuple((number + each) & 0xFFFFFFFF for each in range(1, commits + 1))


def own_commits(count: int) -> Callable[[], tuple[int, ...]]:
    """Before a restore of so many transactions; what this returns is called after it.

    It gives the generations of its commits, if from its beginning to its end nobody else has written; else none.
    """
    own = following(generation(), count)

    def ended() -> tuple[int, ...]:
        return own if own and generation() == own[-1] else ()

    return ended
