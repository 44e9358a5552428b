"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kvctl.cli.output import FORMATS
from kvctl.model.text import quote

F = TypeVar("F", bound=Callable[..., Any])


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class Seconds(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """A number of seconds from `least` to `most`."""

    name = "seconds"

    def __init__(self, *, most: int, least: float = 0) -> None:
        self._most = most
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails with what is accepted."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not self._least <= seconds <= self._most:  # false for nan, too
            accepted = f"a number of seconds from {self._least:g} to {self._most}"
            self.fail(f"{quote(str(value))} is not {accepted}", param, ctx)
        return seconds


services = click.argument("services", metavar="[SERVICE]...", nargs=-1)
namespace = click.option(
    "-n",
    "--namespace",
    metavar="NAMESPACE",
    help="Where a SERVICE lies that is given by its NAME alone. [default: the context's namespace, else default]",
)
files = click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    metavar="FILE",
    help="Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no "
    "cluster. Repeatable.",
)
configuration = _all(
    click.option(
        "--kubeconfig",
        metavar="FILE",
        help="How to reach the cluster. [environment: KUBECONFIG; default: the pod's account, else ~/.kube/config]",
    ),
    click.option(
        "--context",
        "context",
        metavar="CONTEXT",
        help="A context of the kubeconfig. [default: its current one]",
    ),
)
cluster = click.option(
    "--cluster",
    "ask_cluster",
    is_flag=True,
    help="Compare with the cluster that is configured. So do -f, --kubeconfig and --context.",
)
networks = _all(
    click.option(
        "--pod-cidr",
        "pod_cidrs",
        multiple=True,
        metavar="CIDR",
        help="A network of pods: only pods in it count, and traffic to it keeps its source. Repeatable. "
        "[environment: egress_podcidr; default: discovered, else 10.0.0.0/16]",
    ),
    click.option(
        "--service-cidr",
        "service_cidrs",
        multiple=True,
        metavar="CIDR",
        help="A network of ClusterIPs: traffic to it keeps its source. Repeatable. "
        "[environment: egress_servicecidr; default: discovered, else 10.96.0.0/12]",
    ),
    click.option(
        "--exclude-cidr",
        "exclude_cidrs",
        multiple=True,
        metavar="CIDR",
        help="A further network, traffic to which keeps its source. Repeatable. "
        "[environment: egress_excludecidrs; default: the addresses of Nodes, link-local, multicast]",
    ),
    click.option(
        "--vip-range",
        "vip_ranges",
        multiple=True,
        metavar="CIDR",
        help="Where VIPs may lie that a cluster's Service has not in its status, but in an annotation or its spec. "
        "Repeatable. [environment: egress_vipranges; default: nowhere]",
    ),
)
node = click.option(
    "--node",
    metavar="NODE",
    help="The Node that this host is: only its pods count. "
    "[environment: NODE_NAME, vip_nodename; default: the host name]",
)
any_node = click.option("--node", metavar="NODE", help="Only the pods of this Node. [default: those of all]")
interface = click.option(
    "--interface",
    metavar="INTERFACE",
    help="The interface of Services that name none. [environment: vip_servicesinterface, vip_interface; default: "
    "the one that has the VIP, else that of the route to it]",
)
backend = click.option(
    "--nftables/--no-nftables",
    "nftables",
    default=None,
    help="Work with iptables-nft, or with iptables-legacy. "
    "[environment: egress_withnftables; default: what this host uses]",
)
assume_vip = click.option(
    "--assume-vip",
    is_flag=True,
    default=None,
    help="Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo. "
    "[environment: egress_assumevip]",
)
without_vip = click.option(
    "--without-vip",
    type=click.Choice(["drop", "node-address"]),
    default=None,
    help="What becomes of traffic where the VIP is not: it is dropped, or leaves with the node's address. A Service's "
    "annotation kvctl.io/without-vip comes first. [environment: egress_withoutvip; default: node-address]",
)
with_vip = click.option(
    "--with-vip",
    is_flag=True,
    help="Also put the VIPs on their interfaces, and announce them: for a node without an agent. flush undoes it.",
)
prune = click.option(
    "--prune", is_flag=True, help="Also remove the rules of Services that the source does not have."
)
keep_connections = click.option(
    "--keep-connections",
    is_flag=True,
    default=None,
    help="Leave connections that have the wrong source now; without it they are dropped, to begin anew. "
    "[environment: egress_keepconnections]",
)
lock_timeout = click.option(
    "--lock-timeout",
    type=Seconds(most=3600),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait while another kvctl changes rules.",
)


def force(*, places: bool = True) -> Callable[[F], F]:
    """`--force`; `places`: of a command that has --with-vip."""
    more = ", or (--with-vip) a Lease decides who has the VIP" if places else ""
    text = f"Go on even if an agent (kvctl egress watch) lives on this node, which may undo it{more}."
    return click.option("--force", is_flag=True, help=text)


def output(*more: str) -> Callable[[F], F]:
    """`-o` with the formats that every command has and `more`."""
    *first, last = [*FORMATS, *more]
    return click.option(
        "-o",
        "--output",
        type=click.Choice([*first, last]),
        default="table",
        show_default=True,
        metavar="FORMAT",
        help=f"How to print: {', '.join(first)} or {last}.",
    )
