"""What is said of a cluster that cannot be heard."""

from __future__ import annotations

import io
import json

import pytest

from kvctl.agent.journal import Journal, LogFormat
from kvctl.agent.outages import Outages
from kvctl.cluster.source import SourceState

REFUSED = "cannot reach the API server at https://10.0.0.1: connection refused"


class Log:
    """Outages that write to it, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self._stream = io.StringIO()
        journal = Journal(LogFormat.JSON, stream=self._stream)
        self._outages = Outages(journal, clock=lambda: self.now)

    def hear(
        self, name: str, *, failures: int = 0, error: str | None = REFUSED, synced: bool = True
    ) -> list[str]:
        """What is said when a source is so."""
        before = self._stream.tell()
        self._outages.tell(
            SourceState(
                name=name,
                synced=synced,
                refused=None,
                last_contact=None,
                lists=0,
                watches=0,
                events=0,
                errors=failures,
                last_error=error if failures else None,
                failures=failures,
            )
        )
        return [json.loads(line)["message"] for line in self._stream.getvalue()[before:].splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_server_that_cannot_be_reached_is_told_once_for_all_watches_and_when_it_is_over(log: Log) -> None:
    assert log.hear("services", failures=2) == [
        f"{REFUSED}; trying again, what was last heard holds until then"
    ]
    assert log.hear("pods", failures=2) == log.hear("services", failures=3) == []
    log.now += 90
    assert log.hear("services") == []
    assert log.hear("pods") == ["the cluster is heard, after 90 s without"]
    assert log.hear("pods", failures=2) == [f"{REFUSED}; trying again, what was last heard holds until then"]


def test_another_reason_is_told_too(log: Log) -> None:
    log.hear("services", failures=2)
    assert log.hear("pods", failures=2, error="403 Forbidden")[0].startswith("403 Forbidden; ")


def test_a_watch_that_breaks_off_once_is_no_news(log: Log) -> None:
    assert log.hear("pods", failures=1) == log.hear("pods") == []


def test_before_the_first_list_the_first_failure_counts(log: Log) -> None:
    said = log.hear("pods", failures=1, synced=False)
    assert said == [f"{REFUSED}; trying again, the rules stay as they are until then"]


def test_a_reason_that_changes_all_the_time_is_no_flood(log: Log) -> None:
    said = [line for number in range(1000) for line in log.hear("pods", failures=2, error=f"no {number}")]
    assert len(said) <= 16
