"""`apply SERVICE` changes that Service alone, and in any order ends where `apply` of all ends."""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import strategies as st

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.objects import Service
from tests.builders import networks, node, pod, service
from tests.kernel.node import SECOND_VIPS, VIPS, Packets, Thing, Worker, lab_pod

EXAMPLES = 150 if os.environ.get("KVCTL_LONG") else 12
FIRST = (service("sip/a", vip=VIPS), lab_pod("sip/a-0"))
SECOND = (service("sip/b", vip=SECOND_VIPS), lab_pod("sip/b-0", namespace="peer"))


def test_only_the_named_service_changes(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    second = SECOND_VIPS[packets.family is Family.IPV6]
    worker.apply(*FIRST, *SECOND, named=["sip/b"])
    assert packets.seen() == packets.who.worker_eth1
    assert packets.seen(pod="peer") == second
    worker.apply(*FIRST, *SECOND, named=["sip/a"])
    assert (packets.seen(), packets.seen(pod="peer")) == (packets.who.vip, second)
    changed = (service("sip/b", vip=SECOND_VIPS, ports="tcp:1"), SECOND[1])
    worker.apply(service("sip/a", vip=VIPS, ports="tcp:2"), FIRST[1], *changed, named=["sip/b"])
    assert (packets.seen(), packets.seen(pod="peer")) == (packets.who.vip, packets.who.worker_eth1)


def test_a_named_service_that_cannot_be_programmed_loses_its_rules_and_no_other_does(
    worker: Worker, packets: Packets
) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(*FIRST, *SECOND)
    without = (service("sip/a", vip=VIPS, egress=False), service("sip/b", vip=SECOND_VIPS, egress=False))
    worker.apply(*without, named=["sip/b"])
    assert packets.seen() == packets.who.vip
    assert packets.seen(pod="peer") == packets.who.worker_eth1


def test_a_named_service_absent_from_the_source_goes_only_with_prune(
    worker: Worker, packets: Packets
) -> None:
    worker.apply(*FIRST)
    worker.apply(FIRST[1], named=["sip/a"])
    assert packets.seen() == packets.who.vip
    worker.apply(FIRST[1], named=["sip/b"], prune=True)
    assert packets.seen() == packets.who.vip
    worker.apply(FIRST[1], named=["sip/a"], prune=True)
    assert packets.seen() == packets.who.worker_eth1


def test_a_named_service_with_other_excluded_networks_is_refused(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(*FIRST)
    before = worker.saved(packets.family)
    other = worker.told_to(exclude_cidrs=networks("203.0.113.0/24", "2001:db8:77::/64"))
    with pytest.raises(KvctlError, match="the ipv4 excluded networks differ") as caught:
        other.apply(*FIRST, *SECOND, named=["sip/b"])
    assert caught.value.exit_status == 1
    assert "without naming a Service" in (caught.value.hint or "")
    assert worker.saved(packets.family) == before
    # Alone it may have them, since nobody shares them.
    other.apply(*FIRST, named=["sip/a"])
    assert any("203.0.113.0/24" in line for line in worker.saved(Family.IPV4))


def test_node_addresses_alone_never_make_a_named_apply_refuse(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    who = packets.who
    worker.apply(*FIRST, node("n1", who.server))
    worker.apply(*FIRST, *SECOND, node("n2", who.outside_eth0), named=["sip/b"])
    assert packets.seen(pod="peer", to=who.server) == who.worker_eth0
    assert packets.seen(pod="peer", to=who.outside_eth0) == SECOND_VIPS[packets.family is Family.IPV6]
    worker.apply(*FIRST, *SECOND, node("n2", who.outside_eth0))
    assert packets.seen(pod="peer", to=who.outside_eth0) == who.worker_eth0
    assert packets.seen(pod="peer", to=who.server) == SECOND_VIPS[packets.family is Family.IPV6]


def test_flush_of_one_service_leaves_the_others(worker: Worker, packets: Packets) -> None:
    worker.bind(*SECOND_VIPS)
    worker.apply(*SECOND)
    alone = worker.saved(packets.family)
    worker.apply(*FIRST, *SECOND)
    worker.flush("sip/a", "sip/never-there")
    assert worker.saved(packets.family) == alone
    assert packets.seen() == packets.who.worker_eth1
    assert packets.seen(pod="peer") == SECOND_VIPS[packets.family is Family.IPV6]


APPS = ("red", "green", "blue")
PORTS = st.lists(
    st.sampled_from(["udp:5060", "tcp:80", "tcp:8000-8100", "sctp:9", "udp:1-65535"]), max_size=3, unique=True
)
NETWORKS = st.lists(
    st.sampled_from(["203.0.113.0/24", "203.0.113.128/25", "198.51.100.7", "2001:db8:7::/48"]),
    max_size=2,
    unique=True,
)


@st.composite
def services(draw: st.DrawFn, *, name: str) -> Service:
    """A Service of one of two namespaces that may share its pods with others."""
    vips = draw(st.sampled_from([VIPS, VIPS[:1], SECOND_VIPS, SECOND_VIPS[1:]]))
    return service(
        name,
        vip=vips,
        ports=",".join(draw(PORTS)) or None,
        allowed=",".join(draw(NETWORKS)) or None,
        denied=",".join(draw(NETWORKS)) or None,
        selector={"app": draw(st.sampled_from(APPS))},
        created=draw(st.sampled_from([0, 1_600_000_000, 1_700_000_000])),
        egress=draw(st.integers(0, 5)) > 0,
    )


@st.composite
def sources(draw: st.DrawFn) -> list[Thing]:
    """Up to five Services and the pods of three applications, enough for a tree at times."""
    things: list[Thing] = []
    for number in range(draw(st.integers(1, 5))):
        namespace = draw(st.sampled_from(["sip", "sip", "web"]))
        things.append(draw(services(name=f"{namespace}/s{number}")))
    for namespace, third in (("sip", 1), ("web", 2)):
        for index, app in enumerate(APPS):
            for n in range(draw(st.sampled_from([1, 2, 12]))):
                address = (f"10.0.{third}.{index * 40 + n + 1}", f"fd00:10::{third}:{index * 40 + n + 1:x}")
                things.append(pod(f"{namespace}/{app}-{n}", *address, app=app))
    return draw(st.permutations(things))


def tables(worker: Worker) -> list[list[str]]:
    """Both families' nat tables."""
    return [worker.saved(family) for family in Family]


@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(source=sources(), before=sources(), seed=st.randoms(use_true_random=False))
def test_single_applies_in_any_order_and_then_all_give_what_all_alone_gives(
    worker: Worker, source: list[Thing], before: list[Thing], seed: object
) -> None:
    wide = Worker(worker.lab, settings=worker.told_to(assume_vip=True).settings)
    wide.flush()
    start = tables(wide)
    wide.apply(*source)
    alone = tables(wide)
    assert wide.apply(*reversed(source)).restores == 0
    wide.flush()
    assert tables(wide) == start
    names = [str(thing.ref) for thing in source if isinstance(thing, Service)]
    seed.shuffle(names)  # type: ignore[attr-defined]
    for name in names:
        wide.apply(*source, named=[name])
    wide.apply(*source)
    assert tables(wide) == alone
    wide.apply(*before)
    for name in names:
        wide.apply(*source, named=[name], prune=True)
    wide.apply(*source, prune=True)
    assert tables(wide) == alone
    assert not wide.compare(*source, prune=True).differs
