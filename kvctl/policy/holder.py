"""Who holds the VIP of a Service: this node, another one, nobody knows. Evidence in its order, and where it disagrees.

First this host's own addresses; then MetalLB's word (ServiceL2Status: it answers ARP without binding the
address); then kube-vip's (`kube-vip.io/vipHost`), if nothing contradicts: where it announces by BGP the address
is on `lo` alone, but it is somewhere on this host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.net import Address

VIP_HOST = "kube-vip.io/vipHost"

# An RFC 1123 subdomain, as Nodes are called: what else stands in the annotation is no evidence.
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

_BY_LEASE = "its Lease decides which node has it"
_BY_HAND = (
    "put it there with apply --with-vip, or use --assume-vip if a load balancer answers for it "
    "here without binding it"
)


class Evidence(NamedTuple):
    """What others say about the VIP of one Service; `node` is the name of this one."""

    node: str | None = None
    announced: frozenset[str] = frozenset()
    """The nodes that announce it by MetalLB's word."""
    vip_host: str | None = None
    """The node that kube-vip names as the holder."""


NO_EVIDENCE = Evidence()


def evidence_of(
    annotations: Mapping[str, str], *, announced: frozenset[str] = frozenset(), node: str | None
) -> Evidence:
    """What a Service's annotations and MetalLB say."""
    vip_host = annotations.get(VIP_HOST, "")
    return Evidence(
        node=node,
        announced=announced,
        vip_host=vip_host if _NODE_NAME.fullmatch(vip_host) else None,
    )


def not_here(
    vip: Address,
    *,
    host: Host | None,
    assume: bool,
    evidence: Evidence = NO_EVIDENCE,
    elected: bool = False,
) -> str | None:
    """The sentence that says that the VIP is not on this node, and who has it; None: it is here, or nobody looked.

    `elected`: nobody but the holder of its Lease places it.
    """
    if host is None or assume or host.holds(vip) is not None:
        return None
    parked = host.present_elsewhere(vip)
    if evidence.announced:
        if evidence.node in evidence.announced:
            return None
        return f"the VIP {vip} is announced by {_names(evidence.announced)}"
    if evidence.vip_host is not None:
        if evidence.vip_host != evidence.node:
            return f"the VIP {vip} is held by {evidence.vip_host}"
        if parked is not None:
            return None
    # By its holder's last word it is this node's: then it is a Lease's to decide, too.
    hint = _BY_LEASE if elected or evidence.vip_host is not None else _BY_HAND
    if parked is not None:
        return f"the VIP {vip} is only on {parked}, which does not answer ARP for it: {hint}"
    return f"the VIP {vip} is on no interface of this node ({hint})"


def holder_of(vip: Address, *, host: Host, evidence: Evidence = NO_EVIDENCE) -> str | None:
    """The node that has the VIP, in the order of the evidence; None: nobody is known to."""
    if host.holds(vip) is not None:
        return evidence.node
    if evidence.announced:
        return evidence.node if evidence.node in evidence.announced else min(evidence.announced)
    named_here = evidence.vip_host == evidence.node and host.present_elsewhere(vip) is None
    return None if named_here else evidence.vip_host


def disagreement(vip: Address, *, host: Host, evidence: Evidence) -> str | None:
    """Where the evidence contradicts itself, in words; None: it does not."""
    holder = host.holds(vip)
    others = [
        (f"MetalLB says that {_names(evidence.announced)} announces it", evidence.announced),
        (f"{VIP_HOST} names {evidence.vip_host}", {evidence.vip_host} - {None}),
    ]
    if holder is not None:
        said = [text for text, nodes in others if nodes and evidence.node not in nodes]
        return f"the VIP {vip} is on {holder} of this node, but {' and '.join(said)}" if said else None
    metallb, kube_vip = (bool(nodes) and evidence.node in nodes for _, nodes in others)
    if evidence.announced and evidence.vip_host is not None and metallb != kube_vip:
        return f"about the VIP {vip} two programs disagree: {others[0][0]}, but {others[1][0]}"
    if kube_vip and not metallb and host.present_elsewhere(vip) is None:
        return f"{VIP_HOST} names this node, but the VIP {vip} is on no interface of it"
    return None


def _names(nodes: frozenset[str]) -> str:
    ordered = sorted(nodes)
    return ", ".join(ordered[:3]) + (" and others" if len(ordered) > 3 else "")
