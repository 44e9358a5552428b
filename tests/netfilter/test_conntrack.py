"""Connections on the real kernel, against what conntrack(8) prints of the same table."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kvctl.errors import NetfilterUnavailableError, NetlinkError
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.flows import Flow, Tuple
from kvctl.model.net import Address, Family, Network, parse_address, parse_network
from kvctl.netfilter import conntrack
from kvctl.netfilter.conntrack_messages import flow_reader
from kvctl.netlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL, open_netlink
from kvctl.netlink.messages import attribute, nested

EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


def everything(namespace: Namespace, family: Family) -> list[Flow]:
    return flows(namespace, family, EVERYTHING[family])


def flows(namespace: Namespace, family: Family, *sources: str, reply_to: tuple[str, ...] = ()) -> list[Flow]:
    with namespace.entered():
        return conntrack.dump(
            family=family,
            sources=[parse_network(s) for s in sources],
            reply_destinations=[parse_address(a) for a in reply_to],
        )


def printed(namespace: Namespace, family: Family) -> list[Flow]:
    """The table as `conntrack -L -o xml` has it, without raw tuples."""
    done = namespace.run(["conntrack", "-L", "-f", str(family), "-o", "xml,id"])
    assert done.status == 0, done.stderr
    start = done.stdout.find("<conntrack>")
    if start < 0:
        return []
    return [_printed_flow(element, family) for element in ElementTree.fromstring(done.stdout[start:])]


def _printed_flow(element: ElementTree.Element, family: Family) -> Flow:
    parts = {part.attrib["direction"]: part for part in element.findall("meta")}
    layer4 = parts["original"].find("layer4")
    assert layer4 is not None
    number = int(layer4.attrib["protonum"])
    independent = parts["independent"]
    return Flow(
        family=family,
        protocol={6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}.get(number, str(number)),
        original=_printed_tuple(parts["original"]),
        reply=_printed_tuple(parts["reply"]),
        zone=int(independent.findtext("zone") or parts["original"].findtext("zone") or 0),
        id=int(independent.findtext("id") or 0),
        state=independent.findtext("state") if number == 6 else None,
    )


def _printed_tuple(part: ElementTree.Element) -> Tuple:
    return Tuple(
        source=parse_address(part.findtext("layer3/src") or ""),
        destination=parse_address(part.findtext("layer3/dst") or ""),
        source_port=int(part.findtext("layer4/sport") or 0),
        destination_port=int(part.findtext("layer4/dport") or 0),
    )


def comparable(found: list[Flow]) -> dict[int, Flow]:
    by_id = {flow.id: replace(flow, raw_tuple=b"") for flow in found}
    assert len(by_id) == len(found)
    return by_id


def iptables(
    namespace: Namespace, *arguments: str, family: Family = Family.IPV4, backend: str = "nft"
) -> None:
    stem = "iptables" if family is Family.IPV4 else "ip6tables"
    done = namespace.run([f"{stem}-{backend}", "-w", "5", *arguments])
    assert done.status == 0, done.stderr


@pytest.fixture
def tracked(namespace: Namespace) -> Namespace:
    """A namespace whose `lo` is tracked: the kernel tracks nothing until a rule asks for it."""
    for family in Family:
        iptables(namespace, "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", family=family)
    return namespace


@contextmanager
def sender(namespace: Namespace, family: Family = Family.IPV4, port: int = 0) -> Iterator[socket.socket]:
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    with namespace.socket(kind, socket.SOCK_DGRAM) as udp:
        udp.bind((LOOPBACK[family], port))
        yield udp


@pytest.fixture
def loop(tracked: Namespace, family: Family) -> Iterator[tuple[Namespace, Family, socket.socket]]:
    """A tracked namespace with a UDP socket on `lo` that never answers."""
    with sender(tracked, family) as listener:
        yield tracked, family, listener


def test_real_connections_read_as_conntrack_prints_them(lab: Lab, backend: str, family: Family) -> None:
    who = STANDARD[family]
    to_vip = ["-p", "udp", "-j", "SNAT", "--to-source", who.vip]
    rule = ["-t", "nat", "-I", "POSTROUTING", "-s", who.pod, "-d", who.outside_eth1, *to_vip]
    iptables(lab.worker, *rule, family=family, backend=backend)
    with ExitStack() as stack:
        stack.enter_context(Echo(lab.outside, ports=[5060]))
        stack.enter_context(Echo(lab["server"], ports=[5060]))
        for at, to, protocol in (
            (lab.pod, who.outside_eth1, "udp"),
            (lab.pod, who.outside_eth1, "tcp"),
            (lab.pod, who.server_cluster_ip, "udp"),
            (lab["peer"], who.outside_eth0, "tcp"),
        ):
            client = Connection(at, destination=to, port=5060, protocol=protocol)
            assert stack.enter_context(client).ask() is not None
        assert lab.pod.run(["ping", "-n", "-c1", "-W5", who.outside_eth1]).status == 0
        found = [f for f in everything(lab.worker, family) if f.state in (None, "ESTABLISHED")]
        expected = [f for f in printed(lab.worker, family) if f.state in (None, "ESTABLISHED")]

    assert comparable(found) == comparable(expected)
    pod, vip = parse_address(who.pod), parse_address(who.vip)
    icmp = "icmp" if family is Family.IPV4 else "icmpv6"
    of_pod = {(f.protocol, str(f.original.destination)): f for f in found if f.original.source == pod}
    assert of_pod.keys() == {
        ("udp", who.outside_eth1),
        ("tcp", who.outside_eth1),
        (icmp, who.outside_eth1),
        ("udp", who.server_cluster_ip),
    }
    assert of_pod["udp", who.outside_eth1].reply.destination == vip
    assert of_pod["tcp", who.outside_eth1].reply.destination == parse_address(who.worker_eth1)
    assert of_pod["udp", who.server_cluster_ip].reply.source == parse_address(who.server)
    assert of_pod[icmp, who.outside_eth1].original.source_port == 0


def test_flows_are_chosen_by_original_source_or_by_reply_destination(
    lab: Lab, backend: str, family: Family
) -> None:
    who = STANDARD[family]
    rule = ["-t", "nat", "-I", "POSTROUTING", "-s", who.peer, "-j", "SNAT", "--to-source", who.vip]
    iptables(lab.worker, *rule, family=family, backend=backend)
    with Echo(lab.outside, ports=[5060]):
        for name in ("pod", "peer"):
            with Connection(lab[name], destination=who.outside_eth1, port=5060) as client:
                assert client.ask() is not None

    def sources(*networks: str, reply_to: tuple[str, ...] = ()) -> set[str]:
        found = flows(lab.worker, family, *networks, reply_to=reply_to)
        assert len({flow.id for flow in found}) == len(found)
        return {str(flow.original.source) for flow in found if flow.protocol == "udp"}

    assert sources(who.pod) == {who.pod}
    assert sources(who.pod_network) == {who.pod, who.peer}
    assert sources(reply_to=(who.vip,)) == {who.peer}
    assert sources(who.pod, reply_to=(who.vip,)) == {who.pod, who.peer}
    assert sources(who.peer, reply_to=(who.vip,)) == {who.peer}
    assert sources(who.vip, reply_to=(who.outside_eth1,)) == set()
    other = STANDARD[Family.IPV6 if family is Family.IPV4 else Family.IPV4]
    assert sources(other.pod_network, reply_to=(other.vip,)) == set()
    assert sources() == set()


def test_exactly_the_named_entry_is_deleted_and_its_neighbours_stay(
    loop: tuple[Namespace, Family, socket.socket],
) -> None:
    namespace, family, listener = loop
    with sender(namespace, family) as one, sender(namespace, family) as two:
        for udp in (one, two):
            udp.sendto(b"x", listener.getsockname())
        before = everything(namespace, family)
        (first,) = [f for f in before if f.original.source_port == one.getsockname()[1]]
        with namespace.entered():
            assert conntrack.delete(first) is True
        assert comparable(printed(namespace, family)) == comparable([f for f in before if f != first])
        assert len(everything(namespace, family)) == len(before) - 1
        with namespace.entered():
            assert conntrack.delete(first) is False


def test_a_successor_with_the_same_addresses_but_another_id_is_left_alone(
    loop: tuple[Namespace, Family, socket.socket],
) -> None:
    namespace, family, listener = loop
    with sender(namespace, family) as udp:
        udp.sendto(b"x", listener.getsockname())
        (flow,) = everything(namespace, family)
        with namespace.entered():
            assert conntrack.delete(replace(flow, id=flow.id ^ 1)) is False
        assert [f.id for f in everything(namespace, family)] == [flow.id]


def test_of_two_entries_with_the_same_addresses_the_one_of_the_named_zone_is_deleted(
    loop: tuple[Namespace, Family, socket.socket],
) -> None:
    namespace, family, listener = loop
    rule = ["OUTPUT", "-p", "udp", "-j", "CT", "--zone", "5"]
    with sender(namespace, family) as udp:
        udp.sendto(b"x", listener.getsockname())
        iptables(namespace, "-t", "raw", "-A", *rule, family=family)
        udp.sendto(b"x", listener.getsockname())
        found = {flow.zone: flow for flow in everything(namespace, family)}
        assert found.keys() == {0, 5}
        assert found[0].original == found[5].original
        assert comparable(list(found.values())) == comparable(printed(namespace, family))
        with namespace.entered():
            assert conntrack.delete(found[5]) is True
        assert [f.zone for f in everything(namespace, family)] == [0]
        with namespace.entered():
            assert conntrack.delete(found[5]) is False
            assert conntrack.delete(found[0]) is True
        assert printed(namespace, family) == []


@pytest.mark.parametrize(("option", "zone"), [("--zone-orig", 5), ("--zone-reply", 0)])
def test_an_entry_whose_zone_holds_for_one_direction_only_is_deleted(
    loop: tuple[Namespace, Family, socket.socket], option: str, zone: int
) -> None:
    namespace, family, listener = loop
    with sender(namespace, family) as one, sender(namespace, family) as two:
        one.sendto(b"x", listener.getsockname())
        rule = ["OUTPUT", "-p", "udp", "-j", "CT", option, "5"]
        iptables(namespace, "-t", "raw", "-A", *rule, family=family)
        two.sendto(b"x", listener.getsockname())
        (flow,) = [f for f in everything(namespace, family) if f.original.source_port == two.getsockname()[1]]
        assert flow.zone == zone
        with namespace.entered():
            assert conntrack.delete(flow) is True
            assert conntrack.delete(flow) is False
        assert [f.original.source_port for f in printed(namespace, family)] == [one.getsockname()[1]]


def synthetic(
    source: Address, *, port: int, reply_to: Address, reply_port: int | None = None, protocol: int = 17
) -> bytes:
    """The payload of a creation: `source`:`port` to a fixed destination, answered to `reply_to`."""
    target = parse_address("198.51.100.7" if source.version == 4 else "2001:db8:51::7")
    number, kinds = (2, (1, 2)) if source.version == 4 else (10, (3, 4))

    def tuple_(kind: int, sender: Address, receiver: Address, ports: tuple[int, int]) -> bytes:
        ends = [attribute(k, a.packed) for k, a in zip(kinds, (sender, receiver), strict=True)]
        wire = [attribute(k, struct.pack("!H", p)) for k, p in zip((2, 3), ports, strict=True)]
        return nested(kind, nested(1, *ends), nested(2, attribute(1, bytes([protocol])), *wire))

    return (
        bytes((number, 0, 0, 0))
        + tuple_(1, source, target, (port, 5060))
        + tuple_(2, target, reply_to, (5060, reply_port or port))
        + attribute(7, struct.pack("!I", 600))
    )


def create(namespace: Namespace, payloads: list[bytes]) -> None:
    with namespace.entered(), open_netlink(protocol=NETLINK_NETFILTER, what="create") as link:
        answers = link.request_each(
            kind=0x0100, flags=NLM_F_CREATE | NLM_F_EXCL, payloads=payloads, what="create"
        )
    assert [a for a in answers if a is not None] == []


def test_fifty_thousand_entries_are_read_completely_and_chosen_right(namespace: Namespace) -> None:
    vip = parse_address("192.0.2.245")
    addresses: list[Address] = list(islice(IPv4Network("10.8.0.0/16"), 1000))
    create(
        namespace,
        [
            synthetic(a, port=1024 + k, reply_to=vip, reply_port=20000 + n)
            if k == 7
            else synthetic(a, port=1024 + k, reply_to=a)
            for n, a in enumerate(addresses)
            for k in range(50)
        ],
    )
    found = everything(namespace, Family.IPV4)
    assert len(found) == 50_000
    assert len({(f.original.source, f.original.source_port) for f in found}) == 50_000
    assert len(flows(namespace, Family.IPV4, "10.8.0.0/24")) == 256 * 50
    assert len(flows(namespace, Family.IPV4, "10.8.0.9", "10.8.1.0/30", "172.16.0.0/12")) == 5 * 50
    assert len(flows(namespace, Family.IPV4, reply_to=(str(vip),))) == 1000
    assert len(flows(namespace, Family.IPV4, "10.8.0.9", reply_to=(str(vip),))) == 1000 + 49
    assert flows(namespace, Family.IPV4, "172.16.0.0/12") == []

    doomed = [f for f in found if f.original.source_port < 1024 + 10]
    with namespace.entered():
        assert conntrack.delete_all(doomed[::2]) == len(doomed) // 2
        # Half of them have gone by now, as if the kernel had been quicker.
        assert conntrack.delete_all(doomed) == len(doomed) - len(doomed) // 2
    left = everything(namespace, Family.IPV4)
    # Not by their ids alone, which are hashes: of fifty thousand two may be alike.
    assert {(f.id, f.original) for f in left} == {(f.id, f.original) for f in found} - {
        (f.id, f.original) for f in doomed
    }


@pytest.mark.parametrize(
    ("protocol", "name", "port"), [(136, "136", 2000), (132, "sctp", 2000), (6, "tcp", 2000)]
)
def test_protocols_keep_their_names_and_ports(
    namespace: Namespace, family: Family, protocol: int, name: str, port: int
) -> None:
    source = parse_address(STANDARD[family].pod)
    create(
        namespace, [_with_state(synthetic(source, port=port, reply_to=source, protocol=protocol), protocol)]
    )
    (flow,) = everything(namespace, family)
    assert (flow.protocol, flow.original.source_port, flow.original.destination_port) == (name, port, 5060)
    assert flow.state == ("ESTABLISHED" if protocol == 6 else None)
    with namespace.entered():
        assert conntrack.delete(flow) is True


def _with_state(payload: bytes, protocol: int) -> bytes:
    if protocol == 6:
        return payload + nested(4, nested(1, attribute(1, b"\x03")))
    if protocol == 132:
        return payload + nested(
            4,
            nested(
                3,
                attribute(1, b"\x04"),
                attribute(2, struct.pack("!I", 1)),
                attribute(3, struct.pack("!I", 2)),
            ),
        )
    return payload


def test_a_protocol_without_ports_is_found_and_deleted_too(tracked: Namespace) -> None:
    with tracked.socket(socket.AF_INET, socket.SOCK_RAW, 253) as raw:
        raw.sendto(b"payload", ("127.0.0.1", 0))
        (flow,) = flows(tracked, Family.IPV4, "127.0.0.0/8")
    assert (flow.protocol, flow.original.source_port, flow.state) == ("253", 0, None)
    with tracked.entered():
        assert conntrack.delete(flow) is True
    assert everything(tracked, Family.IPV4) == []


def test_entries_that_come_and_go_while_they_are_deleted_do_no_harm(tracked: Namespace) -> None:
    with sender(tracked) as listener, ExitStack() as stack:
        senders = [stack.enter_context(sender(tracked)) for _ in range(50)]
        for _ in range(10):
            for udp in senders:
                udp.sendto(b"x", listener.getsockname())
            found = everything(tracked, Family.IPV4)
            assert len(found) == 50
            assert (
                tracked.run(
                    ["conntrack", "-D", "-p", "udp", "--dport", str(listener.getsockname()[1])]
                ).status
                == 0
            )
            for udp in senders[:25]:
                udp.sendto(b"x", listener.getsockname())
            with tracked.entered():
                assert conntrack.delete_all(found) <= 25
            tracked.run(["conntrack", "-F"])


def test_nothing_to_delete_asks_the_kernel_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "open_netlink", lambda **_: pytest.fail("a socket was opened"))
    assert conntrack.delete_all([]) == 0


def test_a_flow_that_was_not_read_from_the_kernel_cannot_be_deleted() -> None:
    ends = Tuple(source=parse_address("10.0.0.1"), destination=parse_address("10.0.0.2"))
    with pytest.raises(ValueError, match="read from the kernel"):
        conntrack.delete(Flow(family=Family.IPV4, protocol="udp", original=ends, reply=ends))


def test_no_descriptor_stays_open(loop: tuple[Namespace, Family, socket.socket]) -> None:
    namespace, family, listener = loop
    with sender(namespace, family) as udp:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            udp.sendto(b"x", listener.getsockname())
            (flow,) = everything(namespace, family)
            with namespace.entered():
                assert conntrack.delete(flow)
        assert len(os.listdir("/proc/self/fd")) == before


def test_without_the_right_to_it_the_error_says_to_be_root(namespace: Namespace) -> None:
    package = Path(conntrack.__file__).parents[2]
    script = (
        "import sys; from kvctl.errors import KvctlError\n"
        "from kvctl.netfilter import conntrack; from kvctl.model.net import Family\n"
        "try: conntrack.dump(family=Family.IPV4, sources=[], reply_destinations=[])\n"
        "except KvctlError as error: print(error.message, error.hint, error.exit_status, sep='|')\n"
    )
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    done = namespace.run([*powerless, sys.executable, "-c", script], env={"PYTHONPATH": str(package)})
    assert done.stdout == (
        "cannot read the IPv4 connections: Operation not permitted|run as root (it takes CAP_NET_ADMIN)|4\n"
    ), done.stderr


class Refusing:
    """A netlink door behind which the kernel refuses one of the requests."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def request_each(self, **_: object) -> list[NetlinkError | None]:
        return [NetlinkError("refused", errno=n) if n else None for n in self._numbers]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EBUSY, NetlinkError),
        (errno.EPERM, NetfilterUnavailableError),
        (errno.EINVAL, NetfilterUnavailableError),
    ],
)
def test_a_refusal_among_deletions_is_raised(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    ends = Tuple(source=parse_address("10.0.0.1"), destination=parse_address("10.0.0.2"))
    flow = Flow(family=Family.IPV4, protocol="udp", original=ends, reply=ends, raw_tuple=attribute(1, b""))
    monkeypatch.setattr(conntrack, "open_netlink", lambda **_: Refusing([0, number, errno.ENOENT]))
    with pytest.raises(kind, match="refused"):
        conntrack.delete_all([flow, flow, flow])


def entry(*parts: bytes) -> bytearray:
    return bytearray(bytes((2, 0, 0, 0)) + b"".join(parts))


def read(message: bytearray, *sources: str) -> Flow | None:
    networks: list[Network] = [parse_network(s) for s in sources]
    reader = flow_reader(family=Family.IPV4, sources=networks, reply_destinations=[])
    return reader(message, 0, len(message))


def shuffled_tuple(kind: int, source: bytes, destination: bytes) -> bytes:
    protocol = nested(2, attribute(3, b"\0\x35"), attribute(2, b"\x10\0"), attribute(1, b"\x11"))
    return nested(kind, protocol, nested(1, attribute(2, destination), attribute(1, source)))


def test_attributes_in_another_order_mean_the_same() -> None:
    pod, server = bytes((10, 0, 0, 1)), bytes((192, 0, 2, 1))
    message = entry(
        attribute(12, struct.pack("!I", 99)),
        shuffled_tuple(2, server, pod),
        shuffled_tuple(1, pod, server),
    )
    flow = read(message, "10.0.0.0/24")
    assert flow is not None
    assert (flow.protocol, flow.id, flow.original.source_port) == ("udp", 99, 4096)
    assert (str(flow.original.source), str(flow.original.destination)) == ("10.0.0.1", "192.0.2.1")
    assert read(message, "10.0.1.0/24") is None


@pytest.mark.parametrize(
    "message",
    [
        bytearray(b"\x02\0"),
        entry(),
        entry(nested(1, nested(1, attribute(1, bytes(4))))),
        entry(
            attribute(12, bytes(4)),
            shuffled_tuple(2, bytes(4), bytes(4)),
            shuffled_tuple(1, bytes(3), bytes(4)),
        ),
        entry(shuffled_tuple(1, bytes(4), bytes(4)))[:-5],
    ],
    ids=["shorter than its header", "empty", "no destination", "an address of three bytes", "cut off"],
)
def test_a_malformed_entry_is_an_error(message: bytearray) -> None:
    with pytest.raises(NetlinkError, match="malformed"):
        read(message, "0.0.0.0/0")
