"""The VIP on its way from one node to another, with senders that never pause: what the outside is sent, and by whom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Sender
from kvctl.model.net import Family
from tests.agent.electing import (
    WORKERS,
    Electing,
    elected_service,
    senders,
    three_nodes,
    three_workers,
    until_all_have_the_vip,
)
from tests.agent.harms import HARMS, Harm, cordon, cut_off, kill, revive
from tests.agent.onlooker import Onlooker
from tests.agent.process import eventually
from tests.conftest import MakeLab

DROP = {"kvctl.io/without-vip": "drop"}
LONG = bool(os.environ.get("KVCTL_LONG"))
RUNS = 50 if LONG else 1
Senders = dict[str, list[Sender]]


@pytest.fixture
def family(backend: str) -> Family:
    """One a back end: families have tests of their own elsewhere."""
    return Family.IPV4 if backend == "nft" else Family.IPV6


@pytest.fixture
def nodes(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """Nobody asks for a VIP yet."""
    with three_nodes(make_lab(three_workers(backend=backend)), tmp_path, family=family) as it:
        yield it


@pytest.mark.parametrize(
    ("backend", "harms"), [("nft", HARMS), ("legacy", HARMS if LONG else (kill,))], ids=["nft", "legacy"]
)
def test_a_holder_that_fails_has_stopped_before_another_begins(
    nodes: Electing, harms: tuple[Harm, ...]
) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with senders(nodes) as sending:
        for harm in harms * RUNS:
            first = fails_once(nodes, sending, first, harm)


def fails_once(nodes: Electing, sending: Senders, first: str, harm: Harm) -> str:
    """The holder fails, another follows, the first comes back and changes nothing; the new holder."""
    with Onlooker(nodes) as seen:
        until_all_have_the_vip(nodes, sending[first])
        harmed = time.monotonic()
        harm(nodes, first)
        eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
        second = nodes.settled()
        until_all_have_the_vip(nodes, sending[second])
    taken = seen.saw_a_move(first, second)
    # The Lease runs out, and three retry periods; a second for this machine.
    assert taken - harmed < nodes.terms.duration + 3 * nodes.terms.retry_period + 1.0
    silent = taken - seen.last(first)
    print(f"{harm.__name__}: taken after {taken - harmed:.2f} s, {silent:.2f} s after the last packet")
    revived_in_order(nodes, sending, first, second, harm)
    return second


def revived_in_order(nodes: Electing, sending: Senders, first: str, second: str, harm: Harm) -> None:
    """A holder that comes back finds that the VIP is another's by now, and uses it no more: not for one packet."""
    with Onlooker(nodes) as seen:
        revive(nodes, first, harm)
        for sender in sending[second]:
            sender.wait_for(50)
    assert nodes.having() == {second}
    assert seen.heard() == {second}
    assert seen.owners() == [{second}]
    assert (seen.claims, nodes.holder()) == ([], second)


@pytest.mark.parametrize("backend", ["nft"])
def test_both_families_move_together_and_under_drop_the_outside_sees_the_vips_or_nothing(
    nodes: Electing,
) -> None:
    nodes.server.put("services", elected_service(annotations=DROP))
    first = nodes.settled()
    with Onlooker(nodes, *Family) as seen, senders(nodes, *Family) as sending:
        until_all_have_the_vip(nodes, sending[first])
        nodes.outside.heard.clear()
        kill(nodes, first)
        eventually(lambda: bool(nodes.having() - {first}), why=nodes.told)
        second = nodes.settled()
        until_all_have_the_vip(nodes, sending[second])
    assert nodes.outside.sources() == {who.vip for who in STANDARD.values()}
    seen.saw_a_move(first, second)


@pytest.fixture
def patient(make_lab: MakeLab, backend: str, family: Family, tmp_path: Path) -> Iterator[Electing]:
    """The same with terms in which an agent can start anew."""
    terms = {"vip_leaseduration": "12", "vip_renewdeadline": "10", "vip_retryperiod": "1"}
    lab = make_lab(three_workers(backend=backend))
    with three_nodes(lab, tmp_path, family=family, env=terms) as it:
        yield it


@pytest.mark.parametrize("backend", ["nft"])
def test_a_restart_of_all_agents_moves_nothing_and_loses_nothing(patient: Electing) -> None:
    nodes = patient
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    # A packet that is lost is never answered; an answer may take its time where this machine pauses.
    with Onlooker(nodes) as seen, senders(nodes, timeout=3.0) as sending:
        for worker in WORKERS:
            for sender in sending[first]:
                sender.wait_for(5)
            assert nodes.agents[worker].end() == 0
            nodes.start(worker).wait_ready()
        for sender in sending[first]:
            sender.wait_for(50)
        assert [sender.unanswered for sender in sending[first]] == [0, 0, 0]
        assert [set(sender.sources) for sender in sending[first]] == [{nodes.who.vip}] * 3
    assert (seen.claims, nodes.holder()) == ([], first)
    assert seen.owners() == [{first}]


def test_a_planned_move_takes_less_than_a_second(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    moves_once(nodes, nodes.settled())


def moves_once(nodes: Electing, first: str) -> str:
    """The VIP goes to another node by command; which one."""
    second = next(worker for worker in WORKERS if worker != first)
    config = nodes.server.kubeconfig(nodes.directory / "admin")
    with Onlooker(nodes) as seen, senders(nodes) as sending:
        for sender in sending[first]:
            sender.wait_for(5)
        argv = ("egress", "move", "sip/sip-client", "--to", second, "--kubeconfig", config)
        done = nodes.lab.kvctl(*argv, at=first, env=nodes.agents[first].settings)
        assert done.status == 0, done.stderr
        assert f"sip/sip-client moved from {first} to {second} in " in done.stderr
        assert nodes.settled() == second
        until_all_have_the_vip(nodes, sending[second])
    seen.saw_a_move(first, second)
    print(f"moved: {seen.gap(first, second):.2f} s without a packet")
    assert seen.gap(first, second) < 1.0
    again = nodes.lab.kvctl(*argv, at=first, env=nodes.agents[first].settings)
    assert (again.status, "is on" in again.stderr) == (0, True)
    return second


if LONG:  # a minute

    @pytest.mark.parametrize("backend", ["nft"])
    def test_with_the_terms_of_a_cluster_it_is_the_same_and_slower(
        make_lab: MakeLab, family: Family, tmp_path: Path
    ) -> None:
        terms = {"vip_leaseduration": "15", "vip_renewdeadline": "10", "vip_retryperiod": "2"}
        with three_nodes(make_lab(three_workers(backend="nft")), tmp_path, family=family, env=terms) as nodes:
            nodes.server.put("services", elected_service())
            second = moves_once(nodes, nodes.settled())
            with senders(nodes) as sending:
                fails_once(nodes, sending, second, kill)


@pytest.mark.parametrize("backend", ["nft"])
def test_a_node_that_is_drained_hands_over_before_its_agent_ends(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with Onlooker(nodes) as seen, senders(nodes) as sending:
        cordon(nodes, first)
        sending[first][0].wait_for(50)
        assert nodes.holder() == first
        assert nodes.agents[first].end() == 0
        assert first not in nodes.having()
        assert nodes.holder() != first
        second = nodes.settled()
        until_all_have_the_vip(nodes, sending[second])
    seen.saw_a_move(first, second)
    assert seen.gap(first, second) < 1.0
    # Its pods, which go next, leave as the node.
    assert nodes.kernel_is_clean(first)


@pytest.mark.parametrize("backend", ["nft"])
def test_an_agent_that_leaves_its_node_clean_hands_over(
    make_lab: MakeLab, family: Family, tmp_path: Path
) -> None:
    lab = make_lab(three_workers(backend="nft"))
    with three_nodes(lab, tmp_path, family=family, env={"egress_clean": "true"}) as nodes:
        nodes.server.put("services", elected_service())
        first = nodes.settled()
        assert nodes.agents[first].end() == 0
        assert first not in nodes.having()
        assert nodes.settled() != first
        assert nodes.kernel_is_clean(first)


@pytest.mark.parametrize("backend", ["nft"])
def test_while_nobody_reaches_the_api_server_nobody_takes_what_it_cannot_own(nodes: Electing) -> None:
    nodes.server.put("services", elected_service())
    first = nodes.settled()
    with Onlooker(nodes) as seen, senders(nodes) as sending:
        until_all_have_the_vip(nodes, sending[first])
        gone = time.monotonic()
        for worker in WORKERS:
            cut_off(nodes, worker)
        eventually(lambda: not nodes.having(), why=nodes.told)
        # It went on for as long as the last renewal gave the right to.
        assert 0 < seen.last(first) - gone < 3.0
        assert seen.heard() == {first}
        for worker in WORKERS:
            revive(nodes, worker, cut_off)
        second = nodes.settled()
        until_all_have_the_vip(nodes, sending[second])
    seen.saw_nothing_twice()
    assert seen.owners() in ([{first}, {second}], [{first}])
