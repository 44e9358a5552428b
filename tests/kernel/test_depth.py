"""How many chains may stand one behind the other: nf_tables refuses more, so no addresses may make more of them."""

from __future__ import annotations

import pytest

from kvctl.lab.build import restore_binary
from kvctl.model.net import Address, Family, parse_network
from kvctl.model.policy import EgressPod, EgressPolicy, PortMatch
from kvctl.model.rules import Hook, Ruleset
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.diff import diff, restore_text
from kvctl.policy import prefixes
from kvctl.policy.compile import compile_ruleset
from kvctl.policy.service_chains import MOST_LINKS, links
from tests.builders import ref
from tests.conftest import MakeNamespace
from tests.policy.test_compile import VIPS, against_the_tree
from tests.robustness.node import Node

# include/net/netfilter/nf_tables.h: NFT_JUMP_STACK_SIZE.
JUMP_STACK = 16


@pytest.fixture
def node(make_namespace: MakeNamespace) -> Node:
    return Node(make_namespace())


def _deepest_walk(ruleset: Ruleset, chain: str) -> int:
    below = {rule.target.chain for rule in ruleset.chains[chain] if rule.target.chain}
    return 1 + max((_deepest_walk(ruleset, each) for each in below), default=0)


def _policy(family: Family, name: str, addresses: list[Address], *, wide: bool) -> EgressPolicy:
    network = parse_network("198.18.0.0/15" if family is Family.IPV4 else "2001:db8:18::/48")
    return EgressPolicy(
        ref=ref(name),
        family=family,
        vip=VIPS[family],
        pods=tuple(EgressPod(address) for address in addresses),
        ports=(PortMatch("udp", 5060, 5060),),
        allowed=(network,) if wide else (),
    )


def _as_deep_as_can_be(family: Family) -> Ruleset:
    """A tree of addresses chosen against it, and as many Services before a dropped one as are let pass."""
    addresses = against_the_tree(family)
    before = [_policy(family, f"a/{n}", addresses, wide=wide) for n, wide in enumerate((True, True, False))]
    assert sum(map(links, before)) == MOST_LINKS
    last = _policy(family, "b/last", addresses, wide=True)
    return compile_ruleset(family=family, policies=before, exclusions=(), dropped=[last])


def _text(ruleset: Ruleset) -> str:
    return restore_text(diff(ruleset, Snapshot(family=ruleset.family)))


def test_the_deepest_tree_there_can_be_is_taken_by_nf_tables(node: Node, family: Family) -> None:
    ruleset = _as_deep_as_can_be(family)
    # And the chain of the hook.
    assert 1 + _deepest_walk(ruleset, Hook.DROP.root) == JUMP_STACK
    node.restore(_text(ruleset), family=family)
    assert "KVCTL-DOUT-" in node.save(family=family)


def test_one_level_more_would_be_refused(node: Node, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MAX_LEVELS", prefixes.MAX_LEVELS + 1)
    ruleset = _as_deep_as_can_be(family)
    assert 1 + _deepest_walk(ruleset, Hook.DROP.root) == JUMP_STACK + 1
    binary = restore_binary(backend="nft", family=family)
    done = node.namespace.run([binary, "--noflush", "-w", "10"], stdin=_text(ruleset))
    assert done.status != 0
    assert "Too many links" in done.stderr
    assert "KVCTL" not in node.save(family=family)
