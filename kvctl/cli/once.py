"""One round of the agent, by hand: what `watch` sees and does, printed as `apply` prints it."""

from __future__ import annotations

import time

from kvctl.agent.inbox import Inbox
from kvctl.agent.round import Cause
from kvctl.agent.sign import refuse_beside_agent
from kvctl.agent.start import Options, new_keeper
from kvctl.cli.apply import print_changes, report_applied, report_routing, routing_now
from kvctl.cli.output import note, printable
from kvctl.cli.source import report_problems, report_source
from kvctl.cluster.connection import Connection
from kvctl.cluster.watched import WatchedCluster
from kvctl.errors import ClusterError
from kvctl.model.objects import Objects
from kvctl.netfilter.privilege import require_netfilter
from kvctl.signals import orderly

SYNC_SECONDS = 60.0
"""How long the first full picture of the cluster may take."""
_PATIENCE = 2.0
"""Seconds without a full picture before it is said what is waited for."""


def once(connection: Connection, told: Options, *, output: str) -> int:
    """Make the rules right once; the exit status. Raises KvctlError where nothing could be done."""
    # The first process of a container is not ended by SIGTERM unless it asks for it (pid_namespaces(7)).
    with orderly():
        require_netfilter(told.told)
        refuse_beside_agent(can_force=False)
        objects = _picture(connection, told)
        # One may have come while the cluster was waited for.
        refuse_beside_agent(can_force=False)
        routing = routing_now()
        kept = new_keeper(told).keep(objects, read_kernel=True, asked=True)
    resolution = kept.wish.resolution
    items = print_changes(kept.applied, output, node=told.node)
    status = max(report_source(kept.objects, resolution, pruned=True), report_problems(resolution, None))
    return max(status, report_applied(kept.applied, items, quiet=not report_routing(routing)))


def _picture(connection: Connection, told: Options) -> Objects:
    inbox = Inbox()
    cluster = WatchedCluster(connection, node=told.node, notify=inbox.marker(Cause.OBJECTS))
    cluster.start()
    begun, said = time.monotonic(), ""
    try:
        while not cluster.synced:
            passed, missing = time.monotonic() - begun, cluster.missing()
            if passed >= SYNC_SECONDS:
                raise ClusterError(
                    f"{connection.name} did not give a full picture within {SYNC_SECONDS:g} s: {missing}",
                    hint="check the account's permissions and the network; nothing was changed",
                )
            if passed >= _PATIENCE and missing and missing != said:
                said = missing
                note(printable(f"waiting for {connection.name}, up to {SYNC_SECONDS:g} s: {missing}"))
            inbox.wait(timeout=min(SYNC_SECONDS - passed, 1.0))
        return cluster.objects()
    finally:
        cluster.stop()
