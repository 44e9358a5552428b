"""One HTTP/1.1 request and its answer as text: parsed strictly, written in one piece (RFC 9112)."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

LONGEST_HEAD = 8192
"""Bytes of the request line and its headers."""
_MOST_PARAMETERS = 8
_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<target>[!-~]{1,4096}) HTTP/1\.[01]")


class RefusedError(Exception):
    """The request is not one that is answered; carries the status and a line for whoever sent it."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Request(NamedTuple):
    """What counts of a request."""

    path: str
    query: dict[str, str]
    head_only: bool
    wants_json: bool


class Answer(NamedTuple):
    """A status, and what goes with it."""

    status: HTTPStatus
    content: bytes
    kind: str = "text/plain; charset=utf-8"


def parse_request(head: bytes) -> Request:
    """A request up to its empty line. Raises RefusedError for what is not HTTP/1, or neither GET nor HEAD."""
    lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")
    if match["method"] not in ("GET", "HEAD"):
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")
    try:
        parts = urlsplit(match["target"])
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the target of the request cannot be read") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "a parameter is given twice")
    return Request(
        path=parts.path,
        query=query,
        head_only=match["method"] == "HEAD",
        wants_json=any(_accepts_json(line) for line in lines[1:]),
    )


def _accepts_json(header: str) -> bool:
    name, _, value = header.partition(":")
    return name.lower() == "accept" and "application/json" in value.lower()


def verdict_answer(status: HTTPStatus, reason: str, *, as_json: bool) -> Answer:
    """One line for a person, or an object for a program; nothing in it moves a terminal's cursor."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in reason)
    if as_json:
        document = json.dumps({"ok": status == HTTPStatus.OK, "reason": line})
        return Answer(status, document.encode() + b"\n", "application/json")
    return Answer(status, line.encode(errors="replace") + b"\n")


def render_answer(answer: Answer, *, head_only: bool) -> bytes:
    """The bytes to send, after which the connection is closed."""
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.content)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        head.append("Allow: GET, HEAD")
    return "\r\n".join([*head, "", ""]).encode("ascii") + (b"" if head_only else answer.content)
