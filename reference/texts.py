"""What the manual says that no command says of itself: exit statuses, environment, files, arguments, see also."""

from __future__ import annotations

from collections.abc import Mapping

from kvctl.cli.examples import Path

DATE = "2026-11-23"
"""Of the manual: set by hand with a release, so that the pages depend on nothing but kvctl."""

Rows = Mapping[str, str]

_DONE = {"0": "Done."}
_FAILED = {
    "1": "Something failed, a value in an object is invalid, or a Service that was named is skipped. "
    "What could be done was done."
}
_USAGE = {"2": "Wrong usage."}
_DIFFERS = {"3": "There is something to change. Status 1 comes first."}
_NETFILTER = {"4": "Netfilter is not available: a program, a permission, or a lock that another kvctl keeps."}
_CLUSTER = {"5": "The cluster cannot be reached, or refuses."}
_INTERRUPTED = {"130": "Interrupted."}

ANY_STATUS: Rows = {**_DONE, **_FAILED, **_USAGE, **_NETFILTER, **_CLUSTER, **_INTERRUPTED}
"""Of commands that have none of their own in STATUSES."""

STATUSES: Mapping[Path, Rows] = {
    (): {
        **_DONE,
        **_FAILED,
        **_USAGE,
        "3": "kvctl egress diff has found something to change.",
        **_NETFILTER,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("egress",): {
        **_DONE,
        **_FAILED,
        **_USAGE,
        "3": "diff has found something to change.",
        **_NETFILTER,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("egress", "list"): {
        "0": "The list was printed, whatever the status of a Service in it. diff tells by its exit status.",
        "1": "Something failed, or a value in an object of the source is invalid.",
        **_USAGE,
        **_NETFILTER,
        **_CLUSTER,
        "130": "Interrupted; so does list --watch end.",
    },
    ("egress", "show"): {
        "0": "It was shown, whatever the status of a Service. diff tells by its exit status.",
        "1": "Something failed, a value in an object of the source is invalid, or a Service that was named has no "
        "rules on this node.",
        **_USAGE,
        **_NETFILTER,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("egress", "verify"): {
        "0": "All was as expected. Ctrl-C is how --watch is meant to end: it makes no difference to the status.",
        "1": "A wrong source was seen, an answer was lost, or nothing that SERVICE rewrites was asked.",
        **_USAGE,
        "4": "The network namespace of a pod cannot be entered, or netfilter is not available.",
        **_INTERRUPTED,
    },
    ("egress", "compute"): {**_DONE, **_FAILED, **_USAGE, **_CLUSTER, **_INTERRUPTED},
    ("egress", "diff"): {
        "0": "There is nothing to change.",
        **_FAILED,
        **_USAGE,
        **_DIFFERS,
        **_NETFILTER,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("egress", "flush"): {
        "0": "Done, also if there was nothing to remove.",
        "1": "Something failed, or an agent lives on this node and --force is not given.",
        **_USAGE,
        **_NETFILTER,
        **_INTERRUPTED,
    },
    ("egress", "move"): {
        "0": "NODE has the VIP.",
        "1": "It has not, or nobody knows.",
        **_USAGE,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("egress", "wait"): {
        "0": "The rules are there, or the time is over under --on-timeout continue.",
        "1": "The time is over.",
        **_USAGE,
        **_INTERRUPTED,
    },
    ("egress", "trace"): {
        "0": "It is told what becomes of the packet.",
        "1": "That cannot be judged; it is said by which rule, and why.",
        **_USAGE,
        **_NETFILTER,
        **_CLUSTER,
        **_INTERRUPTED,
    },
    ("doctor",): {
        "0": "Nothing keeps egress from working; there may be warnings.",
        "1": "A check has failed.",
        **_USAGE,
        "4": "Nothing can be looked at.",
        **_INTERRUPTED,
    },
    ("lab",): {"0": "Done.", "1": "Something failed.", **_USAGE, **_NETFILTER, **_INTERRUPTED},
    ("lab", "demo"): {
        "0": "All was as promised.",
        "1": "Something was not, or failed.",
        **_USAGE,
        **_NETFILTER,
        **_INTERRUPTED,
    },
    ("lab", "up"): {"0": "The lab is up.", "1": "Something failed.", **_USAGE, **_NETFILTER, **_INTERRUPTED},
    ("lab", "down"): {"0": "There is no lab any more.", "1": "Something failed.", **_USAGE},
    ("lab", "exec"): {
        "1": "There is no lab.",
        **_USAGE,
        "126": "CMD cannot be run.",
        "127": "There is no program CMD.",
        "any other": "That of CMD, which may also have these.",
    },
}

ARGUMENTS: Rows = {
    "[SERVICE]...": "The Services to which the command is limited: each is written NAMESPACE/NAME, or NAME with "
    "--namespace. Without any: all there are.",
    "SERVICE": "NAMESPACE/NAME, or NAME with --namespace.",
    "pod|worker|outside|peer|server": "Where CMD runs: the network namespace of that part of the lab.",
    "-- CMD...": "A program and its arguments. The -- keeps its options from being kvctl's.",
}
"""By metavar."""
FLUSHED = (
    "The Services whose rules are removed: each is written NAMESPACE/NAME, or NAME with --namespace. "
    "Either these or --all."
)

VARIABLES: Rows = {
    "vip_leaseduration": "Of --elect: seconds after which others may take a Lease that is not renewed. Default: 15.",
    "vip_renewdeadline": "Of --elect: seconds after which a holder that cannot renew gives up. Default: 10.",
    "vip_retryperiod": "Of --elect: seconds between two requests for a Lease. Default: 2.",
}
"""Variables that are not what an option would be."""

FURTHER_VARIABLES: Mapping[str, Rows] = {
    "--exclude-cidr": {"egress_excludenodes": "false: traffic to the addresses of Nodes may be rewritten."},
    "--interface": {
        "egress_fwmark_mask": "The bits of the packet mark that lead out by a named interface; 0x3c unless set.",
        "egress_route_table": "The first of the routing tables that they lead to; 7500 unless set.",
        "egress_rule_priority": "The priority of the first of the routing rules that lead there; 7500 unless set.",
    },
    "--agent": {
        "HOST_IP": "The address of the node, where neither --agent nor egress_agent names the agent."
    },
    "--output": {"NO_COLOR": "If it is not empty there are no colours, not even on a terminal."},
}
"""By an option of the command: what else of the environment counts then."""

_LOCK = {"/run/xtables.lock": "The lock of iptables-legacy; XTABLES_LOCKFILE names another."}
FILES: Mapping[str, Rows] = {
    "--kubeconfig": {
        "~/.kube/config": "How to reach the cluster, where nothing else says it.",
        "/var/run/secrets/kubernetes.io/serviceaccount/": "The account of the pod that kvctl runs in.",
    },
    "--lock-timeout": _LOCK,
    "--once": {**_LOCK, "/proc/net/xt_recent/kvctl-*": "The heartbeats of --elect."},
}
"""By an option of the command."""
NO_FILES = "None: everything that kvctl knows of its own work is read from the kernel."

ANNOTATIONS: Rows = {
    "kube-vip.io/egress, kvctl.io/egress": '"true": the Service asks for egress. If both are set, the second counts.',
    "kube-vip.io/egress-destination-ports": "Only these are rewritten: protocol:port or protocol:first-last, "
    'comma separated, as in "udp:5060,tcp:8000-8100".',
    "kube-vip.io/egress-allowed-networks": "Only traffic to these networks is rewritten.",
    "kube-vip.io/egress-denied-networks": "Traffic to these networks is not.",
    "kube-vip.io/loadbalancerIPs": "The VIPs of a Service that has none in its status.",
    "kube-vip.io/serviceInterface": "The interface that the VIP belongs to, and that its traffic leaves by.",
    "kube-vip.io/leaseName": "The Lease by which the VIP is held.",
    "kube-vip.io/ignore": '"true": the Service is left alone.',
    "kvctl.io/gateway": "The next hop on that interface, where its routes do not tell.",
    "kvctl.io/without-vip": "drop or node-address: what becomes of traffic where the VIP is not.",
}
"""Of a Service, in kvctl(1)."""

SEE_ALSO: Mapping[Path, tuple[str, ...]] = {
    (): ("iptables(8)", "conntrack(8)", "kubectl(1)"),
    ("egress", "compute"): ("iptables-restore(8)",),
    ("egress", "diff"): ("iptables-restore(8)",),
    ("egress", "show"): ("conntrack(8)",),
    ("lab",): ("ip-netns(8)",),
}
"""Pages of others; a command's own group and what stands beside it are named anyway."""
