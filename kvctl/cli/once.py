"""One round of the agent, by hand: what `watch` sees and does, printed as `apply` prints it."""

from __future__ import annotations

import time

from kvctl import __version__
from kvctl.agent.inbox import Inbox
from kvctl.agent.round import Cause
from kvctl.agent.sign import take_sign
from kvctl.agent.start import Options, new_keeper
from kvctl.cli.apply import print_changes, report_applied
from kvctl.cli.source import report_problems, report_source
from kvctl.cluster.connection import Connection
from kvctl.cluster.watched import WatchedCluster
from kvctl.errors import ClusterError
from kvctl.model.objects import Objects

SYNC_SECONDS = 60.0
"""How long the first full picture of the cluster may take."""


def once(connection: Connection, told: Options, *, output: str) -> int:
    """Make the rules right once; the exit status. Raises KvctlError where nothing could be done."""
    with take_sign(node=told.node, version=__version__):
        kept = new_keeper(told).keep(_picture(connection, told), read_kernel=True, asked=True)
    resolution = kept.wish.resolution
    items = print_changes(kept.applied, output, node=told.node)
    status = max(report_source(kept.objects, resolution, pruned=True), report_problems(resolution, None))
    return max(status, report_applied(kept.applied, items))


def _picture(connection: Connection, told: Options) -> Objects:
    inbox = Inbox()
    cluster = WatchedCluster(connection, node=told.node, notify=inbox.marker(Cause.OBJECTS))
    cluster.start()
    end = time.monotonic() + SYNC_SECONDS
    try:
        while not cluster.synced:
            left = end - time.monotonic()
            if left <= 0:
                raise ClusterError(
                    f"{connection.name} did not give a full picture within {SYNC_SECONDS:g} s: {cluster.missing()}",
                    hint="check the account's permissions and the network, or read objects with -f FILE and apply",
                )
            inbox.wait(timeout=min(left, 1.0))
        return cluster.objects()
    finally:
        cluster.stop()
