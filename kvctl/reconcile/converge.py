"""Bring the kernel to a target: rules, then connections, then what marked their way.

Every write is followed by a fresh look, and the loop ends when there is nothing left to write: what a
write lost (legacy's whole-table replacement can lose one without telling, facts of 1.8.9) or another
program undid is found at once. Where it is known that nothing else has happened (`Site.wrote`), what a look would
show is known without one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from kvctl.errors import KvctlError
from kvctl.model.flows import Flow
from kvctl.model.host import Host
from kvctl.model.net import Address, Family, Network, host_network
from kvctl.model.text import quote
from kvctl.netfilter import conntrack
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.diff import Plan, restore_text
from kvctl.netfilter.kernel import RestoreError
from kvctl.policy.connections import judge_of
from kvctl.reconcile.site import MakeTarget, Site
from kvctl.reconcile.steps import FINAL_ORDER, FIRST_ORDER

MAX_ATTEMPTS = 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_CONNECTION_PASSES = 3
# The very same script, accepted and needed again: somebody undoes it, and will again. (In the legacy back end
# another writer that does not share the lock may undo it by chance.)
_MOST_REPEATS = 3


Connection = tuple[str, Address, int, Address, int]
"""What tells a connection from others: protocol, source, port, destination, port, as its pod sent it."""


def connection_of(flow: Flow) -> Connection:
    """Which connection a conntrack entry is of; its successor is of the same."""
    sent = flow.original
    return (flow.protocol, sent.source, sent.source_port, sent.destination, sent.destination_port)


@dataclass
class Outcome:
    """What a run did to one family, in all the places it looked at."""

    family: Family
    restores: int = 0
    refused: int = 0
    """Of these, how many the kernel took nothing of."""
    dropped: list[Flow] = field(default_factory=list)
    returned: list[Flow] = field(default_factory=list)
    """Connections that were dropped before, and have the wrong source again."""
    warnings: list[str] = field(default_factory=list)
    errors: list[KvctlError] = field(default_factory=list)


def converge(
    sites: Sequence[tuple[Site, MakeTarget]],
    *,
    host: Host,
    drop_connections: bool,
    check_connections: bool = True,
    spared: Container[Connection] = frozenset(),
    acts: bool = True,
    pod_networks: Sequence[Network] = (),
    meanwhile: Callable[[], object] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Make every site of one family hold its target. The first site is the one whose rules act.

    `acts`: false where another program takes the traffic before our rules can (then no connection is
    dropped for them). `check_connections`: look at connections also where no rule has to be written. `spared`:
    those that were dropped under the very same rules before; they are told, and not dropped again.
    `meanwhile`: called while each restore runs, for what would else be done after it.
    What fails is an error of the outcome: it is no reason to leave the other family undone.
    """
    outcome = Outcome(family=sites[0][0].family)
    try:
        for site, make in sites:
            _write_until_right(
                site, make, outcome, final=False, retire=drop_connections, meanwhile=meanwhile, sleep=sleep
            )
        if drop_connections and (check_connections or outcome.restores):
            # Where this fails the marks stay, so that the next run finds these connections.
            here = [site for site, _ in sites]
            again = spared if not outcome.restores else frozenset()
            _drop_wrong_connections(
                here, outcome, host=host, acts=acts, pod_networks=pod_networks, spared=again
            )
        for site, make in sites:
            outcome.warnings += _pinned(_plan(site, make, final=True, retire=False), site)
            _write_until_right(
                site, make, outcome, final=True, retire=drop_connections, meanwhile=meanwhile, sleep=sleep
            )
    except KvctlError as error:
        outcome.errors.append(error)
    return outcome


def _plan(site: Site, make: MakeTarget, *, final: bool, retire: bool) -> Plan:
    target = make(site.installed)
    steps = site.rulesets(target, retire=retire)
    return site.plan(target, steps.final if final else steps.first)


def _pinned(plan: Plan, site: Site) -> Iterable[str]:
    for chain, rule in plan.pinned:
        yield (
            f"chain {chain} ({site.kernel.backend}, {site.family}) is empty but stays, because a foreign rule "
            f"leads to it: {rule}"
        )
    for chain in plan.unwritable:
        yield f"chain {quote(chain)} ({site.kernel.backend}, {site.family}) stays: iptables cannot write its name"


def _write_until_right(
    site: Site,
    make: MakeTarget,
    outcome: Outcome,
    *,
    final: bool,
    retire: bool,
    meanwhile: Callable[[], object],
    sleep: Callable[[float], None],
) -> None:
    def beside(plan: Plan) -> None:
        site.foresee(plan)
        meanwhile()

    failed_text = None
    accepted: Counter[str] = Counter()
    for attempt in range(MAX_ATTEMPTS):
        plan = _plan(site, make, final=final, retire=retire)
        if not plan:
            if accepted:
                site.is_right()
            return
        text = restore_text(plan, order=FINAL_ORDER if final else FIRST_ORDER)
        if accepted[text] == _MOST_REPEATS and site.kernel.backend is Backend.NFT:
            break
        try:
            outcome.restores += 1
            write = site.kernel.write(site.family, text, meanwhile=partial(beside, plan))
            accepted[text] += 1
            failed_text = None
        except RestoreError as error:
            outcome.refused += 1
            # The same script refused twice for a reason that does not pass will be refused for ever.
            if attempt == MAX_ATTEMPTS - 1 or (not error.transient and text == failed_text):
                raise
            failed_text = text
            sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
            site.reread()
        else:
            site.wrote(plan, write)
    raise KvctlError(
        f"the {site.family} rules of the {site.kernel.backend} back end do not stay: another program changes them "
        "while kvctl writes, or what is written does not show in what is read",
        hint="find out who writes them, with: xtables-monitor --event",
    )


def _drop_wrong_connections(
    sites: Sequence[Site],
    outcome: Outcome,
    *,
    host: Host,
    acts: bool,
    pod_networks: Sequence[Network],
    spared: Container[Connection],
) -> None:
    """Drop them. Removal is judged also where our rules do not act. Raises KvctlError if conntrack cannot be asked."""
    acting = sites[0].installed
    before = [part for site in sites for part in (site.before_installed, site.installed)]
    judge = judge_of(
        acting,
        before=before,
        is_local=host.is_local,
        may_masquerade_as=host.may_masquerade_as,
        pod_networks=pod_networks,
    )
    if not judge.vips:
        return
    try:
        # Once more after each deletion: a packet that was on its way through the old rules while the table
        # was read may have begun its connection since.
        for _ in range(_CONNECTION_PASSES):
            flows = conntrack.dump(
                family=outcome.family,
                sources=[host_network(address) for address in judge.pods],
                reply_destinations=judge.vips,
            )
            wrong = [f for f in flows if judge.is_wrong(f) and (acts or judge.wanted_source(f) is None)]
            outcome.returned = [flow for flow in wrong if connection_of(flow) in spared]
            wrong = [flow for flow in wrong if connection_of(flow) not in spared]
            if not wrong:
                break
            conntrack.delete_all(wrong)
            outcome.dropped += wrong
    except KvctlError as error:
        # Not the exit status of "netfilter unavailable": the rules are in.
        raise KvctlError(
            f"the {outcome.family} connections could not be checked: {error}", hint=error.hint
        ) from error
