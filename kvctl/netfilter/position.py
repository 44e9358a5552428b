"""Whether a packet of one of our pods reaches our hook: the first match that is final ends a table's walk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from kvctl.model.net import Network, contains, overlap, parse_network
from kvctl.model.rules import CHAIN_PREFIX, Hook, Table, table_of
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.syntax import tokenize

# iptables-extensions(8): targets after which the walk goes on.
_PASSING_TARGETS = frozenset(
    (
        "LOG",
        "NFLOG",
        "ULOG",
        "MARK",
        "CONNMARK",
        "TRACE",
        "SECMARK",
        "CONNSECMARK",
        "CLASSIFY",
        "AUDIT",
        "SET",
    )
)
# Those that only the mangle table has; and what is dropped there already does not leave with the node's address.
_PASSING_IN_MANGLE = _PASSING_TARGETS | {
    "CHECKSUM",
    "DSCP",
    "ECN",
    "HL",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TTL",
    "DROP",
    "REJECT",
}
# Chains within chains: more than anybody writes, and few enough for our stack.
_DEEPEST = 100
_TARGETS = ("-j", "-g", "--jump", "--goto")
# kube-proxy (pkg/proxy/iptables): the first rule of KUBE-POSTROUTING returns what its own chains have not marked.
_KUBE_POSTROUTING = "KUBE-POSTROUTING"
_UNMARKED_RETURNS = ["-m", "mark", "!", "--mark", "0x4000/0x4000", "-j", "RETURN"]


def is_hook(found: FoundRule, hook: Hook) -> bool:
    """Whether this is our jump in a table, whatever its tag: written by some version of kvctl."""
    rule = found.rule
    return rule is not None and rule.target.chain == hook.root


def rule_in_the_way(snapshot: Snapshot, pods: Sequence[Network], hook: Hook = Hook.EGRESS) -> str | None:
    """The text of the first foreign rule above a hook that may end the walk of a packet of `pods`.

    What cannot be judged counts as in the way. None: there is none, or there is no hook.
    """
    walk = _Walk(snapshot, pods, hook.table)
    for found in snapshot.hook_chain(hook):
        if is_hook(found, hook):
            return None
        if walk.may_end_at(found.text, in_base=True):
            return found.text
    return None


class _Walk:
    """Judges rules and the chains they lead to, each chain once."""

    def __init__(self, snapshot: Snapshot, pods: Sequence[Network], table: Table) -> None:
        self._chains = snapshot.beside(table).foreign
        self._passing = _PASSING_IN_MANGLE if table is Table.MANGLE else _PASSING_TARGETS
        self._pods = pods
        self._verdicts: dict[str, bool] = {}

    def may_end_at(self, text: str, *, in_base: bool, depth: int = 0) -> bool:
        """Whether a packet of the pods may go no further than this rule."""
        words = _without_comment(text)
        if _spares(words, self._pods):
            return False
        option = next((i for i, word in enumerate(words) if word in _TARGETS), None)
        if option is None or option + 1 >= len(words):
            return False
        target = words[option + 1]
        if target in self._passing:
            return False
        if target == "RETURN":
            # From the base chain that is the end of the walk, from a chain that was jumped to it is not.
            return in_base
        if in_base and words[option] in ("-g", "--goto"):
            return True  # the end of that chain is the end of the walk
        return self._may_end_in(target, depth=depth + 1)

    def _may_end_in(self, chain: str, *, depth: int) -> bool:
        rules = self._chains.get(chain)
        if rules is None or depth > _DEEPEST:
            return True
        if chain not in self._verdicts:
            self._verdicts[chain] = True  # should it lead back to itself
            unmarked_return = bool(rules) and _without_comment(rules[0]) == _UNMARKED_RETURNS
            self._verdicts[chain] = not (chain == _KUBE_POSTROUTING and unmarked_return) and any(
                self.may_end_at(rule, in_base=False, depth=depth) for rule in rules
            )
        return self._verdicts[chain]


def _spares(words: list[str], pods: Sequence[Network]) -> bool:
    """Whether the rule's source address rules out every pod."""
    for index, word in enumerate(words[:-1]):
        if word not in ("-s", "--source"):
            continue
        try:
            network = parse_network(words[index + 1])
        except ValueError:
            return False
        if index > 0 and words[index - 1] == "!":
            return all(contains(network, pod) for pod in pods)
        return not any(overlap(network, pod) for pod in pods)
    return False


def _without_comment(text: str) -> list[str]:
    """The words of a rule but for `-m comment --comment TEXT`, whose text may look like anything."""
    words = tokenize(text)
    while "--comment" in words:
        at = words.index("--comment")
        words = [*words[: max(at - 2, 0)], *words[at + 2 :]]
    return words


def referrers(snapshot: Snapshot, *, staying: Collection[str] = ()) -> dict[str, str]:
    """Chains of ours that a rule which is not ours to change leads to, each with that rule as text.

    These are the foreign rules of the tables, and what is in chains of ours that are `staying` as they are.
    """
    result: dict[str, str] = {}
    for table in Table:
        beside = snapshot.beside(table)
        hooks = {
            (hook.chain, found.text)
            for hook in Hook
            if hook.table is table
            for found in snapshot.hook_chain(hook)
            if is_hook(found, hook)
        }
        kept = {
            name: [found.text for found in snapshot.chains[name]]
            for name in staying
            if name in snapshot.chains and table_of(name) is table
        }
        for name, rules in (*beside.foreign.items(), *kept.items()):
            for text in rules:
                if CHAIN_PREFIX not in text or (name, text) in hooks:
                    continue
                for target in _own_targets(text, snapshot, table):
                    result.setdefault(target, f"-A {name} {text}")
    return result


def _own_targets(text: str, snapshot: Snapshot, table: Table) -> list[str]:
    """The chains of ours in this table that a rule leads to."""
    return [
        target
        for option, target in pairwise(_without_comment(text))
        if option in _TARGETS and target in snapshot.chains and table_of(target) is table
    ]
