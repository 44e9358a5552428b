"""How far the source ports of a VIP are used up, of flows that a test makes."""

from __future__ import annotations

import pytest

from kvctl.model.flows import Flow, Tuple
from kvctl.model.net import Family, parse_address
from kvctl.reconcile.port_use import busiest

VIP = parse_address("192.0.2.245")
POD = parse_address("10.0.0.1")


def flow(
    port: int, *, to: str = "198.51.100.7", at: int = 443, protocol: str = "tcp", seen_as: str = str(VIP)
) -> Flow:
    """A connection that has this source port of the VIP."""
    target = parse_address(to)
    return Flow(
        family=Family.IPV4,
        protocol=protocol,
        original=Tuple(POD, target, 40000, at),
        reply=Tuple(target, parse_address(seen_as), at, port),
    )


def test_it_is_the_destination_with_the_fewest_ports_left_that_counts() -> None:
    flows = [
        *(flow(port) for port in range(1024, 1034)),
        *(flow(port, at=80) for port in range(1024, 1044)),
        *(flow(port, to="198.51.100.8") for port in range(1024, 1034)),
        *(flow(port, protocol="udp") for port in range(1024, 1034)),
    ]
    use = busiest(flows, VIP)
    assert use is not None
    assert (use.used, use.ports, use.target, use.is_nearly_full) == (20, 64512, "198.51.100.7:80", False)
    assert str(use) == "20 of 64,512 ports to tcp 198.51.100.7:80"


def test_a_small_range_is_used_up_sooner() -> None:
    flows = [*(flow(port) for port in range(1024, 2024)), *(flow(port) for port in range(600, 1000))]
    use = busiest(flows, VIP)
    assert use is not None
    assert (str(use), use.is_nearly_full) == ("400 of 424 ports below 1024 to tcp 198.51.100.7:443", True)


@pytest.mark.parametrize(("used", "full"), [(51_609, False), (51_610, True)])
def test_from_four_fifths_on_it_is_nearly_full(used: int, full: bool) -> None:
    use = busiest((flow(port) for port in range(1024, 1024 + used)), VIP)
    assert use is not None
    assert use.is_nearly_full is full


def test_what_has_another_address_or_no_ports_uses_none() -> None:
    assert (
        busiest([flow(1024, seen_as="192.0.2.9"), flow(0, protocol="icmp"), flow(7, protocol="47")], VIP)
        is None
    )


def test_ports_that_the_kernel_never_chooses_are_in_no_range() -> None:
    assert busiest([flow(port) for port in range(512, 600)], VIP) is None
