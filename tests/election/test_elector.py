"""One elector by hand: what it sends, when, and what it makes of the answer. Seconds of a clock that starts at 0."""

from __future__ import annotations

import math

import pytest

from kvctl.cluster.leases import Lease
from kvctl.election.asks import Ask, Purpose
from kvctl.election.elector import Candidacy, Elector
from kvctl.election.terms import Terms
from tests.election.world import KEY

READY, UNREADY = Candidacy(ready=True), Candidacy(ready=False)
OTHER = Lease(KEY, "kvctl/other", 15, 3, "then", "then", "7", "uid")
OURS = OTHER._replace(holder="kvctl/worker")
FREE = OTHER._replace(holder="", duration=1)


def elector(*, candidacy: Candidacy = READY, terms: Terms = Terms()) -> Elector:  # noqa: B008 (a value)
    made = Elector(KEY, node="worker", terms=terms, chance=lambda: 0.5)
    made.want(candidacy, now=0.0)
    return made


def ask(one: Elector, now: float) -> Ask:
    found = one.next(now=now, wall=f"wall {now:g}")
    assert found is not None
    return found


def look(one: Elector, lease: Lease | None, now: float) -> None:
    """It looks, and sees this."""
    assert ask(one, now).purpose is Purpose.LOOK
    one.read(lease, now=now)


def claim(one: Elector, now: float, *, version: str = "8") -> Lease:
    """It claims the Lease, and gets it; what it wrote."""
    found = ask(one, now)
    assert found.purpose is Purpose.CLAIM
    one.granted(found.lease._replace(version=version, uid="uid"), sent=now, now=now)
    return found.lease


def holder(now: float = 0.0) -> Elector:
    """One that holds the Lease since `now`."""
    made = elector()
    look(made, FREE, now)
    claim(made, now)
    assert made.holding(now=now) is not None
    return made


def starts(one: Elector, *, after: float) -> float:
    """When it claims the Lease, if nothing changes: every look sees the same."""
    seen = one._observed.lease
    while True:
        now = max(one.due, after)
        assert now < after + 100
        if ask(one, now).purpose is Purpose.CLAIM:
            return now
        one.read(seen, now=now)


def test_an_absent_lease_is_made() -> None:
    one = elector()
    look(one, None, 0.0)
    assert claim(one, 0.0) == Lease(KEY, "kvctl/worker", 15, 0, "wall 0", "wall 0")


def test_a_lease_of_another_program_is_looked_at_and_never_taken() -> None:
    one = elector()
    now = 0.0
    for _ in range(100):
        look(one, FREE._replace(anothers=True), now)
        now = one.due
    assert now > 100
    look(one, FREE, now)
    claim(one, now)


def test_it_is_held_from_when_the_claim_was_sent() -> None:
    one = elector()
    look(one, FREE, 0.0)
    found = ask(one, 1.0)
    one.granted(found.lease._replace(version="8"), sent=1.0, now=3.0)
    held = one.holding(now=3.0)
    assert held is not None
    assert (held.sent, held.deadline, held.until) == (1.0, 11.0, 16.0)


def test_a_renewal_is_one_write_that_keeps_what_there_is() -> None:
    one = holder()
    first = claim(one, 2.0, version="9")
    assert (first.version, first.transitions, first.acquired, first.renewed) == ("8", 4, "wall 0", "wall 2")
    second = claim(one, 4.0)
    assert (second.version, second.transitions, second.acquired, second.renewed) == (
        "9",
        4,
        "wall 0",
        "wall 4",
    )


def test_what_was_seen_to_be_free_is_taken_before_others_are_looked_at_unless_that_failed() -> None:
    one = elector()
    assert not one.pressing
    look(one, OTHER, 0.0)
    assert not one.pressing
    one.wake(now=1.0)
    look(one, FREE, 1.0)
    assert one.pressing
    assert not one.urgent
    assert ask(one, 1.0).purpose is Purpose.CLAIM
    one.failed("no answer", now=2.0)
    assert not one.pressing
    # Emptied by hand it has a holder that does not know.
    other = elector()
    look(other, OTHER._replace(holder=""), 0.0)
    assert not other.pressing


def test_renewals_are_never_further_apart_than_the_period() -> None:
    for chance in (0.0, 0.3, 0.999):
        one = Elector(KEY, node="worker", terms=Terms(), chance=lambda chance=chance: chance)  # type: ignore[misc]
        one.want(READY, now=0.0)
        look(one, FREE, 0.0)
        now = 0.0
        for _ in range(5):
            claim(one, now)
            assert now + 0.5 <= one.due <= now + 2.0
            now = one.due


def test_the_deadline_itself_ends_it_whatever_is_under_way() -> None:
    one = holder()
    asked = ask(one, 9.0)
    assert asked.patience == 1.0
    assert asked.not_after == one.deadline == 10.0
    assert one.holding(now=9.99) is not None
    assert one.holding(now=10.0) is None
    assert one.leaving == "not renewed within 10 s"
    one.granted(asked.lease, sent=9.0, now=10.5)
    assert one.holding(now=10.5) is None


def test_what_is_left_is_released_only_when_it_was_torn_down() -> None:
    one = holder()
    one.want(None, now=3.0)
    assert one.leaving == "no longer wanted here"
    assert one.next(now=100.0, wall="") is None
    one.torn_down(now=101.0)
    found = ask(one, 101.0)
    assert found.purpose is Purpose.RELEASE
    assert (found.lease.holder, found.lease.duration, found.lease.version) == ("", 1, "8")
    assert found.lease.transitions == 4
    one.granted(found.lease, sent=101.0, now=101.0)
    assert one.done


def test_a_release_is_tried_again_while_it_is_still_ours() -> None:
    one = holder()
    one.give_up("drained", now=1.0)
    one.torn_down(now=1.0)
    assert ask(one, 1.0).purpose is Purpose.RELEASE
    one.conflicted(now=1.0)
    look(one, OURS._replace(version="9"), 1.0)
    assert ask(one, 1.0).lease.version == "9"
    one.failed("reset", now=1.0)
    assert ask(one, one.due).purpose is Purpose.RELEASE
    one.conflicted(now=2.0)
    look(one, OTHER, one.due)
    assert not one.releasing


def test_a_release_that_others_no_longer_wait_for_is_forgotten() -> None:
    one = holder()
    one.want(None, now=1.0)
    one.torn_down(now=1.0)
    now = 1.0
    while not one.done:
        ask(one, now)
        one.failed("no answer", now=now)
        assert one.leaving is None
        now = max(now, one.due) if one.due < math.inf else now
    assert now == pytest.approx(15.0, abs=2.0)


def test_another_holder_in_the_record_is_the_end_of_it() -> None:
    one = holder()
    ask(one, 2.0)
    one.conflicted(now=2.0)
    look(one, OTHER._replace(holder='worker-1\x1b["'), 2.0)
    assert one.holding(now=2.0) is None
    assert one.leaving == r'taken by "worker-1\x1b[\""'
    one.torn_down(now=2.1)
    assert not one.releasing
    assert one.leaving is None


def test_a_restarted_node_takes_what_names_it_at_once() -> None:
    one = elector(candidacy=UNREADY)
    look(one, OURS, 0.0)
    written = claim(one, 0.0)
    assert (written.transitions, written.acquired) == (3, "then")


def test_a_restarted_node_that_does_not_want_it_any_more_tears_down_first() -> None:
    one = elector()
    look(one, OURS, 0.0)
    one.want(None, now=0.0)
    assert one.leaving is not None
    one.torn_down(now=1.0)
    assert ask(one, 1.0).purpose is Purpose.RELEASE


@pytest.mark.parametrize(
    ("lease", "candidacy", "earliest"),
    [
        (None, READY, 0.0),
        (None, UNREADY, 2.0),
        (FREE, READY, 0.0),
        (FREE, UNREADY, 2.0),
        (OTHER, READY, 15.0),
        (OTHER, UNREADY, 17.0),
        (OTHER._replace(duration=40), READY, 40.0),
        (OTHER._replace(duration=0), READY, 15.0),
        (OTHER._replace(holder="worker-1"), READY, 15.0),
        (FREE._replace(move_to="worker"), UNREADY, 0.0),
        (FREE._replace(move_to="other"), READY, 6.0),
        (OTHER._replace(move_to="other"), READY, 21.0),
        (OTHER._replace(move_to="worker"), UNREADY, 15.0),
        (OTHER._replace(holder=""), READY, 4.0),
    ],
)
def test_when_a_lease_is_taken(lease: Lease | None, candidacy: Candidacy, earliest: float) -> None:
    one = elector(candidacy=candidacy)
    look(one, lease, 0.0)
    assert earliest <= starts(one, after=0.0) <= earliest + 0.2


def test_a_takeover_is_counted_and_ends_the_move() -> None:
    one = elector()
    look(one, FREE._replace(move_to="worker"), 0.0)
    written = claim(one, 0.0)
    assert (written.transitions, written.acquired, written.move_to) == (4, "wall 0", None)


def test_transitions_end_where_the_api_ends() -> None:
    one = elector()
    look(one, FREE._replace(transitions=2**31 - 1), 0.0)
    assert claim(one, 0.0).transitions == 2**31 - 1


def test_every_renewal_that_is_seen_begins_a_new_term() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    look(one, OTHER._replace(renewed="later", version="9"), 10.0)
    assert 25.0 <= starts(one, after=10.0) < 26.0


def test_a_change_that_is_none_of_the_holders_begins_none() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    look(one, OTHER._replace(version="9", move_to="worker"), 10.0)
    assert 15.0 <= starts(one, after=10.0) < 16.0


def test_a_stopped_candidate_takes_nothing_that_was_renewed_meanwhile() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    found = ask(one, 1000.0)
    assert (found.purpose, found.lease.version) == (Purpose.CLAIM, "7")
    one.conflicted(now=1000.0)
    look(one, OTHER._replace(version="99", renewed="later"), 1000.0)
    assert starts(one, after=1000.0) >= 1015.0


def test_candidates_look_each_period() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    assert 1.6 <= one.due <= 2.4


def test_a_deleted_lease_is_made_anew_without_a_gap() -> None:
    one = holder()
    ask(one, 2.0)
    one.read(None, now=2.0)
    assert one.holding(now=2.0) is not None
    written = claim(one, 2.0)
    assert (written.version, written.acquired, written.transitions) == ("", "wall 0", 4)
    assert one.holding(now=11.0) is not None


def test_a_deleted_lease_is_left_to_who_made_it_anew() -> None:
    one = holder()
    ask(one, 2.0)
    one.read(None, now=2.0)
    ask(one, 2.0)
    one.conflicted(now=2.0)
    look(one, OTHER, 2.0)
    assert one.leaving is not None


def test_candidates_leave_a_deleted_lease_to_its_holder_first() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    look(one, None, 14.0)
    assert starts(one, after=14.0) >= 29.0


def test_an_emptied_lease_is_taken_again_by_its_holder() -> None:
    one = holder()
    ask(one, 2.0)
    one.conflicted(now=2.0)
    look(one, FREE._replace(duration=15, version="9"), 2.0)
    assert one.holding(now=2.0) is not None
    assert claim(one, 2.0).transitions == 4


def test_a_holder_that_is_asked_to_move_leaves_and_says_where_to() -> None:
    one = holder()
    ask(one, 2.0)
    one.conflicted(now=2.0)
    look(one, OURS._replace(version="9", move_to="other"), 2.0)
    assert one.leaving == 'asked to move to "other"'
    one.torn_down(now=2.1)
    found = ask(one, 2.1)
    assert (found.lease.holder, found.lease.move_to) == ("", "other")
    one.granted(found.lease, sent=2.1, now=2.1)
    assert starts(one, after=2.1) >= 8.1


def test_a_holder_that_is_named_stays_and_ends_the_move() -> None:
    one = holder()
    ask(one, 2.0)
    one.conflicted(now=2.0)
    look(one, OURS._replace(version="9", move_to="worker"), 2.0)
    assert claim(one, 2.0).move_to is None
    assert one.leaving is None


def test_who_lost_it_for_lack_of_an_answer_lets_others_go_first() -> None:
    one = holder()
    one.tick(now=10.0)
    one.torn_down(now=11.0)
    found = ask(one, 11.0)
    assert found.purpose is Purpose.RELEASE
    one.granted(found.lease, sent=11.0, now=11.0)
    assert starts(one, after=11.0) >= 13.0


def test_failures_are_tried_again_until_the_deadline() -> None:
    one = holder()
    now, tries = one.due, 0
    while one.leaving is None:
        if one.next(now=now, wall="") is not None:
            tries += 1
            one.failed("reset", now=now)
        now = min(one.due, 10.0)
        one.tick(now=now)
    assert one.leaving == "not renewed within 10 s: reset"
    assert 8 <= tries <= 20


def test_a_hanging_server_gets_more_time_from_try_to_try_but_never_past_the_deadline() -> None:
    one = holder()
    now, given = 2.0, []
    while now < 10.0 and (asked := one.next(now=now, wall="")) is not None:
        given.append(asked.patience)
        now += asked.patience
        one.failed("no answer", now=now)
        now = one.due
    assert given[0] == 2.0
    assert given[1] > 3.5
    assert sum(given) <= 8.0


def test_a_server_that_wants_to_be_left_alone_is_asked_once_more_before_the_deadline() -> None:
    one = holder()
    ask(one, 2.0)
    one.failed("too many", now=2.0, retry_after=300.0)
    assert one.due == 8.0
    candidate = elector()
    ask(candidate, 0.0)
    candidate.failed("too many", now=0.0, retry_after=300.0)
    assert candidate.due == 15.0


def test_a_storm_of_conflicts_does_not_become_one_of_requests() -> None:
    one = holder()
    now, tries = one.due, 0
    while now < 10.0 and (asked := one.next(now=now, wall="")) is not None:
        tries += 1
        if asked.purpose is Purpose.CLAIM:
            one.conflicted(now=now)
        else:
            one.read(OURS._replace(version=str(tries)), now=now)
        now = one.due
    assert 8 <= tries <= 40


def test_a_claim_without_an_answer_may_have_been_heard() -> None:
    one = elector()
    look(one, FREE, 0.0)
    ask(one, 0.0)
    one.want(None, now=0.5)
    assert one.giving_up
    one.failed("no answer", now=1.0)
    assert one.leaving is not None
    one.torn_down(now=1.0)
    look(one, OURS, 1.0)
    assert ask(one, 1.0).purpose is Purpose.RELEASE


def test_a_claim_that_is_granted_when_nobody_wants_it_any_more_is_never_held() -> None:
    one = elector()
    look(one, FREE, 0.0)
    found = ask(one, 0.0)
    one.want(None, now=0.5)
    one.granted(found.lease._replace(version="8"), sent=0.0, now=1.0)
    assert one.holding(now=1.0) is None
    assert one.leaving is not None


def test_what_was_given_up_is_not_contended_for_until_it_was_unwanted_once() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    one.give_up("drained", now=0.0)
    assert one.due == math.inf
    one.want(READY, now=1.0)
    assert one.due == math.inf
    one.want(None, now=2.0)
    one.want(READY, now=2.0)
    assert one.due <= 2.0


def test_being_woken_means_to_look_now_and_after_a_look_that_is_under_way() -> None:
    one = elector()
    look(one, OTHER, 0.0)
    one.wake(now=0.5)
    assert ask(one, 0.5).purpose is Purpose.LOOK
    one.wake(now=0.6)
    one.read(OTHER, now=0.7)
    look(one, FREE, 0.7)
    assert ask(one, 0.7).purpose is Purpose.CLAIM


def test_a_holder_that_is_woken_goes_on_as_it_was() -> None:
    one = holder()
    due = one.due
    one.wake(now=0.1)
    assert one.due == due


def test_readiness_takes_nothing_from_a_holder() -> None:
    one = holder()
    due = one.due
    one.want(UNREADY, now=1.0)
    assert (one.due, one.leaving) == (due, None)
