"""What a table looks like: for a person at a terminal of some width, and for a program behind a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from kvctl.cli.output import Column, Kind, amount, plain_lines, printable, tell

_PROGRAM = """
from kvctl.cli.output import Column, print_table
columns = [Column("SERVICE"), Column("PORTS", breaks=True), Column("STATUS", lambda text: "green")]
print_table(columns, [["sip/sip-client", "tcp:8080,udp:5060", "applied"], ["a/b", "all", "applied"]])
"""
_PLAIN = [
    "SERVICE         PORTS              STATUS",
    "sip/sip-client  tcp:8080,udp:5060  applied",
    "a/b             all                applied",
]


def on_a_terminal(*, columns: int, program: str = _PROGRAM, **env: str) -> str:
    """What a person sees on a terminal of that many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    forget = ("NO_COLOR", "COLUMNS", "LINES", "TERM", "LC_ALL", "LANG", "PYTHONIOENCODING", "FORCE_COLOR")
    clean = {name: value for name, value in os.environ.items() if name not in forget}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**clean, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env},
    ) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # EIO: the other side has ended
                break
            if not part:
                break
            seen += part
        assert process.wait(timeout=60) == 0
    os.close(master)
    return seen.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colour_and_a_line_under_the_titles() -> None:
    seen = on_a_terminal(columns=80)
    assert "\x1b[32mapplied\x1b[0m" in seen
    assert "─" * 20 in seen
    assert "tcp:8080,udp:5060" in seen


def test_on_a_narrow_terminal_only_lists_go_over_several_lines() -> None:
    lines = on_a_terminal(columns=38, NO_COLOR="1").split("\n")
    assert [line.rstrip() for line in lines[2:5]] == [
        "sip/sip-client  tcp:8080,  applied",
        "                udp:5060",
        "a/b             all        applied",
    ]


def test_where_that_is_too_wide_the_names_stand_above_the_rest() -> None:
    lines = on_a_terminal(columns=24, NO_COLOR="1").splitlines()
    assert [line.rstrip() for line in lines] == [
        "SERVICE",
        "  PORTS      STATUS",
        "\u2500" * 20,
        "sip/sip-client",
        "  tcp:8080,  applied",
        "  udp:5060",
        "a/b",
        "  all        applied",
    ]


def test_on_the_narrowest_terminal_each_cell_has_its_title() -> None:
    lines = on_a_terminal(columns=19, NO_COLOR="1").splitlines()
    assert [line.rstrip() for line in lines] == [
        "sip/sip-client",
        "  PORTS: tcp:8080,",
        "         udp:5060",
        "  STATUS: applied",
        "a/b",
        "  PORTS: all",
        "  STATUS: applied",
    ]


@pytest.mark.parametrize("columns", [80, 24, 19])
def test_in_each_form_a_status_has_its_colour(columns: int) -> None:
    assert "\x1b[32mapplied" in on_a_terminal(columns=columns)


_SPOKEN = """
from kvctl.cli.output import note, wrapped
note("the rules differ, by a word-with-hyphens; diff shows them\\nand a second line")
print(*wrapped("    there  KVCTL-EGRESS  -s 10.0.0.1/32 -j KVCTL-SVC-ABCDEFGHIJKLMNOP"), sep="\\n")
"""


def test_on_a_terminal_messages_and_long_lines_break_between_words() -> None:
    assert on_a_terminal(columns=40, program=_SPOKEN).splitlines() == [
        "Note: the rules differ, by a",
        "    word-with-hyphens; diff shows them",
        "and a second line",
        "    there  KVCTL-EGRESS  -s 10.0.0.1/32",
        "        -j KVCTL-SVC-ABCDEFGHIJKLMNOP",
    ]


def test_in_a_pipe_each_is_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SPOKEN], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(done.stdout.splitlines()) == 1
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (0.04, "0.0"),
        (99.94, "99.9"),
        (9999, "9999"),
        (10_000, "10k"),
        (999_500, "1.0M"),
        (1_234_567, "1.2M"),
    ],
)
def test_an_amount_has_five_characters_at_most(count: float, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_in_the_c_locale_nothing_but_ascii_is_sent(locale: str) -> None:
    for columns in (80, 24, 19):
        assert on_a_terminal(columns=columns, LC_ALL=locale).isascii()


def test_no_color_is_obeyed() -> None:
    assert "\x1b" not in on_a_terminal(columns=80, NO_COLOR="1")


def test_a_dumb_terminal_gets_the_plain_table() -> None:
    assert on_a_terminal(columns=80, TERM="dumb").splitlines() == _PLAIN


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_not_sent(encoding: str) -> None:
    seen = on_a_terminal(columns=80, NO_COLOR="1", PYTHONIOENCODING=encoding)
    assert seen.isascii()
    assert "sip/sip-client" in seen


def test_a_pipe_gets_columns_that_awk_can_read() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == _PLAIN


def test_messages_told_at_once_keep_their_order_and_their_lines(capfd: pytest.CaptureFixture[str]) -> None:
    tell([(Kind.NOTE, "first\nits second line"), (Kind.WARNING, "then this")])
    assert capfd.readouterr() == ("", "Note: first\nits second line\nWarning: then this\n")


def test_of_no_messages_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    tell([])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gr\u00fcn \u2265 1", "gr\u00fcn \u2265 1"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
    ],
)
def test_what_could_move_the_cursor_is_escaped_and_nothing_else(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_in_a_pipe_numbers_stand_to_the_right() -> None:
    columns = [Column("NAME"), Column("PODS", right=True), Column("STATUS")]
    assert list(plain_lines(columns, [["a/b", "1", "applied"], ["ns/service", "12345", "-"]])) == [
        "NAME         PODS  STATUS",
        "a/b             1  applied",
        "ns/service  12345  -",
    ]
