"""One kind kept current by a list and watches, against a server that misbehaves in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvctl.cluster import kinds, views
from kvctl.cluster.pace import Pace
from kvctl.cluster.reflector import Reflector, Scope
from kvctl.cluster.store import Store
from kvctl.model.objects import Service
from tests.apiserver import (
    ApiServer,
    Body,
    Cut,
    Drip,
    Drop,
    End,
    Fault,
    Hang,
    Status,
    anything,
    lists,
    watches,
)
from tests.cluster.watching import QUICK, Marks, connect, pod, service
from tests.waiting import until

MakeReflector = Callable[..., Reflector]


class Watching:
    """A reflector of Services, and what it knows."""

    def __init__(self, server: ApiServer, tmp_path: Path) -> None:
        self.server = server
        self.connection = connect(server, tmp_path)
        self.store = Store(kinds.SERVICE, Service)
        self.marks = Marks()
        self.delays: list[float] = []
        self.reflector: Reflector | None = None

    def start(self, pace: Pace = QUICK, **options: Any) -> Reflector:
        def pause(event: threading.Event, seconds: float) -> object:
            self.delays.append(seconds)
            return event.wait(seconds)

        self.reflector = Reflector(
            self.connection, self.store, notify=self.marks, pace=replace(pace, pause=pause), **options
        )
        self.reflector.start()
        return self.reflector

    def names(self) -> set[str]:
        return {service.ref.name for service in self.store.part().views}

    def until_knows(self, *names: str) -> None:
        until(lambda: self.names() == set(names))

    def until_watching(self) -> None:
        until(lambda: self.server.watching("services") == 1)


@pytest.fixture
def it(server: ApiServer, tmp_path: Path) -> Iterator[Watching]:
    watching = Watching(server, tmp_path)
    yield watching
    if watching.reflector is not None:
        watching.reflector.stop()
        server.close()
        assert watching.reflector.join(10)


def test_a_list_is_read_page_by_page_and_watched_from_its_version(it: Watching) -> None:
    for i in range(201):
        it.server.put("services", service(f"s{i}"))
    it.start()
    it.until_watching()
    assert len(it.names()) == 201
    assert [request.query.get("limit") for request in it.server.asked(lists("services"))] == ["100"] * 3
    watch = it.server.asked(watches("services"))[0].query
    assert watch["allowWatchBookmarks"] == "true"
    assert watch["resourceVersion"] == it.server.objects("services")[-1]["metadata"]["resourceVersion"]
    assert 300 <= int(watch["timeoutSeconds"]) < 600
    # A consistent read: no version is named, so that a server that lags behind cannot answer with the past.
    assert all("resourceVersion" not in request.query for request in it.server.asked(lists("services")))


def test_changes_arrive_and_only_changes_of_what_is_kept_are_marked(it: Watching) -> None:
    it.start()
    it.until_watching()
    before = it.marks.count
    it.server.put("services", service("a"))
    it.until_knows("a")
    until(lambda: it.marks.count == before + 1)
    it.server.put("services", {**service("a"), "status": {"conditions": [{"type": "x"}]}})
    it.server.delete("services", "a", namespace="sip")
    it.until_knows()
    assert it.marks.count == before + 2


def test_a_list_that_expires_is_begun_anew_and_half_of_it_deletes_nothing(it: Watching) -> None:
    for i in range(102):
        it.server.put("services", service(f"s{i}"))
    it.start()
    it.until_watching()
    seen: list[int] = []

    def second_page(request: Any) -> bool:
        seen.append(len(it.names()))
        return lists("services")(request) and "continue" in request.query

    it.server.fail(Status(410, "Expired"), on=second_page, times=2)
    it.server.delete("services", "s0", namespace="sip")
    it.server.compact()
    it.server.upset("services", Status(410, "Expired"))
    until(lambda: len(it.server.asked(lists("services"))) == 2 + 6)
    until(lambda: len(it.names()) == 101)
    assert set(seen) <= {101, 102}


def test_what_happens_between_two_watches_is_not_missed(it: Watching) -> None:
    it.server.put("services", service("old"))
    it.start()
    it.until_watching()
    it.server.fail(Status(500), on=watches("services"), times=2)
    it.server.upset("services", Drop())
    until(lambda: len(it.server.asked(watches("services"))) >= 2)
    it.server.delete("services", "old", namespace="sip")
    it.server.put("services", service("new"))
    it.until_knows("new")
    assert len(it.server.asked(lists("services"))) == 1


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(429, "TooManyRequests"), Status(403, "Forbidden"), Status(401), Drop(), Hang()],
    ids=str,
)
@pytest.mark.parametrize("where", [lists, watches])
def test_after_a_fault_of_a_request_it_goes_on(it: Watching, fault: Fault, where: Any) -> None:
    it.server.put("services", service("a"))
    it.server.fail(fault, on=where("services"), times=2)
    reflector = it.start()
    it.until_knows("a")
    it.until_watching()
    it.server.put("services", service("b"))
    it.until_knows("a", "b")
    assert len(it.server.asked(lists("services"))) == (3 if where is lists else 1)
    assert reflector.state().errors == 2
    assert len(it.delays) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Drop(),
        Cut(),
        Drip(),
        Hang(),
        Status(500, "InternalError"),
        Status(429, "TooManyRequests"),
        Status(0),
        Body(b"{nonsense"),
        Body(b'"text"'),
        Body(b'{"type": "MODIFIED", "object": {}}'),
        Body(b'{"type": "NEVER HEARD", "object": {"metadata": {"resourceVersion": "5"}}}'),
        Body(b'{"type": "ADDED", "object": {"metadata": {"name": "N O", "resourceVersion": "5"}}}'),
        Body(b"[" * 100_000),
    ],
    ids=lambda fault: str(fault)[:40],
)
def test_after_a_fault_in_a_stream_the_watch_goes_on_where_it_was(it: Watching, fault: Fault) -> None:
    it.start()
    it.until_watching()
    it.server.put("services", service("a"))
    it.until_knows("a")
    version = it.server.objects("services")[0]["metadata"]["resourceVersion"]
    it.server.upset("services", fault)
    until(lambda: len(it.server.asked(watches("services"))) == 2)
    assert it.server.asked(watches("services"))[1].query["resourceVersion"] == version
    it.server.put("services", service("b"))
    it.until_knows("a", "b")
    assert len(it.server.asked(lists("services"))) == 1
    assert len(it.delays) == 1


def test_blank_lines_mean_nothing(it: Watching) -> None:
    it.start()
    it.until_watching()
    it.server.upset("services", Body(b""))
    it.server.upset("services", Body(b" \r"))
    it.server.put("services", service("a"))
    it.until_knows("a")
    assert it.delays == []


def test_a_version_that_is_gone_is_the_reason_for_a_new_list(it: Watching) -> None:
    it.server.put("services", service("gone"))
    it.server.put("services", service("again"))
    it.start()
    it.until_watching()
    uids = {service.uid for service in it.store.part().views}
    it.server.fail(Status(500), on=watches("services"))
    it.server.upset("services", Drop())
    it.server.delete("services", "gone", namespace="sip")
    it.server.delete("services", "again", namespace="sip")
    it.server.put("services", service("again"))
    it.server.compact()
    it.until_knows("again")
    until(lambda: not uids & {service.uid for service in it.store.part().views})
    assert len(it.server.asked(lists("services"))) == 2


@pytest.mark.parametrize("reason", ["Expired", ""])
def test_a_410_instead_of_the_stream_is_the_reason_for_a_new_list(it: Watching, reason: str) -> None:
    it.server.fail(Status(410, reason), on=watches("services"))
    it.start()
    it.until_watching()
    assert len(it.server.asked(lists("services"))) == 2


def test_bookmarks_alone_carry_the_version_on(it: Watching) -> None:
    it.server.bookmark_seconds = 0.02
    it.start()
    it.until_watching()
    version = it.server.put("pods", pod("p"))["metadata"]["resourceVersion"]
    assert it.reflector is not None
    reflector = it.reflector
    until(lambda: reflector._version == version)
    # A compaction up to there would cost a list without bookmarks.
    it.server.upset("services", End())
    until(lambda: len(it.server.asked(watches("services"))) == 2)
    assert it.server.asked(watches("services"))[1].query["resourceVersion"] == version


def test_bookmarks_keep_a_quiet_watch_alive_and_silence_ends_it(it: Watching) -> None:
    it.server.bookmark_seconds = 0.1
    reflector = it.start(replace(QUICK, silence=0.6))
    it.until_watching()
    threading.Event().wait(0.9)
    assert reflector.state().watches == 1
    it.server.upset("services", Hang())
    until(lambda: reflector.state().watches == 2)
    assert reflector.state().errors == 1


def test_a_watch_that_ends_in_its_time_is_renewed_at_once(it: Watching) -> None:
    it.start(replace(QUICK, shortest_watch=1, longest_watch=1))
    until(lambda: len(it.server.asked(watches("services"))) == 3)
    assert it.delays == []


def test_a_server_that_ends_every_watch_at_once_is_met_with_patience(it: Watching) -> None:
    it.server.fail(End(), on=watches("services"), times=None)
    reflector = it.start()
    until(lambda: reflector.state().errors >= 4)
    asked = len(it.server.asked(watches("services")))
    assert len(it.delays) >= asked - 1
    assert it.delays[:3] == pytest.approx([0.015, 0.03, 0.06], rel=0.4)


def test_nonsense_for_ever_at_one_version_leads_to_a_new_list(it: Watching) -> None:
    it.server.fail(
        Status(504, "Timeout", message="Too large resource version"), on=watches("services"), times=3
    )
    it.start()
    it.until_watching()
    assert len(it.server.asked(lists("services"))) == 2


def test_an_overloaded_server_is_not_asked_for_lists_again(it: Watching) -> None:
    it.server.fail(Status(429, "TooManyRequests"), on=watches("services"), times=8)
    it.start()
    it.until_watching()
    assert len(it.server.asked(lists("services"))) == 1


@pytest.mark.parametrize("where", [lists, watches])
def test_retry_after_is_obeyed(it: Watching, where: Any) -> None:
    it.server.fail(Status(429, "TooManyRequests", retry_after=1), on=where("services"))
    it.start()
    it.until_watching()
    assert it.delays == [1.0]


def test_an_error_event_may_ask_for_patience_too(it: Watching) -> None:
    it.start()
    it.until_watching()
    it.server.upset("services", Status(429, "TooManyRequests", retry_after=1))
    until(lambda: len(it.server.asked(watches("services"))) == 2)
    assert it.delays == [1.0]


@pytest.mark.parametrize("status", [403, 404])
def test_a_dispensable_kind_that_is_refused_is_an_answer(it: Watching, status: int) -> None:
    it.server.fail(Status(status), on=anything("services"))
    reflector = it.start(dispensable=frozenset((403, 404)))
    until(lambda: reflector.synced)
    assert (reflector.state().refused, reflector.state().errors) == (status, 0)
    it.server.put("services", service("a"))
    it.until_knows("a")
    assert reflector.state().refused is None


class Refusing:
    """A reflector of a dispensable kind that has been read and is refused since; its clock can be put forward."""

    def __init__(self, it: Watching, status: int, *, where: Any = anything) -> None:
        self.it = it
        self._ahead = 0.0
        it.server.put("services", service("a"))
        self.reflector = it.start(replace(QUICK, now=self._now), dispensable=frozenset((403, 404)))
        it.until_watching()
        it.server.fail(Status(status), on=where("services"), times=None)
        it.server.compact()
        it.server.upset("services", Status(410, "Expired") if where is lists else End())

    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def until_refused_again(self) -> None:
        errors = self.reflector.state().errors
        until(lambda: self.reflector.state().errors >= errors + 5)

    def pass_seconds(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.mark.parametrize("where", [lists, anything])
@pytest.mark.parametrize("status", [403, 404])
def test_a_kind_that_could_be_read_stays_while_it_is_refused_for_less_than_five_minutes(
    it: Watching, status: int, where: Any
) -> None:
    refusing = Refusing(it, status, where=where)
    marks = it.marks.count
    refusing.until_refused_again()
    refusing.pass_seconds(270)
    refusing.until_refused_again()
    state = refusing.reflector.state()
    assert (it.names(), it.marks.count, state.refused) == ({"a"}, marks, None)
    assert str(status) in str(state.last_error)
    it.server.mend()
    it.server.put("services", service("b"))
    it.until_knows("a", "b")


@pytest.mark.parametrize("where", [lists, anything])
@pytest.mark.parametrize("status", [403, 404])
def test_a_kind_that_is_refused_for_five_minutes_is_gone_until_it_can_be_read(
    it: Watching, status: int, where: Any
) -> None:
    refusing = Refusing(it, status, where=where)
    refusing.until_refused_again()
    refusing.pass_seconds(300)
    it.until_knows()
    until(lambda: refusing.reflector.state().refused == status)
    errors = refusing.reflector.state().errors
    until(lambda: len(it.server.asked(lists("services"))) >= 5)
    assert refusing.reflector.state().errors == errors
    it.server.mend()
    it.until_knows("a")
    assert refusing.reflector.state().refused is None


def test_five_minutes_of_refusals_begin_anew_after_another_failure(it: Watching) -> None:
    refusing = Refusing(it, 403, where=lists)
    refusing.until_refused_again()
    refusing.pass_seconds(200)
    it.server.mend()
    it.server.fail(Status(500), on=lists("services"), times=1)
    it.server.fail(Status(403), on=lists("services"), times=None)
    refusing.until_refused_again()
    refusing.pass_seconds(200)
    refusing.until_refused_again()
    assert it.names() == {"a"}
    refusing.pass_seconds(100)
    it.until_knows()


def test_a_kind_that_is_refused_from_the_start_is_asked_for_each_half_minute(it: Watching) -> None:
    it.server.fail(Status(403), on=anything("services"), times=None)
    it.start(replace(QUICK, ask_again=Pace().ask_again), dispensable=frozenset((403,)))
    until(lambda: it.delays)
    assert 30 <= it.delays[0] < 36


def test_a_malformed_object_is_told_and_the_others_stay(it: Watching) -> None:
    it.server.put("services", service("good"))
    it.server.put("services", service("bad", loadBalancerIP=5))
    it.start()
    it.until_watching()
    part = it.store.part()
    assert part.broken == {views.Name("sip", "bad")}
    assert [error.message for error in part.errors] == ["Service sip/bad: spec.loadBalancerIP is 5, not text"]
    it.server.put("services", service("bad"))
    it.until_knows("good", "bad")
    assert it.store.part().errors == ()


def test_a_new_scope_is_listed_and_the_old_picture_stays_until_then(it: Watching) -> None:
    it.server.put("services", service("a"))
    scope = [Scope(query={"fieldSelector": "metadata.name=a"}, of="a")]
    reflector = it.start(scope=lambda: scope[0])
    it.until_watching()
    it.server.put("services", service("b"))
    it.server.fail(Hang(), on=lists("services"))
    scope[0] = Scope(query={"fieldSelector": "metadata.name=b"}, of="b")
    reflector.restart()
    until(lambda: len(it.server.asked(lists("services"))) == 2)
    assert it.names() == {"a"}
    first = reflector.scope
    it.until_knows("b")
    second = reflector.scope
    assert (first and first.of, second and second.of) == ("a", "b")


@pytest.mark.parametrize("what", ["list", "watch", "stream", "pause"])
def test_stopping_is_prompt_whatever_it_waits_for(it: Watching, what: str) -> None:
    if what == "list":
        it.server.fail(Hang(), on=lists("services"))
    elif what == "watch":
        it.server.fail(Hang(), on=watches("services"))
    elif what == "pause":
        it.server.fail(Status(500), on=lists("services"), times=None)
    pace = replace(QUICK, answer=5.0, silence=5.0, first_delay=30.0, longest_delay=30.0)
    reflector = it.start(pace)
    if what == "stream":
        it.until_watching()
    elif what == "pause":
        until(lambda: it.delays)
    else:
        until(lambda: it.server.asked((lists if what == "list" else watches)("services")))
    before = it.store.part()
    reflector.stop()
    # Before the first byte of an answer a thread cannot be woken: it is no longer heard.
    assert reflector.join(0.9) is (what in ("stream", "pause"))
    it.server.put("services", service("late"))
    assert it.store.part() is before


def test_last_contact_and_counters_tell_how_it_is_doing(it: Watching) -> None:
    reflector = it.start()
    until(lambda: reflector.state().watches == 1)
    state = reflector.state()
    assert (state.name, state.synced, state.lists, state.watches) == ("services", True, 1, 1)
    assert state.last_error is None
    it.server.put("services", service("a"))
    it.until_knows("a")
    later = reflector.state()
    assert later.events == 1
    assert later.last_contact is not None
    assert state.last_contact is not None
    assert later.last_contact > state.last_contact
    it.server.fail(Status(500, message="etcd is away"), on=watches("services"), times=None)
    it.server.upset("services", Drop())
    until(lambda: "etcd is away" in str(reflector.state().last_error))
    assert "500 Internal Server Error" in str(reflector.state().last_error)
