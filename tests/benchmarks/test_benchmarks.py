"""The benchmarks run and tell what they promise; no figure is judged here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import apply, clusters, datapath
from benchmarks.machine import Machine
from benchmarks.peer import Peer
from benchmarks.processes import surroundings
from benchmarks.results import Results
from benchmarks.rows import Bar, Row, spread
from benchmarks.table import COLUMNS, in_order, quantity, report, table
from kvctl import proc

_BENCHMARKS = Path(datapath.__file__).parent
_MACHINE = Machine("2030-01-01", "some CPU", 2, 4.0, "6.1.0", "iptables v1.8.9", "3.11.7", 0.5)


def row(measure: str = "some", *, backend: str = "nft", services: int = 1, **more: object) -> Row:
    fields: dict[str, object] = {"part": "apply", "value": 0.25, "unit": "s", **more}
    return Row(measure=measure, backend=backend, services=services, **fields)  # type: ignore[arg-type]


def cells(text: str) -> list[list[str]]:
    """Of the lines of a table below its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def _surroundings() -> Iterator[None]:
    with surroundings():
        yield


def test_one_command_prints_a_table_and_writes_json_and_a_plot(kernel: None, tmp_path: Path) -> None:
    results, picture = tmp_path / "it.json", tmp_path / "it.svg"
    argv = (
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--part",
        "startup",
        "--services",
        "1",
        "--backend",
        "nft",
    )
    done = proc.run([*argv, "--json", str(results), "--plot", str(picture)], deadline=120)
    assert done.status == 0, done.stderr
    head = done.stdout.splitlines()[0]
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(COLUMNS)
    shown = {tuple(line[:3]) for line in cells(done.stdout)}
    assert {("kvctl --help", "-", "-"), ("list, piped", "nft", "1"), ("trace", "nft", "1")} <= shown
    told = json.loads(results.read_text("utf-8"))
    assert told["machine"]["cores"] >= 1
    assert len(told["rows"]) == len(shown)
    assert all(each["value"] > 0 and each["other"] > 0 for each in told["rows"])
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    again = proc.run([sys.executable, "-m", "benchmarks", "--from", str(results)], deadline=60)
    assert again.stdout == done.stdout


def test_a_part_that_is_not_known_is_a_mistake_of_usage() -> None:
    done = proc.run([sys.executable, "-m", "benchmarks", "--part", "apply,lunch"], deadline=60)
    assert done.status == 2
    assert "'lunch' is none of datapath, apply, startup, agent" in done.stderr


@pytest.mark.usefixtures("kernel", "_surroundings")
def test_bystander_and_egress_pod_are_measured_where_packets_leave_as_they_have_to(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datapath, "_QUICK_CHUNKS", 2)
    rows = list(datapath.measure(backend=backend, sizes=[3], quick=True))
    assert [each.measure for each in rows] == [
        "bystander, packets",
        "bystander, new connections",
        "egress pod, packets",
        "egress pod, new connections",
    ]
    assert all(each.ratio is not None and each.value > 0 for each in rows)


@pytest.mark.usefixtures("kernel", "_surroundings")
def test_rules_that_do_nothing_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datapath, "_QUICK_CHUNKS", 1)
    monkeypatch.setattr(clusters, "pod_address", lambda number: "10.0.3.3")
    with pytest.raises(SystemExit, match="egress pod: packets leave with"):
        list(datapath.measure(backend="nft", sizes=[1], quick=True))


@pytest.mark.usefixtures("kernel", "_surroundings")
def test_apply_is_measured_beside_the_bare_restore_and_one_process_per_rule(backend: str) -> None:
    rows = {each.measure: each for each in apply.measure(backend=backend, sizes=[2], quick=True)}
    assert rows["cold apply"].against == "bare iptables-restore"
    assert rows["cold apply, times faster"].against == "one process per rule"
    assert rows["no-op apply, programs"].value > 0
    assert rows["no-op apply, restores"].value == 0
    assert rows["one pod changed, restores"].value == 1


def test_the_bystander_is_no_pod_of_a_service_and_stands_among_them() -> None:
    for services in (1, 10, 5000):
        addresses = {IPv4Address(clusters.pod_address(number)) for number in range(services)}
        assert len(addresses) == services
        assert all(each in ip_network("10.0.0.0/16") for each in addresses)
        assert IPv4Address(clusters.BYSTANDER) not in addresses
        below = sum(each < IPv4Address(clusters.BYSTANDER) for each in addresses)
        assert abs(services - 2 * below) <= 2


def test_what_one_process_per_rule_did_not_reach_is_extrapolated_in_proportion() -> None:
    peer = Peer((1.0, 3.0))
    assert (peer.seconds(1), peer.name(1)) == (1.0, "one process per rule")
    assert (peer.seconds(2), peer.name(2)) == (3.0, "one process per rule")
    assert (peer.seconds(4), peer.name(4)) == (6.0, "one process per rule (extrapolated from 2)")


def test_a_bar_is_of_the_ratio_and_without_one_of_the_value() -> None:
    assert row(ratio=0.96, bar=Bar(0.97, at_most=False)).meets is False
    assert row(ratio=0.97, bar=Bar(0.97, at_most=False)).meets is True
    assert row(value=0.3, bar=Bar(0.35)).meets is True
    assert row().meets is None


def test_a_row_tells_in_the_table_what_it_is_compared_with_and_whether_that_is_enough() -> None:
    it = row(
        "cold apply",
        services=1000,
        value=0.4567,
        spread=(0.4, 0.5),
        against="bare",
        other=0.06,
        ratio=7.61,
        bar=Bar(5),
    )
    assert cells(table([it])) == [
        ["cold apply", "nft", "1000", "457 ms", "400–500 ms", "bare", "60 ms", "7.61", "≤ 5", "NOT MET"]
    ]


def test_rows_without_a_bar_can_be_left_out_and_bars_are_counted() -> None:
    rows = [row("one", bar=Bar(1)), row("two"), row("three", value=7, bar=Bar(5))]
    text = report(_MACHINE, rows, barred_only=True)
    assert [line[0] for line in cells(text)] == ["one", "three"]
    assert "1 bars met, 1 not met. 2030-01-01: some CPU, 2 cores" in text


def test_rows_of_a_measure_stand_together_by_back_end_and_size() -> None:
    rows = [
        row("b", backend="nft", services=10),
        row("a", backend="legacy", services=1),
        row("b", backend="legacy", services=1),
        row("a", backend="nft", services=10),
        row("a", backend="nft", services=1),
    ]
    assert [(each.measure, each.backend, each.services) for each in in_order(rows)] == [
        ("b", "nft", 10),
        ("b", "legacy", 1),
        ("a", "nft", 1),
        ("a", "nft", 10),
        ("a", "legacy", 1),
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00456, "s", "4.56 ms"),
        (0.1, "s", "100 ms"),
        (12.34, "s", "12.3 s"),
        (181_234, "packets/s", "181,000/s"),
        (0, "processes", "0"),
        (96.25, "MB", "96.2 MB"),
    ],
)
def test_quantities_have_three_digits(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_the_spread_leaves_out_what_happens_once_in_a_while() -> None:
    assert spread([1.0] * 50 + [100.0]) == (1.0, 1.0)
    assert spread([2.0]) == (2.0, 2.0)


def test_a_run_is_read_back_as_it_was_written() -> None:
    results = Results(_MACHINE, [row(bar=Bar(1)), row(spread=(0.1, 0.2), other=None)])
    assert Results.from_json(results.as_json()) == results


def test_a_part_that_was_measured_again_replaces_all_that_was_measured_of_it_before() -> None:
    first = Results(_MACHINE, [row("a"), row("b"), row("a", backend="legacy"), row("c", part="startup")])
    again = Results(_MACHINE, [row("a", value=7.0)])
    assert first.with_later(again).rows == [
        row("a", backend="legacy"),
        row("c", part="startup"),
        row("a", value=7.0),
    ]


def test_what_the_repository_shows_is_made_of_the_run_that_it_has() -> None:
    results = Results.from_json((_BENCHMARKS / "results.json").read_text("utf-8"))
    for path, text in results.files().items():
        assert path.read_text() == text, (
            f"{path}: python -m benchmarks --from benchmarks/results.json --publish"
        )
