"""Wanted against found: what has to change, and the restore text that changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from kvctl.model.memo import ByKey, is_same
from kvctl.model.net import Family
from kvctl.model.rules import Hook, Rule, Ruleset, Table, table_of
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.position import is_hook, referrers
from kvctl.netfilter.syntax import is_chain_name, render

_NOWHERE: Mapping[Hook, str] = MappingProxyType({})


class Change(NamedTuple):
    """One rule that comes or goes."""

    chain: str
    op: str
    """`add`, `remove`, `insert` (at the head of a hook's chain), `delete-chain` or `flush-chain`."""
    rule: str | None
    """The rule's text; None where the change is about the chain."""
    new_chain: bool = False
    """The chain does not exist yet."""
    table: Table = Table.NAT


class ChainWrite(NamedTuple):
    """A chain of ours that is created or replaced whole."""

    chain: str
    rules: tuple[Rule, ...]
    before: tuple[FoundRule, ...] | None
    """None: there is no such chain yet."""


class Plan(NamedTuple):
    """Everything that has to change in one family's tables; false in a condition when nothing has."""

    family: Family
    writes: tuple[ChainWrite, ...] = ()
    trims: tuple[tuple[str, str], ...] = ()
    """(chain, text) of single rules that go while the chain's others keep their counters."""
    deletes: tuple[str, ...] = ()
    """Chains of ours that go."""
    flushes: tuple[str, ...] = ()
    """Chains that would go, but a foreign rule leads to them: emptied only."""
    hooks_deleted: tuple[tuple[Hook, str], ...] = ()
    hooks_inserted: tuple[tuple[Hook, Rule], ...] = ()
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
            or self.hooks_inserted
        )

    def of(self, table: Table) -> Plan:
        """What has to change in one table."""
        return self._replace(
            writes=tuple(write for write in self.writes if table_of(write.chain) is table),
            trims=tuple(trim for trim in self.trims if table_of(trim[0]) is table),
            deletes=tuple(chain for chain in self.deletes if table_of(chain) is table),
            flushes=tuple(chain for chain in self.flushes if table_of(chain) is table),
            hooks_deleted=tuple(each for each in self.hooks_deleted if each[0].table is table),
            hooks_inserted=tuple(each for each in self.hooks_inserted if each[0].table is table),
        )


def diff(wanted: Ruleset, found: Snapshot, *, in_the_way: Mapping[Hook, str] = _NOWHERE) -> Plan:
    """What turns `found` into `wanted`; `in_the_way`: the hooks for which a foreign rule is above our hook."""
    writes: list[ChainWrite] = []
    trims: list[tuple[str, str]] = []
    for chain, rules in wanted.chains.items():
        before = found.chains.get(chain)
        if before is None:
            writes.append(ChainWrite(chain, rules, None))
        elif not _are(before, rules) and not _same.get(
            (wanted.family, chain), (before, rules), partial(_holds, before, rules)
        ):
            surplus = _surplus_at_end(before, rules)
            if surplus is None:
                writes.append(ChainWrite(chain, rules, before))
            else:
                trims.extend((chain, item.text) for item in surplus)
    leading = referrers(found, staying=wanted.untouched)
    gone = [c for c in found.chains if c not in wanted.chains and c not in wanted.untouched]
    unwritable = tuple(c for c in gone if not is_chain_name(c))
    gone = [c for c in gone if c not in unwritable]
    hooks_deleted: list[tuple[Hook, str]] = []
    hooks_inserted: list[tuple[Hook, Rule]] = []
    for hook in Hook:
        present = [item for item in found.hook_chain(hook) if is_hook(item, hook)]
        jump = [wanted.hooks[hook]] if hook in wanted.hooks else []
        if [item.rule for item in present] != jump or hook in in_the_way:
            hooks_deleted += [(hook, item.text) for item in present]
            hooks_inserted += [(hook, rule) for rule in jump]
    return Plan(
        family=wanted.family,
        writes=tuple(writes),
        trims=tuple(trims),
        deletes=tuple(c for c in gone if c not in leading),
        flushes=tuple(c for c in gone if c in leading and found.chains[c]),
        hooks_deleted=tuple(hooks_deleted),
        hooks_inserted=tuple(hooks_inserted),
        pinned=tuple((c, leading[c]) for c in gone if c in leading),
        unwritable=unwritable,
    )


def _are(before: Sequence[FoundRule], rules: Sequence[Rule]) -> bool:
    """Whether these are the very rules: as what was written is."""
    return is_same([item.rule for item in before], rules)


def _holds(before: Sequence[FoundRule], rules: Sequence[Rule]) -> bool:
    return [item.rule for item in before] == list(rules)


_same: ByKey[tuple[Family, str], bool] = ByKey()


def _surplus_at_end(before: Sequence[FoundRule], rules: Sequence[Rule]) -> Sequence[FoundRule] | None:
    """The rules behind the wanted ones, if the chain begins with just those, there are any, and each is ours.

    Not if one of them repeats a wanted rule: `-D` by text would take the first of the two.
    """
    head, tail = before[: len(rules)], before[len(rules) :]
    mended = [item.rule for item in head] == list(rules) and rules and all(item.rule for item in tail)
    repeats = {item.text for item in head} & {item.text for item in tail}
    return tail if mended and tail and not repeats else None


def texts(chain: str, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """The rules of a chain that is written: the binary is told, people are, and what a look will show is made of it."""
    return _texts.get(chain, (rules,), lambda: tuple(map(render, rules)))


_texts: ByKey[str, tuple[str, ...]] = ByKey(most=4096)


def restore_text(plan: Plan, *, order: Sequence[Table] | None = None) -> str:
    """The plan for `iptables-restore --noflush`: a transaction a changed table, else an empty one of nat.

    Without an order what is dropped comes first, unless something is dropped no more: then that goes last.
    """
    if order is None:
        mangle = plan.of(Table.MANGLE)
        less = mangle.trims or mangle.deletes or mangle.flushes or mangle.hooks_deleted
        order = (Table.NAT, Table.MANGLE) if less else (Table.MANGLE, Table.NAT)
    sections = [_section(table, part) for table in order if (part := plan.of(table))]
    return "".join(sections) or _section(Table.NAT, plan)


def _section(table: Table, plan: Plan) -> str:
    lines = [f"*{table}"]
    # With --noflush a chain line creates the chain, or empties it, and touches no other.
    written = [write.chain for write in plan.writes]
    lines += [f":{chain} - [0:0]" for chain in (*written, *plan.deletes, *plan.flushes)]
    lines += [f"-D {hook.chain} {text}" for hook, text in plan.hooks_deleted]
    lines += [f"-I {hook.chain} 1 {render(rule)}" for hook, rule in plan.hooks_inserted]
    for write in plan.writes:
        lines += [f"-A {write.chain} {text}" for text in texts(write.chain, write.rules)]
    lines += [f"-D {chain} {text}" for chain, text in plan.trims]
    lines += [f"-X {chain}" for chain in plan.deletes]
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def changes(plan: Plan) -> list[Change]:
    """The plan rule by rule, for people."""
    result = [Change(hook.chain, "remove", text, table=hook.table) for hook, text in plan.hooks_deleted]
    result += [
        Change(hook.chain, "insert", render(rule), table=hook.table) for hook, rule in plan.hooks_inserted
    ]
    for write in plan.writes:
        if write.before is None:
            added = texts(write.chain, write.rules)
            result += [_change(write.chain, "add", text, new_chain=True) for text in added]
        else:
            result += _chain_changes(write.chain, write.before, write.rules)
    result += [_change(chain, "remove", text) for chain, text in plan.trims]
    result += [_change(chain, "flush-chain", None) for chain in plan.flushes]
    result += [_change(chain, "delete-chain", None) for chain in plan.deletes]
    return result


def _change(chain: str, op: str, rule: str | None, *, new_chain: bool = False) -> Change:
    return Change(chain, op, rule, new_chain=new_chain, table=table_of(chain))


def _chain_changes(chain: str, before: Iterable[FoundRule], rules: tuple[Rule, ...]) -> list[Change]:
    old = [canonical_text(item) for item in before]
    new = [*texts(chain, rules)]
    gone, come = Counter(old), Counter(new)
    gone.subtract(new)
    come.subtract(old)
    removed, added = list((+gone).elements()), list((+come).elements())
    if not removed and not added:  # the order alone is wrong
        removed, added = old, new
    return [
        *(_change(chain, "remove", text) for text in removed),
        *(_change(chain, "add", text) for text in added),
    ]


def canonical_text(found: FoundRule) -> str:
    """The text as this version writes it, where that is possible: another one's may differ in form alone."""
    try:
        return render(found.rule) if found.rule is not None else found.text
    except ValueError:
        return found.text
