"""Examples of every command, for --help and for the manual: each has been run, by a test where one can."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Needs(StrEnum):
    """What has to be there for an example to run, besides sip.yaml (`kvctl lab demo --manifest`)."""

    NOTHING = "nothing"
    NODE = "node"
    """Root, on the node that has the VIP of sip.yaml."""
    CLUSTER = "cluster"


class Example(NamedTuple):
    """A line as it is typed, over several with a backslash at the end of all but the last."""

    does: str
    """A sentence without its full stop."""
    line: str
    needs: Needs = Needs.NOTHING
    status: int = 0
    """What it ends with."""

    @property
    def lines(self) -> list[str]:
        """What is printed."""
        return self.line.split("\n")


Path = tuple[str, ...]
_GET = "kubectl get svc,pods,endpointslices,nodes -A -o json"

EXAMPLES: Mapping[Path, tuple[Example, ...]] = {
    (): (
        Example("See what it does, on any Linux machine, with real packets", "kvctl lab demo", Needs.NODE),
        Example("See what a manifest asks for", "kvctl egress compute -f sip.yaml"),
        Example("Write them", "kvctl egress apply -f sip.yaml", Needs.NODE),
        Example("See what there is on this node", "kvctl egress list", Needs.NODE),
    ),
    ("egress",): (
        Example("See what would change", "kvctl egress diff -f sip.yaml", Needs.NODE, 3),
        Example("Make it so", "kvctl egress apply -f sip.yaml", Needs.NODE),
        Example("Look at what is there", "kvctl egress show sip/sip-client", Needs.NODE),
        Example("Take it away", "kvctl egress flush sip/sip-client", Needs.NODE),
    ),
    ("egress", "compute"): (
        Example("See what a manifest asks for", "kvctl egress compute -f sip.yaml"),
        Example(
            "The same for a cluster, from anywhere, with what kubectl prints",
            f"{_GET} |\n  kvctl egress compute -f -",
            Needs.CLUSTER,
        ),
        Example(
            "See the rules themselves, as restore text, with the cluster's ranges given",
            "kvctl egress compute -f sip.yaml -o iptables \\\n"
            "  --pod-cidr 10.0.0.0/16 --service-cidr 10.96.0.0/12",
        ),
    ),
    ("egress", "apply"): (
        Example("See what would change", "kvctl egress apply -f sip.yaml --dry-run", Needs.NODE),
        Example("Write the rules that a manifest asks for", "kvctl egress apply -f sip.yaml", Needs.NODE),
        Example(
            "Write those of one Service, and leave the others as they are",
            "kvctl egress apply sip/sip-client -f sip.yaml",
            Needs.NODE,
        ),
        Example(
            "Take over what the cluster has, and remove Services that are gone from it",
            f"{_GET} |\n  kvctl egress apply --prune -f -",
            Needs.CLUSTER,
        ),
        Example(
            "Say which Node this host is, and which ranges the cluster has",
            "kvctl egress apply -f sip.yaml --node worker \\\n"
            "  --pod-cidr 10.0.0.0/16 --service-cidr 10.96.0.0/12",
            Needs.NODE,
        ),
    ),
    ("egress", "diff"): (
        Example("See what apply would change", "kvctl egress diff -f sip.yaml", Needs.NODE, 3),
        Example(
            "See the text that iptables-restore would get",
            "kvctl egress diff -f sip.yaml -o iptables",
            Needs.NODE,
            3,
        ),
        Example(
            "Compare with the cluster, in a script", "kvctl egress diff -o json --prune", Needs.CLUSTER, 3
        ),
    ),
    ("egress", "list"): (
        Example("See what is on this node", "kvctl egress list", Needs.NODE),
        Example(
            "See also what should be here and is not, and why",
            "kvctl egress list -f sip.yaml -o wide",
            Needs.NODE,
        ),
        Example("The same with the cluster that is configured", "kvctl egress list --cluster", Needs.CLUSTER),
        Example(
            "Watch what goes on, with a look every five seconds",
            "kvctl egress list --watch --interval 5 --cluster",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "show"): (
        Example("Look at one Service", "kvctl egress show sip/sip-client", Needs.NODE),
        Example(
            "See all of its connections",
            "kvctl egress show -n sip sip-client -o wide",
            Needs.NODE,
        ),
        Example(
            "Compare it with the cluster: its Lease, its holder, what is missing",
            "kvctl egress show sip/sip-client --cluster",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "trace"): (
        Example(
            "See what becomes of what a pod sends",
            "kvctl egress trace --from 10.0.0.1 \\\n  --to 192.168.0.250:5060 --proto udp",
            Needs.NODE,
        ),
        Example(
            "The same for a ping",
            "kvctl egress trace --from 10.0.0.1 \\\n  --to 192.168.0.250 --proto icmp",
            Needs.NODE,
        ),
        Example(
            "Name the pod: the cluster is asked for its address",
            "kvctl egress trace --pod sip/sip-client-0 \\\n  --to 192.168.0.250:5060 --proto udp",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "verify"): (
        Example(
            "See which source the outside sees of a Service's pods, with an echo there",
            "kvctl egress verify sip/sip-client --to 192.168.0.250:5060",
            Needs.NODE,
        ),
        Example(
            "Ask from one pod, and say what has to be seen",
            "kvctl egress verify --from 10.0.0.1 --to 192.168.0.250:5060 \\\n"
            "  --proto udp --expect 192.168.0.245",
            Needs.NODE,
        ),
        Example(
            "Go on while something is changed, and see for how long it is wrong",
            "kvctl egress verify --watch sip/sip-client \\\n  --to 192.168.0.250:5060 --interval 0.05",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "echo"): (
        Example(
            "Answer outside of the cluster, on a port that the Service rewrites",
            "kvctl egress echo --port 5060 --log",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "flush"): (
        Example("Remove the rules of one Service", "kvctl egress flush sip/sip-client", Needs.NODE),
        Example("Remove everything of kvctl's, from both back ends", "kvctl egress flush --all", Needs.NODE),
    ),
    ("egress", "watch"): (
        Example("Run the agent by hand, in a terminal", "kvctl egress watch --node worker", Needs.CLUSTER),
        Example("Do one round, for cron", "kvctl egress watch --once", Needs.CLUSTER),
        Example(
            "Place the VIPs, too, and remove all rules at the end",
            "kvctl egress watch --elect --clean",
            Needs.CLUSTER,
        ),
    ),
    ("egress", "move"): (
        Example(
            "Empty a node before work on it", "kvctl egress move sip/sip-client --to worker-2", Needs.CLUSTER
        ),
    ),
    ("egress", "wait"): (
        Example(
            "Wait in an init container that has POD_NAME, POD_NAMESPACE and HOST_IP",
            "kvctl egress wait --timeout 120",
            Needs.CLUSTER,
        ),
        Example(
            "Ask by hand whether a pod's rules are there",
            "kvctl egress wait -n sip --pod sip-client-0 \\\n  --agent http://192.168.0.240:9744 --timeout 0",
            Needs.CLUSTER,
        ),
    ),
    ("doctor",): (
        Example("See whether egress can work on this node", "kvctl doctor", Needs.NODE),
        Example(
            "See whether the rules are here that a cluster wants, too; it ends with 1 where they are not",
            "kvctl doctor --cluster",
            Needs.CLUSTER,
            status=1,
        ),
    ),
    ("lab",): (
        Example("Build a lab; it has no rules yet", "kvctl lab up", Needs.NODE),
        Example("Get the Service and the Pod of the demo", "kvctl lab demo --manifest > sip.yaml"),
        Example(
            "Write their rules on the lab's worker",
            "kvctl lab exec worker -- kvctl egress apply -f sip.yaml",
            Needs.NODE,
        ),
        Example("Remove the lab", "kvctl lab down", Needs.NODE),
    ),
    ("lab", "demo"): (
        Example("See a pod leave with its Service's address", "kvctl lab demo", Needs.NODE),
        Example("Get a manifest to try the other commands with", "kvctl lab demo --manifest > sip.yaml"),
        Example("See a failover of three nodes", "kvctl lab demo --workers 3", Needs.NODE),
    ),
    ("lab", "up"): (Example("Build it, for one back end", "kvctl lab up --nftables", Needs.NODE),),
    ("lab", "down"): (Example("Remove it", "kvctl lab down", Needs.NODE),),
    ("lab", "exec"): (
        Example("Send something from the pod", "kvctl lab exec pod -- ping -c 1 192.168.0.250", Needs.NODE),
        Example("Run kvctl on the worker", "kvctl lab exec worker -- kvctl egress list", Needs.NODE),
        Example("Look around in the outside world", "kvctl lab exec outside -- sh", Needs.NODE),
    ),
}
"""By the words after `kvctl`."""
