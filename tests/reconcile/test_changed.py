"""What a run is said to have changed: pods that one Service loses to another."""

from __future__ import annotations

from collections.abc import Sequence

from kvctl.model.net import Family, parse_address
from kvctl.model.policy import EgressPod, Rank, RankClass
from kvctl.policy.compile import Entry
from kvctl.policy.decode import Installed, Part
from kvctl.reconcile.changed import taken_over
from kvctl.reconcile.report import Item, Status
from tests.builders import ref

PODS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def installed(**leads: Sequence[str]) -> list[Installed]:
    """What there was: the pods of each Service of the namespace sip."""
    entries = tuple(
        Entry(parse_address(address), Rank(RankClass.ALL, 0, ref(f"sip/{name}")), "x")
        for name, addresses in leads.items()
        for address in addresses
    )
    return [Installed(Family.IPV4, Part({}, entries), drops=Part({}, ()), exclusions=(), retiring=())]


def item(name: str, *pods: str, status: Status = Status.APPLIED, drops: bool = False) -> Item:
    """A Service as it is afterwards."""
    its = tuple(EgressPod(parse_address(address)) for address in pods)
    return Item("sip", name, Family.IPV4, None, status, pods=its, drops=drops)


def test_pods_that_go_over_are_one_sentence_for_each_two_services() -> None:
    now = [item("a", status=Status.ORPHANED), item("b", *PODS[:2]), item("c", PODS[2])]
    assert taken_over(installed(a=PODS), now) == [
        "10.0.0.1 and 1 more go over from sip/a to sip/b",
        "10.0.0.3 goes over from sip/a to sip/c",
    ]


def test_a_service_that_loses_its_rules_is_told_by_itself_and_a_pod_of_both_stays() -> None:
    assert taken_over(installed(a=PODS), [item("b", *PODS)]) == []
    assert taken_over(installed(a=PODS), [item("a", *PODS), item("b", *PODS)]) == []


def test_who_drops_takes_nothing_over() -> None:
    assert taken_over(installed(a=PODS), [item("a"), item("b", *PODS, drops=True)]) == []
