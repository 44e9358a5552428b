"""Which messages of the real kernel count as a change of this host, and that a change is noticed."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from kvctl.errors import NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.node import changes as changes_module
from kvctl.node.changes import HostChanges
from kvctl.node.host import read_host
from tests.conftest import MakeNamespace
from tests.marks import Marks
from tests.waiting import until

# Without link-local addresses, which change when the kernel has seen that nobody else has them: seconds later.
CABLE = [
    "link add eth0 type veth peer name far0",
    "link set eth0 addrgenmode none",
    "link set far0 addrgenmode none",
    "link set eth0 up",
    "link set far0 up",
]
VIP = "192.168.0.245/32"


def lay_cable(namespace: Namespace) -> None:
    """And wait until the kernel has seen that it is plugged in."""
    namespace.batch(CABLE)
    with namespace.entered():
        until(lambda: not read_host().unplugged)


class Ear:
    """Hears a namespace without a thread: what the changes made so far amount to."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._judge = changes_module._Judge()

    def gaps(self) -> set[float]:
        """The gaps asked for by all messages since the last call; empty: nothing of interest."""
        found: set[float | None] = set()
        self._netlink.hear(lambda *message: found.add(self._judge.hear(*message)), most=10_000, what="x")
        return {gap for gap in found if gap is not None}


@pytest.fixture
def ear(namespace: Namespace) -> Iterator[Ear]:
    lay_cable(namespace)
    groups = changes_module._GROUPS
    with (
        namespace.entered(),
        open_netlink(protocol=NETLINK_ROUTE, what="x", timeout=0, groups=groups) as netlink,
    ):
        yield Ear(netlink)


@pytest.fixture
def marks(namespace: Namespace) -> Iterator[Marks]:
    """What a running HostChanges told of the namespace."""
    lay_cable(namespace)
    marks = Marks()
    with namespace.entered():
        changes = HostChanges(marks)
        changes.start()
    yield marks
    changes.stop()


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ((), f"addr add {VIP} dev eth0"),
        ((f"addr add {VIP} dev eth0",), f"addr del {VIP} dev eth0"),
        ((), "addr add 2001:db8::245/128 dev eth0 nodad"),
        ((), "addr add 2001:db8::245/128 dev eth0"),
        (("addr add 2001:db8::245/128 dev eth0 nodad",), "addr del 2001:db8::245/128 dev eth0"),
        ((f"addr add {VIP} dev eth0",), f"addr change {VIP} dev eth0 valid_lft 60 preferred_lft 0"),
        ((), "link set eth0 down"),
        (("link set eth0 down",), "link set eth0 up"),
        ((), "link set far0 down"),
        (("link set far0 down",), "link set far0 up"),
        (("link set eth0 down",), "link set eth0 name uplink"),
        ((), "link add new0 type veth peer name new1"),
        ((), "link del eth0"),
    ],
)
def test_addresses_and_interfaces_that_change_are_told_at_once(
    ear: Ear, namespace: Namespace, before: tuple[str, ...], change: str
) -> None:
    for each in before:
        namespace.batch([each])
        # The kernel tells of a new IPv6 address when a worker of its own comes to it.
        until(lambda: 0.1 in ear.gaps())
    ear.gaps()
    namespace.batch([change])
    until(lambda: 0.1 in ear.gaps())


@pytest.mark.parametrize(
    "route",
    [
        "10.1.0.0/16 dev eth0",
        "blackhole 10.1.0.0/16",
        "2001:db8:5::/64 dev eth0",
        "10.1.0.0/16 dev eth0 metric 7",
    ],
)
def test_routes_of_the_main_table_are_told_more_patiently(ear: Ear, namespace: Namespace, route: str) -> None:
    ear.gaps()
    namespace.batch([f"route add {route}"])
    assert ear.gaps() == {1.0}
    namespace.batch([f"route del {route}"])
    assert ear.gaps() == {1.0}


@pytest.mark.parametrize("address", [VIP, "192.168.0.245/24", "2001:db8::245/128", "2001:db8::245/64"])
def test_a_refreshed_lifetime_is_no_change_and_the_end_of_the_address_is_one(
    ear: Ear, namespace: Namespace, address: str
) -> None:
    namespace.batch([f"addr add {address} dev eth0 valid_lft 600 preferred_lft 500 nodad"])
    until(lambda: 0.1 in ear.gaps())
    for seconds in (700, 800, 300):
        namespace.batch(
            [f"addr change {address} dev eth0 valid_lft {seconds} preferred_lft {seconds} nodad"],
        )
        assert ear.gaps() == set()
    namespace.batch([f"addr change {address} dev eth0 valid_lft 300 preferred_lft 0"])
    assert 0.1 in ear.gaps()
    namespace.batch([f"addr del {address} dev eth0"])
    assert 0.1 in ear.gaps()


@pytest.mark.parametrize(
    "change",
    [
        "route add 10.1.0.0/16 dev eth0 table 77",
        "route add 10.1.0.0/16 dev eth0 table 1000",
        "link set eth0 promisc on",
        "link set eth0 txqueuelen 77",
        "link set eth0 mtu 1400",
        "link set eth0 address 02:00:00:00:00:07",
        "neigh add 192.168.0.9 lladdr 02:00:00:00:00:09 dev eth0",
    ],
)
def test_what_kvctl_does_not_look_at_is_not_told(ear: Ear, namespace: Namespace, change: str) -> None:
    namespace.batch(["link set eth0 multicast on", "link set eth0 alias x"])
    ear.gaps()
    namespace.batch([change])
    assert ear.gaps() == set()


def test_a_port_that_leaves_a_bridge_is_still_there(ear: Ear, namespace: Namespace) -> None:
    namespace.batch(["link add br0 type bridge", "link set eth0 master br0"])
    ear.gaps()
    namespace.batch(["link set eth0 nomaster"])
    assert ear.gaps() == set()
    namespace.batch(["link set eth0 down"])
    assert 0.1 in ear.gaps()


def test_an_address_found_to_be_a_duplicate_is_told(make_namespace: MakeNamespace) -> None:
    here, there = make_namespace(), make_namespace()
    here.batch([f"link add eth0 type veth peer name eth0 netns {there.name}"])
    there.batch(["link set eth0 up", "addr add 2001:db8::245/64 dev eth0 nodad"])
    here.batch(["link set eth0 up"])
    marks = Marks()
    with here.entered():
        changes = HostChanges(marks)
        changes.start()
    try:
        here.batch(["addr add 2001:db8::245/64 dev eth0"])
        until = time.monotonic() + 20
        while "dadfailed" not in here.run(["ip", "-6", "addr", "show", "dev", "eth0"]).stdout:
            assert time.monotonic() < until
            time.sleep(0.02)
        found = time.monotonic()
        assert marks.wait(more_than=0)
        # Told after the address was marked, or just before we could see it.
        while not any(told > found - 0.2 for told in marks.times):
            assert marks.wait(more_than=len(marks)), "the failed address was not told"
    finally:
        changes.stop()


def test_a_change_is_noticed_within_a_fraction_of_a_second(marks: Marks, namespace: Namespace) -> None:
    for change in (f"addr add {VIP} dev eth0", f"addr del {VIP} dev eth0"):
        before = len(marks)
        begun = time.monotonic()
        namespace.batch([change])
        assert marks.wait(more_than=before)
        assert time.monotonic() - begun < 1


def test_thousands_of_routes_cost_few_calls_and_the_last_change_is_not_lost(
    marks: Marks, namespace: Namespace
) -> None:
    for _ in range(3):
        namespace.batch([f"route add 10.{n >> 8}.{n & 255}.0/24 dev eth0" for n in range(3000)])
        namespace.batch([f"route del 10.{n >> 8}.{n & 255}.0/24 dev eth0" for n in range(3000)])
    ended = time.monotonic()
    while not any(told > ended for told in marks.times):
        assert marks.wait(more_than=len(marks))
    assert len(marks) <= 3 + (marks.times[-1] - marks.times[0])


def test_an_address_is_told_also_while_routes_change(marks: Marks, namespace: Namespace) -> None:
    namespace.batch(["route add 10.1.0.0/16 dev eth0"])
    assert marks.wait()
    before = len(marks)
    namespace.batch(["route add 10.2.0.0/16 dev eth0", f"addr add {VIP} dev eth0"])
    assert marks.wait(more_than=before)
    assert marks.times[before] - marks.times[before - 1] < 0.9


def test_the_namespace_of_the_maker_is_heard_and_no_other(make_namespace: MakeNamespace) -> None:
    here, there = make_namespace(), make_namespace()
    heard, unheard = Marks(), Marks()
    with here.entered():
        ours = HostChanges(heard)
    with there.entered():
        theirs = HostChanges(unheard)
    ours.start()
    theirs.start()
    here.batch(["link add new0 type veth peer name new1"])
    assert heard.wait()
    theirs.stop()
    ours.stop()
    assert len(unheard) == 0


def test_changes_before_the_start_are_told(namespace: Namespace) -> None:
    marks = Marks()
    with namespace.entered():
        changes = HostChanges(marks)
    namespace.batch(["link add new0 type veth peer name new1"])
    changes.start()
    assert marks.wait()
    changes.stop()


def test_lost_messages_count_as_a_change(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = Marks()
    with namespace.entered():
        changes = HostChanges(marks)
    namespace.batch(["link add new0 type veth peer name new1"])
    netlink = changes._news._netlink
    failures = [OSError(errno.ENOBUFS, "lost"), struct.error("cut off"), OSError(errno.EIO, "broken")]

    def fail(*arguments: object, **named: object) -> None:
        if failures:
            raise _as_netlink(failures.pop(0))
        raise NetlinkError("nothing", errno=errno.EAGAIN)

    monkeypatch.setattr(netlink, "hear", fail)
    changes._news._judge._known["old"] = "value"  # type: ignore[attr-defined]
    for gap in (0.1, 1.0, 1.0):
        assert changes._news._hear() == gap
        assert changes._news._judge._known == {}  # type: ignore[attr-defined]
    changes.stop()


def _as_netlink(error: Exception) -> Exception:
    if isinstance(error, OSError):
        return NetlinkError(str(error), errno=error.errno or 0)
    return error


def test_a_queue_that_overflows_is_told_and_heard_again_afterwards(namespace: Namespace) -> None:
    lay_cable(namespace)
    marks = Marks()
    with namespace.entered():
        changes = HostChanges(marks)
    # SO_RCVBUF: what one socket may queue; the thread does not run yet, so that it fills.
    changes._news._netlink._socket.setsockopt(1, 8, 1)
    namespace.batch([f"route add 10.0.{n}.0/24 dev eth0" for n in range(200)])
    changes.start()
    assert marks.wait()
    before = len(marks)
    namespace.batch([f"addr add {VIP} dev eth0"])
    assert marks.wait(more_than=before)
    changes.stop()


def test_stopping_is_prompt_and_leaves_nothing(namespace: Namespace) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = state()
    with namespace.entered():
        changes = HostChanges(Marks())
    changes.start()
    begun = time.monotonic()
    changes.stop()
    changes.stop()
    assert time.monotonic() - begun < 1
    with namespace.entered():
        HostChanges(Marks()).stop()
    assert state() == before
