"""What the log says, and what it does not say again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from kvctl.agent.account import failed_round
from kvctl.agent.journal import AGAIN_SECONDS, Journal, Level, LogFormat, parse_log_format
from kvctl.agent.round import Cause, Round, Turn
from kvctl.errors import KvctlError, UsageError
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Status
from tests.agent.rounds import added, round_with, with_items, with_turns
from tests.builders import pod, ref, service


class Log:
    """A journal and what it wrote; time stands still unless it is moved."""

    def __init__(self, form: LogFormat = LogFormat.JSON) -> None:
        self.stream = io.StringIO()
        self.time = 0.0
        self.journal = Journal(form, stream=self.stream, clock=lambda: self.time, now=lambda: 1_700_000_000.5)

    def lines(self) -> list[str]:
        """What came since the last call."""
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return text.splitlines()

    def messages(self) -> list[str]:
        """The messages of these lines."""
        return [json.loads(line)["message"] for line in self.lines()]


@pytest.fixture
def log() -> Log:
    """In JSON, after the first round."""
    made = Log()
    made.journal.round(round_with())
    made.lines()
    return made


def test_a_change_is_one_line_with_what_it_was(log: Log) -> None:
    done = added(round_with(service(ports="udp:5060"), pod()))
    log.journal.round(done)
    (line,) = log.lines()
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "message": "added the rules of sip/sip-client (ipv4)",
        "service": "sip/sip-client",
        "family": "ipv4",
        "vip": "192.168.0.245",
        "action": "added",
        "status": "applied",
        "pods": 1,
        "cause": "objects",
        "duration_ms": 12,
    }


def test_for_people_it_is_a_line_that_can_be_read() -> None:
    log = Log(LogFormat.TEXT)
    log.journal.round(added(round_with(service(), pod())))
    first = log.lines()[0]
    assert first.startswith(
        "2023-11-14T22:13:20.500Z INFO    added the rules of sip/sip-client (ipv4) service="
    )
    assert " vip=192.168.0.245 " in first


def test_nothing_is_said_while_nothing_changes(log: Log) -> None:
    done = round_with(
        service(ports="5060"), service("sip/b", vip=None, selector={"app": "sip-client"}), pod()
    )
    warned = replace(done, warnings=("the pod CIDR is a guess",), disagreements={ref("sip/b"): "who has it?"})
    log.journal.round(warned)
    assert len(log.lines()) == 5
    for _ in range(20):
        log.time += 60
        log.journal.round(warned)
    assert log.lines() == []


def test_a_warning_is_said_again_after_an_hour_or_when_it_comes_back(log: Log) -> None:
    warned = replace(round_with(), warnings=("the pod CIDR is a guess",))
    log.journal.round(warned)
    log.time += AGAIN_SECONDS - 1
    log.journal.round(warned)
    assert len(log.lines()) == 1
    log.time += 1
    log.journal.round(warned)
    assert len(log.lines()) == 1
    log.journal.round(round_with())
    log.journal.round(warned)
    assert log.messages() == ["the pod CIDR is a guess"]


def test_a_repair_is_a_warning_that_says_what_was_found(log: Log) -> None:
    done = round_with(service(), pod())
    turn = Turn(
        done.items[0],
        done.items[0],
        Action.UPDATED,
        repaired=True,
        found="the jump in POSTROUTING is missing",
    )
    log.journal.round(with_turns(done, turn))
    (said,) = (json.loads(line) for line in log.lines())
    assert (said["level"], said["action"]) == ("warning", "repaired")
    assert said["message"].endswith("which another program had changed: the jump in POSTROUTING is missing")


def test_dropped_connections_are_counted_on_the_line(log: Log) -> None:
    done = round_with(service(), pod())
    log.journal.round(
        replace(with_turns(done, Turn(done.items[0], None, Action.ADDED, dropped=3)), dropped=4)
    )
    lines = [json.loads(line) for line in log.lines()]
    assert [line["connections_dropped"] for line in lines] == [3, 1]


def test_what_a_service_lacks_is_said_only_where_it_has_pods(log: Log) -> None:
    faulty = service(vip=None)
    log.journal.round(round_with(faulty))
    assert log.lines() == []
    log.journal.round(round_with(faulty, pod()))
    (said,) = (json.loads(line) for line in log.lines())
    assert said["message"].startswith("sip/sip-client is skipped: no VIP")
    assert (said["service"], said["status"], said["level"]) == ("sip/sip-client", "skipped", "warning")


def test_a_change_of_status_is_a_line_even_if_no_rule_changed(log: Log) -> None:
    done = round_with(service(), pod())
    away = with_items(done, status=Status.ELSEWHERE, reason="the VIP is held by b")
    log.journal.round(with_turns(away, Turn(away.items[0], done.items[0])))
    log.journal.round(with_turns(done, Turn(done.items[0], away.items[0])))
    assert log.messages() == [
        "sip/sip-client (ipv4) is elsewhere: the VIP is held by b",
        "sip/sip-client (ipv4) is applied",
    ]


def test_failures_are_said_once_and_so_is_their_end(log: Log) -> None:
    good = round_with(service(), pod())
    error = KvctlError("iptables-restore failed", hint="look there")
    failed = failed_round(error, previous=good, causes=[Cause.TIMER], duration=1, ended=2)
    for _ in range(3):
        log.journal.round(failed)
    assert log.messages() == ["iptables-restore failed (hint: look there)"]
    log.journal.round(good)
    assert log.messages() == ["works again after 3 rounds that failed"]


def test_a_fight_is_one_warning_though_its_words_change(log: Log) -> None:
    for left in (10, 9, 8):
        log.journal.round(replace(round_with(), contested=f"another program ...: next repair in {left} s"))
    assert len(log.lines()) == 1


def test_the_first_picture_is_one_line() -> None:
    other = Log()
    other.journal.round(round_with(service(), service("a/b", vip="192.168.0.7"), pod()))
    (said,) = (json.loads(line) for line in other.lines())
    assert said["message"] == "the first full picture is in: 2 Services, 1 pod here"
    assert (said["services_applied"], said["services_skipped"]) == (1, 1)


def test_the_back_end_is_said_once_with_the_evidence_and_when_it_changes(log: Log) -> None:
    for backend in ("nft", "nft", "legacy"):
        log.journal.round(replace(round_with(), backend=backend, why_backend="it holds kubelet's hint"))
    assert log.messages() == [
        "back end nft: it holds kubelet's hint",
        "back end legacy: it holds kubelet's hint",
    ]


def test_the_last_line_says_why_and_what_becomes_of_the_rules() -> None:
    log = Log(LogFormat.TEXT)
    log.journal.stopped(why="SIGTERM", rules="they stay")
    (last,) = log.lines()
    assert last.endswith("kvctl ends (SIGTERM): they stay")


@pytest.mark.parametrize("form", [LogFormat.TEXT, LogFormat.JSON])
def test_nothing_that_a_tenant_wrote_moves_a_terminal_or_makes_a_line(form: LogFormat) -> None:
    log = Log(form)
    evil = 'x\n2023-01-01 ERROR all is lost\x1b[31m \x7f \x9b \u202e " \\ \ud800'
    log.journal.say(Level.INFO, evil, reason=evil)
    text = log.stream.getvalue()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert text.isascii()
    if form is LogFormat.JSON:
        json.loads(text)


def test_a_line_has_an_end() -> None:
    log = Log()
    log.journal.say(Level.INFO, "x" * 100_000, more="\x00" * 100_000)
    assert len(log.stream.getvalue()) < 4000


def test_a_complaint_is_heard_once_an_hour(log: Log) -> None:
    for _ in range(3):
        log.journal.complain("the API server is away")
    log.time += AGAIN_SECONDS
    log.journal.complain("the API server is away")
    assert len(log.lines()) == 2


def test_what_was_complained_of_does_not_fill_the_memory(log: Log) -> None:
    for number in range(10_000):
        log.journal.complain(f"fault {number}")
    assert len(log.lines()) == 10_000
    log.journal.complain("fault 9999")
    assert log.lines() == []
    log.journal.complain("fault 0")
    assert len(log.lines()) == 1


def test_a_log_that_nobody_reads_is_no_failure() -> None:
    log = Log()
    log.stream.close()
    log.journal.say(Level.ERROR, "lost")
    assert log.stream.closed


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_a_terminal_gets_text_and_everything_else_json(terminal: bool, is_json: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    Journal(stream=stream).say(Level.INFO, "hello")
    assert stream.getvalue().startswith("{") is is_json


def test_formats_are_read_strictly() -> None:
    assert [parse_log_format(text) for text in ("", "auto", "TEXT", " json ")] == [
        LogFormat.AUTO,
        LogFormat.AUTO,
        LogFormat.TEXT,
        LogFormat.JSON,
    ]
    with pytest.raises(UsageError, match=r'egress_logformat: "xml"') as caught:
        parse_log_format("xml")
    assert caught.value.hint == "write one of auto, text, json"


@pytest.mark.parametrize(
    "make",
    [
        lambda: round_with(service(ports="5060"), pod()),
        lambda: added(round_with(service(), pod())),
        lambda: Round(causes=frozenset(), ended=0, duration=0),
    ],
)
def test_every_line_is_json(make: Callable[[], Round]) -> None:
    log = Log()
    log.journal.round(make())
    assert all(json.loads(line)["level"] for line in log.lines())
