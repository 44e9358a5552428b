"""Wanted beside actual, rule by rule: every rule of a Service in the order of the packets' way. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import NamedTuple

from kvctl.model.net import Network, contains
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import HOOK_CHAINS, Hook, Rule, Table, table_of
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.diff import Plan, canonical_text
from kvctl.netfilter.position import is_hook
from kvctl.netfilter.syntax import parse, render
from kvctl.policy import comments, layout

_COMMENT = re.compile(r' ?-m comment --comment (?:"(?:[^"\\]|\\.)*"|[^ ]+)', re.DOTALL)


def short(rule: str) -> str:
    """A rule without its comment, which repeats what is said beside it."""
    return _COMMENT.sub("", rule).strip()


class Standing(StrEnum):
    """How a rule is wanted and found."""

    THERE = "there"
    MISSING = "missing"
    UNWANTED = "not wanted"
    MISPLACED = "wrong place"
    """Wanted and found, but not where it has to be."""
    RENAMED = "comment"
    """It does what is wanted, and says something else of it."""
    IN_THE_WAY = "in the way"
    """Another program's, before kvctl's jump."""


class Row(NamedTuple):
    """One rule that is wanted, found, or both."""

    table: Table
    chain: str
    standing: Standing
    text: str
    packets: int | None = None
    """None: it is not in the kernel, or could not be asked for counters."""
    octets: int | None = None


class _Shared(NamedTuple):
    """A rule that is not as it should be, and no single Service's."""

    row: Row
    source: Network | None
    """Whose packets it takes; None: everybody's, for all that is known."""

    def concerns(self, pods: Collection[Network]) -> bool:
        """Whether some of these meet it."""
        return self.source is None or any(contains(self.source, pod) for pod in pods)


class SideBySide:
    """All rules of kvctl's in one family, each with the Service that it belongs to.

    `plan`: what turns the snapshot into what is wanted. `in_the_way`: another's rule before our jump.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        plan: Plan,
        *,
        refs: Collection[ServiceRef],
        in_the_way: Mapping[Hook, str],
    ) -> None:
        self._hooks = {hook: _hook_rows(hook, snapshot, plan, in_the_way.get(hook)) for hook in Hook}
        owners = {chain: ref for ref in refs for chain in layout.chains_of(ref)}
        written = {write.chain: [render(rule) for rule in write.rules] for write in plan.writes}
        trims: dict[str, list[str]] = defaultdict(list)
        for chain, text in plan.trims:
            trims[chain].append(text)
        self._own: dict[ServiceRef, list[Row]] = defaultdict(list)
        self._shared: dict[str, list[_Shared]] = defaultdict(list)
        self._pods: dict[ServiceRef, set[Network]] = defaultdict(set)
        self._leading: dict[str, set[str]] = defaultdict(set)
        gone = {*plan.deletes, *plan.flushes}
        for chain in sorted({*snapshot.chains, *written}, key=_order):
            found = snapshot.chains.get(chain, ())
            wanted = written.get(chain)
            if wanted is None:
                wanted = [] if chain in gone else _less(found, trims.get(chain, ()))
            for each in _beside(chain, found, wanted):
                self._add(each, owners)

    def _add(self, row: Row, owners: Mapping[str, ServiceRef]) -> None:
        """Put a row where `of` finds it; `owners` of chains."""
        rule = parse(row.text)
        owner = owners.get(row.chain) or (_owner(rule, owners) if rule is not None else None)
        leads = layout.is_dispatch_chain(row.chain)
        if leads and rule is not None and rule.target.chain is not None:
            self._leading[rule.target.chain].add(row.chain)
        if owner is not None:
            self._own[owner].append(row)
            if leads and rule is not None and rule.source is not None:
                self._pods[owner].add(rule.source)
        elif row.standing is not Standing.THERE:
            self._shared[row.chain].append(_Shared(row, rule.source if rule is not None else None))

    def of(self, ref: ServiceRef, *, changes: bool = True) -> tuple[Row, ...]:
        """The rules of one Service; of those that several need only the jumps, and what is not as it should be.

        `changes`: whether anything of the Service does; else what differs only moves within the tree.
        """
        own = self._own.get(ref, ())
        chains = dict.fromkeys(row.chain for row in own)
        hooks = [hook for hook in Hook if any(_is_behind(hook, chain) for chain in chains)]
        if not changes:
            own = [row for each in own if (row := _in_place(each)) is not None]
        leading = self._on_the_way({*chains, *(hook.root for hook in hooks)}) if changes else set()
        pods = self._pods.get(ref, ())
        shared = [it.row for chain in leading for it in self._shared.get(chain, ()) if it.concerns(pods)]
        rows = sorted([*own, *shared], key=lambda row: _order(row.chain))
        return (*(row for hook in hooks for row in self._hooks[hook]), *rows)

    def _on_the_way(self, chains: set[str]) -> set[str]:
        """These chains, and those that lead to them."""
        found, todo = set(chains), list(chains)
        while todo:
            more = self._leading.get(todo.pop(), set()) - found
            found |= more
            todo += more
        return found


def _in_place(row: Row) -> Row | None:
    """A rule that leads on where it is now, as right; None: it is where it is to be."""
    if not layout.is_dispatch_chain(row.chain) or row.standing is Standing.THERE:
        return row
    return row._replace(standing=Standing.THERE) if row.standing is not Standing.MISSING else None


def _hook_rows(hook: Hook, snapshot: Snapshot, plan: Plan, in_the_way: str | None) -> list[Row]:
    """Our jump into a table, and what comes before it."""
    inserted = [render(rule) for its, rule in plan.hooks_inserted if its is hook]
    deleted = {text for its, text in plan.hooks_deleted if its is hook}
    rows = []
    for found in snapshot.hook_chain(hook):
        standing = None
        if found.text == in_the_way:
            standing = Standing.IN_THE_WAY
        elif is_hook(found, hook):
            standing = Standing.THERE
            if found.text in deleted:
                moves = canonical_text(found) in inserted
                standing = Standing.MISPLACED if moves else Standing.UNWANTED
                if moves:
                    inserted.remove(canonical_text(found))
        if standing is not None:
            rows.append(_row(hook.table, hook.chain, standing, found))
    missing = [Row(hook.table, hook.chain, Standing.MISSING, text) for text in inserted]
    return [*missing, *rows]


def _beside(chain: str, found: Sequence[FoundRule], wanted: Sequence[str]) -> list[Row]:
    """Both in one order; a rule that is in both but not in step is found in the wrong place."""
    texts = [canonical_text(each) for each in found]
    # By what they do: a comment has a tag that changes with each rule of its Service.
    has, needs = [short(text) for text in texts], [short(text) for text in wanted]
    table = table_of(chain)
    steps = SequenceMatcher(None, has, needs, autojunk=False).get_opcodes()
    surplus = Counter(text for op, a, b, _, _ in steps if op != "equal" for text in has[a:b])
    lacking = Counter(text for op, _, _, a, b in steps if op != "equal" for text in needs[a:b])
    moved, elsewhere = surplus & lacking, surplus & lacking
    rows: list[Row] = []
    for op, first, last, wanted_first, wanted_last in steps:
        for at in range(first, last):
            if op == "equal":
                same = texts[at] == wanted[wanted_first + at - first]
                standing = Standing.THERE if same else Standing.RENAMED
            else:
                standing = Standing.MISPLACED if moved[has[at]] > 0 else Standing.UNWANTED
                moved[has[at]] -= 1
            rows.append(_row(table, chain, standing, found[at]))
        if op == "equal":
            continue
        for at in range(wanted_first, wanted_last):
            if elsewhere[needs[at]] > 0:
                elsewhere[needs[at]] -= 1
            else:
                rows.append(Row(table, chain, Standing.MISSING, wanted[at]))
    return rows


def _row(table: Table, chain: str, standing: Standing, found: FoundRule) -> Row:
    return Row(table, chain, standing, found.text, found.packets, found.octets)


def _less(found: Iterable[FoundRule], trimmed: Collection[str]) -> list[str]:
    """The rules of a chain without those that go from its end."""
    return [canonical_text(each) for each in found if each.text not in trimmed]


def _owner(rule: Rule, owners: Mapping[str, ServiceRef]) -> ServiceRef | None:
    """The Service whose pod a rule leads on, or that it guards or passes; `owners` of chains."""
    target = rule.target.chain
    if target is not None and target in owners:
        return owners[target]
    said = comments.comment_text(rule)
    if said is None:
        return None
    pod = comments.read_pod(said) or comments.read_aside_pod(said)
    return pod[0].ref if pod is not None else comments.read_passed(said) or comments.read_aside(said)


def _is_behind(hook: Hook, chain: str) -> bool:
    """Whether a chain is one that packets come to by this hook."""
    if table_of(chain) is not hook.table:
        return False
    marks = layout.MARKING.is_dispatch(chain) or layout.MARKING.is_service(chain)
    return marks is (hook is Hook.MARK)


def _order(chain: str) -> tuple[bool, int, str]:
    """The way of a packet: by the jump, the root and its leaves to the Services and their ports."""
    names = (layout.REWRITING, layout.DROPPING, layout.MARKING)
    places = (
        chain in HOOK_CHAINS,
        any(chain == each.root for each in names),
        layout.is_dispatch_chain(chain),
        any(each.is_service(chain) for each in names),
    )
    at = next((index for index, is_there in enumerate(places) if is_there), len(places))
    return table_of(chain) is not Table.NAT, at, chain
