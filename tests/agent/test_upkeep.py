"""What a renewal keeps alive, and what a thread does that comes too late for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pytest

from kvctl.agent import upkeep
from kvctl.agent.upkeep import Place, Upkeep
from kvctl.election.elector import Holding
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Family, parse_address
from kvctl.node.addresses import Wanted
from kvctl.node.announce import Announced

VIP = parse_address("192.168.0.245")
KEY = LeaseKey("sip", "kubevip-sip-client")
TERMS = Terms(3.0, 2.0, 1.0)
FENCE = (Family.IPV4, "kvctl-fence")
PLACE = Place({VIP: "eth1"}, (FENCE,))


class Kernel:
    """What is written to it, in order, by an upkeep whose clock is the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.done: list[str] = []
        self.complaints: list[str] = []
        self.raises: KvctlError | None = None
        self.in_between: Callable[[], None] = lambda: None
        """What happens between the look at the clock and the writing of a heartbeat."""
        monkeypatch.setattr(upkeep, "beat", self._beat)
        monkeypatch.setattr(upkeep, "still", self._still)
        self.upkeep = Upkeep(
            TERMS, extend=self._extend, complain=self.complaints.append, clock=lambda: self.now
        )

    def _beat(self, fences: Collection[tuple[Family, str]]) -> list[KvctlError]:
        self.in_between()
        self.done += [f"beat {name}" for _, name in fences]
        return []

    def _still(self, names: Collection[str]) -> list[KvctlError]:
        self.done += [f"still {name}" for name in names]
        return []

    def _extend(self, wanted: Sequence[Wanted]) -> list[KvctlError]:
        if self.raises is not None:
            raise self.raises
        self.done += [f"extend {each.address} {each.lifetime}" for each in wanted]
        return []

    def holding(self) -> Holding:
        """A Lease that was renewed now."""
        return Holding(KEY, self.now, self.now + TERMS.renew_deadline, self.now + TERMS.duration)

    def in_use(self, place: Place = PLACE) -> Holding:
        """A Lease by which the VIP is here, with its rules."""
        holding = self.holding()
        self.upkeep.keep({KEY: place}, {KEY: holding})
        self.upkeep.beat({KEY: holding})
        self.done.clear()
        return holding


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Nothing is held."""
    return Kernel(monkeypatch)


def test_a_renewal_prolongs_the_address_and_the_use_of_it(kernel: Kernel) -> None:
    kernel.in_use()
    assert kernel.upkeep.renewed(kernel.holding())
    assert kernel.done == [f"extend {VIP} 2", "beat kvctl-fence"]


def test_of_what_an_admin_has_bound_only_the_use_is_prolonged(kernel: Kernel) -> None:
    kernel.in_use(Place({}, (FENCE,)))
    assert kernel.upkeep.renewed(kernel.holding())
    assert kernel.done == ["beat kvctl-fence"]


def test_a_heartbeat_that_was_written_too_late_is_taken_back(kernel: Kernel) -> None:
    holding = kernel.in_use()

    def stop() -> None:
        kernel.now += 1.0

    kernel.in_between = stop
    kernel.upkeep.beat({KEY: holding})
    assert kernel.done == ["beat kvctl-fence", "still kvctl-fence"]
    # By the clock it is too late for another.
    kernel.upkeep.beat({KEY: holding})
    assert kernel.done == ["beat kvctl-fence", "still kvctl-fence"]


def test_a_heartbeat_is_not_taken_back_where_the_lease_was_renewed_meanwhile(kernel: Kernel) -> None:
    old = kernel.in_use()

    def renew() -> None:
        kernel.now += 0.9
        kernel.in_between = lambda: None
        # From another thread, whose own heartbeat waits for this one.
        kernel.upkeep._fenced = frozenset()
        kernel.upkeep.renewed(kernel.holding())
        kernel.now += 0.9

    kernel.in_between = renew
    kernel.upkeep.beat({KEY: old})
    assert "still kvctl-fence" not in kernel.done


def test_a_renewal_that_came_while_the_address_was_being_bound_counts_at_once(kernel: Kernel) -> None:
    first = kernel.holding()
    kernel.now += 1.0
    second = kernel.holding()
    assert not kernel.upkeep.renewed(second)
    kernel.upkeep.keep({KEY: PLACE}, {KEY: first})
    assert kernel.done == [f"extend {VIP} 2"]
    assert kernel.upkeep.until(Announced(VIP, "eth1")) == second.deadline
    # One that was known when it was bound does not.
    kernel.done.clear()
    kernel.upkeep.keep({KEY: PLACE}, {KEY: second})
    assert kernel.done == []


def test_where_the_kernel_cannot_be_asked_for_addresses_the_heartbeat_is_written_all_the_same(
    kernel: Kernel,
) -> None:
    kernel.in_use()
    kernel.raises = KvctlError("cannot extend addresses: too many open files")
    assert kernel.upkeep.renewed(kernel.holding())
    assert kernel.done == ["beat kvctl-fence"]
    assert kernel.complaints == ["cannot extend addresses: too many open files"]


def test_an_address_may_be_used_until_its_own_lease_ends(kernel: Kernel) -> None:
    here, elsewhere = Announced(VIP, "eth1"), Announced(VIP, "eth0")
    assert kernel.upkeep.until(here) < 0
    first = kernel.in_use()
    assert kernel.upkeep.until(here) == first.deadline
    assert kernel.upkeep.until(elsewhere) < 0
    kernel.now += 1.0
    kernel.upkeep.renewed(kernel.holding())
    assert kernel.upkeep.until(here) == first.deadline + 1.0
    # What an older answer says, which another thread comes with late, changes nothing.
    kernel.upkeep.renewed(first)
    assert kernel.upkeep.until(here) == first.deadline + 1.0
    kernel.upkeep.keep({}, {})
    assert kernel.upkeep.until(here) < 0
