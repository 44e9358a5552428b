"""What the other hosts of a link, and an ear on it, notice of an Announcer; all on the real kernel."""

from __future__ import annotations

import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import accumulate, pairwise

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Address, Family, parse_address
from kvctl.node import announce as announce_module
from kvctl.node.announce import SCHEDULE, Announced, Announcer, Schedule
from kvctl.node.frames import announcement
from tests.conftest import MakeNamespace
from tests.node.segment import VIPS, Host, Segment, Tap
from tests.waiting import until

ONCE = Schedule(burst=(), every=3600.0)
# The outside's bridge may notice a cable later than the announcer does.
REPEATED = Schedule(burst=(0.2,) * 40, every=3600.0)
FAST = Schedule(burst=(), every=0.001)

MakeAnnouncer = Callable[..., Announcer]


@pytest.fixture
def segment(make_namespace: MakeNamespace) -> Segment:
    return Segment(make_namespace)


@pytest.fixture
def tap(segment: Segment) -> Iterator[Tap]:
    with closing(segment.tap()) as tap:
        yield tap


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def make_announcer(complaints: list[str]) -> Iterator[MakeAnnouncer]:
    """`make_announcer(namespace, **arguments)`: one that runs, until the end of the test."""
    with ExitStack() as stack:

        def make(namespace: Namespace, *, schedule: Schedule = ONCE) -> Announcer:
            with namespace.entered():
                announcer = Announcer(complain=complaints.append, schedule=schedule)
            stack.callback(announcer.stop)
            announcer.start()
            return announcer

        yield make


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interfaces are looked at more often than each second."""
    monkeypatch.setattr(announce_module, "_LOOK_GAP", 0.01)


def on_eth0(*addresses: Address) -> list[Announced]:
    return [Announced(address, "eth0") for address in addresses]


def many(count: int) -> list[Address]:
    return [parse_address(f"192.168.0.{n}") for n in range(20, 20 + count)]


def shouted(host: Host, address: Address) -> list[bytes]:
    return list(announcement(address, mac=host.mac_bytes))


def test_the_link_follows_an_address_that_moves_and_moves_back(
    segment: Segment, make_announcer: MakeAnnouncer, family: Family
) -> None:
    vip = VIPS[family]
    old, new = segment.hosts
    old.add(vip)
    segment.learn(vip)
    assert segment.neighbour(vip) == (old.mac, "REACHABLE")
    first = make_announcer(new.namespace)
    first.announce(on_eth0(vip))
    until(lambda: segment.neighbour(vip)[0] == new.mac, seconds=1)
    # Within the second for which Linux holds on to an entry that has just changed.
    make_announcer(old.namespace).announce(on_eth0(vip))
    until(lambda: segment.neighbour(vip)[0] == old.mac, seconds=1)


def test_packets_reach_the_new_host_at_once(
    segment: Segment, make_announcer: MakeAnnouncer, family: Family
) -> None:
    vip = VIPS[family]
    old, new = segment.hosts
    old.add(vip)
    segment.learn(vip)
    # It holds on to the address, as one that has lost its mind does: only what is announced counts.
    new.add(vip)
    make_announcer(new.namespace).announce(on_eth0(vip))
    until(lambda: segment.neighbour(vip)[0] == new.mac, seconds=1)
    old.remove(vip)
    assert segment.outside.run(["ping", "-c1", "-W2", str(vip)]).status == 0


@pytest.mark.parametrize("form", [0, 1], ids=["request", "reply"])
def test_either_form_alone_changes_an_entry_that_has_just_changed(segment: Segment, form: int) -> None:
    vip, (old, new) = VIPS[Family.IPV4], segment.hosts
    with closing(new.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) as frames:
        segment.remember(vip, old.mac)
        frames.sendto(shouted(new, vip)[form], ("eth0", 0))
        until(lambda: segment.neighbour(vip)[0] == new.mac, seconds=1)


def test_what_goes_out_is_the_request_and_then_the_reply(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer
) -> None:
    host = segment.hosts[0]
    make_announcer(host.namespace).announce(on_eth0(*VIPS.values()))
    for vip in VIPS.values():
        until(lambda vip=vip: len(tap.of(vip)) == len(shouted(host, vip)))  # type: ignore[misc]
        assert tap.of(vip) == shouted(host, vip)


def forget_what_is_on_its_way(tap: Tap, frames: socket.socket, host: Host, mark: Address) -> None:
    """Of all that was sent till now the tap knows nothing then: a last frame, of an address of its own, has come."""
    [frame] = announcement(mark, mac=host.mac_bytes)
    frames.sendto(frame, ("eth0", 0))
    until(lambda: frame in tap.hear())
    del tap.frames[: tap.frames.index(frame)]


def test_nothing_is_sent_of_an_address_after_it_was_taken_away(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer
) -> None:
    host = segment.hosts[0]
    staying, going = many(2)
    announcer = make_announcer(host.namespace, schedule=FAST)
    with closing(host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) as frames:
        for number in range(30):
            announcer.announce(on_eth0(staying, going))
            tap.frames.clear()
            until(lambda: len(tap.of(going)) > 2)
            announcer.announce(on_eth0(staying))
            forget_what_is_on_its_way(tap, frames, host, parse_address(f"2001:db8::f:{number}"))
            until(lambda: len(tap.of(staying)) > 3)
            assert tap.of(going) == []


def test_nothing_is_sent_after_the_end(segment: Segment, tap: Tap, make_announcer: MakeAnnouncer) -> None:
    host = segment.hosts[0]
    [vip] = many(1)
    with closing(host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) as frames:
        announcer = make_announcer(host.namespace, schedule=FAST)
        announcer.announce(on_eth0(vip))
        until(lambda: tap.of(vip))
        announcer.stop()
        announcer.stop()
        announcer.announce(on_eth0(vip))
        forget_what_is_on_its_way(tap, frames, host, VIPS[Family.IPV6])
        assert tap.of(vip) == []
        assert announcer.states() == {}


def test_nothing_is_sent_of_an_address_whose_time_is_over(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host = segment.hosts[0]
    over, staying = on_eth0(*many(2))
    announcer = make_announcer(host.namespace, schedule=FAST)
    ends = {over: math.inf, staying: math.inf}
    announcer.announce(ends, until=lambda each: ends[each])
    until(lambda: tap.of(over.address))
    ends[over] = time.monotonic()
    with closing(host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) as frames:
        # The thread may have asked a moment before.
        until(lambda: announcer.states()[over].error is not None)
        forget_what_is_on_its_way(tap, frames, host, VIPS[Family.IPV6])
    until(lambda: len(tap.of(staying.address)) > 20)
    assert tap.of(over.address) == []
    assert announcer.states()[over].error == "the time is over for which it may be announced"
    assert announcer.states()[staying].error is None
    ends[over] = math.inf
    until(lambda: tap.of(over.address))
    assert complaints == []


def test_whether_its_time_is_over_is_asked_before_each_frame(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer
) -> None:
    host, vips = segment.hosts[0], many(10)
    asked: list[Announced] = []

    def ends(each: Announced) -> float:
        # As after a stop between the first frame and the second.
        asked.append(each)
        return math.inf if len(asked) == 1 else -math.inf

    announcer = make_announcer(host.namespace)
    announcer.announce(on_eth0(*vips), until=ends)
    until(lambda: all(state.error or state.frames for state in announcer.states().values()))
    announcer.stop()
    with closing(host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)) as frames:
        [last] = announcement(VIPS[Family.IPV6], mac=host.mac_bytes)
        frames.sendto(last, ("eth0", 0))
        until(lambda: last in tap.hear())
    assert [frame for vip in vips for frame in tap.of(vip)] == shouted(host, asked[0].address)[:1]


def test_the_rhythm_is_a_burst_and_then_now_and_again() -> None:
    gaps = [SCHEDULE.gap(place, chance=0.5) for place in range(8)]
    times = [round(time, 3) for time in accumulate(gaps, initial=0.0)]
    assert times == [0, 1.1, 2.2, 3.3, 4.4, 9.4, 54.4, 99.4, 144.4]
    assert [round(SCHEDULE.gap(9, chance=chance), 3) for chance in (0.0, 1.0)] == [40.5, 49.5]


def test_the_rhythm_is_kept_on_the_wire(segment: Segment, make_announcer: MakeAnnouncer) -> None:
    schedule = Schedule(burst=(0.05, 0.1), every=0.2, jitter=0.0)
    announcer = make_announcer(segment.hosts[0].namespace, schedule=schedule)
    [each] = wanted = on_eth0(VIPS[Family.IPV6])
    announcer.announce(wanted)
    times: list[float] = []

    def looked() -> int:
        last = announcer.states()[each].last
        if last is not None and last not in times:
            times.append(last)
        return len(times)

    until(lambda: looked() >= 5)
    gaps = [after - before for before, after in pairwise(times)]
    for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert least <= gap < least + 0.5
    assert announcer.states()[each].frames >= 5


def test_told_again_the_same_it_does_not_begin_anew_but_a_burst_does(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer
) -> None:
    announcer = make_announcer(segment.hosts[0].namespace)
    first, second, third = (Announced(address, "eth0") for address in many(3))
    announcer.announce([first, second])
    until(lambda: tap.of(first.address) and tap.of(second.address))
    announcer.announce([third, second, first])
    until(lambda: len(tap.of(third.address)) == 2)
    announcer.burst([second, Announced(VIPS[Family.IPV4], "eth0")])
    until(lambda: len(tap.of(second.address)) == 4)
    states = announcer.states()
    assert {each: states[each].frames for each in (first, second, third)} == {first: 2, second: 4, third: 2}
    assert tap.of(VIPS[Family.IPV4]) == []


TROUBLES = {
    "it is down": ("link set eth0 down", "link set eth0 up"),
    "there is no such interface": ("link set eth0 down name far", "link set far name eth0 up"),
}


@pytest.mark.usefixtures("attentive")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_interface_that_is_in_trouble_is_told_once_and_announced_on_when_it_is_back(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str], trouble: str
) -> None:
    host = segment.hosts[0]
    breaking, mending = TROUBLES[trouble]
    vips = many(3)
    announcer = make_announcer(host.namespace, schedule=REPEATED)
    announcer.announce(on_eth0(*vips))
    until(lambda: all(tap.of(vip) for vip in vips))
    for times in (1, 2):
        host.namespace.batch([breaking])
        until(lambda: all(state.error == trouble for state in announcer.states().values()))
        announcer.burst(on_eth0(*vips))
        announcer.announce(on_eth0(*vips, parse_address(f"192.168.0.{times}")))
        until(lambda: all(state.error == trouble for state in announcer.states().values()))
        tap.hear()
        tap.frames.clear()
        host.namespace.batch([mending])
        until(lambda: all(tap.of(vip) for vip in vips))
        until(lambda: not any(state.error for state in announcer.states().values()))
        complaint = f"cannot announce addresses on interface eth0: {trouble}; trying on"
        assert complaints == [complaint] * times


def begin_to_announce(vip: Address, host: Host, tap: Tap, make_announcer: MakeAnnouncer) -> None:
    make_announcer(host.namespace, schedule=REPEATED).announce(on_eth0(vip))
    until(lambda: tap.of(vip))


@pytest.mark.usefixtures("attentive")
def test_a_cable_that_is_pulled_and_plugged_in_is_announced_by(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host, vip = segment.hosts[0], VIPS[Family.IPV4]
    begin_to_announce(vip, host, tap, make_announcer)
    segment.outside.batch([f"link set p{host.number}eth0 down"])
    until(lambda: complaints)
    assert complaints == ["cannot announce addresses on interface eth0: it has no carrier; trying on"]
    tap.frames.clear()
    segment.outside.batch([f"link set p{host.number}eth0 up"])
    until(lambda: tap.of(vip))


@pytest.mark.usefixtures("attentive")
def test_another_hardware_address_is_announced(
    segment: Segment, make_announcer: MakeAnnouncer, family: Family
) -> None:
    vip, host = VIPS[family], segment.hosts[0]
    segment.remember(vip, segment.hosts[1].mac)
    announcer = make_announcer(host.namespace)
    announcer.announce(on_eth0(vip))
    until(lambda: segment.neighbour(vip)[0] == host.mac)
    host.namespace.batch(["link set eth0 address 02:00:00:00:00:77"])
    until(lambda: segment.neighbour(vip)[0] == "02:00:00:00:00:77")


@pytest.mark.usefixtures("attentive")
def test_an_interface_that_is_made_anew_is_announced_on(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host, vip = segment.hosts[0], VIPS[Family.IPV6]
    begin_to_announce(vip, host, tap, make_announcer)
    host.namespace.batch(["link del eth0"])
    until(lambda: complaints)
    tap.frames.clear()
    segment.plug(host, "eth0", "02:00:00:00:00:55")
    until(lambda: tap.of(vip))
    assert len(complaints) == 1


def test_full_queues_are_told_once_and_all_is_sent_in_the_end(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host = segment.hosts[0]
    shaper = "tc qdisc add dev eth0 root tbf rate 64kbit burst 120 limit 300"
    assert host.namespace.run(shaper.split()).status == 0
    vips = many(20)
    announcer = make_announcer(host.namespace)
    announcer.announce(on_eth0(*vips))
    until(lambda: any(state.error for state in announcer.states().values()))
    until(lambda: not any(state.error for state in announcer.states().values()))
    assert complaints == ["cannot announce addresses on interface eth0: no buffer space available; trying on"]
    until(lambda: {claim.address for claim in tap.claims()} >= set(vips))


def test_full_queues_are_told_once_also_while_another_interface_works(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host = segment.hosts[0]
    segment.plug(host, "eth1", "02:00:00:00:00:44")
    # So slow that what does not fit at first does not fit later.
    shaper = "tc qdisc add dev eth0 root tbf rate 8bit burst 120 limit 120"
    assert host.namespace.run(shaper.split()).status == 0
    slow, quick = on_eth0(*many(10)), Announced(VIPS[Family.IPV4], "eth1")
    announcer = make_announcer(host.namespace, schedule=FAST)
    announcer.announce([*slow, quick])
    until(lambda: complaints)
    frames = announcer.states()[quick].frames
    until(lambda: announcer.states()[quick].frames > frames + 400)
    assert len(complaints) == 1
    assert any(announcer.states()[each].error for each in slow)


def test_no_ipv6_on_an_interface_keeps_nothing_else_from_being_announced(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    host = segment.hosts[0]
    host.namespace.write_sysctls({"ipv6/conf/eth0/disable_ipv6": "1"})
    make_announcer(host.namespace).announce(on_eth0(VIPS[Family.IPV6], VIPS[Family.IPV4]))
    until(lambda: tap.of(VIPS[Family.IPV4]))
    assert complaints == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lo", "it is no Ethernet interface"),
        ("eth9", "there is no such interface"),
        ("", "there is no such interface"),
        ("longer-than-sixteen", "there is no such interface"),
        ("eth0\0", "there is no such interface"),
        ("\ud800", "there is no such interface"),
    ],
)
def test_what_cannot_be_announced_on_is_told_and_harms_no_other(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer, complaints: list[str], name: str, reason: str
) -> None:
    vip = VIPS[Family.IPV4]
    announcer = make_announcer(segment.hosts[0].namespace)
    announcer.announce([Announced(vip, name), Announced(vip, "eth0")])
    until(lambda: tap.of(vip))
    assert announcer.states()[Announced(vip, name)].error == reason
    assert announcer.states()[Announced(vip, "eth0")].error is None
    until(lambda: complaints)
    assert complaints[0].endswith(f": {reason}; trying on")


def test_each_interface_is_told_of_its_own_addresses(
    make_namespace: MakeNamespace, make_announcer: MakeAnnouncer
) -> None:
    one, other = Segment(make_namespace, hosts=1), Segment(make_namespace, hosts=0)
    host = one.hosts[0]
    other.plug(host, "eth1", "02:00:00:00:00:33")
    first, second = many(2)
    with closing(one.tap()) as here, closing(other.tap()) as there:
        announcer = make_announcer(host.namespace)
        announcer.announce([Announced(first, "eth0"), Announced(second, "eth1")])
        until(lambda: here.of(first) and there.of(second))
        assert here.of(second) == there.of(first) == []
        mac = bytes.fromhex("020000000033")
        until(lambda: there.of(second) == list(announcement(second, mac=mac)))


def test_the_network_is_the_one_it_was_made_in(segment: Segment, make_namespace: MakeNamespace) -> None:
    vip, elsewhere = VIPS[Family.IPV4], make_namespace()
    with segment.hosts[0].namespace.entered():
        announcer = Announcer(complain=print, schedule=ONCE)
    with elsewhere.entered():
        announcer.start()
        announcer.announce(on_eth0(vip))
    try:
        until(lambda: announcer.states()[Announced(vip, "eth0")].frames == 2)
    finally:
        announcer.stop()


def test_two_hundred_addresses_are_announced_within_a_moment(
    segment: Segment, tap: Tap, make_announcer: MakeAnnouncer
) -> None:
    vips = many(100) + [parse_address(f"2001:db8::1:{n:x}") for n in range(100)]
    announcer = make_announcer(segment.hosts[0].namespace)
    begun = time.monotonic()
    announcer.announce(on_eth0(*vips))
    until(lambda: all(state.last for state in announcer.states().values()))
    taken = time.monotonic() - begun
    until(lambda: {claim.address for claim in tap.claims()} >= set(vips))
    assert taken < 0.5


def test_many_threads_may_change_what_is_announced(
    segment: Segment, make_announcer: MakeAnnouncer, complaints: list[str]
) -> None:
    announcer = make_announcer(segment.hosts[0].namespace, schedule=FAST)
    vips = many(8)

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            some = on_eth0(*chance.sample(vips, 4))
            announcer.announce(some)
            announcer.burst(some)
            announcer.states()

    threads = [threading.Thread(target=change, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    announcer.announce(on_eth0(*vips))
    until(lambda: all(state.frames > 10 for state in announcer.states().values()))
    assert len(announcer.states()) == len(vips)
    assert complaints == []


def test_without_the_right_to_send_frames_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(KvctlError, match="cannot announce addresses: Operation not permitted") as caught:
        Announcer(complain=print)
    assert "NET_RAW" in str(caught.value.hint)


def test_nothing_is_left_behind(segment: Segment) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = state()
    for starts in (True, False):
        with segment.hosts[0].namespace.entered():
            announcer = Announcer(complain=print)
        if starts:
            announcer.start()
            announcer.announce(on_eth0(VIPS[Family.IPV4]))
        begun = time.monotonic()
        announcer.stop()
        assert time.monotonic() - begun < 1
    assert state() == before
