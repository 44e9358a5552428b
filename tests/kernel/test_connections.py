"""What becomes of connections that were there before a change: exactly the wrong ones are dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kvctl.lab.echo import Echo
from kvctl.lab.traffic import Connection
from kvctl.model.flows import Flow
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.netfilter import conntrack
from tests.builders import networks, pod, service
from tests.kernel.conftest import PORTS
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Worker, lab_pod

Connect = Callable[..., Connection]
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])


@pytest.fixture
def connect(packets: Packets) -> Iterator[Connect]:
    """`connect(port, ...)`: a connection of the pod's to the outside that has been answered once."""
    with ExitStack() as stack:

        def make(
            port: int = 5060, *, protocol: str = "udp", to: str | None = None, of: str = "pod"
        ) -> Connection:
            destination = to if to is not None else packets.who.outside_eth1
            connection = Connection(
                packets.lab[of], destination=destination, port=port, protocol=protocol, timeout=2
            )
            stack.enter_context(connection)
            assert connection.ask() is not None
            return connection

        yield make


def seen(connection: Connection) -> str | None:
    """The source that the other end sees of the next packet; None: the connection is dead."""
    answer = connection.ask()
    return answer.source if answer is not None else None


def flows(worker: Worker, family: Family) -> list[Flow]:
    """Every connection whose source is a pod."""
    everywhere = parse_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")
    with worker.lab[worker.name].entered():
        return conntrack.dump(family=family, sources=[everywhere], reply_destinations=[])


def with_vip(worker: Worker, family: Family) -> list[Flow]:
    """Every connection that still carries a VIP."""
    vips = set(map(parse_address, (*VIPS, *SECOND_VIPS)))
    return [flow for flow in flows(worker, family) if flow.reply.destination in vips]


def test_a_udp_flow_with_the_nodes_address_gets_the_vip(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    flow = connect()
    assert seen(flow) == packets.who.worker_eth1
    applied = worker.apply(service(vip=VIPS), lab_pod())
    assert seen(flow) == packets.who.vip
    assert sum(len(outcome.dropped) for outcome in applied.outcomes) == 1


def test_a_tcp_connection_with_the_nodes_address_ends_and_its_successor_has_the_vip(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    old = connect(protocol="tcp")
    worker.apply(service(vip=VIPS), lab_pod())
    assert seen(old) in (None, packets.who.vip)
    assert seen(connect(protocol="tcp")) == packets.who.vip
    assert {flow.reply.destination for flow in flows(worker, packets.family)} == {
        parse_address(packets.who.vip)
    }


@PROTOCOLS
def test_right_connections_survive_whatever_changes_elsewhere(
    worker: Worker, packets: Packets, connect: Connect, protocol: str
) -> None:
    worker.bind(*SECOND_VIPS)
    mine = (service(vip=VIPS, ports="udp:5060,tcp:5060"), lab_pod())
    worker.apply(*mine)
    listed, other, bystander = (
        connect(protocol=protocol),
        connect(5061, protocol=protocol),
        connect(protocol=protocol, of="peer"),
    )
    before = {flow.id for flow in flows(worker, packets.family)}
    steps = [
        worker.apply(*mine),
        worker.apply(*mine, service("web/b", vip=SECOND_VIPS), pod("web/b-0", "10.0.9.9", "fd00:10::9")),
        worker.apply(*mine, service("web/b", vip=SECOND_VIPS, ports="tcp:1"), pod("web/b-0", "10.0.9.9")),
        worker.apply(service(vip=VIPS, ports="udp:5060,tcp:5060,tcp:9"), lab_pod(), prune=True),
        worker.apply(*mine),
    ]
    assert [outcome.dropped for step in steps for outcome in step.outcomes] == [[]] * 10
    assert {flow.id for flow in flows(worker, packets.family)} == before
    assert seen(listed) == packets.who.vip
    assert seen(other) == packets.who.worker_eth1
    assert seen(bystander) == packets.who.worker_eth1


def test_connections_inside_the_cluster_and_to_the_node_are_left_alone(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    who = packets.who
    with Echo(worker.lab.worker, ports=PORTS):
        targets = (who.peer, who.peer_cluster_ip, who.server_cluster_ip, who.worker_eth0, who.vip)
        inside = [connect(to=to, protocol=protocol) for to in targets for protocol in ("udp", "tcp")]
        before = {flow.id for flow in flows(worker, packets.family)}
        sources = [seen(connection) for connection in inside]
        worker.apply(service(vip=VIPS), lab_pod())
        worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
        worker.flush()
        assert {flow.id for flow in flows(worker, packets.family)} == before
        assert [seen(connection) for connection in inside] == sources


def test_connections_that_others_opened_to_the_pod_are_left_alone(worker: Worker, packets: Packets) -> None:
    with (
        Echo(worker.lab.pod, ports=[7]),
        Connection(worker.lab["server"], destination=packets.who.pod, port=7, protocol="tcp") as into_the_pod,
    ):
        assert seen(into_the_pod) is not None
        worker.apply(service(vip=VIPS), lab_pod())
        assert seen(into_the_pod) is not None
        worker.flush()
        assert seen(into_the_pod) is not None


def test_a_new_vip_takes_over_the_connections_of_the_old_one(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(service(vip=VIPS), lab_pod())
    flow, stream = connect(), connect(protocol="tcp")
    worker.apply(service(vip=SECOND_VIPS), lab_pod())
    second = SECOND_VIPS[packets.family is Family.IPV6]
    assert seen(flow) == second
    assert seen(stream) in (None, second)
    assert {str(each.reply.destination) for each in with_vip(worker, packets.family)} == {second}


@PROTOCOLS
def test_a_connection_whose_port_is_no_longer_listed_goes_back_to_the_nodes_address(
    worker: Worker, packets: Packets, connect: Connect, protocol: str
) -> None:
    who = packets.who
    worker.apply(service(vip=VIPS, ports="udp:5060,tcp:5060,udp:7000,tcp:7000"), lab_pod())
    goes, stays = connect(protocol=protocol), connect(7000, protocol=protocol)
    applied = worker.apply(service(vip=VIPS, ports="udp:7000,tcp:7000"), lab_pod())
    assert sum(len(outcome.dropped) for outcome in applied.outcomes) == 1
    assert seen(goes) in ((who.worker_eth1,) if protocol == "udp" else (None, who.worker_eth1))
    assert seen(stays) == who.vip
    assert seen(connect(protocol=protocol)) == who.worker_eth1


def test_a_connection_whose_port_is_listed_from_now_on_gets_the_vip(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    comes, stays = connect(8050), connect(8101)
    worker.apply(service(vip=VIPS, ports="udp:5060,udp:8000-8100"), lab_pod())
    assert seen(comes) == packets.who.vip
    assert seen(stays) == packets.who.worker_eth1


def test_a_network_that_is_denied_from_now_on_goes_back_and_the_others_stay(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    who = packets.who
    worker.apply(service(vip=VIPS), lab_pod())
    goes, stays = connect(), connect(to=who.outside_eth0)
    kept = {flow.id for flow in flows(worker, packets.family) if str(flow.reply.source) == who.outside_eth0}
    worker.apply(service(vip=VIPS, denied=who.outside_eth1), lab_pod())
    assert seen(goes) == who.worker_eth1
    assert seen(stays) == who.vip
    assert kept <= {flow.id for flow in flows(worker, packets.family)}
    worker.apply(service(vip=VIPS, allowed=who.outside_eth1), lab_pod())
    assert seen(goes) == who.vip
    assert seen(stays) == who.worker_eth0


def test_a_network_that_is_excluded_no_longer_gets_the_vip_at_once(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    who = packets.who
    worker.told_to(exclude_cidrs=networks(who.outside_eth1)).apply(service(vip=VIPS), lab_pod())
    flow = connect()
    assert seen(flow) == who.worker_eth1
    worker.apply(service(vip=VIPS), lab_pod())
    assert seen(flow) == who.vip


def test_a_connection_moves_to_the_service_that_ranks_higher(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    worker.bind(*SECOND_VIPS)
    selector = {"app": "phone"}
    everything = service("sip/all", vip=VIPS, selector=selector)
    some = service("sip/some", vip=SECOND_VIPS, ports="udp:5060", selector=selector)
    second = SECOND_VIPS[packets.family is Family.IPV6]
    worker.apply(everything, lab_pod("sip/phone-0"))
    moves, stays = connect(), connect(5061)
    worker.apply(everything, some, lab_pod("sip/phone-0"))
    assert (seen(moves), seen(stays)) == (second, packets.who.vip)
    worker.apply(everything, lab_pod("sip/phone-0"), prune=True)
    assert (seen(moves), seen(stays)) == (packets.who.vip, packets.who.vip)


@PROTOCOLS
def test_the_connections_of_a_pod_that_leaves_the_service_lose_the_vip(
    worker: Worker, packets: Packets, connect: Connect, protocol: str
) -> None:
    worker.apply(service(vip=VIPS), lab_pod(), lab_pod("sip/sip-client-1", namespace="peer"))
    goes, stays = connect(protocol=protocol), connect(protocol=protocol, of="peer")
    worker.apply(service(vip=VIPS), lab_pod(app="other"), lab_pod("sip/sip-client-1", namespace="peer"))
    assert seen(goes) in (
        (packets.who.worker_eth1,) if protocol == "udp" else (None, packets.who.worker_eth1)
    )
    assert seen(stays) == packets.who.vip
    assert {str(f.original.source) for f in with_vip(worker, packets.family)} == {packets.who.peer}


def test_a_service_that_asks_no_more_leaves_no_connection_with_its_vip(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    flow = connect()
    connect(protocol="tcp")
    worker.apply(service(vip=VIPS, egress=False), lab_pod())
    assert with_vip(worker, packets.family) == []
    assert seen(flow) == packets.who.worker_eth1


@pytest.mark.parametrize("names", [(), ("sip/sip-client",)], ids=["all", "named"])
def test_no_connection_keeps_the_vip_after_flush(
    worker: Worker, packets: Packets, connect: Connect, names: tuple[str, ...]
) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(
        service(vip=VIPS),
        lab_pod(),
        service("web/b", vip=SECOND_VIPS),
        lab_pod("web/b-0", namespace="peer"),
    )
    flow, other = connect(), connect(of="peer")
    connect(protocol="tcp")
    worker.flush(*names)
    assert seen(flow) == packets.who.worker_eth1
    assert {str(f.reply.destination) for f in with_vip(worker, packets.family)} == (
        {SECOND_VIPS[packets.family is Family.IPV6]} if names else set()
    )
    second = SECOND_VIPS[packets.family is Family.IPV6]
    assert seen(other) == (second if names else packets.who.worker_eth1)


def test_flush_takes_the_vip_off_connections_to_what_was_excluded_later(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    connect()
    worker.told_to(exclude_cidrs=networks(packets.who.outside_eth1)).apply(service(vip=VIPS), lab_pod())
    worker.flush()
    assert with_vip(worker, packets.family) == []


def test_connections_can_be_kept_and_are_put_right_by_the_next_apply(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    flow = connect()
    worker.apply(service(vip=VIPS), lab_pod(), keep_connections=True)
    assert seen(flow) == packets.who.worker_eth1
    assert packets.seen() == packets.who.vip
    applied = worker.apply(service(vip=VIPS), lab_pod())
    assert applied.restores == 0
    assert seen(flow) == packets.who.vip
    worker.flush(keep_connections=True)
    assert seen(flow) == packets.who.vip
    assert packets.seen() == packets.who.worker_eth1


def test_a_connection_of_an_address_that_lost_its_service_unseen_is_found_by_the_pod_network(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    """As after a kill between the rules and the connections: no rule names the pod any more."""
    worker.apply(service(vip=VIPS), lab_pod(), lab_pod("sip/sip-client-1", namespace="peer"))
    flow = connect(of="peer")
    worker.apply(service(vip=VIPS), lab_pod(), keep_connections=True)
    assert seen(flow) == packets.who.vip
    worker.apply(service(vip=VIPS), lab_pod())
    assert seen(flow) == packets.who.worker_eth1


def test_a_family_that_goes_takes_its_connections_along_and_not_the_others(
    worker: Worker, packets: Packets, connect: Connect
) -> None:
    other = Packets(packets.lab, next(each for each in Family if each is not packets.family))
    worker.apply(service(vip=VIPS), lab_pod())
    goes, stays = connect(), connect(to=other.who.outside_eth1)
    worker.apply(service(vip=other.who.vip), lab_pod())
    assert seen(goes) == packets.who.worker_eth1
    assert seen(stays) == other.who.vip
