"""What the words in the tables mean: statuses and columns, in kvctl-egress-list(1), to which other pages refer."""

from __future__ import annotations

from collections.abc import Mapping

from kvctl.cli.examples import Path
from kvctl.reconcile.report import Status

LIST: Path = ("egress", "list")

STATUS_WORDS: Mapping[Status, str] = {
    Status.APPLIED: "The rules are in the kernel, as they should be.",
    Status.WANTED: "Only in compute, which looks at no kernel: it would have rules.",
    Status.MISSING: "It should have rules here and has none; apply writes them. Or the rules of its family "
    "cannot be read.",
    Status.DRIFTED: "Its rules are not as they should be: diff shows how, apply mends it.",
    Status.OVERRIDDEN: "Its rules are right, but a chain of another program takes the traffic first; kvctl "
    "cannot mend it.",
    Status.ELSEWHERE: "The VIP is not on this node: nothing is rewritten here. The message on standard "
    "error says where it is, if that is known, and what becomes of the traffic (kvctl.io/without-vip).",
    Status.SKIPPED: "The Service asks for egress and cannot have it; the message on standard error says why.",
    Status.ORPHANED: "One of two things, and the message says which: the rules are of a Service that the "
    "source does not have, and stay until apply --prune; or they are in the back end that is not in use, and "
    "apply moves or removes them.",
    Status.RETIRING: "The rules are being removed, and the removal was cut off; any later apply or flush "
    "ends it.",
    Status.FOREIGN: "Egress rules of kube-vip itself: they are shown, and never touched.",
}

STATUS_NOTE = (
    "A status says nothing by the exit status: list and show end with 0 whatever they find. In scripts use "
    "kvctl egress diff, which ends with 3 if anything is to be changed. missing, skipped, and elsewhere of a Service "
    "without rules are seen only with a source (-f, --cluster, --kubeconfig, --context)."
)

COLUMNS: Mapping[str, str] = {
    "SERVICE": "The namespace and the name; of kube-vip's own rules only what they tell.",
    "FAMILY": "ipv4 or ipv6: a Service with VIPs of both has a row for each.",
    "VIP": "The address that its pods' traffic leaves with.",
    "PODS": "How many pods' addresses count here.",
    "PORTS": "The destination ports that are rewritten, or all.",
    "STATUS": "See STATUS.",
    "CONNS": "Connections that were begun since the rules were written, ended ones too: rewriting counts "
    "only the first packet of each. Where the rules of a Service change it may begin at 0 again.",
    "HOLDER": "The node that has the VIP: here, its name, or - where nobody says.",
    "CHANGE": "Of apply and flush: what was done: added, updated, moved (from the other back end), dropping "
    "(the VIP is elsewhere, and the traffic is dropped), removed, or failed.",
    "INTERFACE": "-o wide: the one that the traffic leaves by, or else the one that has the VIP here.",
    "LEASE": "-o wide: the Lease by which the VIP is held, where a source tells (serviceElection).",
    "ANNOUNCED": "-o wide: who tells the network that the VIP is here: agent (that of this node, as long as "
    "its Lease is renewed), once (apply --with-vip, when it placed the VIP), nobody (the agent that did has "
    "ended), other (another program, or somebody by hand); - where the VIP is not here.",
    "ROUTE": "-o wide: main, or the number of the routing table that leads out by a named interface, with "
    "-broken behind it where that does not work; show says why.",
    "ALLOWED": "-o wide: the networks to which alone it is rewritten, or all.",
    "DENIED": "-o wide: the networks to which it is not.",
    "EXCLUDED": "-o wide: the networks to which nothing is rewritten, for any Service: those of the cluster.",
    "ADDRESSES": "-o wide: those of the pods.",
    "NEW/S": "--watch: new connections a second, between the last two looks.",
    "PKTS/S, BYTES/S": "--watch: packets and bytes a second, both ways, if net.netfilter.nf_conntrack_acct "
    "is 1.",
}

REFERENCE = "The words of the column STATUS, and the columns, are explained in kvctl-egress-list(1)."
REFERRING: tuple[Path, ...] = tuple(("egress", name) for name in ("compute", "apply", "diff", "show"))
"""The commands whose output has the same words."""
