"""Connections: read from the kernel's conntrack table, and deleted one by one.

Both iptables back ends share the table, and one dump serves any number of pods.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable

from kvctl.errors import KvctlError, NetfilterUnavailableError, NetlinkError
from kvctl.model.flows import Flow
from kvctl.model.net import Address, Family, Network
from kvctl.netfilter.conntrack_messages import DELETE, GET, deletion, flow_reader, generic_header
from kvctl.netlink import NETLINK_NETFILTER, open_netlink


def dump(
    *, family: Family, sources: Collection[Network], reply_destinations: Collection[Address]
) -> list[Flow]:
    """Entries with the original source in one of `sources` or the reply destination in `reply_destinations`.

    Of all zones, in the kernel's order; networks and addresses of the other family match nothing.
    Raises NetfilterUnavailableError without permission or conntrack, NetlinkError for other failures.
    """
    what = f"cannot read the {_words(family)} connections"
    read = flow_reader(family=family, sources=sources, reply_destinations=reply_destinations)
    try:
        with open_netlink(protocol=NETLINK_NETFILTER, what=what) as netlink:
            return netlink.dump(kind=GET, payload=generic_header(family), read=read, what=what)
    except NetlinkError as error:
        raise _explained(error) from error


def delete(flow: Flow) -> bool:
    """Delete exactly this entry; False if it has gone already, by its tuple, its zone or its id.

    An entry made anew with the same tuple at once mostly has the old id (Linux makes it of the tuple
    and the memory it lies in, and that is used again), so it cannot be told from this one. Raises as
    `dump` does.
    """
    return delete_all((flow,)) == 1


def delete_all(flows: Iterable[Flow]) -> int:
    """Delete exactly these entries, as far as they still exist; the number of those deleted.

    A failure with one does not keep the others: it is raised (as by `dump`) when all have been tried.
    """
    payloads = [deletion(flow) for flow in flows]
    if not payloads:
        return 0
    what = "cannot delete connections"
    try:
        with open_netlink(protocol=NETLINK_NETFILTER, what=what) as netlink:
            answers = netlink.request_each(kind=DELETE, payloads=payloads, what=what)
    except NetlinkError as error:
        raise _explained(error) from error
    # ENOENT: no such tuple in that zone, or its id is another (ctnetlink_del_conntrack).
    for answer in answers:
        if answer is not None and answer.errno != errno.ENOENT:
            raise _explained(answer) from answer
    return answers.count(None)


def _words(family: Family) -> str:
    return "IPv4" if family is Family.IPV4 else "IPv6"


def _explained(error: NetlinkError) -> KvctlError:
    """The same error, with the exit status and the next step where the cause is known."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return NetfilterUnavailableError(error.message, hint="run as root (it takes CAP_NET_ADMIN)")
    if error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
        return NetfilterUnavailableError(error.message, hint="load the kernel module nf_conntrack_netlink")
    return error
