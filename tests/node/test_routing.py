"""Leading marked packets out by another interface on the real kernel, down to where they arrive."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from kvctl.errors import KvctlError, NetlinkError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family, Network, parse_address
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, Way
from kvctl.netlink import NETLINK_ROUTE, Netlink, open_netlink
from kvctl.node import routing
from kvctl.node.host import read_host
from kvctl.node.routing import carry_out, read_own_routing, read_routing
from kvctl.node.routing_plan import Found, RoutingPlan, plan
from kvctl.policy.ways import shut_way, way_of
from tests.builders import networks
from tests.conftest import MakeNamespace

NODE = [
    "link set eth0 up",
    "link set eth1 up",
    "addr add 192.168.0.240/24 dev eth0",
    "addr add 172.16.0.2/24 dev eth1",
    "addr add 2001:db8::240/64 dev eth0 nodad",
    "addr add 2001:db8:1::2/64 dev eth1 nodad",
    "route add default via 192.168.0.250",
    "route add default via 2001:db8::250",
]
CABLES = ["link add eth0 type veth peer name far0", "link add eth1 type veth peer name far1"]
FAR_ENDS = ["link set far0 up", "link set far1 up"]
EXCLUSIONS = {Family.IPV4: networks("10.0.0.0/16", "10.96.0.0/12"), Family.IPV6: networks("fd00:10::/48")}
OTHER_EXCLUSIONS = {Family.IPV4: networks("10.0.0.0/16", "10.112.0.0/16"), Family.IPV6: networks("fd00::/16")}
GATEWAYS = {Family.IPV4: "172.16.0.250", Family.IPV6: "2001:db8:1::250"}
OTHER_GATEWAYS = {Family.IPV4: "172.16.0.251", Family.IPV6: "2001:db8:1::251"}
# The node's own addresses on each interface, by which a connected socket tells where it would leave.
ETH0 = {Family.IPV4: "192.168.0.240", Family.IPV6: "2001:db8::240"}
ETH1 = {Family.IPV4: "172.16.0.2", Family.IPV6: "2001:db8:1::2"}
OUTSIDE = {Family.IPV4: "203.0.113.9", Family.IPV6: "2001:db8:9::9"}
POD = {Family.IPV4: "10.0.0.5", Family.IPV6: "fd00:10::5"}
SOCKETS = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
OTHER_SPACE = MarkSpace(mask=0x3C00, first_table=8000, priority=900)
SO_MARK = 36
IP_PKTINFO = 8


@pytest.fixture
def node(namespace: Namespace) -> Namespace:
    """A node with two ways out, both of which end in itself: enough to ask for routes."""
    namespace.batch([*CABLES, *FAR_ENDS, *NODE])
    return namespace


def ways(
    *families: Family, gateways: dict[Family, str] = GATEWAYS, space: MarkSpace = DEFAULT_SPACE
) -> list[Way]:
    """The ways out by eth1, of the host as it is."""
    host, found = read_host(), []
    for family in families or tuple(Family):
        gateway = parse_address(gateways[family])
        way = way_of("eth1", family, host=host, gateway=gateway, used={}, space=space)
        assert isinstance(way, Way), way
        found.append(way)
    return found


def converge(
    wanted: Sequence[Way],
    *,
    exclusions: dict[Family, tuple[Network, ...]] = EXCLUSIONS,
    space: MarkSpace = DEFAULT_SPACE,
) -> RoutingPlan:
    """Make the kernel so; what was done for it."""
    done = plan(wanted, read_routing(space), exclusions=exclusions, space=space)
    assert done == plan(wanted, read_own_routing(), exclusions=exclusions, space=space)
    assert carry_out(done) == []
    again = plan(wanted, read_own_routing(), exclusions=exclusions, space=space)
    assert not again, again.lines()
    assert read_own_routing() == read_routing(space)._replace(in_the_way=())
    return done


def where(text: str, *, mark: int = 0) -> str:
    """The source address that a packet to `text` would leave with: it tells the interface; or why it does not."""
    address = parse_address(text)
    with socket.socket(
        socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
    ) as asks:
        asks.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        try:
            asks.connect((text, 9))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        name: str = asks.getsockname()[0]
        return name


class Table(NamedTuple):
    """What `ip` prints of everything that routes."""

    rules: tuple[str, str]
    routes: tuple[str, str]

    def without_ours(self) -> Table:
        """Less the lines with our protocol."""

        def foreign(text: str) -> str:
            return "\n".join(line for line in text.splitlines() if "proto 75" not in line)

        v4, v6 = self.rules
        r4, r6 = self.routes
        return Table((foreign(v4), foreign(v6)), (foreign(r4), foreign(r6)))


def table(namespace: Namespace) -> Table:
    def said(*words: str) -> str:
        return namespace.run(["ip", *words]).stdout

    return Table(
        (said("-d", "rule"), said("-6", "-d", "rule")),
        (said("-d", "route", "show", "table", "all"), said("-6", "-d", "route", "show", "table", "all")),
    )


# Packets


class Outside:
    """A host behind both interfaces, which tells by which one a packet came."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._names = dict(socket.if_nameindex())
        self._sockets = {family: namespace.socket(SOCKETS[family], socket.SOCK_DGRAM) for family in Family}
        v4, v6 = self._sockets[Family.IPV4], self._sockets[Family.IPV6]
        v4.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        v4.bind(("0.0.0.0", 9999))
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        v6.bind(("::", 9999))

    def arrived(self, family: Family, payload: bytes) -> str:
        """The interface that `payload` came in by."""
        receiver = self._sockets[family]
        receiver.settimeout(10)
        while True:
            data, control, _, _ = receiver.recvmsg(100, 100)
            if data != payload:
                continue
            ((_, _, info),) = control
            (number,) = struct.unpack_from("=i", info, 0 if family is Family.IPV4 else 16)
            return self._names[number]

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()


@pytest.fixture
def outside(make_namespace: MakeNamespace, namespace: Namespace) -> Iterator[Outside]:
    """The host that the other ends of the fixture `namespace`'s two cables belong to."""
    far = make_namespace()
    namespace.batch([*CABLES, *(f"link set {name} netns {far.name}" for name in ("far0", "far1"))])
    far.batch(
        [
            *FAR_ENDS,
            "addr add 192.168.0.250/24 dev far0",
            "addr add 172.16.0.250/24 dev far1",
            "addr add 2001:db8::250/64 dev far0 nodad",
            "addr add 2001:db8:1::250/64 dev far1 nodad",
            *(f"addr add {a} dev lo" for a in (*OUTSIDE.values(), *POD.values())),
        ]
    )
    far.write_sysctls(dict.fromkeys(("ipv4/conf/all/rp_filter", "ipv4/conf/far1/rp_filter"), "0"))
    namespace.batch(NODE)
    host = Outside(far)
    yield host
    host.close()


def test_marked_packets_leave_by_the_other_interface_and_no_others(
    outside: Outside, namespace: Namespace, family: Family
) -> None:
    with namespace.entered():
        converge(ways())
        cases = [
            (OUTSIDE, 0x4, "far1"),
            (OUTSIDE, 0x4004, "far1"),
            (OUTSIDE, 0, "far0"),
            (OUTSIDE, 0x4000, "far0"),
            (OUTSIDE, 0x8, "far0"),
            (POD, 0x4, "far0"),
            (POD, 0, "far0"),
        ]
        for number, (target, mark, interface) in enumerate(cases):
            payload = f"packet {number}".encode()
            with socket.socket(SOCKETS[family], socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
                sender.sendto(payload, (target[family], 9999))
            assert outside.arrived(family, payload) == interface, (target, mark)


# Convergence


def test_what_is_there_is_as_ip_prints_it(node: Namespace) -> None:
    with node.entered():
        done = converge(ways(Family.IPV4))
        assert done.lines() == (
            "+ ip route unreachable default metric 4023002069 table 7500",
            "+ ip route 172.16.0.0/24 dev eth1 table 7500",
            "+ ip route default via 172.16.0.250 dev eth1 table 7500",
            "+ ip rule 7502: nop",
            "+ ip rule 7500: fwmark 0x0/0x3c goto 7502",
            "+ ip rule 7500: to 10.0.0.0/16 goto 7502",
            "+ ip rule 7500: to 10.96.0.0/12 goto 7502",
            "+ ip rule 7501: fwmark 0x4/0x3c lookup 7500",
        )
        assert read_routing().marks(DEFAULT_SPACE) == {"eth1": 0x4}
    assert [" ".join(line.split()) for line in table(node).rules[0].splitlines() if "proto 75" in line] == [
        "7500: from all fwmark 0/0x3c goto 7502 proto 75",
        "7500: from all to 10.0.0.0/16 goto 7502 proto 75",
        "7500: from all to 10.96.0.0/12 goto 7502 proto 75",
        "7501: from all fwmark 0x4/0x3c lookup 7500 proto 75",
        "7502: from all nop proto 75",
    ]
    assert "proto 75" not in table(node).rules[1]


def test_what_others_have_stays_byte_for_byte(node: Namespace) -> None:
    node.batch(
        [
            "rule add from 10.9.0.0/16 lookup 100 priority 500",
            "rule add fwmark 0x200/0xf00 lookup 2004 priority 9",
            # As ours are, but for the protocol.
            "rule add fwmark 0x4/0x3c lookup 7500 priority 7501 protocol 99",
            "rule add priority 7502 nop protocol 99",
            "route add 10.50.0.0/16 via 172.16.0.9 table 7500",
            "route add unreachable default metric 4000000000 table 7500",
            "route add default via 172.16.0.77 table 100",
            "route add 2001:db8:50::/48 via 2001:db8:1::9 table 7500",
            # The main table is nobody's to sweep.
            "route add 10.51.0.0/16 via 172.16.0.9 proto 75",
        ]
    )
    assert (
        node.run(
            ["ip", "-6", "rule", "add", "from", "fd00:99::/64", "lookup", "100", "priority", "500"]
        ).status
        == 0
    )
    before = table(node)
    with node.entered():
        converge(ways())
        assert table(node).without_ours() == before.without_ours()
        converge(ways(gateways=OTHER_GATEWAYS), exclusions=OTHER_EXCLUSIONS)
        assert table(node).without_ours() == before.without_ours()
        converge([])
    assert table(node) == before


def test_what_of_others_is_in_the_way_is_said(node: Namespace) -> None:
    node.batch(
        [
            "rule add fwmark 0x8/0xff lookup 200 priority 100",
            "rule add fwmark 0x200/0xf00 lookup 2004 priority 9",
            "rule add not from 10.9.0.0/16 iif eth0 lookup 9 priority 7501",
            "rule add from all lookup 9 priority 7503",
            "route add 10.50.0.0/16 via 172.16.0.9 table 7503",
            "route add 10.50.0.0/16 via 172.16.0.9 table 7515",
        ]
    )
    with node.entered():
        converge(ways())
        said = read_routing().in_the_way
        elsewhere = read_routing(OTHER_SPACE).in_the_way
    assert [text.split("`")[1] for text in said] == [
        "100: fwmark 0x8/0xff lookup 200",
        "7501: not from 10.9.0.0/16 iif eth0 lookup 9",
        "10.50.0.0/16 via 172.16.0.9 dev eth1 table 7503",
    ]
    settings = ("egress_fwmark_mask", "egress_rule_priority", "egress_route_table")
    assert all(setting in text for setting, text in zip(settings, said, strict=True))
    assert elsewhere == ()


def test_nothing_wanted_sweeps_whatever_settings_had_put_there(node: Namespace) -> None:
    before = table(node)
    with node.entered():
        carry_out(plan(ways(space=OTHER_SPACE), Found(), exclusions=OTHER_EXCLUSIONS, space=OTHER_SPACE))
        carry_out(plan(ways(), Found(), exclusions=EXCLUSIONS))
        node.batch(
            [
                "rule add from 10.1.0.0/16 lookup 44 protocol 75",
                "route add 10.77.0.0/16 dev eth1 table 44 proto 75",
            ]
        )
        # Once more of what is there already.
        node.run(["ip", "rule", "add", "priority", "7502", "nop", "protocol", "75"])
        assert len(read_routing().rules) > 16
        converge([])
    assert table(node) == before


def test_settings_change_in_one_go(node: Namespace) -> None:
    with node.entered():
        converge(ways())
        converge(ways(space=OTHER_SPACE), space=OTHER_SPACE)
        assert where(OUTSIDE[Family.IPV4], mark=0x400) == ETH1[Family.IPV4]
        assert where(OUTSIDE[Family.IPV4], mark=0x4) == ETH0[Family.IPV4]
        assert {seen.rule.priority for seen in read_routing().rules} == {900, 901, 902}


def test_fourteen_interfaces_have_a_way_each(namespace: Namespace) -> None:
    numbers = range(1, 15)
    namespace.batch(
        [
            *(f"link add eth{n} type bridge" for n in numbers),
            *(f"link set eth{n} up" for n in numbers),
            *(f"addr add 172.16.{n}.2/24 dev eth{n}" for n in numbers),
        ]
    )
    used: dict[str, int] = {}
    wanted = []
    with namespace.entered():
        host = read_host()
        for n in numbers:
            gateway = parse_address(f"172.16.{n}.1")
            way = way_of(f"eth{n}", Family.IPV4, host=host, gateway=gateway, used=used)
            assert isinstance(way, Way)
            used[way.name] = way.mark
            wanted.append(way)
        converge(wanted)
        assert read_routing().marks(DEFAULT_SPACE, names=used) == used
        for n in numbers:
            assert where("203.0.113.9", mark=used[f"eth{n} via 172.16.{n}.1"]) == f"172.16.{n}.2"


def test_routes_of_the_interface_are_followed(node: Namespace) -> None:
    node.batch(["route add 10.50.0.0/16 via 172.16.0.9", "route add 10.0.7.0/24 via 172.16.0.9"])
    with node.entered():
        converge(ways(Family.IPV4))
        routes = {str(route) for route in read_routing().routes}
    assert "10.50.0.0/16 via 172.16.0.9 dev eth1 table 7500" in routes
    assert not [text for text in routes if text.startswith("10.0.7.0/24")], "excluded: never looked up here"


def test_next_hops_may_be_off_the_link_or_of_the_other_family(node: Namespace) -> None:
    node.batch(
        [
            "route add default via 100.64.0.1 dev eth1 onlink metric 50",
            "route add 10.50.0.0/16 via inet6 2001:db8:1::9 dev eth1",
        ]
    )
    with node.entered():
        converge(ways(Family.IPV4))
        routes = {str(route) for route in read_routing().routes}
    assert "default via 100.64.0.1 dev eth1 table 7500" in routes
    assert "10.50.0.0/16 via inet6 2001:db8:1::9 dev eth1 table 7500" in routes


# What goes wrong


def test_without_its_interface_marked_traffic_leaves_by_no_other(node: Namespace, family: Family) -> None:
    refused = {"EHOSTUNREACH", "ENETUNREACH"}
    with node.entered():
        converge(ways())
        node.batch(["link set eth1 down"])
        assert where(OUTSIDE[family], mark=0x4) in refused
        assert where(POD[family], mark=0x4) == ETH0[family]
        shut = [shut_way("eth1", each, used={"eth1": 0x4}) for each in Family]
        converge([way for way in shut if way is not None])
        assert where(OUTSIDE[family], mark=0x4) in refused
        node.batch(["link del eth1"])
        assert where(OUTSIDE[family], mark=0x4) in refused
        assert where(OUTSIDE[family]) == ETH0[family]
        assert read_routing().marks(DEFAULT_SPACE) == {}
        assert read_routing().marks(DEFAULT_SPACE, names=["eth1"]) == {"eth1": 0x4}


def test_an_interface_that_comes_back_gets_its_routes_back(node: Namespace, family: Family) -> None:
    with node.entered():
        converge(ways())
        node.batch(["link del eth1", CABLES[1], "link set far1 up"])
        node.batch([line for line in NODE if "eth1" in line])
        assert where(OUTSIDE[family], mark=0x4) != ETH1[family]
        done = converge(ways())
        assert where(OUTSIDE[family], mark=0x4) == ETH1[family]
    assert done == RoutingPlan(add_routes=done.add_routes)


def test_what_the_kernel_refuses_is_said_and_the_rest_is_done(node: Namespace) -> None:
    with node.entered():
        (way,) = ways(Family.IPV4)
        way = way._replace(via=((networks("10.50.0.0/16")[0], parse_address("224.0.0.5")),))
        gone = way._replace(interface="eth9", mark=0x8, table=7501)
        errors = carry_out(plan([way, gone], read_routing(), exclusions=EXCLUSIONS))
        assert where("203.0.113.9", mark=0x4) == ETH1[Family.IPV4]
        assert where("203.0.113.9", mark=0x8) in ("EHOSTUNREACH", "ENETUNREACH")
    assert all(error.hint for error in errors)
    texts = sorted(error.message for error in errors)
    assert [text.split("`")[1] for text in texts] == [
        "10.50.0.0/16 via 224.0.0.5 dev eth1 table 7500",
        "10.50.0.0/16 via 224.0.0.5 dev eth9 table 7501",
        "172.16.0.0/24 dev eth9 table 7501",
        "default via 172.16.0.250 dev eth9 table 7501",
    ]
    assert texts[0].startswith("cannot add the route `10.50.0.0/16 via 224.0.0.5 dev eth1 table 7500`: ")


class Killed(BaseException):
    """The process was ended."""


class Failing(Netlink):
    """Does a number of requests; the next one does not get through."""

    left = 0
    end: Callable[[], NetlinkError] | None = None

    def request_each(
        self, *, kind: int, flags: int = 0, payloads: Sequence[bytes], what: str
    ) -> list[NetlinkError | None]:
        answers: list[NetlinkError | None] = []
        for payload in payloads:
            if Failing.left == 0:
                if Failing.end is None:
                    raise Killed
                answers.append(Failing.end())
                continue
            Failing.left -= 1
            answers += super().request_each(kind=kind, flags=flags, payloads=[payload], what=what)
        return answers


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    def opened(*, protocol: int, what: str) -> Netlink:
        plain = open_netlink(protocol=protocol, what=what)
        return Failing(plain._socket)

    monkeypatch.setattr(routing, "open_netlink", opened)
    Failing.left, Failing.end = sys.maxsize, None
    return Failing


def count(done: RoutingPlan) -> int:
    return sum(len(part) for part in done)


STEPS = ["first", "gateway", "settings", "last"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_any_two_messages_it_is_never_wrong_and_then_right(
    node: Namespace, failing: type[Failing], step: str
) -> None:
    """At no moment does traffic into the cluster leave by eth1, or traffic out of it find a hole."""
    with node.entered():
        before = [] if step == "first" else ways()
        space = OTHER_SPACE if step == "settings" else DEFAULT_SPACE
        gateways = OTHER_GATEWAYS if step == "gateway" else GATEWAYS
        after = [] if step == "last" else ways(gateways=gateways, space=space)
        exclusions = OTHER_EXCLUSIONS if step == "gateway" else EXCLUSIONS
        converge(before)
        total = count(plan(after, read_routing(space), exclusions=exclusions, space=space))
        for done in range(total):
            converge(before)
            failing.left = done
            with pytest.raises(Killed):
                carry_out(plan(after, read_routing(space), exclusions=exclusions, space=space))
            failing.left = sys.maxsize
            for family in Family:
                assert where(POD[family], mark=0x4) == ETH0[family], (done, family)
                if step == "gateway":
                    assert where(OUTSIDE[family], mark=0x4) == ETH1[family], (done, family)
                assert where(OUTSIDE[family]) == ETH0[family], (done, family)
            converge(after, exclusions=exclusions, space=space)


def test_without_its_exclusions_no_mark_is_led_anywhere(node: Namespace, failing: type[Failing]) -> None:
    with node.entered():
        wanted = ways(Family.IPV4)
        first = plan(wanted, read_routing(), exclusions=EXCLUSIONS)
        failing.end = lambda: NetlinkError("rtnetlink: no", errno=errno.ENOMEM)
        failing.left = len(first.add_routes) + 2
        errors = carry_out(first)
        assert len(errors) == 2
        assert where(OUTSIDE[Family.IPV4], mark=0x4) == ETH0[Family.IPV4]


def test_as_long_as_a_mark_is_led_to_a_table_the_table_stays(node: Namespace, failing: type[Failing]) -> None:
    with node.entered():
        converge(ways(Family.IPV4))
        failing.end = lambda: NetlinkError("rtnetlink: no", errno=errno.ENOMEM)
        failing.left = 0
        (error,) = carry_out(plan([], read_routing(), exclusions={}))
        assert error.message == "cannot remove the ipv4 routing rule `7501: fwmark 0x4/0x3c lookup 7500`: no"
        assert where(OUTSIDE[Family.IPV4], mark=0x4) == ETH1[Family.IPV4]
        assert where(POD[Family.IPV4], mark=0x4) == ETH0[Family.IPV4]


def test_reading_needs_no_privilege_and_writing_says_which(node: Namespace) -> None:
    script = (
        "from kvctl.node.routing import *; from kvctl.node.routing_plan import *; from kvctl.model.way import *;"
        "from kvctl.model.net import *;"
        "way = Way('eth1', Family.IPV4, 4, 7500, None, ());"
        "errors = carry_out(plan([way], read_routing(), exclusions={}));"
        "print(len(errors), errors[0].message, errors[0].hint, sep='\\n')"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(routing.__file__)))
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    done = node.run([*powerless, sys.executable, "-c", script], env={"PYTHONPATH": root})
    assert done.stdout.splitlines() == [
        "3",
        "cannot add the route `unreachable default metric 4046070068 table 7500`: Operation not permitted",
        "this takes CAP_NET_ADMIN in the host's network namespace",
    ], done.stderr


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_kernel_without_policy_routing_for_ipv6_has_none_of_it(
    node: Namespace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    dump = Netlink.dump

    def without_ipv6(self: Netlink, *, kind: int, payload: bytes, read: object, what: str) -> list[object]:
        if payload[0] == socket.AF_INET6:
            raise NetlinkError(what, errno=number)
        return dump(self, kind=kind, payload=payload, read=read, what=what)  # type: ignore[arg-type]

    with node.entered():
        converge(ways())
        monkeypatch.setattr(Netlink, "dump", without_ipv6)
        assert {seen.rule.family for seen in read_routing().rules} == {Family.IPV4}
        monkeypatch.undo()
        monkeypatch.setattr(
            Netlink, "dump", lambda *_, what, **__: (_ for _ in ()).throw(NetlinkError(what, errno=errno.EIO))
        )
        with pytest.raises(NetlinkError):
            read_routing()


def test_a_kernel_that_forgets_who_made_a_rule_gets_none_of_ours() -> None:
    way = Way("eth1", Family.IPV4, 4, 7500, None, ())
    with pytest.raises(KvctlError, match="does not remember who made a routing rule"):
        plan([way], Found(tells_protocol=False), exclusions={})
    assert not plan([], Found(tells_protocol=False), exclusions={})


def test_changes_cost_little_to_look_for(node: Namespace) -> None:
    """Read each round; a hundred descriptors leaked would show here, too."""
    with node.entered():
        converge(ways())
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            assert not plan(ways(), read_routing(), exclusions=EXCLUSIONS)
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_answers_a_dump_of_rules_with_their_protocol(node: Namespace) -> None:
    with node.entered(), open_netlink(protocol=NETLINK_ROUTE, what="x"):
        assert read_routing().tells_protocol
