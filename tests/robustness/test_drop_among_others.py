"""What kvctl writes to mangle, among other programs' rules: seen when damaged, mended, removed; theirs left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvctl.model.net import Family
from kvctl.policy import layout
from tests.builders import DUAL_STACK, objects, pod, ref, service
from tests.conftest import MakeNamespace
from tests.robustness.node import Node

DROP = {"kvctl.io/without-vip": "drop"}
CHAIN = layout.DROPPING.service_chain(ref("sip/sip-client"))
APP = {"app": "sip-client"}
# 192.0.2.1 is on `here`'s interface, no other VIP is.
HERE = "192.0.2.1"
WANTED = objects(
    service(ports="udp:5060", denied="203.0.113.9/32", annotations=DROP),
    service("sip/here", vip=HERE, ports="udp:7000", created=1, selector=APP),
    pod(),
    pod("sip/sip-client-1", "10.0.0.2"),
)
FOREIGN = """\
*mangle
:THEIRS - [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A POSTROUTING -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
-A POSTROUTING -j THEIRS
-A THEIRS -s 172.17.0.0/16 -j ACCEPT
-A THEIRS -m comment --comment "KVCTL-DROP \\"quoted\\"" -j MARK --set-xmark 0x10/0x10
COMMIT
"""


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    namespace = make_namespace()
    # lo does not make it a holder: a pair of its own does.
    namespace.batch(
        ["link add here type veth peer name there", "link set here up", f"addr add {HERE}/32 dev here"]
    )
    return Node(namespace, backend=backend, settings=DUAL_STACK)


def _mangle(node: Node, *arguments: str) -> None:
    node.iptables(*arguments, table="mangle")


def _rules(node: Node, chain: str) -> list[str]:
    lines = node.iptables("-S", chain, table="mangle").splitlines()
    return [line.removeprefix(f"-A {chain} ") for line in lines if line.startswith("-A ")]


def _restore(node: Node, line: str) -> None:
    node.restore(f"*mangle\n{line}\nCOMMIT\n")


def _flush_the_table(node: Node) -> None:
    _mangle(node, "-F")


def _delete_a_rule(node: Node) -> None:
    _mangle(node, "-D", CHAIN, "2")


def _change_the_ports(node: Node) -> None:
    _restore(node, f"-R {CHAIN} 2 {_rules(node, CHAIN)[1].replace('5060', '5061')}")


def _add_an_untagged_rule(node: Node) -> None:
    _mangle(node, "-I", CHAIN, "1", "-j", "RETURN")


def _let_others_pass(node: Node) -> None:
    name = next(line.split()[0][1:] for line in node.save().splitlines() if line.startswith(":KVCTL-DPASS-"))
    _mangle(node, "-I", name, "1", "-p", "udp", "-j", "RETURN")


def _remove_the_hook(node: Node) -> None:
    _mangle(node, "-D", "POSTROUTING", "1")


def _let_the_hook_take_replies(node: Node) -> None:
    _restore(
        node,
        f"-R POSTROUTING 1 {_rules(node, 'POSTROUTING')[0].replace('-m conntrack --ctdir ORIGINAL ', '')}",
    )


def _remove_an_exclusion(node: Node) -> None:
    _mangle(node, "-D", "KVCTL-DTO-0.0.0.0-0", "1")


def _remove_a_gate(node: Node) -> None:
    _mangle(node, "-D", "KVCTL-DROP", "1")


def _accept_above(node: Node) -> None:
    _mangle(node, "-I", "POSTROUTING", "1", "-s", "10.0.0.0/16", "-j", "ACCEPT")


def _add_a_chain(node: Node) -> None:
    _mangle(node, "-N", "KVCTL-DPASS-LEFTOVER")


DAMAGES: tuple[Callable[[Node], None], ...] = (
    _flush_the_table,
    _delete_a_rule,
    _change_the_ports,
    _add_an_untagged_rule,
    _let_others_pass,
    _remove_the_hook,
    _let_the_hook_take_replies,
    _remove_an_exclusion,
    _remove_a_gate,
    _accept_above,
    _add_a_chain,
)


def _ours(node: Node) -> list[str]:
    return [line for line in node.save().splitlines() if "KVCTL" in line]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_damage_is_seen_mended_at_one_stroke_and_removed(node: Node, damage: Callable[[Node], None]) -> None:
    node.apply(WANTED)
    assert node.statuses() == {"applied", "elsewhere"}
    right = _ours(node)
    damage(node)
    assert node.diff(WANTED).differs
    if damage not in (_flush_the_table, _add_a_chain, _let_others_pass):
        assert "drifted" in node.statuses()
    if damage is not _add_a_chain:
        named = [item for item in node.diff(WANTED).items if item.changes]
        assert {(str(item.ref), str(change.table)) for item in named for change in item.changes or ()} == {
            ("sip/sip-client", "mangle")
        }
    # New rules of a Service drop beside the old ones for a moment; else one write does it.
    assert node.apply(WANTED).restores in (1, 2)
    assert _ours(node) == right
    assert node.apply(WANTED).restores == 0
    damage(node)
    node.flush()
    assert _ours(node) == []


def test_rules_of_others_keep_bytes_order_and_counters(node: Node) -> None:
    for family in Family:
        text = FOREIGN if family is Family.IPV4 else FOREIGN.replace("172.17.0.0/16", "2001:db8:17::/64")
        node.restore(text, family=family)
    before = [line for text in node.foreign().values() for line in text.splitlines() if "-A " in line]
    assert len(before) >= 10
    more = objects(*WANTED.services, *WANTED.pods[:1])
    steps: tuple[Callable[[], object], ...] = (
        lambda: node.apply(WANTED),
        lambda: node.apply(more),
        lambda: node.apply(WANTED, "sip/sip-client"),
        lambda: node.flush("sip/here"),
        lambda: node.apply(WANTED),
        node.items,
        node.flush,
    )
    for step in steps:
        step()
        after = [line for text in node.foreign().values() for line in text.splitlines() if "-A " in line]
        assert after == before


def test_a_rule_of_others_that_leads_to_us_keeps_our_chain_empty(node: Node) -> None:
    node.apply(WANTED)
    _mangle(node, "-A", "POSTROUTING", "-j", CHAIN)
    warnings = [text for outcome in node.flush().outcomes for text in outcome.warnings]
    assert len(warnings) == 1
    assert f"-A POSTROUTING -j {CHAIN}" in warnings[0]
    assert [line for line in _ours(node) if line.startswith(":")] == [f":{CHAIN} -"]
    _mangle(node, "-D", "POSTROUTING", "-j", CHAIN)
    node.flush()
    assert _ours(node) == []


def test_chains_of_our_names_in_the_wrong_table_are_not_ours(node: Node) -> None:
    _mangle(node, "-N", "KVCTL-EGRESS")
    node.iptables("-N", CHAIN)
    node.apply(WANTED)
    assert node.apply(WANTED).restores == 0
    node.flush()
    assert _ours(node) == [f":{CHAIN} -", ":KVCTL-EGRESS -"] or _ours(node) == [
        ":KVCTL-EGRESS -",
        f":{CHAIN} -",
    ]


def test_neither_looking_nor_writing_makes_a_table_that_is_not_needed(node: Node) -> None:
    here = objects(service("sip/here", vip=HERE, annotations=DROP, selector=APP), pod())
    node.diff(WANTED)
    node.items()
    assert "*mangle" not in node.save()
    node.apply(here)
    assert "*mangle" not in node.save()
    node.flush()
    assert "*mangle" not in node.save()


@pytest.mark.parametrize("chain", ["POSTROUTING", "FORWARD"])
def test_native_rules_that_hide_the_table_are_no_obstacle(make_namespace: MakeNamespace, chain: str) -> None:
    node = Node(make_namespace(), backend="nft", settings=DUAL_STACK)
    _mangle(node, "-A", chain, "-j", "LOG")
    words = f"add rule ip mangle {chain} meta mark {{ 0x77, 0x78 }} fib daddr type local log"
    node.run("nft", *words.split())
    before = node.run("nft", "list", "chain", "ip", "mangle", chain)
    wanted = objects(service(ports="udp:5060", annotations=DROP), pod())
    node.apply(wanted)
    assert node.statuses() == {"elsewhere"}
    assert not node.diff(wanted).differs
    assert node.apply(wanted).restores == 0
    _mangle(node, "-F", CHAIN)
    assert node.diff(wanted).differs
    node.apply(wanted)
    assert not node.diff(wanted).differs
    node.flush()
    assert "KVCTL" not in node.run("nft", "list", "ruleset", "ip")
    assert node.run("nft", "list", "chain", "ip", "mangle", chain) == before
