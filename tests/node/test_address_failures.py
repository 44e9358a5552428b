"""What keeps VIPs from being bound: each is an error that says so, and the rest is done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import kvctl
from kvctl.errors import NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family, parse_address
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.address_table import AddressTable, Refusal
from kvctl.node.addresses import Wanted, bind, bound, extend, unbind
from kvctl.node.rtnetlink import AddressRow, Mark, read_addresses
from tests.conftest import MakeNamespace
from tests.node.addressed import VIP4, VIP6, VIPS, done, found, listed, refusal


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
