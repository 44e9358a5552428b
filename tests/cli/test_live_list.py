"""The live table of `list --watch`, of looks that a test makes."""

from __future__ import annotations

import io
import os
import pty
import signal
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kvctl.cli import live_list
from kvctl.cli.live_list import follow
from kvctl.cli.output import Column
from kvctl.cli.tables import least_left_out
from kvctl.errors import NetfilterUnavailableError, NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family, parse_address
from kvctl.netns import setns
from kvctl.reconcile.report import Item, Status
from tests.waiting import heard

LOOK: Any = SimpleNamespace(choice=SimpleNamespace(backend="nft"))
VIP = parse_address("192.0.2.245")


def item(name: str, *, connections: int = 0, status: Status = Status.APPLIED) -> Item:
    return Item("sip", name, Family.IPV4, VIP, status, connections=connections)


class Looks:
    """Looks one after the other; then the person presses Ctrl-C."""

    node = "worker"

    def __init__(self, *found: list[Item] | Exception) -> None:
        self._found = list(found)

    def look(self) -> tuple[Any, list[Item]]:
        if not self._found:
            raise KeyboardInterrupt
        found = self._found.pop(0)
        if isinstance(found, Exception):
            raise found
        return LOOK, found


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf() -> None:
        raise NetlinkError("nobody listens in the namespace that the tests run in", errno=1)

    monkeypatch.setattr(live_list, "read_setting", lambda path: 0)
    monkeypatch.setattr(live_list, "Endings", deaf)


def shown(capsys: pytest.CaptureFixture[str], *found: list[Item] | Exception) -> list[list[str]]:
    """The blocks, the first of an empty node."""
    looks: Any = Looks(*found)
    assert follow(looks, (LOOK, []), wide=False, interval=0.01) == 130
    return [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]


def test_a_look_that_fails_is_said_above_the_last_table_and_the_next_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails = NetfilterUnavailableError("the lock is held\nby \x1b[1m another", hint="wait")
    empty, first, failed, last = shown(capsys, [item("a")], fails, [item("a", connections=7)])
    assert empty[0].startswith("# node worker, nft back end, ")
    assert empty[-1] == "# no egress rules on this node"
    assert failed[1] == r"# the last look failed, the next goes on: the lock is held by \x1b[1m another"
    assert failed[-1].split()[:1] == first[-1].split()[:1] == ["sip/a"]
    assert last[-1].split()[5:7] != ["0", "-"]
    assert not any("failed" in line for line in last)


def test_a_service_that_comes_and_one_that_goes_are_rows_that_come_and_go(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, *blocks = shown(capsys, [item("a"), item("b")], [item("b"), item("c")])
    assert [[line.split()[0] for line in block if line.startswith("sip/")] for block in blocks] == [
        ["sip/a", "sip/b"],
        ["sip/b", "sip/c"],
    ]
    rates = [line.split()[6] for line in blocks[1] if line.startswith("sip/")]
    assert rates == ["0.0", "-"]


def test_below_the_rows_stands_why_one_is_not_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    drifted = [
        item(name, status=Status.DRIFTED)._replace(reason=f"its jump\nis gone \x1b[1m {name}")
        for name in "abcde"
    ]
    warned = item("f")._replace(warnings=("its VIP is not here",))
    _, good, bad, last = shown(capsys, [item("a")], [*drifted, item("x")], [warned])
    assert good[-1].startswith("sip/a")
    assert bad[-4:] == [
        *(rf"# sip/{name} (ipv4) drifted: its jump is gone \x1b[1m {name}" for name in "abc"),
        "# and 2 more: kvctl egress list",
    ]
    assert last[-1] == "# sip/f (ipv4) applied: its VIP is not here"


COLUMNS = [Column(title) for title in ("SERVICE", "FAMILY", "VIP", "PODS", "STATUS", "CONNS", "NEW/S")]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (62, "SERVICE FAMILY VIP PODS STATUS CONNS NEW/S"),
        (61, "SERVICE VIP PODS STATUS CONNS NEW/S"),
        (53, "SERVICE PODS STATUS CONNS NEW/S"),
        (40, "SERVICE PODS STATUS NEW/S"),
        (33, "SERVICE STATUS NEW/S"),
        (27, "SERVICE PODS STATUS NEW/S"),
        (21, "SERVICE STATUS NEW/S"),
        (3, "SERVICE STATUS NEW/S"),
    ],
)
def test_the_narrower_the_terminal_the_fewer_columns_and_never_without_status_and_rates(
    width: int, shown: str
) -> None:
    row = ["sip/a-client", "ipv4", "192.0.2.245", "1", "drifted", "1", "0.0"]
    gone = least_left_out(COLUMNS, [row], width=width, may_go=live_list._MAY_GO)
    assert [column.title for column in COLUMNS if column.title not in gone] == shown.split()


def test_two_families_of_a_service_are_told_apart_without_their_columns() -> None:
    rows = [[f"sip/{'a' * 20}", family, "v", "1", "applied", "1", "0.0"] for family in ("ipv4", "ipv6")]
    console = Console(width=30, file=io.StringIO())
    console.print(live_list._narrow(COLUMNS, rows, width=30))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1:] for line in lines if line.startswith("sip/")] == [["ipv4"], ["ipv6"]]


def test_what_does_not_fit_is_what_has_nothing_to_see() -> None:
    rows = [
        [f"sip/{name}", "ipv4", "v", "1", status, "1", new, "-", "-"]
        for name, status, new in (("a", "applied", "0.0"), ("b", "drifted", "0.0"), ("c", "applied", "3.0"))
    ]
    assert [row[0] for row in live_list._fitting(rows, 2)] == ["sip/b", "sip/c"]
    assert [row[0] for row in live_list._fitting(rows, 0)] == ["sip/b"]
    assert live_list._fitting(rows, 3) == rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_terminal_gets_its_cursor_back_whatever_ends_the_watch(
    namespace: Namespace, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "kvctl", "egress", "list", "--watch"]
    child, terminal = pty.fork()
    if child == 0:
        with suppress(OSError):
            setns(os.open(namespace.path, os.O_RDONLY))
            os.execve(sys.executable, command, {**os.environ, "TERM": "xterm", "NO_COLOR": ""})
        os._exit(127)
    try:
        text = b""
        while part := heard(terminal):
            text += part
            if b"\x1b[?25l" in text and b"\x1b[?25h" not in text:
                os.kill(child, number)
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
    assert text.rindex(b"\x1b[?25h") > text.rindex(b"\x1b[?25l")
    assert os.waitstatus_to_exitcode(status) == 128 + number
