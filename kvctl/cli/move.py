"""`kvctl egress move`: hand the VIP of a Service over to another node, in order."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from kvctl.cli import options
from kvctl.cli.help import Command
from kvctl.cli.output import note, printable, warning
from kvctl.cli.settings import parse_services
from kvctl.cluster import kinds
from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.fields import A_SUBDOMAIN, is_subdomain
from kvctl.cluster.kinds import examine
from kvctl.cluster.leases import MOVE_TO, Lease, Leases
from kvctl.cluster.whereabouts import Whereabouts
from kvctl.errors import ClusterError, KvctlError, UsageError
from kvctl.model.lease import IDENTITY_PREFIX, LeaseKey
from kvctl.model.objects import Service
from kvctl.model.ref import ServiceRef
from kvctl.model.text import quote
from kvctl.policy.lease import lease_of
from kvctl.signals import orderly

_SECONDS = 10.0
"""How long a request may take."""
_TICK = 0.1
_CONFLICT = 409
_SHOWN = 8
"""So many nodes are named."""


@click.command(cls=Command)
@click.argument("service", metavar="SERVICE")
@options.namespace
@click.option("--to", "node", metavar="NODE", required=True, help="The Node that is to have it.")
@click.option(
    "--timeout",
    type=options.Seconds(most=3600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for it.",
)
@options.configuration
def command(
    *,
    service: str,
    namespace: str | None,
    node: str,
    timeout: float,
    kubeconfig: str | None,
    context: str | None,
) -> int:
    """Hand the VIP of SERVICE over to another node.

    The holder stops using the VIP, takes it down and frees its Lease; NODE takes it. Services that share the Lease go
    with it. Takes serviceElection, and a pod of the Service on NODE, which is looked at before anything else.
    """
    refs = parse_services([service], namespace=namespace, kubeconfig=kubeconfig, context=context)
    assert refs is not None
    (ref,) = refs
    if not is_subdomain(node):
        raise UsageError(f"--to: {quote(node)} is not {A_SUBDOMAIN}")
    connection = open_connection(kubeconfig=kubeconfig, context=context)
    service_now = _service(connection, ref)
    leases, key = Leases(connection), lease_of(ref, service_now.annotations)
    begun = time.monotonic()
    lease = _look(leases, key, ref)
    before = _node(lease)
    if before == node:
        note(printable(f"{ref} is on {node} already (Lease {key})"))
        return 0
    _refuse_if_unable(Whereabouts(connection, timeout=_SECONDS), service_now, node)
    with orderly():
        try:
            _ask(leases, lease, ref, node)
            _wait(leases, key, node, end=begun + timeout)
        except BaseException:
            _take_back(leases, key, node)
            raise
    seconds = time.monotonic() - begun
    note(printable(f"{ref} moved from {before or 'nobody'} to {node} in {seconds:.1f} s (Lease {key})"))
    return 0


def _service(connection: Connection, ref: ServiceRef) -> Service:
    path = f"/api/v1/namespaces/{ref.namespace}/services/{ref.name}"
    try:
        raw: Mapping[str, Any] = connection.get(path, timeout=_SECONDS)
    except RefusedError as error:
        if error.status == 404:
            raise KvctlError(f"there is no Service {ref}", hint="see: kubectl get services -A") from error
        raise
    _, kept = examine(dict(raw), kinds.SERVICE)
    if not isinstance(kept.view, Service):
        if kept.errors:
            raise kept.errors[0]
        connection.no_sense(path)
    return kept.view


def _refuse_if_unable(whereabouts: Whereabouts, service: Service, node: str) -> None:
    """Raise KvctlError where the node could not take it: its holder would give it up for nobody."""
    ref, nodes = service.ref, whereabouts.nodes_of(service)
    there = ", ".join(sorted(nodes or ())[:_SHOWN]) + (" ..." if len(nodes or ()) > _SHOWN else "")
    if whereabouts.has_node(node) is False:
        hint = f"{ref} has pods on: {there}" if there else "see: kubectl get nodes"
        raise KvctlError(f"there is no Node {node}", hint=hint)
    if nodes is None:
        kind = kinds.POD if service.selector else kinds.ENDPOINT_SLICE
        note(printable(f"whether {ref} has a pod on {node} is not known: {kind.called} may not be listed"))
    elif node not in nodes:
        raise KvctlError(
            f"{ref} has no pod on {node}, which therefore does not take its VIP",
            hint=f"it has pods on: {there}" if there else "it has a pod on no node: start one there first",
        )


def _look(leases: Leases, key: LeaseKey, ref: ServiceRef) -> Lease:
    """The Lease. Raises KvctlError where there is none, or it is not an agent's of kvctl."""
    lease = leases.get(key, timeout=_SECONDS)
    if lease is None:
        raise KvctlError(
            f"{ref} has no Lease {key}: no node contends for its VIP",
            hint="run the agents with svc_election=true, and see: kvctl egress list --cluster",
        )
    _node(lease)
    return lease


def _ask(leases: Leases, lease: Lease, ref: ServiceRef, node: str) -> None:
    """Write the wish into the Lease."""
    while True:
        try:
            leases.update(lease._replace(move_to=node), timeout=_SECONDS)
        except RefusedError as error:
            if error.status != _CONFLICT:
                raise
            lease = _look(leases, lease.key, ref)
        else:
            return


def _node(lease: Lease) -> str:
    """The node that holds it; empty: nobody. Raises KvctlError where it is no agent of kvctl's."""
    if lease.holder and not lease.holder.startswith(IDENTITY_PREFIX):
        raise KvctlError(
            f"Lease {lease.key} is held by {quote(lease.holder)}, which is no agent of kvctl's",
            hint="move it with the program that holds it",
        )
    return lease.holder.removeprefix(IDENTITY_PREFIX)


def _wait(leases: Leases, key: LeaseKey, node: str, *, end: float) -> None:
    while True:
        lease = leases.get(key, timeout=_SECONDS)
        holder = _node(lease) if lease is not None else ""
        if holder == node:
            return
        if time.monotonic() >= end:
            raise KvctlError(
                f"{node} has not taken Lease {key} in time: {holder or 'nobody'} holds it",
                hint=f"see whether {node} runs an agent with svc_election=true and a pod of the Service",
            )
        time.sleep(_TICK)


def _take_back(leases: Leases, key: LeaseKey, node: str) -> None:
    """A wish that nobody fulfils must not stay: it would move the VIP later, when nobody expects it."""
    try:
        while (lease := leases.get(key, timeout=_SECONDS)) is not None and lease.move_to == node:
            try:
                leases.update(lease._replace(move_to=None), timeout=_SECONDS)
            except RefusedError as error:
                # The holder renews it all the time.
                if error.status != _CONFLICT:
                    raise
    except ClusterError as error:
        # Why it was given up is told by whoever called.
        undo = f"kubectl -n {key.namespace} annotate lease {key.name} {MOVE_TO}-"
        warning(
            printable(f"Lease {key} may still ask to move to {node} ({error.message}); take it back: {undo}")
        )
