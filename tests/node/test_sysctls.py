"""What this host's settings would do to traffic by a second interface, on the real kernel."""

from __future__ import annotations

import pytest

from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.node.sysctls import checks

GOOD = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/eth1.7/rp_filter": "0",
    "ipv4/conf/all/arp_announce": "0",
    "ipv4/conf/eth1.7/arp_announce": "2",
    "ipv4/conf/eth1.7/forwarding": "1",
    "ipv6/conf/all/forwarding": "1",
}


def said(namespace: Namespace, family: Family = Family.IPV4, **changed: str) -> list[str]:
    """What is said of eth1.7 when settings are good but for those changed (`all_rp_filter`)."""
    values = dict(GOOD)
    for name, value in changed.items():
        where, _, what = name.partition("_")
        values[f"ipv4/conf/{'all' if where == 'all' else 'eth1.7'}/{what}"] = value
    namespace.write_sysctls(values)
    with namespace.entered():
        return checks("eth1.7", family)


@pytest.fixture
def node(namespace: Namespace) -> Namespace:
    namespace.batch(["link add eth1.7 type veth peer name far1"])
    return namespace


def test_of_good_settings_nothing_is_said(node: Namespace) -> None:
    assert said(node) == []
    assert said(node, Family.IPV6) == []


@pytest.mark.parametrize(
    ("all_of_them", "its_own", "wrong"),
    [("1", "0", True), ("0", "1", True), ("1", "1", True), ("1", "2", False), ("2", "1", False)],
)
def test_the_greater_reverse_path_filter_counts(
    node: Namespace, all_of_them: str, its_own: str, wrong: bool
) -> None:
    found = said(node, all_rp_filter=all_of_them, own_rp_filter=its_own)
    assert bool(found) is wrong
    assert all(text.endswith("(sysctl -w net/ipv4/conf/eth1.7/rp_filter=2)") for text in found)


@pytest.mark.parametrize(
    ("all_of_them", "its_own", "wrong"), [("0", "0", True), ("1", "0", True), ("2", "0", False)]
)
def test_arp_requests_have_to_name_the_nodes_own_address(
    node: Namespace, all_of_them: str, its_own: str, wrong: bool
) -> None:
    found = said(node, all_arp_announce=all_of_them, own_arp_announce=its_own)
    assert bool(found) is wrong
    assert all(text.endswith("(sysctl -w net/ipv4/conf/eth1.7/arp_announce=2)") for text in found)


def test_replies_have_to_be_forwarded(node: Namespace) -> None:
    (found,) = said(node, own_forwarding="0")
    assert found.endswith("(sysctl -w net/ipv4/conf/eth1.7/forwarding=1)")
    node.write_sysctls({"ipv6/conf/all/forwarding": "0"})
    with node.entered():
        (found,) = checks("eth1.7", Family.IPV6)
    assert found.endswith("(sysctl -w net/ipv6/conf/all/forwarding=1)")


def test_the_mend_that_is_named_mends(node: Namespace) -> None:
    found = said(node, all_rp_filter="1", own_arp_announce="0", own_forwarding="0")
    assert len(found) == 3
    for text in found:
        path, _, value = text.rpartition("sysctl -w net/")[2].removesuffix(")").partition("=")
        node.write_sysctls({path: value})
    with node.entered():
        assert checks("eth1.7", Family.IPV4) == []


def test_an_interface_that_is_not_there_is_not_judged(node: Namespace) -> None:
    with node.entered():
        assert checks("eth9", Family.IPV4) == []
