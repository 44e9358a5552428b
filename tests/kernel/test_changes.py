"""Changes while traffic flows: nobody sees a wrong source, and whoever is not concerned notices nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Sender
from kvctl.model.flows import Flow
from kvctl.model.net import Family, parse_network
from kvctl.netfilter import conntrack
from kvctl.reconcile.report import Item
from tests.builders import pod, service
from tests.kernel.conftest import PORTS
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Thing, Worker, lab_pod

MINE: tuple[Thing, ...] = (service(vip=VIPS, ports="udp:5060,tcp:5060"), lab_pod())
CHANGES = 1000 if os.environ.get("KVCTL_LONG") else 200


def others(rng: random.Random) -> list[Thing]:
    """Some other Services with some pods each, one of which may be the bystander."""
    found: list[Thing] = []
    for number in range(rng.randrange(3)):
        ports = rng.choice([None, "udp:7000", "tcp:8000-8100,udp:53", "udp:5060"])
        denied = rng.choice([None, "203.0.113.0/24", "198.51.100.7,2001:db8:7::/48"])
        found.append(service(f"web/s{number}", vip=SECOND_VIPS, ports=ports, denied=denied))
        for index in range(rng.choice([1, 2, 3, 4, 18])):
            found.append(
                pod(
                    f"web/s{number}-{index}",
                    f"10.0.{number}.{50 + index}",
                    f"fd00:10::{number}:{index + 50:x}",
                )
            )
    return found


def change_others(worker: Worker, count: int) -> int:
    """Apply `count` changes of other Services; how many writes that took."""
    rng = random.Random(7)
    return sum(worker.apply(*MINE, *others(rng), prune=True).restores for _ in range(count))


def in_another_process(worker: Worker, count: int) -> int:
    """The same, without taking turns with the senders of this process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(change_others, worker, count).result(timeout=3 * count)


def test_a_sender_that_never_pauses_sees_no_wrong_source_while_others_change(lab: Lab) -> None:
    worker = Worker(lab)
    # Every apply looks at the sender's connections: it need not look at those of minutes ago.
    timeouts = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
    lab.worker.write_sysctls({f"netfilter/{name}": "2" for name in timeouts})
    worker.bind(*SECOND_VIPS)
    worker.apply(*MINE)
    with ExitStack() as stack:
        stack.enter_context(Echo(lab.outside, ports=PORTS))

        def send(family: Family, protocol: str, port: int, *, fresh: bool, interval: float) -> Sender:
            return stack.enter_context(
                Sender(
                    lab.pod,
                    destination=STANDARD[family].outside_eth1,
                    port=port,
                    protocol=protocol,
                    fresh=fresh,
                    interval=interval,
                )
            )

        listed = {
            f: [
                send(f, "udp", 5060, fresh=True, interval=0.005),
                send(f, "tcp", 5060, fresh=False, interval=0.05),
            ]
            for f in Family
        }
        unlisted = {f: send(f, "udp", 7000, fresh=True, interval=0.05) for f in Family}
        writes = in_another_process(worker, CHANGES)
        senders = [*unlisted.values(), *(sender for each in listed.values() for sender in each)]
        for sender in senders:
            sender.wait_for(1)
            sender.stop()
    assert writes > CHANGES
    for family in Family:
        for sender in listed[family]:
            assert set(sender.sources) == {STANDARD[family].vip}
        assert set(unlisted[family].sources) == {STANDARD[family].worker_eth1}
    assert [sender.unanswered for sender in senders] == [0] * len(senders)


def test_a_sender_of_a_service_whose_own_ports_and_pods_change_keeps_the_vip(lab: Lab) -> None:
    worker, rng = Worker(lab), random.Random(8)
    worker.apply(*MINE)
    with ExitStack() as stack:
        stack.enter_context(Echo(lab.outside, ports=PORTS))
        senders = {
            family: stack.enter_context(
                Sender(lab.pod, destination=STANDARD[family].outside_eth1, port=5060, interval=0.004)
            )
            for family in Family
        }
        for _ in range(CHANGES // 8):
            ports = rng.choice(["udp:5060", "udp:5000-5100,tcp:9", "udp:53,udp:5060", None])
            allowed = rng.choice([None, "192.168.0.0/24,2001:db8:1::/64", "192.168.0.0/16,2001:db8::/32"])
            more = [
                pod(f"sip/sip-client-{n}", f"10.0.7.{n}", f"fd00:10::7:{n:x}")
                for n in range(1, rng.randrange(2, 40))
            ]
            worker.apply(service(vip=VIPS, ports=ports, allowed=allowed), lab_pod(), *more)
        for sender in senders.values():
            sender.wait_for(1)
            sender.stop()
    for family, sender in senders.items():
        assert set(sender.sources) == {STANDARD[family].vip}
        assert sender.unanswered == 0


def item_of(worker: Worker, name: str, family: Family) -> Item:
    """The item of one Service as `list` shows it."""
    return next(item for item in worker.listed() if str(item.ref) == name and item.family is family)


def test_a_change_of_one_service_keeps_the_counters_of_the_others(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(*MINE)
    for _ in range(3):
        packets.seen()
    packets.seen(5060, protocol="tcp")
    packets.seen(7000)
    assert item_of(worker, "sip/sip-client", packets.family).connections == 4
    another = service("web/b", vip=SECOND_VIPS)
    many: list[Thing] = [pod(f"web/b-{n}", f"10.0.4.{n}", f"fd00:10::4:{n:x}") for n in range(1, 60)]
    for step in ([another, *many[:3]], [another, *many], [another, *many[10:20]], []):
        worker.apply(*MINE, *step, prune=True)
        worker.apply(*MINE, *step, prune=True)
        assert item_of(worker, "sip/sip-client", packets.family).connections == 4
    worker.flush("web/b")
    assert item_of(worker, "sip/sip-client", packets.family).connections == 4


def test_a_new_pod_of_a_service_keeps_its_counters(worker: Worker, packets: Packets) -> None:
    worker.apply(*MINE)
    packets.seen()
    worker.apply(*MINE, pod("sip/sip-client-1", "10.0.8.1", "fd00:10::8:1"))
    assert item_of(worker, "sip/sip-client", packets.family).connections == 1


def test_a_second_apply_starts_no_restore(worker: Worker) -> None:
    many = [pod(f"sip/sip-client-{n}", f"10.0.4.{n}", f"fd00:10::4:{n:x}") for n in range(1, 60)]
    assert worker.apply(*MINE, *many).restores == 2
    assert worker.apply(*MINE, *many).restores == 0
    assert worker.apply(*reversed((*MINE, *many))).restores == 0
    assert not worker.compare(*MINE, *many).differs


def test_a_flow_that_never_pauses_has_the_right_source_as_soon_as_a_run_has_ended(
    worker: Worker, packets: Packets
) -> None:
    who = packets.who
    aim = {"destination": who.outside_eth1, "port": 5060}
    with (
        Sender(packets.lab.pod, **aim, fresh=False, interval=0.0005) as one_flow,  # type: ignore[arg-type]
        Sender(packets.lab.pod, **aim, fresh=True, interval=0.002) as many_flows,  # type: ignore[arg-type]
    ):
        one_flow.wait_for(5)
        for turn in range(6):
            if turn % 2:
                worker.flush()
            else:
                worker.apply(*MINE)
            expected = who.worker_eth1 if turn % 2 else who.vip
            assert {str(each.reply.destination) for each in flows_to(worker, packets, 5060)} <= {expected}
            one_flow.wait_for(2)  # one answer may have been on its way
            one_flow.sources.clear()
            one_flow.wait_for(10)
            assert set(one_flow.sources) == {expected}
        assert set(many_flows.sources) == {who.vip, who.worker_eth1}


def flows_to(worker: Worker, packets: Packets, port: int) -> list[Flow]:
    """The pod's connections to a port of the outside."""
    with worker.lab.worker.entered():
        found = conntrack.dump(
            family=packets.family, sources=[parse_network(packets.who.pod)], reply_destinations=[]
        )
    return [flow for flow in found if flow.original.destination_port == port]
