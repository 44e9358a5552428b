"""What is said of privileges that a test cannot take from itself."""

from __future__ import annotations

import pytest

from kvctl.doctor import privileges
from kvctl.doctor.finding import Level
from kvctl.doctor.privileges import Privileges
from kvctl.netfilter import fence
from kvctl.netfilter.binaries import Backend


def test_in_a_user_namespace_traffic_is_not_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "obstacle", lambda: "this is a user namespace (hostUsers)")
    held = Privileges(uid=0, capabilities=(1 << 41) - 1, maps_all=False)
    _, found = privileges.check(held, backend=Backend.NFT)
    assert found.level is Level.WARNING
    assert found.message == (
        "with serviceElection only addresses are fenced, not the traffic: this is a user namespace (hostUsers)"
    )


def test_capabilities_that_cannot_be_read_are_not_judged() -> None:
    (found,) = privileges.check(Privileges(uid=0, capabilities=None, maps_all=True), backend=None)
    assert found.level is Level.FINE
