"""What an echo is asked and answers, each one line of ASCII:

    kvctl-ask/1 NONCE
    kvctl-echo/1 NONCE SOURCE PORT DESTINATION PORT

NONCE is 1 to 32 letters, digits or dashes that whoever asks has made up: an answer with another one belongs to another
question, or is forged. SOURCE is who asked, as the echo sees it, DESTINATION the address of the echo that was asked;
IPv4 in its own form also where an IPv6 socket took it. A question may be padded with blanks.

By TCP any line is answered (one that is no question with `-` as its NONCE), so that `echo | nc HOST 9745` shows what
the echo sees. By UDP only questions are answered, and only those at least as long as their answer: whoever forges the
source of a datagram gets no more sent to his victim than he has sent, and two echoes never answer each other.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from kvctl.model.net import Address, parse_address

DEFAULT_PORT = 9745
LONGEST_QUESTION = 512
"""Bytes."""
_PADDED = 160
"""Bytes: longer than the longest answer, which has 138."""

_QUESTION = re.compile(rb"kvctl-ask/1 ([0-9A-Za-z-]{1,32})[ \r\n]*")
_ANSWER = re.compile(
    r"kvctl-echo/1 ([0-9A-Za-z-]{1,32}) ([0-9a-fA-F.:]{2,45}) ([0-9]{1,5}) ([0-9a-fA-F.:]{2,45}) ([0-9]{1,5})\r?\n"
)
NOBODYS = b"-"
"""The nonce of what was no question."""


class Answer(NamedTuple):
    """What an echo says that it saw."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int


def new_nonce() -> bytes:
    """One that nobody guesses: 64 bits of chance."""
    return secrets.token_hex(8).encode("ascii")


def question(nonce: bytes) -> bytes:
    """The line that asks, padded so that its answer is never longer."""
    return (b"kvctl-ask/1 " + nonce).ljust(_PADDED - 1) + b"\n"


def read_question(text: bytes) -> bytes | None:
    """The nonce of a question; None: it is none."""
    match = _QUESTION.fullmatch(text)
    return match[1] if match is not None else None


def answer(nonce: bytes, *, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The line that answers."""
    ends = f"{source[0]} {source[1]} {destination[0]} {destination[1]}"
    return b"kvctl-echo/1 " + nonce + b" " + ends.encode("ascii") + b"\n"


def read_answer(line: bytes, *, nonce: bytes) -> Answer | None:
    """What an answer to the question with this nonce says; None: it is no such answer."""
    match = _ANSWER.fullmatch(line.decode("ascii", "replace"))
    if match is None or match[1].encode("ascii") != nonce:
        return None
    try:
        source, destination = parse_address(match[2]), parse_address(match[4])
    except ValueError:
        return None
    ports = int(match[3]), int(match[5])
    return Answer(source, ports[0], destination, ports[1]) if max(ports) <= 65535 else None
