"""Electorates against an API server that behaves, and one that does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvctl.cluster.leases import MOVE_TO
from kvctl.election.electorate import Holding
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey
from tests.apiserver import ApiServer, Body, Drip, Drop, Fault, Hang, Request, Status, anything, serving
from tests.election.rig import EASY, KEY, QUICK, Node, lease, nodes, of, record, writes
from tests.waiting import until

Make = Callable[..., Node]
ROOT = Path(__file__).parents[2]
MANY = [LeaseKey("sip", f"kubevip-s{number}") for number in range(40)]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server; nothing that it complains about may be sent to it."""
    with serving() as it:
        yield it


@pytest.fixture
def make(server: ApiServer, tmp_path: Path) -> Iterator[Make]:
    """Makes nodes."""
    with nodes(server, tmp_path) as make:
        yield make


def holder(make: Make, name: str = "worker", **more: object) -> Node:
    node = make(name, **more)
    node.want()
    until(node.holds)
    return node


def annotate(server: ApiServer, node: str) -> None:
    there = server.get("leases", KEY.name, namespace=KEY.namespace)
    assert there is not None
    there["metadata"]["annotations"] = {MOVE_TO: node}
    server.put("leases", there)


def give(server: ApiServer, to: str, *, seconds: int = 1) -> None:
    """Write the Lease by hand."""
    server.put("leases", lease(holderIdentity=to, leaseDurationSeconds=seconds))


# All goes well.


def test_a_lease_that_nobody_has_is_made_and_held(server: ApiServer, make: Make) -> None:
    node = holder(make)
    assert record(server)["holderIdentity"] == "kvctl/worker"
    until(lambda: len(node.renewals) > 2)
    assert [holding.key for holding in node.renewals[:3]] == [KEY] * 3
    assert node.complaints == []


def test_it_is_released_only_when_it_was_torn_down(server: ApiServer, make: Make) -> None:
    node = holder(make)
    node.notified.clear()
    node.unwant()
    assert node.notified.is_set()
    assert not node.holds()
    assert node.why() == "no longer wanted here"
    assert not node.electorate.released(patience=0.05)
    assert record(server)["holderIdentity"] == "kvctl/worker"
    node.tear_down()
    assert node.electorate.released(patience=5)
    assert record(server)["holderIdentity"] == ""
    assert node.electorate.states() == {}


def test_the_next_one_has_it_soon_after_a_release(make: Make) -> None:
    first, second = holder(make, "first"), make("second")
    second.want()
    until(lambda: second.electorate.states()[KEY].holder == "kvctl/first")
    first.electorate.hand_over([KEY])
    assert first.why() == "handed over to other nodes"
    first.tear_down()
    until(second.holds)
    assert second.electorate.states()[KEY].transitions == 1
    assert not first.holds()


def test_a_stop_releases_nothing_and_the_successor_takes_it_at_once(server: ApiServer, make: Make) -> None:
    holder(make).electorate.stop()
    again = holder(make, terms=Terms(60, 40, 10))
    assert record(server)["leaseTransitions"] == 0
    assert again.electorate.states()[KEY].held


def test_a_drain_gives_up_all_for_good(server: ApiServer, make: Make) -> None:
    node = make()
    node.want(*MANY[:5])
    until(lambda: len(node.electorate.held()) == 5)
    node.electorate.hand_over()
    assert set(node.electorate.leaving()) == set(MANY[:5])
    for key in MANY[:5]:
        node.tear_down(key)
    assert node.electorate.released(patience=5)
    assert {record(server, key)["holderIdentity"] for key in MANY[:5]} == {""}
    node.want(*MANY[:6])
    assert node.electorate.states()[MANY[5]].holder is None
    assert node.electorate.held() == {}


def test_a_planned_move_goes_where_it_was_told_to(server: ApiServer, make: Make) -> None:
    first = holder(make, "first")
    others = [make("second"), make("third")]
    for other in others:
        other.want()
    annotate(server, "third")
    until(lambda: first.why() == 'asked to move to "third"')
    assert record(server)["holderIdentity"] == "kvctl/first"
    first.tear_down()
    until(others[1].holds)
    assert not others[0].holds()
    there = server.get("leases", KEY.name, namespace=KEY.namespace)
    assert there is not None
    assert MOVE_TO not in there["metadata"].get("annotations", {})


def test_who_is_woken_looks_at_once(server: ApiServer, make: Make) -> None:
    give(server, "kvctl/other", seconds=60)
    node = make(terms=Terms(300, 200, 100))
    node.want()
    until(lambda: node.electorate.states()[KEY].holder == "kvctl/other")
    give(server, "")
    node.electorate.wake(KEY)
    until(node.holds, seconds=5)


def test_many_leases_are_renewed_in_turn_by_a_few_threads(server: ApiServer, make: Make) -> None:
    node = make(terms=Terms(6, 4, 1))
    before = threading.active_count()
    node.want(*MANY)
    until(lambda: len(node.electorate.held()) == len(MANY))
    until(lambda: len(node.renewals) > 3 * len(MANY))
    assert set(node.electorate.held()) == set(MANY)
    # Those of the server: one for each connection that the workers keep.
    assert threading.active_count() - before <= 8
    assert len(server.asked(lambda request: request.method == "GET")) == len(MANY)


# Others.


def test_another_holder_in_the_record_is_the_end_of_it(server: ApiServer, make: Make) -> None:
    node = holder(make)
    give(server, "worker-1", seconds=60)
    until(lambda: node.why() == 'taken by "worker-1"')
    node.tear_down()
    assert node.electorate.released(patience=1)
    until(lambda: node.electorate.states()[KEY].leaving is None)
    assert record(server)["holderIdentity"] == "worker-1"


def test_a_deleted_lease_is_made_anew_without_a_gap(server: ApiServer, make: Make) -> None:
    node = holder(make, terms=Terms(3, 2, 0.2))
    server.delete("leases", KEY.name, namespace=KEY.namespace)
    gaps = 0
    end = time.monotonic() + 5
    while not record(server) and time.monotonic() < end:
        gaps += not node.holds()
    assert record(server)["holderIdentity"] == "kvctl/worker"
    assert gaps == 0
    assert node.why() is None


def test_what_cannot_be_read_is_never_taken(server: ApiServer, make: Make) -> None:
    server.put("leases", lease(holderIdentity=["x"]))
    node = make()
    node.want()
    until(lambda: node.complaints)
    assert "spec.holderIdentity is a list" in node.complaints[0]
    assert not node.holds()
    assert server.asked(writes) == []


def test_a_dead_holder_is_succeeded_after_its_term(server: ApiServer, make: Make) -> None:
    first = holder(make, "first", terms=QUICK)
    second = make("second", terms=QUICK)
    second.want()
    until(lambda: second.electorate.states()[KEY].holder == "kvctl/first")
    first.electorate.stop()
    last = first.renewals[-1].sent
    until(second.holds)
    assert second.renewals[0].sent >= last + QUICK.duration


# The server misbehaves.

FAULTS = [
    Drop(),
    Hang(),
    Drip(),
    Body(b"<html>"),
    *map(Status, (401, 403, 500, 503)),
    Status(429, retry_after=60),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_whatever_fails_ends_it_at_the_deadline(server: ApiServer, make: Make, fault: Fault) -> None:
    node = holder(make, terms=QUICK)
    server.fail(fault, on=anything("leases"), times=None)
    node.notified.clear()
    until(lambda: node.notified.is_set() and not node.holds())
    ended = time.monotonic()
    why = node.why()
    assert why is not None
    # And why, unless the machine was too busy for a single try.
    assert why.startswith("not renewed within 0.6 s")
    assert node.renewals[-1].deadline <= ended < node.renewals[-1].until
    server.mend()
    node.tear_down()
    until(node.holds)


@pytest.mark.parametrize("fault", [Drop(), Status(500), Body(b"{}"), Status(409, "Conflict")], ids=str)
def test_what_passes_is_survived(server: ApiServer, make: Make, fault: Fault) -> None:
    node = holder(make, terms=Terms(6, 4, 0.2))
    server.fail(fault, on=anything("leases"), times=3)
    seen = len(node.renewals)
    until(lambda: len(node.renewals) > seen + 2)
    assert node.why() is None


def test_a_dead_connection_does_not_take_all_the_time_there_is(server: ApiServer, make: Make) -> None:
    node = holder(make, terms=Terms(6, 4, 0.3))
    server.fail(Hang(), on=anything("leases"), times=1)
    seen = len(node.renewals)
    until(lambda: len(node.renewals) > seen + 1)
    assert node.renewals[-1].sent - node.renewals[seen - 1].sent < 3
    assert node.why() is None


def test_those_who_wait_for_nothing_keep_no_renewal_waiting(server: ApiServer, make: Make) -> None:
    node = make(terms=Terms(6, 4, 0.3))
    node.want(KEY)
    until(node.holds)
    server.fail(Hang(), on=lambda request: request.method == "GET", times=None)
    node.want(KEY, *MANY)
    seen = len(node.renewals)
    until(lambda: len(node.renewals) > seen + 10)
    assert node.why() is None


def test_what_nobody_may_do_is_said_once(server: ApiServer, make: Make) -> None:
    node = make()
    server.fail(Status(403, "Forbidden"), on=anything("leases"), times=None)
    node.want(*MANY)
    until(lambda: len(server.requests) > 2 * len(MANY))
    assert len(node.complaints) == 1
    assert "grant the verb in RBAC" in node.complaints[0]


def test_a_callback_that_fails_ends_nothing(make: Make) -> None:
    def fail(holding: Holding) -> None:
        raise RuntimeError("as the test wants it")

    node = holder(make, renewed=fail)
    until(lambda: len(node.renewals) > 3)
    assert len(node.complaints) == 1
    assert "a fault of kvctl: RuntimeError" in node.complaints[0]


def test_nothing_is_to_be_torn_down_while_its_renewal_is_being_told(make: Make) -> None:
    gate, inside = threading.Event(), threading.Event()

    def wait(holding: Holding) -> None:
        inside.set()
        gate.wait(20)

    node = make(terms=Terms(60, 40, 10), renewed=wait)
    node.want()
    assert inside.wait(10)
    node.unwant()
    assert not node.holds()
    assert node.why() is None
    node.notified.clear()
    gate.set()
    until(lambda: node.why() is not None)
    assert node.notified.wait(10)


def test_past_the_deadline_it_is_to_be_torn_down_whatever_is_being_told(make: Make) -> None:
    gate = threading.Event()
    node = make(terms=QUICK, renewed=lambda holding: gate.wait(20) and None)
    node.want()
    until(lambda: node.why() is not None)
    node.unwant()
    assert node.why() is not None
    gate.set()


def test_a_stopped_process_finds_nothing_held_before_it_does_anything(
    server: ApiServer, tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "tests.election.stopped", server.kubeconfig(tmp_path / "config")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        heard = child.stdout.fileno()
        os.set_blocking(heard, False)
        try:
            until(lambda: "h" in said(heard))
            child.send_signal(signal.SIGSTOP)
            until(lambda: stopped(child.pid))
            said(heard)
            time.sleep(QUICK.renew_deadline + 0.1)
            asked = len(server.requests)
            child.send_signal(signal.SIGCONT)
            found: list[str] = []
            until(lambda: found.append(said(heard)) or found[-1])  # type: ignore[func-returns-value]
            assert "".join(found).startswith("-")
            # The renewal that was under way when it was stopped is all that it may have sent.
            assert [request.method for request in server.requests[asked:][:1]] in ([], ["PATCH"])
        finally:
            child.kill()


def said(descriptor: int) -> str:
    """What the process has said since."""
    try:
        return os.read(descriptor, 65536).decode()
    except BlockingIOError:
        return ""


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# Never two.


def test_of_two_that_contend_for_a_hundred_rounds_never_both_hold(server: ApiServer, make: Make) -> None:
    """The server conflicts, fails and breaks off meanwhile."""
    terms = EASY._replace(retry_period=0.02)
    first, second = make("first", terms=terms), make("second", terms=terms)
    faults: list[Fault] = [Status(409, "Conflict"), Status(500), Drop(), Status(429, retry_after=0)]
    over, overlaps = threading.Event(), 0

    def look() -> None:
        nonlocal overlaps
        while not over.is_set():
            # One after the other: who holds it before and after held it in between.
            before, other, after = first.holds(), second.holds(), first.holds()
            overlaps += before and other and after
            time.sleep(0.0002)

    looking = threading.Thread(target=look)
    looking.start()
    first.want()
    second.want()
    for number in range(100):
        until(lambda: first.holds() or second.holds())
        one, other = (first, second) if first.holds() else (second, first)
        server.fail(faults[number % len(faults)], on=writes)
        one.electorate.hand_over([KEY])
        until(lambda one=one: one.why() is not None)  # type: ignore[misc]
        one.tear_down()
        until(other.holds)
        one.unwant()
        one.want()
    over.set()
    looking.join()
    assert overlaps == 0
    assert record(server)["leaseTransitions"] == 100


def test_a_holder_that_is_cut_off_has_let_go_before_another_takes_over(server: ApiServer, make: Make) -> None:
    cut = threading.Event()

    def cut_off(request: Request) -> bool:
        return cut.is_set() and of("first", "PATCH")(request)

    first, second = holder(make, "first", terms=QUICK), make("second", terms=QUICK)
    server.fail(Hang(), on=cut_off, times=None)
    second.want()
    until(lambda: second.electorate.states()[KEY].holder == "kvctl/first")
    cut.set()
    while not second.holds():
        assert not (first.holds() and second.holds())
    assert not first.holds()
    assert first.renewals[-1].deadline < second.renewals[0].sent
    assert first.why() is not None
