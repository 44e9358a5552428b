"""VIPs on interfaces of the real kernel: whose they are, how long they live, what is left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvctl
from kvctl.errors import KvctlError, NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Address, Family, parse_address
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.address_table import AddressTable, Refusal
from kvctl.node.address_writer import LATENESS
from kvctl.node.addresses import AddressError, Bound, Wanted, bind, bound, extend, unbind
from kvctl.node.changes import HostChanges
from kvctl.node.host import read_host
from kvctl.node.rtnetlink import AddressRow, Mark, mark_of, read_addresses
from tests.conftest import MakeNamespace
from tests.marks import Marks
from tests.waiting import until

VIP4, VIP6 = parse_address("192.168.0.245"), parse_address("2001:db8::245")
VIPS = {Family.IPV4: VIP4, Family.IPV6: VIP6}
OWN = {Family.IPV4: "192.168.0.240", Family.IPV6: "2001:db8::240"}
NEAR = {Family.IPV4: "192.168.0.7", Family.IPV6: "2001:db8::7"}
FAR = {Family.IPV4: "8.8.8.8", Family.IPV6: "2001:db9::7"}
ROUTES = ["route add default via 192.168.0.1", "route add default via 2001:db8::1"]
ADDRESSES = ["addr add 192.168.0.240/24 dev eth0", "addr add 2001:db8::240/64 dev eth0 nodad"]
LINKS = [
    *(f"link add eth{n} type veth peer name far{n}" for n in range(2)),
    *(f"link set {name}{n} up" for n in range(2) for name in ("eth", "far")),
]


@pytest.fixture
def node(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with two interfaces and an address of each family, and the test's thread inside."""
    # Else link-local addresses change some time later, when they prove to be unique.
    namespace.write_sysctls({f"ipv6/conf/{name}/accept_dad": "0" for name in ("all", "default")})
    namespace.batch([*LINKS, *ADDRESSES, *ROUTES])
    with namespace.entered():
        yield namespace


@pytest.fixture(params=[True, False], ids=["protocols", "before-5.18"])
def protocols(request: pytest.FixtureRequest) -> bool:
    """Whether the kernel stores whose an address is."""
    stores: bool = request.param
    return stores


def done(errors: Sequence[KvctlError]) -> None:
    assert [error.message for error in errors] == []


def refusal(errors: Sequence[KvctlError]) -> AddressError:
    (error,) = errors
    assert isinstance(error, AddressError)
    assert error.hint
    return error


def found(*, protocols: bool = True) -> dict[tuple[Address, str], int | None]:
    return {(b.address, b.interface): b.lifetime for b in bound(protocols=protocols)}


def listed(node: Namespace, *arguments: str) -> list[dict[str, object]]:
    """The addresses by ip(8), each with its interface's name."""
    links: list[dict[str, object]] = json.loads(node.run(["ip", "-j", "addr", "show", *arguments]).stdout)
    return [
        {**info, "dev": link["ifname"]}
        for link in links
        for info in link.get("addr_info", [])  # type: ignore[attr-defined]
        if info  # ip(8) prints what it has filtered out as empty objects
    ]


def source(destination: str) -> str:
    """The address that this host sends from to `destination`."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        name: str = probe.getsockname()[0]
        return name


# What is bound


def test_a_vip_is_bound_alone_in_its_network_with_a_mark_and_an_end(node: Namespace, family: Family) -> None:
    vip = VIPS[family]
    done(bind([Wanted(vip, "eth0", 30)]))
    (info,) = listed(node, "to", str(vip))
    assert info["prefixlen"] == vip.max_prefixlen
    assert (info["scope"], info["dev"], info["deprecated"]) == ("global", "eth0", True)
    assert info["valid_life_time"] in (29, 30)
    assert info["preferred_life_time"] == 0
    (entry,) = bound()
    assert entry == Bound(vip, "eth0", entry.lifetime, Mark.PROTO)
    with open_netlink(protocol=NETLINK_ROUTE, what="test") as netlink:
        (row,) = read_addresses(netlink, of={vip}, what="test")
    assert row.protocol == 75


def test_without_stored_protocols_a_label_and_a_shape_are_the_mark(node: Namespace) -> None:
    done(bind([Wanted(VIP4, "eth0", 30), Wanted(VIP6, "eth0", 30)], protocols=False))
    assert {b.address: b.marked_by for b in bound(protocols=False)} == {VIP4: Mark.LABEL, VIP6: Mark.SHAPE}
    (info,) = listed(node, "to", str(VIP4))
    assert info["label"] == "eth0:kvctl"
    with open_netlink(protocol=NETLINK_ROUTE, what="test") as netlink:
        assert [row.protocol for row in read_addresses(netlink, of={VIP4, VIP6}, what="test")] == [0, 0]


def test_reading_the_host_tells_which_addresses_are_ours(node: Namespace) -> None:
    done(bind([Wanted(VIP4, "eth0", 30), Wanted(VIP6, "eth1", None)]))
    before = read_host()
    assert {a.address for a in before.addresses if a.ours} == {VIP4, VIP6}
    done(extend([Wanted(VIP4, "eth0", 60), Wanted(VIP6, "eth1", None)]))
    assert read_host() == before
    unbind([VIP4, VIP6])
    done(bind([Wanted(VIP4, "eth0", 30)], protocols=False))
    assert {a.address for a in read_host().addresses if a.ours} == {VIP4}


def test_the_shape_counts_only_where_the_kernel_stores_no_protocols() -> None:
    row = AddressRow(link=2, address=VIP6, prefix_length=128, flags=0x222, lifetime=9)
    assert mark_of(row, by_shape=True) is Mark.SHAPE
    assert mark_of(row, by_shape=False) is None
    for other in (
        row._replace(prefix_length=64),
        row._replace(flags=0x2A2),  # for ever
        row._replace(flags=0x202),  # preferred
        row._replace(flags=0x220),  # with duplicate address detection, as by DHCPv6
    ):
        assert mark_of(other, by_shape=True) is None


def test_where_the_kernel_stores_protocols_a_shape_is_nobodys_mark(node: Namespace) -> None:
    done(bind([Wanted(VIP6, "eth0", 60)], protocols=False))
    assert bound() == []
    assert "without kvctl's mark" in refusal(bind([Wanted(VIP6, "eth0", 30)])).message
    assert "any more" in refusal(extend([Wanted(VIP6, "eth0", 30)])).message
    done(unbind([VIP6]))
    assert set(found(protocols=False)) == {(VIP6, "eth0")}


def test_others_reach_the_vip(make_namespace: MakeNamespace, family: Family) -> None:
    here, there = make_namespace(), make_namespace()
    here.batch([f"link add eth0 type veth peer name eth0 netns {there.name}"])
    there.batch(
        ["link set eth0 up", "addr add 192.168.0.7/24 dev eth0", "addr add 2001:db8::7/64 dev eth0 nodad"]
    )
    here.batch(["link set eth0 up", *ADDRESSES])
    vip = str(VIPS[family])
    with here.entered():
        done(bind([Wanted(VIPS[family], "eth0", 30)]))
    number = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    with (
        here.socket(number, socket.SOCK_DGRAM) as server,
        there.socket(number, socket.SOCK_DGRAM) as client,
    ):
        server.settimeout(10)
        client.settimeout(10)
        server.bind((vip, 5060))
        client.connect((vip, 5060))
        client.send(b"ping")
        _, sender = server.recvfrom(10)
        server.sendto(b"pong", sender)
        assert client.recv(10) == b"pong"


def test_this_host_does_not_send_from_the_vip(node: Namespace, family: Family, protocols: bool) -> None:
    for lifetime in (30, None) if protocols or family is Family.IPV4 else (30,):
        done(bind([Wanted(VIPS[family], "eth0", lifetime)], protocols=protocols))
        assert source(NEAR[family]) == OWN[family]
        assert source(FAR[family]) == OWN[family]


def test_this_host_sends_from_its_own_address_also_when_that_comes_after_the_vip(
    node: Namespace, family: Family
) -> None:
    done(bind([Wanted(VIPS[family], "eth0", 30)]))
    node.batch(["addr del 192.168.0.240/24 dev eth0", "addr del 2001:db8::240/64 dev eth0", *ADDRESSES])
    node.batch([line.replace("add", "replace") for line in ROUTES])
    assert source(NEAR[family]) == OWN[family]
    assert source(FAR[family]) == OWN[family]


# Lifetimes


def test_the_kernel_takes_addresses_away_when_their_time_is_over_also_after_a_kill(node: Namespace) -> None:
    old4, old6 = parse_address("192.168.0.246"), parse_address("2001:db8::246")
    node.batch(["addr add 192.168.0.250/32 dev eth0"])
    script = f"""
import time
from kvctl.model.net import parse_address
from kvctl.node.addresses import Wanted, bind
def wanted(*texts): return [Wanted(parse_address(text), "eth0", 3) for text in texts]
begun = time.monotonic()
assert not bind(wanted("{VIP4}", "{VIP6}")) and not bind(wanted("{old4}", "{old6}"), protocols=False)
print(begun, time.monotonic(), flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(kvctl.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        begun, ended = (float(word) for word in process.stdout.readline().split())
        process.send_signal(signal.SIGKILL)
    seen, missed = dict.fromkeys((VIP4, VIP6, old4, old6), begun), dict[Address, float]()
    while len(missed) < len(seen):
        asked = time.monotonic()
        assert asked - begun < 10, missed
        there = {a.address for a in read_host().addresses}
        seen.update(dict.fromkeys(seen.keys() & there, asked))
        missed.update(dict.fromkeys(seen.keys() - there - missed.keys(), time.monotonic()))
        time.sleep(0.005)
    # The kernel counts in ticks: a lifetime may end 20 ms early, and LATENESS late; twice that while other tests run.
    assert all(begun + 2.95 < missing for missing in missed.values()), (begun, missed)
    assert all(last < ended + 3 + 2 * LATENESS for last in seen.values()), (ended, seen)
    assert listed(node, "to", "192.168.0.250")


def test_a_renewal_sets_the_lifetime_of_what_is_there(node: Namespace, protocols: bool) -> None:
    vips = [Wanted(VIP4, "eth0", 5), Wanted(VIP6, "eth1", 5)]
    done(bind(vips, protocols=protocols))
    for lifetime in (60, 9):
        done(extend([each._replace(lifetime=lifetime) for each in vips], protocols=protocols))
        left = found(protocols=protocols)
        assert set(left) == {(VIP4, "eth0"), (VIP6, "eth1")}
        assert all(lifetime - 1 <= (seconds or 0) <= lifetime for seconds in left.values())
    marks = [b.marked_by for b in bound(protocols=protocols)]
    assert marks == ([Mark.PROTO, Mark.PROTO] if protocols else [Mark.LABEL, Mark.SHAPE])


def test_a_renewal_is_no_change_of_the_host(node: Namespace, protocols: bool) -> None:
    marks = Marks()
    changes = HostChanges(marks)
    changes.start()
    try:
        vips = [Wanted(VIP4, "eth0", 30), Wanted(VIP6, "eth0", 30)]
        done(bind(vips, protocols=protocols))
        assert marks.wait()
        until(lambda: time.monotonic() > marks.times[-1] + 0.3)
        before = len(marks)
        for lifetime in (60, 9):
            done(extend([vip._replace(lifetime=lifetime) for vip in vips], protocols=protocols))
        assert not marks.wait(more_than=before, seconds=0.3)
        done(unbind([VIP4, VIP6], protocols=protocols))
        assert marks.wait(more_than=before)
    finally:
        changes.stop()


def test_binding_again_extends_shortens_and_makes_permanent(node: Namespace, family: Family) -> None:
    vip = VIPS[family]
    for lifetime in (5, 60, None, 9, None):
        done(bind([Wanted(vip, "eth0", lifetime)]))
        assert found() in ({(vip, "eth0"): lifetime}, {(vip, "eth0"): (lifetime or 0) - 1})
    (info,) = listed(node, "to", str(vip))
    assert "dynamic" not in info
    assert info["deprecated"]


def test_a_renewal_does_not_bring_back_what_has_gone(node: Namespace, family: Family) -> None:
    vip = VIPS[family]
    done(bind([Wanted(vip, "eth0", 1), Wanted(parse_address("192.168.0.9"), "eth0", 60)]))
    until(lambda: (vip, "eth0") not in found())
    error = refusal(extend([Wanted(vip, "eth0", 30), Wanted(parse_address("192.168.0.9"), "eth0", 90)]))
    assert (error.address, error.interface) == (vip, "eth0")
    assert error.message == f"cannot extend {vip} on eth0: it is not there any more"
    assert [(b.address, (b.lifetime or 0) > 60) for b in bound()] == [(parse_address("192.168.0.9"), True)]


def test_one_that_goes_between_reading_and_changing_lives_no_longer_than_its_new_lifetime(
    node: Namespace, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    vip = VIPS[family]
    done(bind([Wanted(vip, "eth0", 60)]))
    change = AddressTable.change

    def gone_before(table: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        node.batch([f"addr del {vip}/{vip.max_prefixlen} dev eth0"])
        return change(table, rows)

    monkeypatch.setattr(AddressTable, "change", gone_before)
    done(extend([Wanted(vip, "eth0", 30)]))
    (entry,) = bound()
    assert entry.address == vip
    assert 28 <= (entry.lifetime or 0) <= 30


def test_what_one_thread_removes_another_does_not_extend_into_being(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(bind([Wanted(VIP4, "eth0", 60)]))
    read, change = threading.Event(), AddressTable.change
    removed = threading.Event()

    def slowly(table: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        read.set()
        removed.wait(0.2)
        return change(table, rows)

    def remove() -> None:
        done(unbind([VIP4]))
        removed.set()

    monkeypatch.setattr(AddressTable, "change", slowly)
    extending = threading.Thread(target=lambda: extend([Wanted(VIP4, "eth0", 30)]))
    removing = threading.Thread(target=remove)
    extending.start()
    assert read.wait(10)
    removing.start()
    extending.join(10)
    removing.join(10)
    assert removed.is_set()
    assert bound() == []


class Clock:
    """A clock that goes on only when the kernel is written to: the process was stopped before, say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stops: Sequence[float]) -> None:
        self.now = 1000.0
        self._stops = list(stops)
        for name in ("add", "change"):
            monkeypatch.setattr(AddressTable, name, self._stopping(getattr(AddressTable, name)))

    def __call__(self) -> float:
        return self.now

    def _stopping(self, write: Callable[..., list[Refusal | None]]) -> Callable[..., list[Refusal | None]]:
        def stopped(table: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
            self.now += self._stops.pop(0) if rows and self._stops else 0.0
            return write(table, rows)

        return stopped


def test_what_was_written_late_is_written_again_to_end_in_time(
    node: Namespace, family: Family, protocols: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, stops=[60, 30])
    vip = Wanted(VIPS[family], "eth0", lifetime=80, until=1000 + 100)
    done(bind([vip], protocols=protocols, clock=clock))
    (left,) = found(protocols=protocols).values()
    # Until 1100 less the kernel's lateness, at 1060 and then at 1090.
    assert left in (8, 9)


def test_a_renewal_in_time_is_written_once(node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, stops=[15, 60])
    done(bind([Wanted(VIP4, "eth0", lifetime=80, until=1000 + 100)], clock=clock))
    assert clock.now == 1015
    assert found()[VIP4, "eth0"] in (79, 80)


@pytest.mark.parametrize("deed", [bind, extend])
def test_what_is_written_after_its_time_is_taken_away_at_once(
    node: Namespace, family: Family, monkeypatch: pytest.MonkeyPatch, deed: Callable[..., list[KvctlError]]
) -> None:
    vip = Wanted(VIPS[family], "eth0", lifetime=80, until=1000 + 100)
    if deed is extend:
        done(bind([vip], clock=lambda: 1000.0))
    clock = Clock(monkeypatch, stops=[100])
    assert "its time is over" in refusal(deed([vip], clock=clock)).message
    assert clock.now == 1100
    assert listed(node, "to", str(vip.address)) == []


def test_what_is_late_already_is_not_bound(node: Namespace, protocols: bool) -> None:
    late = [Wanted(vip, "eth0", lifetime=5, until=1001.2) for vip in (VIP4, VIP6)]
    errors = bind(late, protocols=protocols, clock=lambda: 1000.0)
    assert [error.message for error in errors] == [
        f"cannot bind {vip} to eth0: its time is over" for vip in (VIP4, VIP6)
    ]
    assert bound(protocols=protocols) == []


@pytest.mark.parametrize("lifetime", [0, -1, 0xFFFFFFFF])
def test_a_lifetime_that_would_mean_something_else_to_the_kernel_is_an_error(
    node: Namespace, lifetime: int
) -> None:
    for deed in (bind, extend):
        error = refusal(deed([Wanted(VIP4, "eth0", lifetime)]))
        assert f"a lifetime of {lifetime} s" in error.message
    assert bound() == []


# Whose they are


def test_what_carries_no_mark_is_never_touched(node: Namespace, family: Family, protocols: bool) -> None:
    vip = VIPS[family]
    for length in (vip.max_prefixlen, vip.max_prefixlen // 4 * 3):
        node.batch([f"addr add {vip}/{length} dev eth0 valid_lft 500 preferred_lft 400"])
        before = node.run(["ip", "addr", "show", "dev", "eth0", "to", str(vip)]).stdout
        for lifetime in (700, None):
            error = refusal(bind([Wanted(vip, "eth0", lifetime)], protocols=protocols))
            assert f"{vip}/{length} is on eth0 already, without kvctl's mark" in error.message
            assert error.hint == f"if nothing needs it there: ip addr del {vip}/{length} dev eth0"
            assert (
                "not there" in refusal(extend([Wanted(vip, "eth0", lifetime)], protocols=protocols)).message
            )
        done(unbind([vip], protocols=protocols))
        (info,) = listed(node, "to", str(vip))
        assert "deprecated" not in info
        assert 490 <= int(str(info["valid_life_time"])) <= 500, before
        node.batch([f"addr del {vip}/{length} dev eth0"])


def test_a_secondary_address_of_the_admin_is_left_alone(node: Namespace) -> None:
    node.batch([f"addr add {VIP4}/24 dev eth0"])
    (info,) = listed(node, "to", str(VIP4))
    assert info["secondary"]
    refusal(bind([Wanted(VIP4, "eth0", 30)]))
    done(unbind([VIP4]))
    assert listed(node, "to", str(VIP4)) == [info]


def test_ours_goes_and_the_admins_beside_it_stays(node: Namespace) -> None:
    done(bind([Wanted(VIP4, "eth0", 30)]))
    node.batch([f"addr add {VIP4}/24 dev eth0"])
    done(extend([Wanted(VIP4, "eth0", 60)]))
    assert [info["prefixlen"] for info in listed(node, "to", str(VIP4), "dynamic")] == [32]
    assert "without kvctl's mark" in refusal(bind([Wanted(VIP4, "eth0", 60)])).message
    done(unbind([VIP4]))
    assert [info["prefixlen"] for info in listed(node, "to", str(VIP4))] == [24]


def test_an_address_that_others_reach_by_another_interface_is_an_error_and_a_parked_one_is_not(
    node: Namespace, family: Family
) -> None:
    vip = VIPS[family]
    node.batch([f"addr add {vip}/{vip.max_prefixlen} dev eth1"])
    assert "is on eth1 already" in refusal(bind([Wanted(vip, "eth0", 30)])).message
    node.batch(
        [
            f"addr del {vip}/{vip.max_prefixlen} dev eth1",
            "link add kube-ipvs0 type bridge",
            *(f"addr add {vip}/{vip.max_prefixlen} dev {parked}" for parked in ("lo", "kube-ipvs0")),
        ]
    )
    done(bind([Wanted(vip, "eth0", 30)]))
    assert set(found()) == {(vip, "eth0")}
    done(unbind([vip]))
    assert {info["dev"] for info in listed(node, "to", str(vip))} == {"lo", "kube-ipvs0"}


def test_an_address_moves_to_the_interface_it_is_wanted_on(
    node: Namespace, family: Family, protocols: bool
) -> None:
    vip = VIPS[family]
    done(bind([Wanted(vip, "eth0", 30)], protocols=protocols))
    assert "eth7" in refusal(bind([Wanted(vip, "eth7", 30)], protocols=protocols)).message
    assert set(found(protocols=protocols)) == {(vip, "eth0")}
    done(bind([Wanted(vip, "eth1", 30)], protocols=protocols))
    assert set(found(protocols=protocols)) == {(vip, "eth1")}
    assert "any more" in refusal(extend([Wanted(vip, "eth0", 30)], protocols=protocols)).message


def test_ours_is_removed_from_every_interface(node: Namespace, family: Family, protocols: bool) -> None:
    vip = VIPS[family]
    both = [Wanted(vip, "eth0", 30), Wanted(vip, "eth1", 30)]
    done(bind(both, protocols=protocols))
    done(extend(both, protocols=protocols))
    assert set(found(protocols=protocols)) == {(vip, "eth0"), (vip, "eth1")}
    done(unbind([vip, parse_address("192.0.2.1")], protocols=protocols))
    assert listed(node, "to", str(vip)) == []
    done(unbind([vip], protocols=protocols))


PLACES = st.sampled_from(["192.168.0.245", "192.168.0.246", "2001:db8::245", "2001:db8::246"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["bind", "extend", "unbind"]),
        PLACES,
        st.sampled_from(["eth0", "eth1", "eth7"]),
        st.sampled_from([60, None]),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_is_done_foreign_addresses_stay_as_they_are(
    node: Namespace, steps: list[tuple[str, str, str, int | None]]
) -> None:
    node.run(["ip", "addr", "add", "192.168.0.246/32", "dev", "eth0"])
    node.run(["ip", "addr", "add", "2001:db8::246/64", "dev", "eth1", "nodad"])

    def foreign() -> list[dict[str, object]]:
        ours = {(str(address), interface) for address, interface in found()}
        return [info for info in listed(node) if (info["local"], info["dev"]) not in ours]

    before = foreign()
    for deed, text, interface, lifetime in steps:
        address = parse_address(text)
        if deed == "unbind":
            done(unbind([address]))
            continue
        errors = (bind if deed == "bind" else extend)([Wanted(address, interface, lifetime)])
        there = {place for place in found() if place[0] == address}
        if not errors:
            assert there == {(address, interface)}
        assert foreign() == before
    done(unbind([parse_address(text) for text in PLACES.elements]))  # type: ignore[attr-defined]
    assert bound() == []


# What is in the way


def test_failures_are_one_error_each_and_the_rest_is_done(node: Namespace) -> None:
    node.batch(["link set eth1 down"])
    others = [parse_address(f"192.168.1.{n}") for n in range(1, 4)]
    errors = bind(
        [
            Wanted(others[0], "eth7", 30),
            Wanted(others[1], "eth1", 30),
            Wanted(others[2], "a-name-of-more-than-15", 30),
            Wanted(VIP4, "eth0", 30),
            Wanted(VIP6, "eth0", 30),
        ]
    )
    assert [(error.message, error.hint) for error in errors] == [
        (f"cannot bind {others[0]} to eth7: there is no such interface", "see those there are: ip -br link"),
        (f"cannot bind {others[1]} to eth1: eth1 is down", "ip link set eth1 up"),
        (
            f"cannot bind {others[2]} to a-name-of-more-than-15: there is no such interface",
            "see those there are: ip -br link",
        ),
    ]
    assert set(found()) == {(VIP4, "eth0"), (VIP6, "eth0")}


def test_after_a_renaming_the_new_name_counts(node: Namespace, protocols: bool) -> None:
    done(bind([Wanted(VIP4, "eth0", 60)], protocols=protocols))
    node.batch(["link set eth0 down", "link set eth0 name lan0", "link set lan0 up"])
    assert set(found(protocols=protocols)) == {(VIP4, "lan0")}
    assert "no such interface" in refusal(extend([Wanted(VIP4, "eth0", 30)], protocols=protocols)).message
    done(extend([Wanted(VIP4, "lan0", 30)], protocols=protocols))
    done(unbind([VIP4], protocols=protocols))
    assert listed(node, "to", str(VIP4)) == []


def test_a_label_that_does_not_fit_is_refused_and_nothing_is_left(node: Namespace) -> None:
    fits, does_not = "a" * 9, "b" * 10
    node.batch(
        [
            line
            for name in (fits, does_not)
            for line in (f"link add {name} type bridge", f"link set {name} up")
        ]
    )
    done(bind([Wanted(VIP4, fits, None)], protocols=False))
    other = parse_address("192.168.0.9")
    error = refusal(bind([Wanted(other, does_not, 30)], protocols=False))
    assert f"the label {does_not}:kvctl that would say so is longer than 15 characters" in error.message
    assert found(protocols=False) == {(VIP4, fits): None}
    assert listed(node, "to", str(other)) == []
    done(bind([Wanted(other, does_not, 30)]))


def test_a_name_of_15_characters_serves(node: Namespace, family: Family) -> None:
    name = "abcdefghijklmno"
    node.batch([f"link add {name} type bridge", f"link set {name} up"])
    done(bind([Wanted(VIPS[family], name, 30)]))
    done(extend([Wanted(VIPS[family], name, 60)]))
    assert set(found()) == {(VIPS[family], name)}


def test_where_only_the_lifetime_tells_ours_one_for_ever_is_refused(node: Namespace) -> None:
    for before in ([], [Wanted(VIP6, "eth0", 30)]):
        done(bind(before, protocols=False))
        error = refusal(bind([Wanted(VIP6, "eth0", None), Wanted(VIP4, "eth0", None)], protocols=False))
        assert error.address == VIP6
        assert "known by their lifetime" in error.message
    left = found(protocols=False)
    assert left.pop((VIP6, "eth0")) in (29, 30)
    assert left == {(VIP4, "eth0"): None}


def test_a_namespace_that_shows_no_protocol_yet_is_tried_out(make_namespace: MakeNamespace) -> None:
    node = make_namespace()
    node.batch(["link add br0 type bridge", "link set lo down"])
    node.write_sysctls({"ipv6/conf/br0/addr_gen_mode": "1"})
    node.batch(["link set br0 up", "addr flush dev lo"])
    with node.entered():
        with open_netlink(protocol=NETLINK_ROUTE, what="test") as netlink:
            assert not any(row.protocol for row in read_addresses(netlink, what="test"))
        done(bind([Wanted(VIP4, "br0", None), Wanted(VIP6, "br0", None)]))
        assert {(b.address, b.lifetime, b.marked_by) for b in bound()} == {
            (VIP4, None, Mark.PROTO),
            (VIP6, None, Mark.PROTO),
        }


def test_an_interface_without_ipv6_takes_ipv4_and_says_why_not_more(node: Namespace) -> None:
    node.write_sysctls({"ipv6/conf/eth0/disable_ipv6": "1"})
    error = refusal(bind([Wanted(VIP6, "eth0", 30), Wanted(VIP4, "eth0", 30)]))
    assert error.address == VIP6
    assert error.errno is not None
    assert "IPv6 is disabled on this device" in error.message
    assert error.hint == "is IPv6 off there? sysctl net.ipv6.conf.eth0.disable_ipv6"
    assert set(found()) == {(VIP4, "eth0")}


def test_an_interface_too_narrow_for_ipv6_is_named_with_what_it_takes(node: Namespace) -> None:
    node.batch(["link set eth0 mtu 1000"])
    error = refusal(bind([Wanted(VIP6, "eth0", 30)]))
    assert error.hint == "IPv6 takes an MTU of 1280 or more: ip link show dev eth0"


def test_one_that_appears_after_reading_is_left_as_it_is(
    node: Namespace, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    vip = VIPS[family]
    add = AddressTable.add

    def late(table: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        node.batch([f"addr add {vip}/{vip.max_prefixlen} dev eth0"])
        return add(table, rows)

    monkeypatch.setattr(AddressTable, "add", late)
    assert "File exists" in refusal(bind([Wanted(vip, "eth0", 30)])).message
    (info,) = listed(node, "to", str(vip))
    assert "dynamic" not in info
    assert bound() == []


def test_without_the_privilege_each_address_is_an_error_that_says_so(node: Namespace) -> None:
    script = (
        "from kvctl.model.net import parse_address\n"
        "from kvctl.node.addresses import Wanted, bind, bound\n"
        f"for e in bind([Wanted(parse_address('{VIP4}'), 'eth0', 3)]): print(e.message, e.hint, sep=chr(10))\n"
        "print(bound())"
    )
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    root = str(Path(kvctl.__file__).parent.parent)
    ended = node.run([*powerless, sys.executable, "-c", script], env={"PYTHONPATH": root})
    assert ended.stdout.splitlines() == [
        f"cannot bind {VIP4} to eth0: Operation not permitted",
        "it takes the capability NET_ADMIN in this network namespace: run it as root",
        "[]",
    ], ended.stderr


def test_a_kernel_that_does_not_answer_is_raised(node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(table: AddressTable, **_: object) -> None:
        raise NetlinkError("cannot bind addresses: the kernel does not answer", errno=110)

    monkeypatch.setattr(AddressTable, "read", deaf)
    with pytest.raises(NetlinkError, match="does not answer"):
        bind([Wanted(VIP4, "eth0", 30)])


# Many


def test_two_hundred_addresses_are_one_call_of_a_moment_and_no_descriptor_stays_open(node: Namespace) -> None:
    vips = [parse_address(f"10.7.0.{n}") for n in range(1, 101)]
    vips += [parse_address(f"2001:db8:7::{n:x}") for n in range(1, 101)]
    wanted = [Wanted(vip, f"eth{n % 2}", 60) for n, vip in enumerate(vips)]
    before = len(os.listdir("/proc/self/fd"))
    begun = time.monotonic()
    done(bind(wanted))
    done(extend(wanted))
    assert set(found()) == {(each.address, each.interface) for each in wanted}
    done(unbind(vips))
    assert bound() == []
    assert time.monotonic() - begun < 2  # 40 ms on two slow cores
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_wanted_asks_for_nothing(node: Namespace) -> None:
    done(bind([]))
    done(extend([]))
    done(unbind([]))
    assert bound() == []
