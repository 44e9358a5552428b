"""What Prometheus gets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvctl.agent.account import failed_round
from kvctl.agent.collectors import PORTS, ConntrackCollector, FlowCollector, read_statistics, usage_of
from kvctl.agent.lease_metrics import LeaseCollector
from kvctl.agent.metrics import Metrics
from kvctl.agent.round import Cause, Round, Turn
from kvctl.election.electorate import Holding, LeaseState
from kvctl.errors import KvctlError, NetfilterUnavailableError, NetlinkError
from kvctl.model.flows import Flow, Tuple
from kvctl.model.lease import LeaseKey
from kvctl.model.net import Family, parse_address
from kvctl.node.addresses import Bound
from kvctl.node.rtnetlink import Mark
from kvctl.reconcile.changed import Action
from kvctl.reconcile.report import Status
from tests.agent.rounds import added, round_with, with_items, with_turns
from tests.builders import pod, service

VIP = parse_address("192.168.0.245")
BEGUN = ("kvctl_connections_begun_total", ("family", "ipv4"), ("namespace", "sip"), ("service", "sip-client"))


def flow(port: int, *, to: str = "192.0.2.9", vip: str = "192.168.0.245", source: str = "10.0.0.1") -> Flow:
    """A UDP flow of a pod that leaves with the VIP, from this port of it."""
    return Flow(
        family=Family.IPV4,
        protocol="udp",
        original=Tuple(parse_address(source), parse_address(to), 1024, 5060),
        reply=Tuple(parse_address(to), parse_address(vip), 5060, port),
    )


class Kernel:
    """Answers for conntrack; counts how often it was asked."""

    def __init__(self, flows: Iterable[Flow] = (), *, fails: bool = False) -> None:
        self.flows = list(flows)
        self.fails = fails
        self.asked = 0

    def dump(self, *, family: Family, sources: object, reply_destinations: object) -> list[Flow]:
        """As conntrack.dump."""
        self.asked += 1
        if self.fails:
            raise NetfilterUnavailableError("no conntrack")
        return [flow for flow in self.flows if flow.family is family]


class Scrape:
    """Metrics over a kernel of a test's own."""

    def __init__(self, kernel: Kernel | None = None, **states: State) -> None:
        self.kernel = kernel or Kernel()
        self.time = 1000.0
        self.metrics = Metrics(
            version="1.2.3",
            states=lambda: states,
            clock=lambda: self.time,
            flows=FlowCollector(clock=lambda: self.time, dump=self.kernel.dump),
        )

    def values(self) -> dict[tuple[object, ...], float]:
        """(name, (label, value)...) -> value; labels in the order of their names."""
        families = text_string_to_metric_families(self.metrics.render().decode())
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


@dataclass
class State:
    """A watch's."""

    last_contact: float | None
    errors: int


def test_rounds_are_counted_by_cause_and_result() -> None:
    scrape = Scrape()
    done = added(round_with(service(), pod()))
    scrape.metrics.round(done)
    scrape.metrics.round(
        replace(done, causes=frozenset((Cause.TIMER, Cause.START)), errors=(KvctlError("no"),))
    )
    values = scrape.values()
    assert values["kvctl_syncs_total", ("cause", "objects"), ("result", "ok")] == 1
    assert values["kvctl_syncs_total", ("cause", "start"), ("result", "failed")] == 1
    assert values["kvctl_sync_duration_seconds_count",] == 2
    assert values["kvctl_rule_changes_total", ("action", "added")] == 2
    assert values["kvctl_build_info", ("version", "1.2.3")] == 1
    assert values["kvctl_last_sync_timestamp_seconds",] == done.ended


def test_what_was_repaired_dropped_and_refused_is_counted() -> None:
    scrape = Scrape()
    done = round_with(service(), pod())
    repaired = with_turns(done, Turn(done.items[0], done.items[0], Action.UPDATED, repaired=True, dropped=2))
    scrape.metrics.round(replace(repaired, dropped=3, restores=2, restores_refused=1, contested="again"))
    scrape.metrics.count_report("events", "sent")
    values = scrape.values()
    assert values["kvctl_drift_repairs_total",] == 1
    assert values["kvctl_connections_dropped_total",] == 3
    assert values["kvctl_restores_total",] == 2
    assert values["kvctl_restore_failures_total",] == 1
    assert values["kvctl_contested",] == 1
    assert values["kvctl_reports_total", ("kind", "events"), ("result", "sent")] == 1


def test_services_are_counted_by_status_where_they_have_pods() -> None:
    scrape = Scrape()
    many = [service(f"far/service-{number}", vip="192.168.0.7") for number in range(50)]
    scrape.metrics.round(
        round_with(service(), service("sip/b", vip=None, selector={"app": "sip-client"}), *many, pod())
    )
    values = scrape.values()
    assert values["kvctl_services", ("status", "applied")] == 1
    assert values["kvctl_services", ("status", "skipped")] == 1
    assert values["kvctl_services", ("status", "elsewhere")] == 0


@pytest.mark.parametrize(
    ("shown", "total"),
    [
        ((0, 5, 9), 9),
        ((5, 9), 9),
        ((9, 0, 2), 11),
        ((9, 3), 12),
        ((9, 9, 9), 9),
    ],
)
def test_connections_are_counted_on_when_rules_are_written_anew(shown: tuple[int, ...], total: int) -> None:
    scrape = Scrape()
    for count in shown:
        scrape.metrics.round(with_items(round_with(service(), pod()), connections=count))
    assert scrape.values()[BEGUN] == total


def test_what_was_counted_right_before_a_rewrite_is_not_lost() -> None:
    scrape = Scrape()
    done = round_with(service(), pod())
    scrape.metrics.round(with_items(done, connections=4))
    found = tuple(item._replace(connections=7) for item in done.items)
    scrape.metrics.round(replace(done, before=found))
    assert scrape.values()[BEGUN] == 7


def test_a_service_that_comes_back_goes_on_counting_and_one_that_is_deleted_is_forgotten() -> None:
    scrape = Scrape()
    done = with_items(round_with(service(), pod()), connections=4)
    scrape.metrics.round(done)
    scrape.metrics.round(round_with(service()))
    scrape.metrics.round(done)
    assert scrape.values()[BEGUN] == 8
    scrape.metrics.round(round_with(pod()))
    assert BEGUN not in scrape.values()


def test_one_that_is_deleted_after_its_pods_have_gone_is_forgotten_too() -> None:
    scrape = Scrape()
    scrape.metrics.round(with_items(round_with(service(), pod()), connections=4))
    scrape.metrics.round(round_with(service()))
    assert scrape.values()[BEGUN] == 4
    scrape.metrics.round(round_with())
    assert BEGUN not in scrape.values()


def test_a_round_that_could_not_look_says_nothing_of_services() -> None:
    scrape = Scrape()
    done = round_with(service(), pod())
    scrape.metrics.round(done)
    scrape.metrics.round(
        failed_round(KvctlError("no"), previous=done, causes=[Cause.TIMER], duration=1, ended=9)
    )
    values = scrape.values()
    assert values["kvctl_services", ("status", "applied")] == 1
    assert values["kvctl_last_sync_timestamp_seconds",] == done.ended


def test_live_flows_and_the_share_of_the_busiest_destination() -> None:
    flows = [flow(port) for port in range(1024, 1034)] + [
        flow(port, to="192.0.2.8") for port in range(1024, 1029)
    ]
    own = flow(99, source="192.168.0.245")
    other = parse_address("192.168.0.7")
    usage = usage_of([*flows, own], {VIP, other})
    assert usage[VIP].flows == 15
    assert usage[VIP].share == 10 / PORTS
    assert usage[other] == (0, 0.0)


def test_conntrack_is_asked_at_most_every_fifteen_seconds() -> None:
    scrape = Scrape(Kernel([flow(1024)]))
    scrape.metrics.round(round_with(service(), pod()))
    for _ in range(3):
        assert scrape.values()["kvctl_live_flows", ("vip", "192.168.0.245")] == 1
    assert scrape.kernel.asked == 1
    scrape.time += 15
    scrape.kernel.flows.append(flow(1025))
    assert scrape.values()["kvctl_live_flows", ("vip", "192.168.0.245")] == 2


def test_nothing_is_asked_where_no_rule_is_and_where_it_fails_no_zero_is_told() -> None:
    idle = Scrape()
    idle.metrics.round(round_with())
    idle.values()
    assert idle.kernel.asked == 0
    broken = Scrape(Kernel(fails=True))
    broken.metrics.round(round_with(service(), pod()))
    values = broken.values()
    assert not [name for name in values if name[0] in ("kvctl_live_flows", "kvctl_port_share")]
    assert values["kvctl_services", ("status", "applied")] == 1


def test_watches_tell_their_lag() -> None:
    scrape = Scrape(pods=State(990.0, 2), services=State(None, 0))
    scrape.time += 7
    values = scrape.values()
    assert values["kvctl_watch_lag_seconds", ("kind", "pods")] == 17
    assert values["kvctl_watch_lag_seconds", ("kind", "services")] == 7  # since the agent began
    assert values["kvctl_watch_errors_total", ("kind", "pods")] == 2


def test_conntracks_own_counters_are_summed_over_processors(tmp_path: Path) -> None:
    statistics = tmp_path / "nf_conntrack"
    statistics.write_text(
        "entries  insert_failed drop\n00000003 0000000a 00000001\n00000003 00000010 00000000\n"
    )
    (tmp_path / "count").write_text("3\n")
    collector = ConntrackCollector(statistics=statistics, entries=tmp_path / "count", limit=tmp_path / "none")
    found = {sample.name: sample.value for family in collector.collect() for sample in family.samples}
    assert found == {
        "kvctl_conntrack_insert_failed_total": 26,
        "kvctl_conntrack_drop_total": 1,
        "kvctl_conntrack_entries": 3,
    }


@pytest.mark.parametrize("text", ["", "\n\n", "entries drop\nxyz 1\n"])
def test_statistics_that_nobody_knows_are_passed_over(text: str) -> None:
    assert read_statistics(text) == {}


def test_names_follow_prometheus() -> None:
    scrape = Scrape(pods=State(1.0, 0))
    scrape.metrics.round(added(round_with(service(), pod())))
    families = list(text_string_to_metric_families(scrape.metrics.render().decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("kvctl_")
        assert family.documentation
        totals = [sample.name for sample in family.samples if sample.name.endswith("_total")]
        assert bool(totals) == (family.type == "counter" and bool(family.samples))
        assert not [sample.name for sample in family.samples if sample.name.endswith("_created")]


def test_labels_do_not_grow_with_services_that_come_and_go() -> None:
    scrape = Scrape()
    sizes = set()
    for number in range(30):
        name = f"sip/service-{number:03}"
        scrape.metrics.round(added(with_items(round_with(service(name), pod(f"{name}-0")), connections=1)))
        sizes.add(len(scrape.values()))
    assert len(sizes) == 1


def test_a_round_that_knows_nothing_can_be_counted() -> None:
    scrape = Scrape()
    scrape.metrics.round(Round(causes=frozenset(), ended=0, duration=0))
    assert scrape.values()["kvctl_services", ("status", str(Status.APPLIED))] == 0


class Electors:
    """What an electorate says."""

    def __init__(self, **sent: float) -> None:
        self.sent = sent

    def held(self) -> dict[LeaseKey, Holding]:
        """Those with a renewal."""
        return {
            LeaseKey("sip", name): Holding(LeaseKey("sip", name), at, at + 10, at + 15)
            for name, at in self.sent.items()
        }

    def states(self) -> dict[LeaseKey, LeaseState]:
        """Those, and one that another node holds."""
        keys = [*self.held(), LeaseKey("sip", "theirs")]
        return {key: LeaseState(key, "kvctl/x", key in self.held(), None, 3, None) for key in keys}


def test_leases_are_told_with_the_age_of_the_oldest_renewal() -> None:
    scrape = Scrape()
    leases = scrape.metrics.leases
    electors = Electors(one=scrape.time - 2.5, two=scrape.time - 1.0)
    assert "kvctl_lease_held" not in scrape.metrics.render().decode()
    leases.serve(electors)
    values = scrape.values()
    held = {
        name: values["kvctl_lease_held", ("lease", name), ("namespace", "sip")] for name in ("one", "theirs")
    }
    assert held == {"one": 1, "theirs": 0}
    assert values["kvctl_lease_renewal_age_seconds",] == 2.5
    assert values["kvctl_lease_changes_total", ("change", "gained")] == 2
    electors.sent = {"three": scrape.time}
    scrape.metrics.round(round_with(service(), pod()))
    electors.sent = {}
    leases.probed({VIP: "02:00:00:00:00:01"})
    values = scrape.values()
    assert values["kvctl_lease_changes_total", ("change", "gained")] == 3
    assert values["kvctl_lease_changes_total", ("change", "lost")] == 3
    assert values["kvctl_lease_renewal_age_seconds",] == 0
    assert values["kvctl_probes_answered_total",] == 1


def test_vips_that_are_bound_are_counted_and_none_where_the_kernel_does_not_tell() -> None:
    def fails() -> list[Bound]:
        raise NetlinkError("no", errno=1)

    mine = Bound(VIP, "eth1", 7, Mark.PROTO)
    for addresses, said in ((lambda: [mine], "kvctl_vips_bound 1.0"), (fails, None)):
        collector = LeaseCollector(clock=lambda: 0.0, addresses=addresses)
        collector.serve(Electors())
        registry = CollectorRegistry()
        registry.register(collector)
        text = generate_latest(registry).decode()
        assert ("kvctl_vips_bound" in text) == (said is not None)
        assert said is None or said in text
