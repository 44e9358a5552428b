"""What hangs for longer than its Lease lasts: an agent that goes on much later, and a program that it runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.model.net import Family
from tests.agent import fainting
from tests.agent.electing import (
    Electing,
    elected_service,
    senders,
    three_nodes,
    three_workers,
    until_all_have_the_vip,
)
from tests.agent.harms import cut_off, go_on, revive
from tests.agent.onlooker import Onlooker
from tests.agent.process import eventually, pod_object
from tests.conftest import MakeLab

LONG = bool(os.environ.get("KVCTL_LONG"))
STOPPED_SECONDS = 30.0 if LONG else 5.0
LATER = {Family.IPV4: ("10.0.0.77",), Family.IPV6: ("fd00:10::77",)}
"""The addresses of a pod that comes later, which nobody sends from."""


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


def state(pid: int) -> str:
    """As proc(5) has it: T is stopped; empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent(pid: int) -> int:
    """As proc(5) has it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


HANGING = """#!/bin/sh
if mv {sign} {sign}.seen 2>/dev/null; then
    echo $$ > {sign}.pid
    kill -STOP $$
fi
exec {program} "$@"
"""


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """Nobody asks for a VIP yet. Agents stop where a test says, and what writes rules if there is a file `hang`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (f"iptables-{backend}-restore", f"ip6tables-{backend}-restore"):
        script = programs / name
        script.write_text(HANGING.format(sign=tmp_path / "hang", program=proc.find(name)))
        script.chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", fainting.DIRECTORY: str(tmp_path)}
    lab = make_lab(three_workers(backend=backend))
    with three_nodes(lab, tmp_path, family=family, env=env, module=fainting.__name__) as it:
        yield it


def faint(nodes: Electing, worker: str, *, at: str) -> None:
    """The agent stops there, one of `fainting`'s places."""
    (nodes.directory / f"{worker}.{at}").touch()
    eventually(lambda: state(nodes.agents[worker].process.pid) == "T", why=nodes.told)


@contextmanager
def stopped_restore(nodes: Electing, worker: str) -> Iterator[int]:
    """The agent writes rules, and the program that it does it with stops meanwhile, until it is told to go on."""
    (nodes.directory / "hang").touch()
    nodes.server.put("pods", pod_object("later", addresses=LATER[nodes.family], node=worker))
    written = nodes.directory / "hang.pid"
    eventually(lambda: written.exists() and state(int(written.read_text() or 0)) == "T", why=nodes.told)
    child = int(written.read_text())
    assert parent(child) == nodes.agents[worker].process.pid
    try:
        yield child
    finally:
        os.kill(child, signal.SIGCONT)


@pytest.mark.parametrize("backend", ["nft", "legacy"] if LONG else ["nft"])
def test_an_agent_that_goes_on_where_it_was_about_to_extend_the_vip_has_it_for_a_moment_and_tells_nobody(
    nodes: Electing,
) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with senders(nodes) as sending:
        with Onlooker(nodes) as seen:
            until_all_have_the_vip(nodes, sending[first])
            faint(nodes, first, at=fainting.EXTEND)
            stopped = time.monotonic()
            eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
            second = nodes.settled()
            until_all_have_the_vip(nodes, sending[second])
            time.sleep(max(0.0, stopped + STOPPED_SECONDS - time.monotonic()))
        seen.saw_a_move(first, second)
        with Onlooker(nodes) as after:
            resumed = time.monotonic()
            go_on(nodes, first)
            eventually(nodes.agents[first].ready, why=nodes.told)
            for sender in sending[second]:
                sender.wait_for(50)
            eventually(lambda: nodes.having() == {second}, why=nodes.told)
            eventually(lambda: second in after.announcers(nodes.who.vip), why=nodes.told)
    # Its change makes the address anew that it had read: the kernel knows no better. Then it looks at the clock.
    had = max((change.at for change in after.changes if change.node == first), default=resumed) - resumed
    used = max(after.last(first), resumed) - resumed
    print(
        f"stopped for {resumed - stopped:.0f} s; after that it had the address for {had * 1000:.0f} ms, "
        f"and sent with it for {used * 1000:.0f} ms"
    )
    assert max(had, used) <= nodes.terms.renew_deadline
    # Its next announcement has been due since it was stopped.
    assert after.announcers(nodes.who.vip) == [second]
    assert (after.claims, nodes.holder()) == ([], second)


@pytest.mark.parametrize("backend", ["nft", "legacy"] if LONG else ["nft"])
def test_an_agent_that_goes_on_where_it_was_about_to_write_a_heartbeat_takes_it_back_at_once(
    nodes: Electing,
) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with senders(nodes) as sending:
        until_all_have_the_vip(nodes, sending[first])
        # The loop, which would take the rules away, is held up: nothing but the heartbeat counts.
        with stopped_restore(nodes, first):
            faint(nodes, first, at=fainting.BEAT[nodes.family])
            eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
            second = nodes.settled()
            until_all_have_the_vip(nodes, sending[second])
            with Onlooker(nodes) as after:
                resumed = time.monotonic()
                go_on(nodes, first)
                time.sleep(nodes.terms.renew_deadline / 2)
                for sender in sending[second]:
                    sender.wait_for(5)
            used = max(after.last(first), resumed) - resumed
    print(f"after it went on it sent with the address for {used * 1000:.0f} ms")
    # Without that new connections would leave with it for as long as a heartbeat counts.
    assert used < nodes.terms.renew_deadline / 4
    assert (after.claims, nodes.holder()) == ([], second)


@pytest.mark.parametrize("backend", ["nft", "legacy"] if LONG else ["nft"])
def test_while_a_program_that_writes_rules_hangs_the_lease_and_the_vip_are_kept(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    vip = nodes.who.vip
    with Onlooker(nodes) as seen, senders(nodes, timeout=1.0) as sending:
        until_all_have_the_vip(nodes, sending[first])
        with stopped_restore(nodes, first) as child:
            for sender in sending[first]:
                sender.sources.clear()
            hangs = time.monotonic()
            while time.monotonic() < hangs + nodes.terms.duration + 1.0:
                for sender in sending[first]:
                    sender.wait_for(5)
            assert state(child) == "T"
            assert [set(sender.sources) for sender in sending[first]] == [{vip}] * 3
        # What it was about to write is written then.
        eventually(lambda: LATER[nodes.family][0] in saved(nodes, first), why=lambda: saved(nodes, first))
    assert (seen.claims, nodes.holder()) == ([], first)
    assert seen.owners() == [{first}]


def saved(nodes: Electing, worker: str) -> str:
    """The rules of a node."""
    program = "iptables" if nodes.family is Family.IPV4 else "ip6tables"
    return nodes.lab[worker].run([f"{program}-{nodes.lab.topology.backend}-save"]).stdout


@pytest.mark.parametrize("backend", ["nft", "legacy"] if LONG else ["nft"])
def test_a_lease_that_is_lost_meanwhile_ends_in_order_though_the_loop_waits(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with senders(nodes) as sending:
        with Onlooker(nodes) as seen:
            until_all_have_the_vip(nodes, sending[first])
            with stopped_restore(nodes, first) as child:
                cut_off(nodes, first)
                eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
                second = nodes.settled()
                until_all_have_the_vip(nodes, sending[second])
                assert state(child) == "T"
        seen.saw_a_change(first, second)
        with Onlooker(nodes) as after:
            revive(nodes, first, cut_off)
            eventually(lambda: nodes.kernel_is_clean(first), why=nodes.told)
            for sender in sending[second]:
                sender.wait_for(50)
    assert after.heard() == {second}
    assert after.owners() == [{second}]
    assert (after.claims, nodes.holder()) == ([], second)
