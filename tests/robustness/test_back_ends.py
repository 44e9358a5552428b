"""Rules in the back end that is not in use, and hosts that lack one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import BACKENDS, STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from kvctl.netfilter import binaries
from kvctl.netfilter.binaries import Backend
from kvctl.reconcile.look import look
from tests.builders import DUAL_STACK, objects, pod, service
from tests.conftest import MakeLab, MakeNamespace
from tests.robustness.node import IN_LAB, Node

V4, V6 = STANDARD[Family.IPV4], STANDARD[Family.IPV6]
SIP = service(vip=(V4.vip, V6.vip), ports="udp:5060")
SHOP = service("sip/shop", vip=V4.vip, ports="tcp:443")
PODS = (pod("sip/sip-client-0", V4.pod, V6.pod), pod("sip/shop-0", V4.peer))
BOTH = objects(SIP, SHOP, *PODS)


def _other(backend: str) -> str:
    return "legacy" if backend == "nft" else "nft"


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    return Node(make_namespace(), backend=backend)


@pytest.fixture
def before(node: Node) -> Node:
    """kvctl as it ran until now, with the other back end."""
    found = Node(node.namespace, backend=_other(str(node.backend)))
    found.apply(BOTH)
    return found


class TestMovingOver:
    def test_apply_moves_everything(self, node: Node, before: Node, family: Family) -> None:
        right = before.save(family=family)
        assert node.statuses() == {"orphaned"}
        assert node.diff(BOTH).differs
        node.apply(BOTH)
        assert node.save(family=family) == right
        assert "KVCTL" not in before.save(family=family)
        assert node.statuses() == {"applied"}
        assert not node.diff(BOTH).differs
        assert node.apply(BOTH).restores == 0

    def test_services_that_the_source_does_not_have_move_too(self, node: Node, before: Node) -> None:
        right = before.save()
        node.apply(objects(SIP, PODS[0]))
        assert node.save() == right
        assert "KVCTL" not in before.save()

    def test_a_single_service_moves_alone(self, node: Node, before: Node) -> None:
        node.apply(BOTH, "sip/shop")
        assert node.save().count("-j SNAT") == 1
        assert before.save().count("-j SNAT") == 1
        node.apply(BOTH)
        assert node.save().count("-j SNAT") == 2
        assert "KVCTL" not in before.save()

    def test_pruning_does_not_move_what_goes(self, node: Node, before: Node) -> None:
        node.apply(objects(SIP, *PODS), prune=True)
        assert {item.service for item in node.items()} == {"sip-client"}
        assert node.statuses() == {"applied"}
        assert "KVCTL" not in before.save()

    def test_flush_empties_both(self, node: Node, before: Node) -> None:
        node.apply(BOTH, "sip/shop")
        assert "KVCTL" in before.save()
        assert "KVCTL" in node.save()
        node.flush()
        assert all("KVCTL" not in text for text in node.saved().values())

    def test_flush_of_one_service_takes_it_from_both(self, node: Node, before: Node) -> None:
        node.flush("sip/sip-client")
        assert {item.service for item in node.items()} == {"shop"}


def test_flows_keep_the_vip_while_rules_move(make_lab: MakeLab, backend: str, family: Family) -> None:
    lab: Lab = make_lab(backend=backend)
    who = STANDARD[family]
    node = Node(lab.worker, backend=backend, settings=IN_LAB)
    Node(lab.worker, backend=_other(backend), settings=IN_LAB).apply(BOTH)
    with (
        Echo(lab.outside, ports=[5060]),
        Connection(lab.pod, destination=who.outside_eth1, port=5060) as flow,
    ):
        first = flow.ask()
        applied = node.apply(BOTH)
        assert flow.ask() == first
        assert first is not None
        fresh = probe(lab.pod, destination=who.outside_eth1, port=5060)
        assert fresh is not None
        assert fresh.source == first.source
        # Where a masquerade was registered before kvctl's rules in the other back end, it may have won there.
        assert first.source == who.vip
    assert [flow for outcome in applied.outcomes for flow in outcome.dropped] == []


class TestForeignRulesInTheOtherBackEnd:
    def test_get_one_warning_and_stay(self, node: Node) -> None:
        other = _other(str(node.backend))
        for family in Family:
            network = STANDARD[family].pod_network
            for port in ("80", "443"):
                node.restore(
                    f"*nat\n-A POSTROUTING -s {network} -p tcp --dport {port} -j MASQUERADE\nCOMMIT\n",
                    backend=other,
                    family=family,
                )
        foreign = node.save(backend=other)
        node.apply(BOTH)
        with node.namespace.entered():
            warnings = look(told=node.backend == "nft").warnings
        assert len(warnings) == 1
        assert other in warnings[0]
        assert node.save(backend=other) == foreign
        node.flush()
        assert node.save(backend=other) == foreign

    def test_are_not_mentioned_where_they_translate_nothing(self, node: Node) -> None:
        node.restore("*filter\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n", backend=_other(str(node.backend)))
        with node.namespace.entered():
            assert look(told=node.backend == "nft").warnings == ()


class TestTheChoice:
    def _chosen(self, node: Node) -> str:
        with node.namespace.entered():
            return str(look(told=None).choice.backend)

    def test_our_own_chains_decide(self, node: Node) -> None:
        node.apply(BOTH)
        assert self._chosen(node) == node.backend

    def test_kubelets_hint_comes_first(self, node: Node) -> None:
        node.apply(BOTH)
        other = _other(str(node.backend))
        node.restore("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n", backend=other, family=Family.IPV6)
        assert self._chosen(node) == other

    def test_who_alone_has_rules_has_it(self, node: Node) -> None:
        node.restore("*filter\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n")
        assert self._chosen(node) == node.backend

    def test_what_is_told_comes_before_everything(self, node: Node) -> None:
        other = _other(str(node.backend))
        node.restore("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n")
        with node.namespace.entered():
            assert str(look(told=other == "nft").choice.backend) == other


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH with nothing but what the test links into this directory."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(proc, "_SBIN", ())
    monkeypatch.setattr(binaries, "_versions", {})
    proc.find.cache_clear()
    yield tmp_path
    proc.find.cache_clear()


_REAL = {
    name: path
    for backend in BACKENDS
    for stem in ("iptables", "ip6tables")
    for role in ("", "-save", "-restore")
    for name in (f"{stem}-{backend}{role}",)
    if (path := proc.find(name)) is not None
}


def _link(directory: Path, *names: str) -> None:
    for name in names:
        # A symbolic link is looked up by its own name: the multi-call binary tells by it what it is.
        (directory / name).symlink_to(os.path.realpath(_REAL[name]))


def _all(backend: str, stem: str = "iptables") -> list[str]:
    return [f"{stem}-{backend}{role}" for role in ("", "-save", "-restore")]


class TestHostsThatLackSomething:
    def test_only_one_back_end_is_enough(self, node: Node, only: Path) -> None:
        _link(only, *_all(str(node.backend)), *_all(str(node.backend), "ip6tables"))
        node.apply(BOTH)
        assert node.statuses() == {"applied"}
        with node.namespace.entered():
            found = look(told=None)
        assert str(found.choice.backend) == node.backend
        assert found.warnings == ()

    def test_the_back_end_that_is_not_there_is_an_error(self, node: Node, only: Path) -> None:
        other = _other(str(node.backend))
        _link(only, *_all(other), *_all(other, "ip6tables"))
        with pytest.raises(NetfilterUnavailableError, match=f"iptables-{node.backend}") as caught:
            node.apply(BOTH)
        assert caught.value.exit_status == 4
        assert "iptables" in str(caught.value.hint)

    def test_without_ip6tables_ipv4_works_and_ipv6_is_an_error(self, node: Node, only: Path) -> None:
        _link(only, *_all(str(node.backend)))
        node.apply(objects(SHOP, PODS[1]))
        assert node.statuses() == {"applied"}
        with pytest.raises(NetfilterUnavailableError, match="ip6tables") as caught:
            node.apply(BOTH)
        assert caught.value.exit_status == 4
        assert {item.service for item in node.items()} == {"shop", "sip-client"}
        node.flush()
        assert node.items() == []

    def test_what_cannot_be_dropped_is_an_error_too(self, node: Node, only: Path) -> None:
        _link(only, *_all(str(node.backend)))
        away = replace(node, settings=DUAL_STACK)
        silent = service(vip=(V4.vip, V6.vip), annotations={"kvctl.io/without-vip": "drop"})
        wanted = objects(silent, PODS[0])
        found = {str(item.family): str(item.status) for item in away.diff(wanted).items}
        # Where legacy has no table yet there is nothing to read, so nothing fails before the writing.
        assert found == {"ipv4": "elsewhere", "ipv6": "missing" if node.backend == "nft" else "elsewhere"}
        with pytest.raises(NetfilterUnavailableError, match="ip6tables"):
            away.apply(wanted)
        assert away.statuses() == {"elsewhere"}

    def test_nothing_at_all_is_an_error_that_names_the_package(self, node: Node, only: Path) -> None:
        assert only.is_dir()
        for told in (None, Backend.NFT, Backend.LEGACY):
            with pytest.raises(NetfilterUnavailableError) as caught:
                Node(node.namespace, backend=told and str(told)).items()
            assert "package iptables" in str(caught.value.hint)
