"""The agent's measures run and tell what they promise; no figure is judged here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.agent import MEASURES, QUICK, Plan
from benchmarks.commits import Heard
from benchmarks.events import Pace
from benchmarks.processes import surroundings
from benchmarks.rows import Row
from benchmarks.watched import Change, Size, arrivals

_SIZE = Size(services=3, pods=2, serving=2)
_TINY = Plan(
    rates=((20, 0.2),),
    few=_SIZE,
    many=_SIZE,
    all_here=_SIZE,
    among=_SIZE,
    windows=1,
    pace=Pace(events=2, longest=5.0),
    scale=(_SIZE,),
    settle=0.0,
    idle=0.1,
)


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with surroundings():
        yield


def measured(name: str, backend: str) -> dict[str, Row]:
    """The rows by their measure, without how many pods there are."""
    rows = list(MEASURES[name](_TINY, backend))
    assert all(row.part == "agent" and row.backend == backend and row.services == 3 for row in rows)
    return {row.measure.removeprefix("agent, ").removesuffix(" (2 pods)"): row for row in rows}


@pytest.mark.usefixtures("kernel")
def test_an_agent_under_load_is_timed_to_the_kernel_and_its_programs_are_counted() -> None:
    rows = measured("watch", "nft")
    assert 0 < rows["event to kernel at 20/s"].value <= rows["event to kernel at 20/s, 99 %"].value
    assert rows["programs a change at 20/s"].value > 0
    assert rows["CPU at 20/s"].value > 0
    assert rows["memory after that"].value > 1


@pytest.mark.usefixtures("kernel")
def test_one_changed_pod_is_set_beside_the_bare_restore_of_the_same_lines() -> None:
    rows = measured("one", "legacy")
    changed, programs = rows["one pod changed, to kernel"], rows["one pod changed, programs"]
    assert changed.value > 0
    assert changed.other is not None
    assert changed.other > 0
    assert changed.bar is not None
    assert programs.bar is not None
    assert programs.value >= 1


@pytest.mark.usefixtures("kernel")
def test_an_agent_at_rest_tells_its_memory_and_cpu() -> None:
    rows = measured("scale", "nft")
    assert rows["first rules"].value > 0
    assert rows["memory"].value > 1
    assert rows["memory"].bar is not None
    assert rows["CPU at rest"].value >= 0


def test_a_change_that_a_later_one_overtook_is_in_the_kernel_with_that(tmp_path: Path) -> None:
    journal = tmp_path / "heard"
    journal.write_text(
        "ready 1.0 now\nrule 10.5 10.0.1.2\nrule 11.0 10.0.2.1\nrule 12.0 10.0.1.3\nrun 9.0 x\n"
    )
    heard = Heard(journal)
    changes = [
        Change(pod=1, address="10.0.1.1", at=10.0),
        Change(pod=2, address="10.0.2.1", at=10.0),
        Change(pod=1, address="10.0.1.2", at=10.25),
        Change(pod=1, address="10.0.1.3", at=10.75),
    ]
    taken = arrivals(changes, heard)
    heard.close()
    assert sorted(taken) == [0.25, 0.5, 1.0, 1.25]


def test_half_a_line_of_the_journal_is_read_when_it_is_whole(tmp_path: Path) -> None:
    journal = tmp_path / "heard"
    journal.write_text("ready 1.0 now\nrule 2.0 10.0.1")
    heard = Heard(journal)
    assert heard.arrivals() == {}
    with journal.open("a") as more:
        more.write(".2\nrun 3.0 iptables-nft-restore\n")
    assert heard.arrivals() == {"10.0.1.2": 2.0}
    assert [run.name for run in heard.runs(since=2.5)] == ["iptables-nft-restore"]
    heard.close()


def test_the_quick_plan_takes_no_pod_more_addresses_than_there_are() -> None:
    for plan in (Plan(), QUICK):
        changes = sum(rate * seconds for rate, seconds in plan.rates) / plan.many.pods
        assert changes < 31
