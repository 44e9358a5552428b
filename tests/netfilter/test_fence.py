"""Heartbeats in the lists of xt_recent, in a namespace of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.lab.build import restore_binary
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter import fence

LISTS = {Family.IPV4: "kvctl-four", Family.IPV6: "kvctl-six"}
NO_BITS = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
RULE = "-m recent --rcheck --seconds 60 --name {name} --mask {mask} --rsource -j DROP"


@pytest.fixture
def fenced(namespace: Namespace, backend: str) -> Namespace:
    """A namespace whose rules name a list of each family."""
    for family, name in LISTS.items():
        rule = RULE.format(name=name, mask=NO_BITS[family])
        text = f"*filter\n:TEST - [0:0]\n-A TEST {rule}\nCOMMIT\n"
        done = namespace.run([restore_binary(backend=backend, family=family), "--noflush"], stdin=text)
        assert done.status == 0, done.stderr
    return namespace


def test_a_heartbeat_is_there_with_its_age_until_it_is_taken_back(fenced: Namespace) -> None:
    names = tuple(LISTS.values())
    with fenced.entered():
        assert fence.ages(names) == dict.fromkeys(names)
        for _ in range(50):  # more than a list keeps of one address
            assert fence.beat(tuple(LISTS.items())) == []
        for name in names:
            text = Path("/proc/thread-self/net/xt_recent", name).read_text(encoding="ascii")
            assert text.count("src=") == 1
        ages = fence.ages((*names, "kvctl-none"))
        assert set(ages) == set(names)
        assert all(age is not None and 0 <= age < 5 for age in ages.values())
        assert fence.still((*names, "kvctl-none")) == []
        assert fence.ages(names) == dict.fromkeys(names)


def test_a_heartbeat_without_a_rule_is_an_error_and_keeps_no_other_from_being_written(
    fenced: Namespace,
) -> None:
    with fenced.entered():
        (error,) = fence.beat([(Family.IPV4, "kvctl-none"), *LISTS.items()])
        assert "kvctl-none" in str(error)
        assert error.hint is not None
        assert None not in fence.ages(tuple(LISTS.values())).values()


def test_a_heartbeat_stays_in_the_namespace_of_the_thread(fenced: Namespace, backend: str) -> None:
    with fenced.entered():
        assert fence.beat([(Family.IPV4, LISTS[Family.IPV4])]) == []
    assert fence.ages(tuple(LISTS.values())) == {}


def test_whether_the_kernel_has_a_match_is_asked_of_it(namespace: Namespace) -> None:
    with namespace.entered():
        assert fence.available()
        assert fence._has_match(b"recent")
        assert not fence._has_match(b"kvctl-no-such")
