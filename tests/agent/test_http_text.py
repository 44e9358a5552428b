"""Whatever bytes arrive, they are a request or a refusal."""

from __future__ import annotations

from http import HTTPStatus

from hypothesis import event, given
from hypothesis import strategies as st

from kvctl.agent.http_text import RefusedError, parse_request, render_answer, verdict_answer

WORDS = st.sampled_from(
    [
        b"GET",
        b"HEAD",
        b" ",
        b"/wait",
        b"?namespace=",
        b"&pod=",
        b"%zz",
        b"HTTP/1.1",
        b"\r\n",
        b"Accept:",
        b"[",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(WORDS | st.binary(max_size=5)).map(b"".join)))
def test_any_bytes_are_a_request_or_a_refusal(head: bytes) -> None:
    try:
        request = parse_request(head)
    except RefusedError as error:
        answer = verdict_answer(error.status, error.reason, as_json=False)
        event(f"refused with {answer.status}")
    else:
        answer = verdict_answer(HTTPStatus.OK, request.path, as_json=request.wants_json)
        event("understood")
    assert render_answer(answer, head_only=False).startswith(b"HTTP/1.1 ")


@given(reason=st.text(), as_json=st.booleans())
def test_any_reason_is_one_line_of_the_length_that_is_announced(reason: str, as_json: bool) -> None:
    answer = verdict_answer(HTTPStatus.OK, reason, as_json=as_json)
    assert answer.content.count(b"\n") == 1
    head, _, content = render_answer(answer, head_only=False).partition(b"\r\n\r\n")
    assert content == answer.content
    assert f"Content-Length: {len(content)}".encode() in head.split(b"\r\n")
    assert render_answer(answer, head_only=True) == head + b"\r\n\r\n"
