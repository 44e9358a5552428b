"""What becomes of Services that have rules already, decided without a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kvctl.errors import KvctlError
from kvctl.model.net import Family, parse_address
from kvctl.model.objects import Objects, Service
from kvctl.model.settings import Settings
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.netfilter.savetext import parse_tables, snapshot_of
from kvctl.policy.compile import compile_ruleset
from kvctl.policy.decode import Installed, decode
from kvctl.policy.resolve import resolve
from kvctl.reconcile.target import Scope, Target
from kvctl.reconcile.wish import build_target
from tests.builders import DUAL_STACK, node, objects, pod, ref, service, settings

NAME = ref("sip/sip-client")
EVERYTHING = Scope()
PRUNE = Scope(prune=True)


def installed(source: Objects, its: Settings, family: Family = Family.IPV4) -> Installed:
    """What an earlier apply of `source` left in the kernel."""
    resolution = resolve(source, its, host=None)
    ruleset = compile_ruleset(
        family=family, policies=resolution.policies(family), exclusions=resolution.networks.exclusions[family]
    )
    text = restore_text(diff(ruleset, Snapshot(family=family)))
    return decode(snapshot_of(parse_tables(text.replace("-I POSTROUTING 1 ", "-A POSTROUTING ")), family))


def target(
    before: Objects,
    now: Objects,
    *,
    scope: Scope = EVERYTHING,
    then: Settings | None = None,
    its: Settings | None = None,
    family: Family = Family.IPV4,
) -> Target:
    its = its or settings()
    return build_target(
        resolve(now, its, host=None),
        installed(before, then or its, family),
        scope=scope,
        settings=its,
        host=None,
    )


def addresses(it: Target) -> list[str]:
    return sorted(str(entry.address) for entry in it.entries)


GOOD = objects(service(), pod())


@pytest.mark.parametrize(
    "now",
    [
        objects(service(egress=False), pod()),
        objects(service(type="ClusterIP"), pod()),
        objects(service(policy="Cluster"), pod()),
        objects(service(vip=None), pod()),
        objects(service()),
        objects(service(annotations={"kube-vip.io/ignore": "true"}), pod()),
        objects(service(), pod(), service("a/older", created=1)),
        objects(service(ports="udp:0", policy="Cluster"), pod()),
        objects(
            service(),
            pod(),
            service("sip/older", vip="192.168.0.9", created=1, selector={"app": "sip-client"}),
        ),
    ],
    ids=[
        "asks no more",
        "type",
        "policy",
        "no VIP",
        "no pod",
        "ignored",
        "claim lost",
        "state and error",
        "shadowed",
    ],
)
def test_a_service_that_cannot_be_programmed_as_things_are_loses_its_rules(now: Objects) -> None:
    it = target(GOOD, now)
    assert list(it.lost) == [NAME]
    assert it.lost[NAME]
    assert NAME not in it.held


@pytest.mark.parametrize(
    "now",
    [
        objects(service(ports="udp:0"), pod()),
        objects(service(annotations={"kube-vip.io/egress": "yes"}, egress=False), pod()),
        objects(service(vip="127.0.0.1"), pod()),
        objects(service(vip=None, annotations={"kube-vip.io/loadbalancerIPs": "x"}), pod()),
        objects(service(cluster_ips=["172.20.0.1"]), pod()),
    ],
    ids=["ports", "switch", "VIP", "annotated VIP", "clusterIP"],
)
def test_an_invalid_value_leaves_the_rules_as_they_are(now: Objects) -> None:
    it = target(GOOD, now)
    assert list(it.kept) == [NAME]
    assert it.held == {NAME}
    assert addresses(it) == ["10.0.0.1"]


def test_kept_rules_follow_the_pods_of_today() -> None:
    before = objects(
        service(), pod(), pod("sip/sip-client-1", "10.0.0.2"), pod("sip/sip-client-2", "10.0.0.3")
    )
    now = objects(
        service(ports="x"),
        pod("sip/sip-client-1", "10.0.0.2"),
        pod("evil/b-0", "10.0.0.3"),
        pod("sip/sip-client-9", "10.0.0.9"),
        pod("sip/sip-client-8", "10.244.0.9"),
    )
    assert addresses(target(before, now)) == ["10.0.0.2", "10.0.0.9"]


def test_kept_rules_end_where_another_tenant_takes_the_vip() -> None:
    now = objects(service(ports="x", created=9), pod(), service("a/a", created=1))
    assert "claimed by Service a/a" in target(GOOD, now).lost[NAME]


def test_kept_rules_end_where_the_vip_becomes_a_nodes_address() -> None:
    now = objects(service(ports="x"), pod(), node("n", "192.168.0.245"))
    assert "is an address of Node n" in target(GOOD, now).lost[NAME]


def test_a_faulty_address_of_one_family_keeps_the_rules_of_that_family() -> None:
    before = objects(
        service(vip=["192.168.0.245", "fd00:1::1"]), pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")
    )
    for vip in ("127.0.0.1", "nonsense"):
        now = objects(service(vip=[vip, "fd00:1::1"]), *before.pods)
        for family in Family:
            it = target(before, now, its=DUAL_STACK, family=family)
            assert (set(it.kept), it.lost) == ({NAME}, {})


def test_a_family_without_a_vip_any_more_loses_its_rules() -> None:
    before = objects(
        service(vip=["192.168.0.245", "fd00:1::1"]), pod("sip/sip-client-0", "10.0.0.1", "fd00:10::1")
    )
    now = objects(service(vip="192.168.0.245"), *before.pods)
    it = target(before, now, its=DUAL_STACK, family=Family.IPV6)
    assert it.lost == {NAME: "the Service has no ipv6 VIP any more"}


class TestAbsent:
    """A Service that the source does not have."""

    def test_it_stays_as_an_orphan_unless_pruned(self) -> None:
        it = target(GOOD, objects())
        assert it.orphans == it.held == {NAME}
        assert addresses(it) == ["10.0.0.1"]
        assert target(GOOD, objects(), scope=PRUNE).lost == {NAME: "not in the source (--prune)"}

    def test_it_does_not_keep_the_address_of_another_tenants_pod(self) -> None:
        assert addresses(target(GOOD, objects(pod("evil/b-0", "10.0.0.1")))) == []


class TestExcludedNetworks:
    """What is excluded while rules from before stay."""

    WIDER = settings(exclude_cidrs=["192.168.9.0/24"])

    def networks(self, it: Target) -> Sequence[str]:
        return [str(exclusion.network) for exclusion in it.exclusions]

    def test_none_is_taken_away_while_a_service_keeps_its_rules(self) -> None:
        it = target(GOOD, objects(service(ports="x"), pod()), then=self.WIDER)
        assert "192.168.9.0/24" in self.networks(it)
        it = target(GOOD, objects(service(ports="x"), pod()), its=self.WIDER, then=settings())
        assert "192.168.9.0/24" in self.networks(it)

    def test_they_follow_the_settings_once_all_is_well(self) -> None:
        assert "192.168.9.0/24" not in self.networks(target(GOOD, GOOD, then=self.WIDER))

    def test_a_run_for_one_service_refuses_to_change_them_for_the_others(self) -> None:
        two: list[Service] = [service(), service("sip/web", vip="192.168.0.9")]
        both = objects(*two, pod(), pod("sip/web-0", "10.0.0.2"))
        one = Scope(named=frozenset({NAME}))
        with pytest.raises(KvctlError, match=r"only in the kernel: 192\.168\.9\.0/24") as raised:
            target(both, both, scope=one, then=self.WIDER)
        assert raised.value.hint
        with pytest.raises(KvctlError, match=r"only wanted: 192\.168\.9\.0/24"):
            target(both, both, scope=one, its=self.WIDER, then=settings())
        it = target(both, both, scope=one)
        assert it.held == {ref("sip/web")}

    def test_a_change_of_node_addresses_alone_never_refuses_and_keeps_what_is_there(self) -> None:
        two: list[Service] = [service(), service("sip/web", vip="192.168.0.9")]
        pods = (pod(), pod("sip/web-0", "10.0.0.2"))
        it = target(
            objects(*two, *pods, node("a", "172.16.0.1")),
            objects(*two, *pods, node("b", "172.16.0.2")),
            scope=Scope(named=frozenset({NAME})),
        )
        assert "172.16.0.1/32" in self.networks(it)
        assert "172.16.0.2/32" not in self.networks(it)


def test_a_run_for_one_service_leaves_the_others_entries_alone() -> None:
    before = objects(service(), service("sip/web", vip="192.168.0.9"), pod(), pod("sip/web-0", "10.0.0.2"))
    now = objects(service(vip="192.168.0.77"), service("sip/web", vip="192.168.0.78"), pod())
    it = target(before, now, scope=Scope(named=frozenset({NAME})))
    assert [policy.vip for policy in it.policies] == [parse_address("192.168.0.77")]
    assert addresses(it) == ["10.0.0.1", "10.0.0.2"]
    assert it.lost == {}
