"""What an agent says when it begins, and what its sign tells of it."""

from __future__ import annotations

import io

import pytest

from kvctl.agent import start
from kvctl.agent.journal import Journal, LogFormat
from kvctl.agent.sign import Election
from kvctl.agent.start import Options
from kvctl.election.terms import Terms
from kvctl.model.settings import Settings
from kvctl.netfilter import fence

NO_FENCE = Settings(this_node="worker", elects=True, interface="eth1")
FENCED = Settings(this_node="worker", elects=True, fence_seconds=10)


@pytest.mark.parametrize(
    ("terms", "settings", "is_told"),
    [(None, Settings(), False), (Terms(), FENCED, False), (Terms(), NO_FENCE, True)],
)
def test_that_rules_are_not_fenced_is_told_with_the_reason(
    terms: Terms | None, settings: Settings, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "obstacle", lambda: "no list can be written")
    stream = io.StringIO()
    options = Options(settings=settings, node="worker", terms=terms)
    start._tell_fence(Journal(LogFormat.TEXT, stream=stream), options)
    said = stream.getvalue()
    assert ("only addresses are fenced, not rules: no list can be written" in said) is is_told
    assert bool(said) is is_told


def test_the_sign_tells_how_it_elects() -> None:
    assert start._election(Options(settings=Settings(), node="worker")) is None
    electing = Options(settings=NO_FENCE, node="worker", terms=Terms())
    assert start._election(electing) == Election(fence_seconds=None, interface="eth1")
    assert start._election(electing._replace(settings=FENCED)) == Election(fence_seconds=10)
