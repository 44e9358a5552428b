"""Wanted against found: what has to change, and the restore text that changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.rules import HOOK_CHAIN, TABLE, Rule, Ruleset
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.position import is_hook, referrers
from kvctl.netfilter.syntax import is_chain_name, render


class Change(NamedTuple):
    """One rule that comes or goes."""

    chain: str
    op: str
    """`add`, `remove`, `insert` (at the head of POSTROUTING), `delete-chain` or `flush-chain`."""
    rule: str | None
    """The rule's text; None where the change is about the chain."""
    new_chain: bool = False
    """The chain does not exist yet."""


class ChainWrite(NamedTuple):
    """A chain of ours that is created or replaced whole."""

    chain: str
    rules: tuple[Rule, ...]
    before: tuple[FoundRule, ...] | None
    """None: there is no such chain yet."""


class Plan(NamedTuple):
    """Everything that has to change in one family's nat table; false in a condition when nothing has."""

    family: Family
    writes: tuple[ChainWrite, ...] = ()
    trims: tuple[tuple[str, str], ...] = ()
    """(chain, text) of single rules that go while the chain's others keep their counters."""
    deletes: tuple[str, ...] = ()
    """Chains of ours that go."""
    flushes: tuple[str, ...] = ()
    """Chains that would go, but a foreign rule leads to them: emptied only."""
    hooks_deleted: tuple[str, ...] = ()
    hook_inserted: Rule | None = None
    pinned: tuple[tuple[str, str], ...] = ()
    """(chain, foreign rule) for chains that stay, empty, because of that rule."""
    unwritable: tuple[str, ...] = ()
    """Chains that stay because iptables has no way to write their name: nft made them."""

    def __bool__(self) -> bool:
        return bool(
            self.writes
            or self.trims
            or self.deletes
            or self.flushes
            or self.hooks_deleted
            or self.hook_inserted
        )


def diff(wanted: Ruleset, found: Snapshot, *, in_the_way: str | None = None) -> Plan:
    """What turns `found` into `wanted`; `in_the_way` is a foreign rule above our hook, if one is."""
    writes: list[ChainWrite] = []
    trims: list[tuple[str, str]] = []
    for chain, rules in wanted.chains.items():
        before = found.chains.get(chain)
        if before is None:
            writes.append(ChainWrite(chain, rules, None))
        elif [item.rule for item in before] != list(rules):
            surplus = _surplus_at_end(before, rules)
            if surplus is None:
                writes.append(ChainWrite(chain, rules, before))
            else:
                trims.extend((chain, item.text) for item in surplus)
    leading = referrers(found, staying=wanted.untouched)
    gone = [c for c in found.chains if c not in wanted.chains and c not in wanted.untouched]
    unwritable = tuple(c for c in gone if not is_chain_name(c))
    gone = [c for c in gone if c not in unwritable]
    hooks = [item for item in found.hook_chain if is_hook(item)]
    hook_is_right = [item.rule for item in hooks] == (
        [wanted.hook] if wanted.hook else []
    ) and in_the_way is None
    return Plan(
        family=wanted.family,
        writes=tuple(writes),
        trims=tuple(trims),
        deletes=tuple(c for c in gone if c not in leading),
        flushes=tuple(c for c in gone if c in leading and found.chains[c]),
        hooks_deleted=() if hook_is_right else tuple(item.text for item in hooks),
        hook_inserted=None if hook_is_right else wanted.hook,
        pinned=tuple((c, leading[c]) for c in gone if c in leading),
        unwritable=unwritable,
    )


def _surplus_at_end(before: Sequence[FoundRule], rules: Sequence[Rule]) -> Sequence[FoundRule] | None:
    """The rules behind the wanted ones, if the chain begins with just those, there are any, and each is ours.

    Not if one of them repeats a wanted rule: `-D` by text would take the first of the two.
    """
    head, tail = before[: len(rules)], before[len(rules) :]
    mended = [item.rule for item in head] == list(rules) and rules and all(item.rule for item in tail)
    repeats = {item.text for item in head} & {item.text for item in tail}
    return tail if mended and tail and not repeats else None


def restore_text(plan: Plan) -> str:
    """The plan for `iptables-restore --noflush`: one transaction of one table."""
    lines = [f"*{TABLE}"]
    # With --noflush a chain line creates the chain, or empties it, and touches no other.
    written = [write.chain for write in plan.writes]
    lines += [f":{chain} - [0:0]" for chain in (*written, *plan.deletes, *plan.flushes)]
    lines += [f"-D {HOOK_CHAIN} {text}" for text in plan.hooks_deleted]
    if plan.hook_inserted is not None:
        lines.append(f"-I {HOOK_CHAIN} 1 {render(plan.hook_inserted)}")
    for write in plan.writes:
        lines += [f"-A {write.chain} {render(rule)}" for rule in write.rules]
    lines += [f"-D {chain} {text}" for chain, text in plan.trims]
    lines += [f"-X {chain}" for chain in plan.deletes]
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def changes(plan: Plan) -> list[Change]:
    """The plan rule by rule, for people."""
    result = [Change(HOOK_CHAIN, "remove", text) for text in plan.hooks_deleted]
    if plan.hook_inserted is not None:
        result.append(Change(HOOK_CHAIN, "insert", render(plan.hook_inserted)))
    for write in plan.writes:
        if write.before is None:
            result += [Change(write.chain, "add", render(rule), new_chain=True) for rule in write.rules]
        else:
            result += _chain_changes(write.chain, write.before, write.rules)
    result += [Change(chain, "remove", text) for chain, text in plan.trims]
    result += [Change(chain, "flush-chain", None) for chain in plan.flushes]
    result += [Change(chain, "delete-chain", None) for chain in plan.deletes]
    return result


def _chain_changes(chain: str, before: Iterable[FoundRule], rules: Iterable[Rule]) -> list[Change]:
    old = [_canonical_text(item) for item in before]
    new = [render(rule) for rule in rules]
    gone, come = Counter(old), Counter(new)
    gone.subtract(new)
    come.subtract(old)
    removed, added = list((+gone).elements()), list((+come).elements())
    if not removed and not added:  # the order alone is wrong
        removed, added = old, new
    return [
        *(Change(chain, "remove", text) for text in removed),
        *(Change(chain, "add", text) for text in added),
    ]


def _canonical_text(found: FoundRule) -> str:
    """The text as this version writes it, where that is possible: another one's may differ in form alone."""
    try:
        return render(found.rule) if found.rule is not None else found.text
    except ValueError:
        return found.text
