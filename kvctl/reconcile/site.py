"""One family of one back end: what was found there, and what a target would change."""

from __future__ import annotations

from collections.abc import Callable

from kvctl.model.memo import Last
from kvctl.model.net import Family, host_network
from kvctl.model.rules import Hook, Ruleset
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.diff import Plan, diff
from kvctl.netfilter.effect import written
from kvctl.netfilter.kernel import Kernel, Reading, Write
from kvctl.netfilter.position import rule_in_the_way
from kvctl.netfilter.savetext import has_own
from kvctl.policy.compile import HOOKS
from kvctl.policy.decode import Installed, decode
from kvctl.policy.dispatch import NO_HINTS, Hints
from kvctl.reconcile.expected import NOTHING as NOTHING_EXPECTED
from kvctl.reconcile.expected import Expected
from kvctl.reconcile.steps import Rulesets, guarded, marked, rulesets
from kvctl.reconcile.target import Target

MakeTarget = Callable[[Installed], Target]

_FAITHFUL: set[tuple[Backend, Family]] = set()
"""By whose binaries something was written and read again, and was right: found out once a process."""


class Site:
    """One family of one back end: what is found there now, and what was there before the run."""

    def __init__(
        self, kernel: Kernel, family: Family, snapshot: Snapshot, *, hints: Hints = NO_HINTS
    ) -> None:
        self.kernel = kernel
        self._rulesets = Last(rulesets)
        self._plans = Last(_plan)
        self._effects = Last(written, size=1)
        self._decoded = Last(decode, size=1)
        self.family = family
        self.snapshot = self.before = snapshot
        self._hints = hints
        self.installed = self.before_installed = decode(snapshot, hints=hints)

    def rulesets(self, target: Target, *, retire: bool) -> Rulesets:
        """The rules for `target` from what was found last."""
        return self._rulesets(target, self.installed, self.snapshot, retire=retire)

    def plan(self, target: Target, ruleset: Ruleset) -> Plan:
        """What `ruleset`, of `target`, changes of what was found last."""
        return self._plans(ruleset, target, self.installed, self.snapshot)

    def foresee(self, plan: Plan) -> None:
        """Take apart what a look will show after `plan`: when it is written that is done."""
        after = self._effects(self.snapshot, plan)
        if after is not None:
            self._decoded(after, hints=self._hints)

    def wrote(self, plan: Plan, write: Write) -> None:
        """The kernel is as it was, but for `plan`: look again, unless that is known to be all there is to see.

        It is where the write was alone, and this host's binaries have shown before that what they write is
        what they read.
        """
        after = self._effects(self.snapshot, plan)
        if after is not None and write.alone and self._is_faithful:
            self.snapshot, self.installed = after, self._decoded(after, hints=self._hints)
        else:
            self.reread(like=after)

    @property
    def _is_faithful(self) -> bool:
        return (self.kernel.backend, self.family) in _FAITHFUL

    def is_right(self) -> None:
        """What was written shows in what was read."""
        _FAITHFUL.add((self.kernel.backend, self.family))

    def reread(self, *, like: Snapshot | None = None) -> None:
        """Look again; `like`: what is probably there now."""
        saved, before = self.kernel.read(self.family), self.snapshot
        self.snapshot = self.kernel.snapshot(
            self.family, saved, hooks=HOOKS, known=before.chains, like=like or before
        )
        self.installed = decode(self.snapshot, hints=self._hints)


def open_site(
    reading: Reading, backend: Backend, family: Family, *, expect: Callable[[Family], Expected] | None = None
) -> Site:
    """The site as `reading` found it; raises what kept it from being read. `expect`: what is wanted there."""
    error = reading.failed.get((backend, family))
    if error is not None:
        raise error
    kernel, saved = Kernel(backend), reading.tables[backend, family]
    expected = expect(family) if expect is not None and has_own(saved) else NOTHING_EXPECTED
    snapshot = kernel.snapshot(family, saved, hooks=HOOKS, like=expected.snapshot)
    return Site(kernel, family, snapshot, hints=expected.hints)


def _plan(ruleset: Ruleset, target: Target, installed: Installed, snapshot: Snapshot) -> Plan:
    in_the_way = {}
    hooked = (
        (Hook.EGRESS, target.entries),
        (Hook.DROP, (*target.drops.entries, *guarded(target, installed))),
        (Hook.MARK, marked(target, installed)),
    )
    for hook, entries in hooked:
        if hook in ruleset.hooks and snapshot.beside(hook.table).position_known:
            pods = [host_network(item.address) for item in entries]
            rule = rule_in_the_way(snapshot, pods, hook)
            if rule is not None:
                in_the_way[hook] = rule
    return diff(ruleset, snapshot, in_the_way=in_the_way)
