"""serviceElection, put together: the electorate, what it places, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kvctl.agent.prober import Prober
from kvctl.agent.tenure import Tenure, Wires
from kvctl.agent.vip_status import VipStatus
from kvctl.cluster.connection import Connection
from kvctl.cluster.leases import Leases
from kvctl.election.electorate import Electorate
from kvctl.election.terms import Terms
from kvctl.model.net import Address
from kvctl.model.settings import Settings
from kvctl.node.addresses import bind, bound, extend, unbind
from kvctl.node.announce import Announced, Announcer
from kvctl.node.host import read_host
from kvctl.node.probe import and_where_it_belongs, answered

if TYPE_CHECKING:
    from kvctl.agent.lease_metrics import LeaseCollector

PROBE_SECONDS = 0.4
# A write takes an API server some ten milliseconds: so a hundred Leases change hands in a fraction of a second.
_WORKERS = 8
_STATUS_PATIENCE = 1.0


@contextmanager
def elected(
    connection: Connection,
    settings: Settings,
    terms: Terms,
    *,
    node: str,
    clean: bool,
    notify: Callable[[], None],
    observer: LeaseCollector,
    say: Callable[[str], None],
    complain: Callable[[str], None],
    count: Callable[[str, str], None],
) -> Iterator[Tenure]:
    """What contends and places, until the end of the block; then nothing is released: a successor goes on."""

    def probe(wanted: Collection[Announced]) -> dict[Address, str]:
        probed = answered(and_where_it_belongs(wanted, read_host()), seconds=PROBE_SECONDS)
        observer.probed(probed.claims)
        return probed.obstacles(wanted)

    with ExitStack() as stack:
        status = VipStatus(connection, node=node, complain=complain, count=count)
        status.start()
        stack.callback(status.stop, patience=_STATUS_PATIENCE)
        announcer = Announcer(complain=complain)
        announcer.start()
        stack.callback(announcer.stop)
        prober = Prober(probe, notify=notify, complain=complain)
        prober.start()
        stack.callback(prober.stop)
        tenure = Tenure(
            settings,
            terms,
            wires=Wires(bind, extend, unbind, bound, prober, announcer),
            status=status,
            notify=notify,
            say=say,
            complain=complain,
            clean=clean,
        )
        electorate = Electorate(
            Leases(connection),
            node=node,
            terms=terms,
            notify=notify,
            renewed=tenure.renewed,
            complain=complain,
            workers=_WORKERS,
        )
        tenure.serve(electorate)
        observer.serve(electorate)
        electorate.start()
        stack.callback(electorate.stop)
        yield tenure
