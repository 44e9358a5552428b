"""Sending without ever making the loop wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from kvctl.agent.outbox import TRIES, Limits, Outbox
from kvctl.cluster.failures import RefusedError
from kvctl.errors import ClusterError
from tests.waiting import until


class Letter(NamedTuple):
    """A letter with a text."""

    text: str
    namespace: str = "sip"


QUICK = Limits(first_pause=0.005)


class Post:
    """An outbox whose letters arrive here; the next answers are the exceptions in `answers`."""

    def __init__(self, *answers: Exception, limits: Limits = QUICK) -> None:
        self.answers = list(answers)
        self.arrived: list[str] = []
        self.results: list[str] = []
        self.complaints: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.outbox: Outbox[Letter] = Outbox(
            self._send,
            what="letters",
            complain=self.complaints.append,
            count=lambda what, result: self.results.append(result),
            limits=limits,
            chance=lambda: 0.0,
        )

    def _send(self, letter: Letter) -> None:
        self.gate.wait(20)
        if self.answers:
            raise self.answers.pop(0)
        self.arrived.append(letter.text)


@pytest.fixture
def posts() -> Iterator[list[Post]]:
    """Those made by a test; they end with it."""
    made: list[Post] = []
    yield made
    for post in made:
        post.gate.set()
        post.outbox.stop()


def started(posts: list[Post], post: Post) -> Post:
    posts.append(post)
    post.outbox.start()
    return post


def test_letters_arrive_in_order(posts: list[Post]) -> None:
    post = started(posts, Post())
    assert all(post.outbox.put(text, Letter(text)) for text in "abc")
    until(lambda: post.arrived == ["a", "b", "c"])
    until(lambda: post.results == ["sent"] * 3)


def test_a_later_letter_takes_the_place_of_one_that_waits(posts: list[Post]) -> None:
    post = Post()
    posts.append(post)
    for text in ("old", "new"):
        post.outbox.put("key", Letter(text))
    post.outbox.start()
    until(lambda: bool(post.results))
    assert post.arrived == ["new"]


def test_who_puts_never_waits_and_what_has_no_room_is_counted(posts: list[Post]) -> None:
    post = Post(limits=QUICK._replace(waiting=10))
    post.gate.clear()
    started(posts, post)
    begun = time.monotonic()
    taken = sum(post.outbox.put(number, Letter(str(number))) for number in range(1000))
    assert time.monotonic() - begun < 1
    assert taken in (10, 11)
    assert post.results == ["dropped"] * (1000 - taken)


def test_namespaces_take_turns_so_that_nobody_waits_for_anothers_many_letters(posts: list[Post]) -> None:
    post = Post()
    posts.append(post)
    for number in range(100):
        post.outbox.put(number, Letter(f"many {number}", "loud"))
    for text in ("a", "b"):
        post.outbox.put(text, Letter(text, "quiet"))
    post.outbox.start()
    until(lambda: len(post.arrived) >= 6)
    assert post.arrived[:6] == ["many 0", "a", "many 1", "b", "many 2", "many 3"]


def test_where_room_is_lacking_who_has_most_loses_the_last_ones(posts: list[Post]) -> None:
    post = Post(limits=QUICK._replace(waiting=10))
    posts.append(post)
    taken = [post.outbox.put(number, Letter(f"many {number}", "loud")) for number in range(20)]
    assert taken == [True] * 10 + [False] * 10
    assert [post.outbox.put(text, Letter(text, "quiet")) for text in "abcdefg"] == [True] * 5 + [False] * 2
    post.outbox.start()
    until(lambda: len(post.arrived) == 10)
    assert sorted(post.arrived) == sorted([*"abcde", *(f"many {number}" for number in range(5))])
    assert post.results.count("dropped") == 10 + 5 + 2


@pytest.mark.parametrize(
    "answer", [ClusterError("away"), RefusedError(500), RefusedError(429, retry_after=0.02)]
)
def test_what_may_pass_is_tried_again(posts: list[Post], answer: Exception) -> None:
    post = started(posts, Post(answer, answer))
    post.outbox.put("a", Letter("a"))
    until(lambda: bool(post.results))
    assert (post.arrived, post.results) == (["a"], ["sent"])


def test_a_server_that_says_when_is_obeyed(posts: list[Post]) -> None:
    post = started(posts, Post(RefusedError(429, retry_after=0.3)))
    begun = time.monotonic()
    post.outbox.put("a", Letter("a"))
    until(lambda: post.arrived == ["a"])
    assert time.monotonic() - begun >= 0.3


def test_after_a_few_tries_it_is_dropped_and_the_next_one_goes(posts: list[Post]) -> None:
    post = started(posts, Post(*[ClusterError("away")] * TRIES))
    post.outbox.put("a", Letter("a"))
    post.outbox.put("b", Letter("b"))
    until(lambda: post.results == ["dropped", "sent"])
    assert post.arrived == ["b"]
    assert post.complaints == []


@pytest.mark.parametrize("status", [404, 409, 422])
def test_what_is_refused_for_good_is_not_tried_again(posts: list[Post], status: int) -> None:
    post = started(posts, Post(RefusedError(status)))
    post.outbox.put("a", Letter("a"))
    until(lambda: post.results == ["refused"])
    assert (post.arrived, post.complaints) == ([], [])


def test_without_permission_it_is_said_once_and_nothing_more_is_sent_there(posts: list[Post]) -> None:
    post = Post(RefusedError(403), RefusedError(403))
    posts.append(post)
    for text in ("a", "b"):
        post.outbox.put(text, Letter(text))
    post.outbox.put("c", Letter("c", "other"))
    post.outbox.put("d", Letter("d", "third"))
    post.outbox.start()
    until(lambda: post.results == ["refused", "refused", "sent"])
    assert post.arrived == ["d"]
    assert not post.outbox.put("a", Letter("a"))
    assert len(post.complaints) == 1
    assert "403 Forbidden" in post.complaints[0]


def test_permission_is_asked_for_again_after_a_while(posts: list[Post]) -> None:
    post = started(posts, Post(RefusedError(403), limits=QUICK._replace(forbidden_seconds=0.1)))
    post.outbox.put("a", Letter("a"))
    until(lambda: post.results == ["refused"])
    until(lambda: post.outbox.put("a", Letter("a")))
    until(lambda: len(post.results) > 1)
    assert post.arrived == ["a"]


def test_no_more_than_so_many_a_second(posts: list[Post]) -> None:
    post = started(posts, Post(limits=QUICK._replace(per_second=50.0, at_once=5)))
    begun = time.monotonic()
    for number in range(15):
        post.outbox.put(number, Letter(str(number)))
    until(lambda: len(post.arrived) == 15)
    assert time.monotonic() - begun >= 0.19


def test_a_fault_of_ours_does_not_end_the_thread(posts: list[Post]) -> None:
    post = started(posts, Post(ValueError("oh")))
    post.outbox.put("a", Letter("a"))
    post.outbox.put("b", Letter("b"))
    until(lambda: post.arrived == ["b"])
    assert post.complaints == ["letters: a fault of kvctl: ValueError: oh"]


def test_stopping_is_prompt_whatever_it_waits_for(posts: list[Post]) -> None:
    post = started(posts, Post(RefusedError(429, retry_after=300.0)))
    post.outbox.put("a", Letter("a"))
    until(lambda: post.answers == [])
    begun = time.monotonic()
    post.outbox.stop()
    assert time.monotonic() - begun < 0.5
    assert not post.outbox._thread.is_alive()


def test_who_stops_may_wait_for_what_is_left(posts: list[Post]) -> None:
    post = started(posts, Post())
    for text in "abcdef":
        post.outbox.put(text, Letter(text))
    post.outbox.stop(patience=10)
    assert post.arrived == list("abcdef")


def test_an_outbox_that_never_started_can_be_stopped() -> None:
    post = Post()
    post.outbox.stop(patience=5)
    assert post.arrived == []
