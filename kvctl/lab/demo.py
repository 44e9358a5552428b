"""The story of egress in one minute: before, after `apply`, what is left alone, after `flush`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from kvctl.errors import KvctlError
from kvctl.lab.build import Lab, built, sweep, unique_prefix
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD, standard
from kvctl.lab.traffic import probe
from kvctl.model.net import Family

MANIFEST = """\
apiVersion: v1
kind: Service
metadata:
  name: sip-client
  namespace: sip
  annotations:
    kube-vip.io/egress: "true"
    kube-vip.io/egress-destination-ports: "udp:5060,tcp:8080"
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: sip-client}
status:
  loadBalancer:
    ingress: [{ip: 192.168.0.245}]
---
apiVersion: v1
kind: Pod
metadata:
  name: sip-client-0
  namespace: sip
  labels: {app: sip-client}
spec:
  nodeName: worker
status:
  podIP: 10.0.0.1
"""

PICTURE = """\
    pod 10.0.0.1    peer 10.0.0.2
             \\       /
              worker
             /       \\
  172.16.0.2 eth0     eth1 192.168.0.240 and the VIP 192.168.0.245
             |        |
     server, outside  outside 192.168.0.250
"""

_SERVICE = "sip/sip-client"
_PORTS = (5060, 5061, 8080)
_WHO = STANDARD[Family.IPV4]


@dataclass(frozen=True, slots=True)
class _Step:
    """One packet of the pod's, and the source that must be seen where it arrives."""

    to: str
    destination: str
    protocol: str
    port: int
    source: str
    meaning: str


_NEAR = {"to": "outside", "destination": _WHO.outside_eth1}
_NODE = "the node's address"
_VIP = "the Service's VIP"

_BEFORE = (
    _Step(**_NEAR, protocol="udp", port=5060, source=_WHO.worker_eth1, meaning=_NODE),
    _Step(**_NEAR, protocol="tcp", port=8080, source=_WHO.worker_eth1, meaning=_NODE),
)
_AFTER = (
    _Step(**_NEAR, protocol="udp", port=5060, source=_WHO.vip, meaning=_VIP),
    _Step(**_NEAR, protocol="tcp", port=8080, source=_WHO.vip, meaning=_VIP),
)
_NOT_LISTED = (
    _Step(**_NEAR, protocol="udp", port=5061, source=_WHO.worker_eth1, meaning=f"{_NODE}: not a listed port"),
)
_INTERNAL = (
    _Step(
        to="peer",
        destination=_WHO.peer,
        protocol="udp",
        port=5060,
        source=_WHO.pod,
        meaning="the pod's own address",
    ),
    _Step(
        to="peer",
        destination=_WHO.peer_cluster_ip,
        protocol="udp",
        port=5060,
        source=_WHO.pod,
        meaning="the pod's own address, by a ClusterIP",
    ),
    _Step(
        to="server",
        destination=_WHO.server_cluster_ip,
        protocol="tcp",
        port=8080,
        source=_WHO.worker_eth0,
        meaning="the node's address, never the VIP: a ClusterIP, back end on a node",
    ),
)


def run(*, backend: str, say: Callable[[str], None]) -> None:
    """Build a lab, walk through the story, remove the lab; `say` takes one line.

    Raises KvctlError at the first thing that is not as promised, and whatever building a lab raises.
    """
    sweep("demo")
    arguments = "--nftables" if backend == "nft" else "--no-nftables"
    with ExitStack() as stack:
        lab = stack.enter_context(built(standard(backend=backend), prefix=unique_prefix("demo")))
        for name in ("outside", "peer", "server"):
            stack.enter_context(Echo(lab[name], ports=_PORTS))
        _tell(say, f"A lab of network namespaces, iptables back end {backend}:")
        _tell(say, PICTURE)
        _tell(say, "1. Before: the worker masquerades, as its CNI told it to.")
        _observe(lab, _BEFORE, say=say)
        _tell(say, f"2. A Service asks for egress with its load-balancer address {_WHO.vip}.")
        _kvctl(lab, "apply", "--node", "worker", arguments, "-f", "-", say=say, stdin=MANIFEST)
        say("")
        _observe(lab, _AFTER, say=say)
        _tell(say, "3. Ports that the Service does not list are left alone,")
        _observe(lab, _NOT_LISTED, say=say)
        _tell(say, "   and so is traffic that stays in the cluster.")
        _observe(lab, _INTERNAL, say=say)
        _tell(say, "4. What is there, by the kernel alone, with the connections that it has rewritten:")
        _kvctl(lab, "list", arguments, say=say)
        _tell(say, "5. And away with it.")
        _kvctl(lab, "flush", _SERVICE, arguments, say=say)
        say("")
        _observe(lab, _BEFORE, say=say)
    _tell(say, "All as promised. The lab has been removed; to play with one that stays:\n")
    for line in (
        "kvctl lab up",
        "kvctl lab demo --manifest | kvctl lab exec worker -- kvctl egress apply --node worker -f -",
        "kvctl lab exec worker -- kvctl egress list",
        "kvctl lab down",
    ):
        say(f"  $ {line}")


def _tell(say: Callable[[str], None], text: str) -> None:
    say("")
    for line in text.splitlines():
        say(line)


def _kvctl(lab: Lab, *arguments: str, say: Callable[[str], None], stdin: str | None = None) -> None:
    say("")
    shown = shlex.join(("kvctl", "egress", *arguments))
    say(f"  worker# {shown}" + (" <<END" if stdin else ""))
    for line in (stdin or "").splitlines():
        say(f"  > {line}")
    if stdin:
        say("  > END")
    done = lab.kvctl("egress", *arguments, stdin=stdin)
    for line in (done.stdout + done.stderr).splitlines():
        say(f"  {line}")
    if done.status != 0:
        raise KvctlError(
            f"the demo is not as promised: {shown} ended with status {done.status}",
            hint="kvctl lab up builds the same lab to look into",
        )


def _observe(lab: Lab, steps: tuple[_Step, ...], *, say: Callable[[str], None]) -> None:
    for step in steps:
        seen = probe(lab.pod, destination=step.destination, port=step.port, protocol=step.protocol)
        source = seen.source if seen else "nothing"
        aim = f"{step.protocol} {step.destination}:{step.port}"
        where = f"{step.to} sees"
        say(f"  pod -> {aim:<24} {where:<13} {source:<14} {step.meaning}")
        if source != step.source:
            raise KvctlError(
                f"the demo is not as promised: the {step.to} saw {source} of {aim}, not {step.source}",
                hint="kvctl lab up builds the same lab to look into",
            )
