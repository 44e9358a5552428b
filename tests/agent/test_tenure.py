"""From Leases to addresses and back: in which order, and what is hidden from the rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import pytest

from kvctl.agent import upkeep
from kvctl.agent.tenure import Tenure, Wires
from kvctl.election.elector import Candidacy, Holding
from kvctl.election.electorate import LeaseState
from kvctl.election.terms import Terms
from kvctl.errors import KvctlError
from kvctl.model.host import Host, HostAddress, Route
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Address, Family, parse_address, parse_network
from kvctl.model.objects import Node, Objects, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.node.address_writer import LATENESS
from kvctl.node.addresses import Bound, Wanted
from kvctl.node.announce import Announced, Until
from kvctl.node.rtnetlink import Mark
from tests.builders import objects, pod, ref, service, settings

VIP = parse_address("192.168.0.245")
KEY = LeaseKey("sip", "kubevip-sip-client")
TERMS = Terms(3.0, 2.0, 1.0)
OWN = HostAddress(parse_address("192.168.0.240"), 24, "eth1")
BOUND = HostAddress(VIP, 32, "eth1", ours=True)
THINGS = objects(service(), pod())


class Electors:
    """An electorate that holds what the test says."""

    def __init__(self) -> None:
        self.wanted: Mapping[LeaseKey, Candidacy] = {}
        self.holdings: dict[LeaseKey, Holding] = {}
        self.giving_up: dict[LeaseKey, str] = {}
        self.known = True
        self.error: str | None = None
        self.done: list[str] = []

    def contend(self, wanted: Mapping[LeaseKey, Candidacy]) -> None:
        self.wanted = wanted

    def wake(self, key: LeaseKey) -> None:
        self.done.append(f"wake {key}")

    def held(self) -> Mapping[LeaseKey, Holding]:
        return self.holdings

    def leaving(self) -> Mapping[LeaseKey, str]:
        return self.giving_up

    def torn_down(self, key: LeaseKey) -> None:
        self.done.append(f"free {key}")

    def hand_over(self, keys: Collection[LeaseKey] | None = None) -> None:
        self.done.append("hand over")

    def released(self, *, patience: float) -> bool:
        return True

    def states(self) -> Mapping[LeaseKey, LeaseState]:
        holder = "kvctl/other" if self.known else None
        return {
            key: LeaseState(key, holder, held=False, leaving=None, transitions=0, last_error=self.error)
            for key in self.wanted
        }


class World:
    """A tenure whose addresses are the test's; everything it does is written down in order."""

    def __init__(self, *, clean: bool = False, its: Settings | None = None) -> None:
        self.now = 100.0
        self.electors = Electors()
        self.done = self.electors.done
        self.complaints: list[str] = []
        self.news = False
        self.asking: set[Announced] = set()
        self.free = {Announced(VIP, "eth1")}
        """What a probe has found to be free, at the next question."""
        self.obstacles: dict[Address, str] = {}
        self.fails: list[KvctlError] = []
        self.host = Host(
            addresses=(OWN,), routes=(Route(parse_network("192.168.0.0/24"), "eth1"),), interfaces=("eth1",)
        )
        self.tenure = Tenure(
            its or settings(node="worker"),
            TERMS,
            wires=Wires(self._bind, self._extend, self._unbind, self._bound, self, self),
            status=self,
            notify=lambda: self.done.append("notify"),
            say=lambda text: None,
            complain=self.complaints.append,
            clean=clean,
            clock=lambda: self.now,
        )
        self.tenure.serve(self.electors)

    def _bind(self, wanted: Sequence[Wanted]) -> list[KvctlError]:
        self.done += [f"bind {each.address} {each.interface} {each.lifetime}" for each in wanted]
        self.host = self.host._replace(addresses=(OWN, BOUND))
        return self.fails

    def _extend(self, wanted: Sequence[Wanted]) -> list[KvctlError]:
        self.done += [f"extend {each.address} {each.lifetime}" for each in wanted]
        return self.fails

    def _unbind(self, addresses: Collection[Address]) -> list[KvctlError]:
        self.done += [f"unbind {address}" for address in addresses]
        return self.fails

    def _bound(self) -> list[Bound]:
        return [Bound(a.address, a.interface, None, Mark.PROTO) for a in self.host.addresses if a.ours]

    def want(self, addresses: Iterable[Announced]) -> None:
        self.done += [f"probe {each.address}" for each in addresses]

    def obstacle(self, address: Address) -> str | None:
        return self.obstacles.get(address)

    def has_news(self) -> bool:
        return self.news

    def is_asking(self, addresses: Iterable[Announced]) -> bool:
        return bool(self.asking & set(addresses))

    def take(self, addresses: Collection[Announced]) -> set[Announced]:
        self.done += [f"probe {each.address}" for each in addresses if each not in self.free]
        return self.free & set(addresses)

    def announce(self, wanted: Collection[Announced], *, until: Until) -> None:
        self.until = until
        self.done.append(f"announce {' '.join(str(each.address) for each in wanted)}".strip())

    def holds(self, service: Service, vips: Collection[Address]) -> None:
        self.done.append(f"tell {service.ref} {' '.join(map(str, vips))}")

    def gives_up(self, ref: ServiceRef) -> None:
        self.done.append(f"clear {ref}")

    def hold(self, *, sent: float | None = None) -> Holding:
        """From now on this node holds the Lease."""
        at = self.now if sent is None else sent
        holding = Holding(KEY, at, at + TERMS.renew_deadline, at + TERMS.duration)
        self.electors.holdings = {KEY: holding}
        return holding

    def round(self, things: Objects = THINGS, *, clean: bool = True) -> list[str]:
        """What one round does; the addresses that its rules see are in `seen`."""
        self.done.clear()
        host = self.tenure.plan(things, self.host, reread=lambda: self.host)
        self.seen = {str(each.address) for each in host.addresses}
        self.done.append("rules")
        self.tenure.follow(host, clean=clean)
        return list(self.done)


@pytest.fixture
def world() -> World:
    """A node with a candidate, whose Lease somebody else holds."""
    return World()


def test_a_candidate_contends_and_does_nothing_else(world: World) -> None:
    assert world.round() == ["rules", "announce"]
    assert world.electors.wanted == {KEY: Candidacy(ready=False)}


def test_up_it_is_bound_before_the_rules_and_announced_after_them(world: World) -> None:
    world.hold()
    assert world.round() == [
        f"bind {VIP} eth1 2",
        "rules",
        f"announce {VIP}",
        f"tell sip/sip-client {VIP}",
    ]
    assert world.seen == {"192.168.0.240", str(VIP)}
    assert world.round() == ["rules", f"announce {VIP}", f"tell sip/sip-client {VIP}"]


def test_down_the_rules_go_first_and_the_lease_last(world: World) -> None:
    world.hold()
    world.round()
    world.electors.holdings = {}
    world.electors.giving_up = {KEY: "past the deadline"}
    assert world.round() == ["rules", "announce", f"unbind {VIP}", f"free {KEY}", "clear sip/sip-client"]
    assert world.seen == {"192.168.0.240"}


def test_while_the_rules_could_not_be_written_nothing_is_freed(world: World) -> None:
    world.hold()
    world.round()
    world.electors.holdings = {}
    world.electors.giving_up = {KEY: "past the deadline"}
    assert world.round(clean=False) == ["rules", "announce"]
    world.fails = [KvctlError("no")]
    assert world.round() == ["rules", "announce", f"unbind {VIP}"]
    world.fails = []
    assert f"free {KEY}" in world.round()


def test_what_begins_to_leave_while_rules_are_written_is_freed_by_the_next_round(world: World) -> None:
    world.hold()
    world.round()
    world.done.clear()
    host = world.tenure.plan(THINGS, world.host, reread=lambda: world.host)
    world.electors.holdings, world.electors.giving_up = {}, {KEY: "taken by another"}
    world.tenure.follow(host, clean=True)
    assert not [each for each in world.done if each.startswith(("free", "unbind"))]
    assert f"free {KEY}" in world.round()


def test_what_another_agent_has_left_stays_until_it_is_known_whose_it_is(world: World) -> None:
    world.host = world.host._replace(addresses=(OWN, BOUND))
    world.electors.known = False
    assert world.round() == ["rules", "announce"]
    assert str(VIP) in world.seen
    world.electors.known = True
    assert world.round() == ["rules", "announce", f"unbind {VIP}"]
    assert str(VIP) not in world.seen


def test_an_admins_address_gives_no_right_while_another_has_the_lease(world: World) -> None:
    world.host = world.host._replace(addresses=(OWN, BOUND._replace(ours=False)))
    assert world.round() == ["rules", "announce"]
    assert str(VIP) not in world.seen
    # Other addresses of the host are none of the election's.
    assert "192.168.0.240" in world.seen


def test_what_is_not_known_to_be_free_is_probed_and_not_bound_before_an_answer(world: World) -> None:
    world.hold()
    world.free = set()
    for _ in range(2):
        assert world.round() == [f"probe {VIP}", "rules", "announce"]
        assert str(VIP) not in world.seen
    world.free = {Announced(VIP, "eth1")}
    assert world.round()[:2] == [f"bind {VIP} eth1 2", "rules"]


def test_what_is_won_is_probed_before_the_loop_comes_to_it_and_what_is_renewed_is_not(world: World) -> None:
    world.round()
    world.done.clear()
    world.tenure.renewed(world.hold())
    assert world.done == [f"probe {VIP}"]
    world.free = set()
    world.round()
    world.done.clear()
    # The loop has asked, and does so again when it finds no answer.
    world.tenure.renewed(world.hold())
    assert world.done == []


def test_a_round_for_elections_is_worth_it_when_there_is_more_to_do_than_to_wait_for_a_probe(
    world: World,
) -> None:
    world.round()
    assert not world.tenure.has_work()
    world.hold()
    world.asking = {Announced(VIP, "eth1")}
    assert not world.tenure.has_work()
    world.news = True
    assert world.tenure.has_work()
    world.news, world.asking = False, set()
    # Nobody asks, so that it may be here already.
    assert world.tenure.has_work()
    world.round()
    assert not world.tenure.has_work()
    world.electors.giving_up = {KEY: "past the deadline"}
    assert world.tenure.has_work()
    world.electors.holdings, world.electors.giving_up = {}, {}
    assert world.tenure.has_work()


def test_a_renewal_extends_what_is_bound_and_nothing_that_is_not(world: World) -> None:
    holding = world.hold()
    world.tenure.renewed(holding)
    assert world.done == []
    world.round()
    world.done.clear()
    world.now += 1.0
    world.tenure.renewed(world.hold())
    assert world.done == [f"extend {VIP} 2"]


@pytest.mark.parametrize(
    ("late", "seconds"),
    [(0.0, 2), (0.3, 2), (0.6, 1), (1.2, 1), (1.9, 0), (2.0, 0), (5.0, 0)],
)
def test_an_address_lives_to_the_deadline_and_never_into_anothers_lease(
    world: World, late: float, seconds: int
) -> None:
    holding = world.hold()
    world.now += late
    assert world.tenure._upkeep.lifetime(holding) == seconds
    assert seconds == 0 or world.now + seconds + LATENESS <= holding.until


def late(world: World) -> None:
    """The Lease is held by a renewal that is too old to bind anything by."""
    world.hold(sent=world.now - 1.9)


def test_what_could_not_be_bound_for_lack_of_time_is_bound_when_the_lease_is_renewed(world: World) -> None:
    late(world)
    assert world.round() == ["rules", "announce"]
    world.done.clear()
    world.tenure.renewed(world.hold())
    assert "notify" in world.done
    assert world.tenure.has_work()
    # The answer that it is free has not been used up.
    assert world.round()[:2] == [f"bind {VIP} eth1 2", "rules"]
    world.tenure.renewed(world.hold())
    assert "notify" not in world.done
    assert not world.tenure.has_work()


def fails_to_be_there(world: World) -> None:
    """The kernel refuses it."""
    world.tenure._wires = world.tenure._wires._replace(bind=lambda wanted: [KvctlError("no buffer space")])


def ends_at_once(world: World) -> None:
    """It has gone again before anybody looks."""
    world.tenure._wires = world.tenure._wires._replace(bind=lambda wanted: [])


def cannot_be_asked_for(world: World) -> None:
    """No probe can be sent."""

    def take(addresses: Collection[Announced]) -> set[Announced]:
        raise KvctlError("cannot ask the network")

    world.take = take  # type: ignore[method-assign]


@pytest.mark.parametrize("trouble", [fails_to_be_there, ends_at_once, cannot_be_asked_for])
def test_what_could_not_be_bound_is_tried_again_after_a_while_as_long_as_the_lease_is_held(
    world: World, trouble: Callable[[World], None]
) -> None:
    wires, take = world.tenure._wires, world.take
    trouble(world)
    world.hold()
    assert world.round() == ["rules", "announce"]
    world.tenure.renewed(world.hold())
    assert "notify" not in world.done
    assert not world.tenure.has_work()
    world.now += 5.0
    world.tenure.renewed(world.hold())
    assert "notify" in world.done
    assert world.tenure.has_work()
    world.tenure._wires = wires
    world.take = take  # type: ignore[method-assign]
    assert world.round()[0] == f"bind {VIP} eth1 2"
    assert not world.tenure.has_work()


def test_what_was_taken_away_while_the_lease_is_held_is_bound_again(world: World) -> None:
    world.hold()
    world.round()
    world.host = world.host._replace(addresses=(OWN,))
    assert world.round()[0] == f"bind {VIP} eth1 2"


def test_while_no_probe_can_be_sent_what_has_to_go_goes(world: World) -> None:
    world.hold()
    world.round()
    world.electors.holdings, world.electors.giving_up = {}, {KEY: "past the deadline"}
    cannot_be_asked_for(world)
    assert f"free {KEY}" in world.round()
    assert world.complaints == ["cannot ask the network"]


def test_what_an_admin_has_bound_is_used_by_the_lease_and_neither_extended_nor_announced_nor_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats: list[tuple[Family, str]] = []

    def beat(fences: Collection[tuple[Family, str]]) -> list[KvctlError]:
        beats.extend(fences)
        return []

    monkeypatch.setattr(upkeep, "beat", beat)
    world = World(its=settings(node="worker")._replace(fence_seconds=2))
    theirs = BOUND._replace(ours=False)
    world.free.clear()
    world.host = world.host._replace(addresses=(OWN, theirs))
    world.hold()
    assert world.round()[1:] == ["rules", "announce", f"tell sip/sip-client {VIP}"]
    assert str(VIP) in world.seen
    world.done.clear()
    world.now += 0.5
    world.tenure.renewed(world.hold())
    assert world.done == []
    assert len(beats) == 2
    # No round comes of it that would ask for it again and again.
    world.now += 60.0
    world.tenure.renewed(world.hold())
    assert (world.done, world.tenure.has_work()) == ([], False)
    world.electors.holdings, world.electors.giving_up = {}, {KEY: "past the deadline"}
    assert world.round() == ["rules", "announce", f"free {KEY}", "clear sip/sip-client"]
    assert str(VIP) not in world.seen


def test_what_is_announced_is_so_for_as_long_as_the_lease_is_held(world: World) -> None:
    holding = world.hold()
    world.round()
    assert world.until(Announced(VIP, "eth1")) == holding.deadline
    world.now += 1.0
    world.tenure.renewed(world.hold())
    assert world.until(Announced(VIP, "eth1")) == holding.deadline + 1.0


def test_a_node_without_the_interface_does_not_contend(world: World) -> None:
    world.host = world.host._replace(interfaces=("eth0",))
    world.round()
    assert world.electors.wanted == {}
    assert world.complaints == [
        (
            "not contending for Lease sip/kubevip-sip-client: the VIP 192.168.0.245 of sip/sip-client cannot be here: "
            "this node has no interface eth1"
        )
    ]


def test_a_service_that_becomes_faulty_keeps_what_it_has(world: World) -> None:
    world.hold()
    world.round()
    faulty = objects(service(ports="tcp:0"), pod())
    assert world.round(faulty) == ["rules", f"announce {VIP}", f"tell sip/sip-client {VIP}"]
    assert set(world.electors.wanted) == {KEY}
    # One that never was right is not contended for.
    fresh = World()
    fresh.round(faulty)
    assert fresh.electors.wanted == {}
    # Nor does it lose it when it cannot be read at all.
    broken = objects(pod())._replace(broken=frozenset({ref("sip/sip-client")}))
    assert world.round(broken)[:2] == ["rules", f"announce {VIP}"]
    world.round(objects(pod()))
    assert world.electors.wanted == {}


def test_a_picture_without_this_node_changes_nothing(world: World) -> None:
    world.hold()
    world.round()
    without = objects(service(), pod(), Node("other"))._replace(nodes_known=True)
    host = world.tenure.plan(without, world.host)
    assert host == world.host
    assert set(world.electors.wanted) == {KEY}


def test_a_holder_that_takes_its_name_away_wakes_who_waits(world: World) -> None:
    named = objects(service(annotations={"kube-vip.io/vipHost": "worker-2"}), pod())
    assert "wake" not in " ".join(world.round(named))
    assert world.round()[0] == f"wake {KEY}"


@pytest.mark.parametrize(
    ("cordoned", "clean", "hands_over"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_at_the_end_only_a_drained_or_clean_node_hands_over(
    cordoned: bool, clean: bool, hands_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(clean=clean)
    its = THINGS._replace(nodes=(Node("worker", cordoned=cordoned), Node("other", cordoned=True)))
    assert world.tenure.ends(its) is hands_over
    assert world.done == (["hand over"] if hands_over else [])


def test_heartbeats_go_to_the_lists_of_what_is_held_once_its_rules_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats: list[int] = []

    def beat(fences: Collection[tuple[Family, str]]) -> list[KvctlError]:
        beats.append(len(list(fences)))
        return []

    world = World(its=settings(node="worker")._replace(fence_seconds=2))
    monkeypatch.setattr(upkeep, "beat", beat)
    world.tenure.renewed(world.hold())
    assert beats == []
    world.round()
    assert beats == [1]
    world.now += 0.9
    world.tenure.renewed(world.hold())
    assert beats == [1, 1]
    # One that would count into the time of another's Lease is not written.
    world.now += 1.2
    world.tenure.renewed(world.electors.holdings[KEY])
    assert beats == [1, 1]


def test_whoever_asks_why_a_vip_is_not_where_it_could_be_is_told(world: World) -> None:
    world.round()
    assert world.tenure.unplaced() == {}
    world.hold()
    world.free, world.obstacles = set(), {VIP: "somebody has it"}
    world.round()
    assert world.tenure.unplaced() == {
        ref("sip/sip-client"): f"this node holds Lease {KEY}, and the VIP {VIP} is not bound: somebody has it"
    }
    world.host = world.host._replace(interfaces=())
    world.round()
    (sentence,) = world.tenure.unplaced().values()
    assert sentence.startswith(f"this node does not contend for Lease {KEY}: the VIP {VIP} of sip/sip-client")


def test_an_agent_that_can_read_no_lease_says_so(world: World) -> None:
    world.electors.known = False
    assert world.tenure.unheard() is None
    world.round()
    assert world.tenure.unheard() == "no Lease has been read yet"
    world.electors.error = "forbidden"
    assert world.tenure.unheard() == "no Lease could be read: forbidden"
    world.electors.known = True
    assert world.tenure.unheard() is None
