"""Whatever is done to kvctl's rules is seen by a look, and mended by apply."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvctl.model.net import Family
from kvctl.policy import layout
from tests.builders import objects, pod, ref, service
from tests.conftest import MakeNamespace
from tests.robustness.node import Node

SERVICES = objects(
    service(ports="udp:5060,tcp:8000-8100"),
    pod(),
    pod("sip/sip-client-1", "10.0.0.2"),
    service(
        "web/shop", vip="192.168.0.246", allowed="203.0.113.0/24", ports="tcp:443", denied="203.0.113.9/32"
    ),
    pod("web/shop-0", "10.0.0.3"),
)
CHAIN = layout.service_chain(ref("sip/sip-client"))
BEHIND = "KVCTL-TO-0.0.0.0-0"
"""What is behind the gates of the few pods."""


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    return Node(make_namespace(), backend=backend)


def _rules(node: Node, chain: str) -> list[str]:
    lines = node.iptables("-S", chain).splitlines()
    return [line.removeprefix(f"-A {chain} ") for line in lines if line.startswith("-A ")]


def _restore(node: Node, *lines: str) -> None:
    node.restore("\n".join(("*nat", *lines, "COMMIT", "")))


def _flush_the_table(node: Node) -> None:
    node.iptables("-F")


def _flush_everything(node: Node) -> None:
    if node.backend == "nft":
        node.run("nft", "flush", "ruleset")
    else:
        node.iptables("-F")
        node.iptables("-X")


def _delete_one_rule(node: Node) -> None:
    node.iptables("-D", CHAIN, "1")


def _replace_by_one_with_the_same_comment(node: Node) -> None:
    text = _rules(node, CHAIN)[0]
    _restore(node, f"-R {CHAIN} 1 {text.replace('192.168.0.245', '192.168.0.99')}")


def _replace_the_ports_under_the_same_comment(node: Node) -> None:
    texts = _rules(node, CHAIN)
    number = next(i for i, text in enumerate(texts, start=1) if "5060" in text)
    _restore(node, f"-R {CHAIN} {number} {texts[number - 1].replace('5060', '5061')}")


def _remove_an_exclusion(node: Node) -> None:
    node.iptables("-D", BEHIND, "1")


def _remove_a_jump(node: Node) -> None:
    node.iptables("-D", BEHIND, str(len(_rules(node, BEHIND))))


def _remove_a_gate(node: Node) -> None:
    node.iptables("-D", "KVCTL-EGRESS", "1")


def _lead_a_gate_elsewhere(node: Node) -> None:
    text = _rules(node, "KVCTL-EGRESS")[0]
    _restore(node, f"-R KVCTL-EGRESS 1 {text.replace(BEHIND, CHAIN)}")


def _flush_the_gates(node: Node) -> None:
    node.iptables("-F", "KVCTL-EGRESS")


def _repeat_the_hook(node: Node) -> None:
    _restore(node, f"-A POSTROUTING {_rules(node, 'POSTROUTING')[0]}")


def _remove_the_hook(node: Node) -> None:
    node.iptables("-D", "POSTROUTING", "1")


def _narrow_the_hook(node: Node) -> None:
    _restore(node, f"-R POSTROUTING 1 -s 10.9.0.0/16 {_rules(node, 'POSTROUTING')[0]}")


def _reorder(node: Node) -> None:
    last = _rules(node, BEHIND)[-1]
    _restore(node, f"-D {BEHIND} {last}", f"-I {BEHIND} 1 {last}")


def _reorder_the_gates(node: Node) -> None:
    last = _rules(node, "KVCTL-EGRESS")[-1]
    _restore(node, f"-D KVCTL-EGRESS {last}", f"-I KVCTL-EGRESS 1 {last}")


def _repeat_a_rule_at_the_end(node: Node) -> None:
    _restore(node, f"-A {BEHIND} {_rules(node, BEHIND)[0]}")


def _repeat_a_gate_at_the_end(node: Node) -> None:
    _restore(node, f"-A KVCTL-EGRESS {_rules(node, 'KVCTL-EGRESS')[0]}")


def _add_an_untagged_rule(node: Node) -> None:
    node.iptables("-I", CHAIN, "1", "-d", "203.0.113.7", "-j", "RETURN")


def _add_a_strange_rule_under_our_comment(node: Node) -> None:
    text = _rules(node, CHAIN)[0]
    _restore(node, f"-A {CHAIN} -m statistic --mode random --probability 0.5 {text}")


def _add_a_chain(node: Node) -> None:
    node.iptables("-N", "KVCTL-SVC-LEFTOVER")


def _masquerade_above(node: Node) -> None:
    node.iptables("-I", "POSTROUTING", "1", "-s", "10.0.0.0/16", "-j", "MASQUERADE")


def _jump_above_untagged(node: Node) -> None:
    node.iptables("-I", "POSTROUTING", "1", "-j", "KVCTL-EGRESS")


DAMAGES: tuple[Callable[[Node], None], ...] = (
    _flush_the_table,
    _flush_everything,
    _delete_one_rule,
    _replace_by_one_with_the_same_comment,
    _replace_the_ports_under_the_same_comment,
    _remove_an_exclusion,
    _remove_a_jump,
    _remove_a_gate,
    _lead_a_gate_elsewhere,
    _flush_the_gates,
    _repeat_the_hook,
    _remove_the_hook,
    _narrow_the_hook,
    _reorder,
    _reorder_the_gates,
    _repeat_a_rule_at_the_end,
    _repeat_a_gate_at_the_end,
    _add_an_untagged_rule,
    _add_a_strange_rule_under_our_comment,
    _add_a_chain,
    _masquerade_above,
    _jump_above_untagged,
)
# With all its rules gone there is nothing that a look at the kernel alone could show.
_INVISIBLE = (_flush_the_table, _flush_everything)
_NOBODYS = (_add_a_chain,)
# Without the source nobody knows that the pod should be there.
_UNKNOWN = (_remove_a_jump,)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_damage_is_seen_and_mended(node: Node, damage: Callable[[Node], None]) -> None:
    node.apply(SERVICES)
    right = _ours(node)
    damage(node)

    assert node.diff(SERVICES).differs
    if damage in _INVISIBLE:
        assert node.items() == []
    elif damage in _UNKNOWN:
        assert any(each.changes for each in node.diff(SERVICES).items)
    elif damage not in _NOBODYS:
        assert "drifted" in node.statuses()

    applied = node.apply(SERVICES)
    assert applied.restores >= 1
    assert not node.diff(SERVICES).differs
    assert node.statuses() == {"applied"}
    assert _ours(node) == right
    assert node.apply(SERVICES).restores == 0


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_flush_removes_damaged_rules_too(node: Node, damage: Callable[[Node], None]) -> None:
    node.apply(SERVICES)
    damage(node)
    node.flush()
    left = [line for line in node.save().splitlines() if "KVCTL" in line or "kvctl" in line]
    if damage is _jump_above_untagged:  # not ours to remove, and a chain that is led to cannot go
        assert left == [":KVCTL-EGRESS -", "-A POSTROUTING -j KVCTL-EGRESS"]
    else:
        assert left == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_damage_is_mended_at_one_stroke(node: Node, damage: Callable[[Node], None]) -> None:
    """Else a packet could meet what is neither the old nor the new."""
    node.apply(SERVICES)
    damage(node)
    # A VIP that somebody smuggled in retires as any other: once its connections are gone its mark goes.
    expected = 2 if damage is _replace_by_one_with_the_same_comment else 1
    assert node.apply(SERVICES).restores == expected


@pytest.mark.parametrize("chain", ["KVCTL-EGRESS", BEHIND])
def test_a_rule_that_somebody_copied_to_the_tail_is_not_taken_from_the_head(node: Node, chain: str) -> None:
    node.apply(SERVICES)
    before = _rules(node, chain)
    _restore(node, f"-A {chain} {before[0]}")
    assert node.apply(SERVICES).restores == 1
    assert _rules(node, chain) == before


@pytest.mark.parametrize("prefix", [layout.REWRITING.branch, layout.REWRITING.gated])
def test_a_rule_that_is_missing_in_one_leaf_or_behind_it_is_seen_and_mended(
    node: Node, family: Family, prefix: str
) -> None:
    base = "10.0.0." if family is Family.IPV4 else "fd00:10::"
    vip = "192.168.0.245" if family is Family.IPV4 else "2001:db8:1::245"
    many = objects(service(vip=vip), *(pod(f"sip/sip-client-{n}", f"{base}{n * 3 + 1}") for n in range(40)))
    node.apply(many)
    right = node.save(family=family)
    leaf = [line.split()[0][1:] for line in right.splitlines() if line.startswith(f":{prefix}")][-1]
    node.iptables("-D", leaf, "2", family=family)
    assert node.statuses() == {"drifted"}
    assert node.diff(many).differs
    node.apply(many)
    assert node.save(family=family) == right


def _ours(node: Node) -> list[str]:
    return [
        line
        for line in node.save().splitlines()
        if "KVCTL-" in line and line != "-A POSTROUTING -j KVCTL-EGRESS"
    ]
