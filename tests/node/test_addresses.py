"""VIPs on interfaces of the real kernel: how they are bound, whose they are, what is left alone."""

from __future__ import annotations

import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvctl.lab.netns import Namespace
from kvctl.model.net import Family, parse_address
from kvctl.netlink import NETLINK_ROUTE, open_netlink
from kvctl.node.addresses import Bound, Wanted, bind, bound, extend, unbind
from kvctl.node.host import read_host
from kvctl.node.rtnetlink import AddressRow, Mark, mark_of, read_addresses
from tests.conftest import MakeNamespace
from tests.node.addressed import (
    ADDRESSES,
    FAR,
    NEAR,
    OWN,
    ROUTES,
    VIP4,
    VIP6,
    VIPS,
    done,
    found,
    listed,
    refusal,
    source,
)


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
