"""Which of iptables' matches and targets the kernel has, asked of nf_tables as iptables-nft does: by no rule.

As a rule would, the question loads what is not loaded yet. linux/netfilter/nf_tables_compat.h.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from struct import Struct

from kvctl.errors import NetlinkError
from kvctl.model.net import Family
from kvctl.netlink import NETLINK_NETFILTER, open_netlink
from kvctl.netlink.messages import attribute

# linux/netfilter/nfnetlink.h: NFNL_SUBSYS_NFT_COMPAT, and NFNL_MSG_COMPAT_GET in it
_COMPAT_GET = 11 << 8
# NFTA_COMPAT_*
_NAME, _REVISION, _TYPE = 1, 2, 3
_NFGENMSG = Struct("!BBH")
_NUMBER = Struct("!I")
_FAMILIES = {Family.IPV4: 2, Family.IPV6: 10}


class Kind(IntEnum):
    """What an extension is, as the kernel counts them."""

    MATCH = 0
    TARGET = 1


def has_extension(name: str, kind: Kind, family: Family, *, revision: int | None = None) -> bool:
    """Whether the kernel has it; `revision` None: in any revision.

    Needs CAP_NET_ADMIN. Raises NetlinkError where the kernel does not answer the question.
    """
    what = f"looking for {name} in the kernel"
    payload = (
        _NFGENMSG.pack(_FAMILIES[family], 0, 0)
        + attribute(_NAME, name.encode("ascii") + b"\0")
        + attribute(_REVISION, _NUMBER.pack(revision or 0))
        + attribute(_TYPE, _NUMBER.pack(kind))
    )
    try:
        with open_netlink(protocol=NETLINK_NETFILTER, what=what) as asking:
            return asking.ask(kind=_COMPAT_GET, payload=payload, read=lambda *_: True, what=what)
    except NetlinkError as error:
        # xt_find_revision: the name is known, but not in this revision.
        if error.errno == errno.EPROTONOSUPPORT:
            return revision is None
        if error.errno == errno.ENOENT:
            return False
        raise
