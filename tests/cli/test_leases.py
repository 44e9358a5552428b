"""Leases as `show` reads and words them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvctl.cli.leases import SeenLease, read_leases
from kvctl.cluster.leases import Lease
from kvctl.model.lease import LeaseKey
from tests.apiserver import serving

KEY = LeaseKey("sip", "kubevip-sip-client")
HELD = Lease(KEY, holder="kvctl/worker", duration=15, transitions=1, renewed="2026-01-31T12:00:00.000000Z")


def lease_object() -> dict[str, Any]:
    """The Lease as the API has it."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": KEY.name, "namespace": KEY.namespace},
        "spec": {
            "holderIdentity": HELD.holder,
            "leaseDurationSeconds": HELD.duration,
            "leaseTransitions": HELD.transitions,
            "acquireTime": HELD.renewed,
            "renewTime": HELD.renewed,
        },
    }


def test_those_that_are_there_are_read_and_the_others_left_out(tmp_path: Path) -> None:
    with serving() as server:
        config = server.kubeconfig(tmp_path / "config")
        server.put("leases", lease_object())
        found = read_leases([KEY, LeaseKey("sip", "none"), KEY], kubeconfig=config, context=None)
    assert list(found) == [KEY]
    assert str(found[KEY]) == (
        "sip/kubevip-sip-client is held by kvctl/worker for 15 s, renewed 2026-01-31T12:00:00.000000Z, "
        "after 1 transition"
    )
    told = found[KEY].json()
    assert (told["holder"], told["transitions"], told["error"]) == ("kvctl/worker", 1, None)


def test_one_that_cannot_be_read_says_why_and_fails_nothing(tmp_path: Path) -> None:
    with serving() as server:
        config = server.kubeconfig(tmp_path / "config")
        server.forbid("leases")
        found = read_leases([KEY], kubeconfig=config, context=None)
    assert str(found[KEY]).startswith("sip/kubevip-sip-client cannot be read: ")
    assert (found[KEY].json()["holder"], found[KEY].json()["error"]) == (None, found[KEY].why_not)


def test_a_free_one_is_nobodys_and_what_a_stranger_wrote_cannot_move_the_cursor() -> None:
    assert str(SeenLease(KEY, HELD._replace(holder=""))) == "sip/kubevip-sip-client, which nobody holds"
    assert SeenLease(KEY, HELD._replace(holder="")).json()["holder"] is None
    odd = str(SeenLease(KEY, HELD._replace(holder="\x1b[2Jx" * 200, renewed="\n" * 99)))
    assert odd.isprintable()
    assert len(odd) < 500
