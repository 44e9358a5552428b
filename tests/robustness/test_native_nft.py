"""Rules that were written with nft itself: inside iptables' own table, and in base chains beside it."""

from __future__ import annotations

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection, probe
from kvctl.model.net import Family
from kvctl.model.objects import Objects
from tests.builders import objects, pod, service
from tests.conftest import MakeLab, MakeNamespace
from tests.robustness.node import IN_LAB, Node

TABLES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def _sip(family: Family, *, vip: str | None = None) -> Objects:
    who = STANDARD[family]
    return objects(service(vip=vip or who.vip, ports="udp:5060"), pod("sip/sip-client-0", who.pod))


def _two(family: Family) -> Objects:
    who = STANDARD[family]
    return objects(
        service(vip=who.vip, ports="udp:5060"),
        pod("sip/sip-client-0", who.pod),
        service("sip/shop", vip=who.vip),
        pod("sip/shop-0", who.peer),
    )


def _kvctls(node: Node, family: Family) -> list[str]:
    """Chains of ours, as nft sees them, with how many rules each has."""
    found = node.run("nft", "list", "ruleset", TABLES[family])
    return [line.split()[1] for line in found.splitlines() if line.strip().startswith("chain KVCTL")]


def _hide(node: Node, family: Family, chain: str) -> None:
    """A rule that iptables cannot print: its whole table has no text from now on."""
    table = TABLES[family]
    node.run(
        "nft",
        "add",
        "rule",
        table,
        "nat",
        chain,
        "meta",
        "mark",
        "{ 0x77, 0x78 }",
        "fib",
        "daddr",
        "type",
        "local",
        "log",
    )
    assert "incompatible" in node.run(f"ip{'6' if family is Family.IPV6 else ''}tables-nft-save", "-t", "nat")


class TestATableWithoutText:
    @pytest.fixture
    def lab(self, make_lab: MakeLab) -> Lab:
        return make_lab(backend="nft")

    @pytest.fixture
    def node(self, lab: Lab) -> Node:
        return Node(lab.worker, settings=IN_LAB)

    @pytest.fixture(params=["POSTROUTING", "PREROUTING"])
    def chain(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    def test_everything_is_right_all_the_same(self, lab: Lab, node: Node, family: Family, chain: str) -> None:
        who = STANDARD[family]
        _hide(node, family, chain)
        with Echo(lab.outside, ports=[5060, 5061]):
            node.apply(_sip(family))
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
            assert seen is not None
            assert seen.source == who.vip
            assert node.statuses() == {"applied"}
            assert not node.diff(_sip(family)).differs
            assert node.apply(_sip(family)).restores == 0
            node.apply(_two(family))
            assert node.statuses() == {"applied"}
            assert {item.service for item in node.items()} == {"sip-client", "shop"}
            node.apply(_sip(family), prune=True)
            assert {item.service for item in node.items()} == {"sip-client"}
            node.flush()
            assert _kvctls(node, family) == []
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
            assert seen is not None
            assert seen.source == who.worker_eth1

    def test_rules_from_before_are_still_seen_mended_and_removed(
        self, node: Node, family: Family, chain: str
    ) -> None:
        node.apply(_two(family))
        before = _kvctls(node, family)
        _hide(node, family, chain)
        assert node.statuses() == {"applied"}
        assert node.apply(_two(family)).restores == 0
        service_chain = next(name for name in before if name.startswith("KVCTL-SVC-"))
        node.iptables("-F", service_chain, family=family)
        assert "drifted" in node.statuses()
        node.apply(_two(family))
        assert node.statuses() == {"applied"}
        node.flush("sip/shop")
        assert {item.service for item in node.items()} == {"sip-client"}
        node.flush()
        assert _kvctls(node, family) == []

    def test_a_new_vip_replaces_the_old_one(self, lab: Lab, node: Node, family: Family, chain: str) -> None:
        who = STANDARD[family]
        node.apply(_sip(family))
        _hide(node, family, chain)
        with (
            Echo(lab.outside, ports=[5060]),
            Connection(lab.pod, destination=who.outside_eth1, port=5060) as flow,
        ):
            before = flow.ask()
            node.apply(_sip(family, vip=who.worker_eth0))
            after = flow.ask()
        assert before is not None
        assert after is not None
        assert (before.source, after.source) == (who.vip, who.worker_eth0)
        assert node.statuses() == {"applied"}

    def test_a_native_rule_in_a_chain_of_ours_is_replaced(self, node: Node, family: Family) -> None:
        node.apply(_sip(family))
        _hide(node, family, "KVCTL-EGRESS")
        assert node.diff(_sip(family)).differs
        node.apply(_sip(family))
        assert not node.diff(_sip(family)).differs
        assert node.statuses() == {"applied"}

    def test_flush_removes_a_chain_of_ours_with_a_native_rule(self, node: Node, family: Family) -> None:
        node.apply(_two(family))
        for chain in _kvctls(node, family):
            _hide(node, family, chain)
        node.flush()
        assert _kvctls(node, family) == []

    def test_without_nft_everything_that_is_made_goes_again(
        self, node: Node, family: Family, chain: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _hide(node, family, chain)
        monkeypatch.setattr("kvctl.netfilter.nft.nft", lambda *words: [])
        node.apply(_two(family))
        assert node.statuses() == {"applied"}
        assert node.apply(_two(family)).restores == 0
        node.apply(_sip(family), prune=True)
        node.flush()
        assert _kvctls(node, family) == []


class TestBaseChainsBeside:
    """What nf_nat calls first decides; of equal priorities that is the chain registered later."""

    @pytest.fixture
    def lab(self, make_lab: MakeLab, backend: str) -> Lab:
        return make_lab(backend=backend)

    @pytest.fixture
    def node(self, lab: Lab, backend: str) -> Node:
        return Node(lab.worker, backend=backend, settings=IN_LAB)

    @staticmethod
    def _native(node: Node, family: Family, *, priority: int, rule: str) -> None:
        node.run(
            "nft",
            "-f",
            "-",
            stdin=f"table {TABLES[family]} theirs {{\n chain post {{\n"
            f"  type nat hook postrouting priority {priority};\n  {rule}\n }}\n}}\n",
        )

    @pytest.mark.parametrize("priority", [-100, 99])
    def test_an_earlier_one_overrides_and_no_connection_is_dropped(
        self, lab: Lab, node: Node, family: Family, priority: int
    ) -> None:
        who = STANDARD[family]
        self._native(node, family, priority=priority, rule="masquerade")
        with (
            Echo(lab.outside, ports=[5060]),
            Connection(lab.pod, destination=who.outside_eth1, port=5060) as flow,
        ):
            before = flow.ask()
            applied = node.apply(_sip(family))
            after = flow.ask()
            assert before == after
            assert before is not None
            assert before.source == who.worker_eth1
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
            assert seen is not None
            assert seen.source == who.worker_eth1
        assert [flow for outcome in applied.outcomes for flow in outcome.dropped] == []
        assert node.statuses() == {"overridden"}
        assert "theirs" in str(node.items()[0].reason)
        assert not node.diff(_sip(family)).differs
        assert node.apply(_sip(family)).restores == 0

    @pytest.mark.parametrize(
        "rule",
        [
            "ip6 saddr fd00:99::/64 masquerade",
            "ip saddr 10.99.0.0/16 masquerade",
            "meta mark 0x99 accept",
            "counter",
        ],
    )
    def test_one_that_leaves_our_pods_alone_does_not(self, node: Node, rule: str) -> None:
        family = Family.IPV6 if rule.startswith("ip6") else Family.IPV4
        self._native(node, family, priority=99, rule=rule)
        node.apply(_sip(family))
        assert node.statuses() == {"applied"}

    def test_a_later_one_does_not(self, lab: Lab, node: Node, family: Family) -> None:
        who = STANDARD[family]
        self._native(node, family, priority=101, rule="masquerade")
        node.apply(_sip(family))
        with Echo(lab.outside, ports=[5060]):
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
        assert seen is not None
        assert seen.source == who.vip
        assert node.statuses() == {"applied"}

    def test_kube_proxys_nft_mode_does_not(self, lab: Lab, node: Node, family: Family) -> None:
        who = STANDARD[family]
        table = f"{TABLES[family]} kube-proxy"
        node.run(
            "nft",
            "-f",
            "-",
            stdin=f"table {table} {{\n"
            " chain masquerading {\n"
            "  meta mark & 0x4000 == 0 return\n"
            "  meta mark set meta mark xor 0x4000\n"
            "  masquerade fully-random\n"
            " }\n"
            " chain nat-postrouting {\n"
            "  type nat hook postrouting priority srcnat;\n"
            "  jump masquerading\n"
            " }\n"
            "}\n",
        )
        node.apply(_sip(family))
        with Echo(lab.outside, ports=[5060]):
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
        assert seen is not None
        assert seen.source == who.vip
        assert node.statuses() == {"applied"}


def test_of_equal_priorities_the_packets_and_the_status_agree(make_lab: MakeLab, family: Family) -> None:
    """Whichever was registered later, in a table beside and in iptables' own."""
    who = STANDARD[family]
    lab = make_lab(backend="nft", masquerade=False)
    node = Node(lab.worker, settings=IN_LAB)
    node.run("nft", "flush", "ruleset")
    for place in ("beside-earlier", "beside-later", "inside"):
        table = TABLES[family]
        name = "nat" if place == "inside" else "theirs"
        theirs = (
            f"table {table} {name} {{\n chain post {{\n"
            "  type nat hook postrouting priority 100;\n  masquerade\n }\n}\n"
        )
        if place == "beside-earlier":
            node.run("nft", "-f", "-", stdin=theirs)
            node.apply(_sip(family))
        else:
            node.apply(_sip(family))
            node.run("nft", "-f", "-", stdin=theirs)
        with Echo(lab.outside, ports=[5060]):
            seen = probe(lab.pod, destination=who.outside_eth1, port=5060)
        assert seen is not None, place
        ours = seen.source == who.vip
        assert (place, node.statuses()) == (place, {"applied"} if ours else {"overridden"})
        assert ours is (place == "beside-earlier")
        node.run("nft", "flush", "ruleset")


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    return Node(make_namespace(), backend=backend)


class TestAForeignRuleThatLeadsToAChainOfOurs:
    def test_flush_empties_the_chain_leaves_it_and_names_the_rule(self, node: Node, family: Family) -> None:
        node.apply(_two(family))
        chain = next(c for c in node.save(family=family).split() if c.startswith(":KVCTL-SVC-"))[1:]
        node.iptables("-N", "THEIRS", family=family)
        node.iptables("-A", "THEIRS", "-j", "KVCTL-EGRESS", family=family)
        node.iptables("-A", "THEIRS", "-p", "tcp", "-g", chain, family=family)
        before = node.foreign()
        flushed = node.flush()
        warnings = [text for outcome in flushed.outcomes for text in outcome.warnings]
        assert len(warnings) == 2
        assert any("KVCTL-EGRESS" in text and "-A THEIRS -j KVCTL-EGRESS" in text for text in warnings)
        assert any(chain in text and f"-A THEIRS -p tcp -g {chain}" in text for text in warnings)
        left = [
            line for line in node.save(family=family).splitlines() if "KVCTL" in line and "THEIRS" not in line
        ]
        assert sorted(left) == sorted([":KVCTL-EGRESS -", f":{chain} -"])
        assert node.foreign() == before
        assert node.items() == []
        node.apply(_two(family))
        assert node.statuses() == {"applied"}

    def test_flush_of_one_service_does_so_where_the_rule_is_in_another_ones_chain(self, node: Node) -> None:
        family = Family.IPV4
        node.apply(_two(family))
        chains = [c[1:] for c in node.save().split() if c.startswith(":KVCTL-SVC-")]
        shop = next(c for c in chains if "sip/shop" in node.iptables("-S", c))
        other = next(c for c in chains if c != shop)
        node.iptables("-A", other, "-p", "sctp", "-j", shop)
        flushed = node.flush("sip/shop")
        warnings = [text for outcome in flushed.outcomes for text in outcome.warnings]
        assert len(warnings) == 1
        assert f"-A {other} -p sctp -j {shop}" in warnings[0]
        assert f":{shop} -" in node.save().splitlines()
        node.apply(_sip(family), prune=True)
        assert f":{shop} -" not in node.save().splitlines()
        assert node.statuses() == {"applied"}


def test_a_refused_restore_tells_the_line_and_changes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.apply(_sip(Family.IPV4))
    before = node.saved()
    monkeypatch.setattr(
        "kvctl.reconcile.converge.restore_text",
        lambda plan, *, order: "*nat\n-A KVCTL-NOWHERE -j RETURN\nCOMMIT\n",
    )
    with pytest.raises(KvctlError, match="refused the ipv4 rules") as caught:
        node.apply(_two(Family.IPV4))
    assert "-A KVCTL-NOWHERE" in str(caught.value.hint)
    assert node.saved() == before
