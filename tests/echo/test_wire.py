"""The line that an echo is asked and answers with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.echo.wire import LONGEST_QUESTION, Answer, answer, new_nonce, question, read_answer, read_question
from kvctl.model.net import parse_address

LONGEST_ADDRESS = "1111:2222:3333:4444:5555:6666:7777:8888"
NONCE = b"n" * 32


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535))
def test_what_is_answered_is_read_again(source: object, destination: object, one: int, other: int) -> None:
    nonce = new_nonce()
    line = answer(nonce, source=(str(source), one), destination=(str(destination), other))
    found = read_answer(line, nonce=nonce)
    assert found == Answer(parse_address(str(source)), one, parse_address(str(destination)), other)
    assert read_question(question(nonce)) == nonce


def test_no_answer_is_longer_than_its_question() -> None:
    end = (LONGEST_ADDRESS, 65535)
    assert len(answer(NONCE, source=end, destination=end)) <= len(question(NONCE)) <= LONGEST_QUESTION


def test_an_answer_is_no_question() -> None:
    assert read_question(answer(NONCE, source=("10.0.0.1", 1), destination=("10.0.0.2", 2))) is None


@given(st.binary(max_size=200))
def test_garbage_is_neither(text: bytes) -> None:
    assert read_question(text) is None
    assert read_answer(text, nonce=NONCE) is None


@pytest.mark.parametrize(
    "line",
    [
        b"kvctl-echo/1 other 10.0.0.1 1 10.0.0.2 2\n",
        b"kvctl-echo/2 n 10.0.0.1 1 10.0.0.2 2\n",
        b"kvctl-echo/1 n 10.0.0.256 1 10.0.0.2 2\n",
        b"kvctl-echo/1 n 10.0.0.1 65536 10.0.0.2 2\n",
        b"kvctl-echo/1 n 10.0.0.1 1 10.0.0.2 2",
        b"kvctl-echo/1 n 10.0.0.1 1 10.0.0.2 2 3\n",
        b"kvctl-echo/1 n \x1b[31m 1 10.0.0.2 2\n",
        b"kvctl-echo/1 n \xd9\xa1.0.0.1 1 10.0.0.2 2\n",
    ],
)
def test_another_nonce_or_form_is_no_answer(line: bytes) -> None:
    assert read_answer(b"kvctl-echo/1 n 10.0.0.1 1 10.0.0.2 2\n", nonce=b"n") is not None
    assert read_answer(line, nonce=b"n") is None
