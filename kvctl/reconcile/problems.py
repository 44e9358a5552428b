"""What is wrong with a Service, in sentences, the worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from kvctl.model.rules import HOOK_CHAINS, Hook
from kvctl.model.text import plural
from kvctl.netfilter.foreign import COMMENT as KUBE_VIPS
from kvctl.policy import layout
from kvctl.reconcile.side_by_side import Row, Standing, short

_COMMAND = "kvctl egress apply"


class Mend(NamedTuple):
    """The command that puts rules right, as it has to be typed on this node."""

    source: str = ""
    """The option that names where objects come from; empty: a cluster that is configured."""
    with_vip: bool = False
    """The VIP is not here: without its coming back the rules would go."""

    def __str__(self) -> str:
        return " ".join(filter(None, (_COMMAND, "--with-vip" if self.with_vip else "", self.source)))

    def typed(self, text: str) -> str:
        """A sentence that names the bare command, with this one in its place."""
        return text.replace(_COMMAND, str(self))


MEND = Mend()
"""The bare command."""


class Weight(IntEnum):
    """How far a problem explains the others: the least comes first."""

    RULES = 0
    """The rules are not there, not right, or do not act."""
    WAY = 1
    """They act, and packets or their answers do not come through."""
    PORTS = 2
    """New connections fail, or are about to."""
    CONNECTIONS = 3
    """Some connections are not as new ones would be."""
    UNKNOWN = 4
    """What could not be looked at."""
    WARNING = 5


class Problem(NamedTuple):
    """One sentence."""

    weight: Weight
    text: str


def in_order(problems: Iterable[Problem]) -> tuple[str, ...]:
    """The sentences, the worst first, each once."""
    return tuple(dict.fromkeys(each.text for each in sorted(problems, key=lambda each: each.weight)))


def drift_problems(
    rows: Sequence[Row],
    in_the_way: Mapping[Hook, str],
    *,
    empty: Sequence[str],
    reason: str | None,
    mend: Mend,
) -> list[Problem]:
    """What is wrong with the rules of a Service that has drifted.

    `empty`: chains that its pods' packets come through, and that hold nothing. `reason`: in general, for what the
    rows do not show.
    """
    mends = f"{mend} mends it"
    texts = [f"{_before_ours(hook, rule)}; {mends}" for hook, rule in in_the_way.items()]
    wrong = [row for row in rows if row.standing not in (Standing.THERE, Standing.IN_THE_WAY)]
    if texts:
        # That the jump has to move is the same fault told twice.
        wrong = [
            row for row in wrong if row.standing is not Standing.MISPLACED or row.chain not in HOOK_CHAINS
        ]
    jump = next((r for r in wrong if r.standing is Standing.MISSING and r.chain in HOOK_CHAINS), None)
    if jump is not None and empty and layout.is_dispatch_chain(empty[0]):
        texts.append(
            f"somebody has flushed the {jump.table} table: {empty[0]} is empty, and the jump to it is missing; {mends}"
        )
    elif jump is not None:
        texts.append(
            f"the jump in {jump.chain} of {jump.table} is missing: no packet comes to kvctl's rules; {mends}"
        )
    elif empty:
        leads = layout.is_dispatch_chain(empty[0])
        follows = "it leads no pod to its Service" if leads else "its pods' traffic is not rewritten"
        texts.append(f"{empty[0]} is empty, somebody has flushed it: {follows}; {mends}")
    elif wrong:
        texts.append(_differing(rows, wrong, mends))
    elif not texts and reason is not None:
        texts.append(reason)
    return [Problem(Weight.RULES, text) for text in texts]


def _before_ours(hook: Hook, rule: str) -> str:
    whose = "kube-vip's rule" if KUBE_VIPS.search(rule) else "another program's rule"
    return f"{whose} comes before kvctl's jump in {hook.chain} of {hook.table}: {short(rule)}"


def _differing(rows: Sequence[Row], wrong: Sequence[Row], mends: str) -> str:
    told = [row for row in wrong if row.standing is not Standing.RENAMED]
    if not told:
        return _renamed(wrong, mends)
    told.sort(key=lambda row: row.standing is not Standing.MISSING)
    first, more = told[0], len(wrong) - 1
    faults = {
        Standing.MISSING: f"{first.chain} lacks",
        Standing.UNWANTED: f"{first.chain} has, and should not have,",
        Standing.MISPLACED: f"not in its place in {first.chain} is",
    }
    ours = sum(row.standing is not Standing.IN_THE_WAY for row in rows)
    count = f"{len(wrong)} of {plural(ours, 'rule')} {'is' if len(wrong) == 1 else 'are'} not as wanted"
    if all(row.standing is Standing.UNWANTED for row in wrong):
        count = f"{plural(len(wrong), 'rule')} that {'is' if len(wrong) == 1 else 'are'} not wanted"
    rest = f", and {more} more" if more else ""
    return f"{count}: {faults[first.standing]} `{short(first.text)}`{rest}; {mends}"


def _renamed(rows: Sequence[Row], mends: str) -> str:
    """A tag is of all the rules of its Service, so that the others of a chain tell that one has gone."""
    own = next(
        (
            row.chain
            for row in rows
            if not layout.is_dispatch_chain(row.chain) and row.chain not in HOOK_CHAINS
        ),
        None,
    )
    if own is not None:
        return (
            f"the rules of {own} are not those that were written: by their tags, some have been removed or changed; "
            f"-f or --cluster shows which were asked for; {mends}"
        )
    count = f"{plural(len(rows), 'rule')} {'differs' if len(rows) == 1 else 'differ'}"
    return f"{count} by the comment alone, which names pods and ranks; {mends}"
