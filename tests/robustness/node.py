"""A network namespace with kvctl run in process, and its rules as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvctl.lab.build import restore_binary
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import BACKENDS
from kvctl.model.net import Family
from kvctl.model.objects import Objects
from kvctl.model.rules import Hook
from kvctl.model.settings import Settings
from kvctl.model.snapshot import Snapshot
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Item
from kvctl.reconcile.run import Applied, apply, flush
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import DUAL_STACK, ref

HERE = DUAL_STACK._replace(assume_vip=True)
"""Settings for a namespace where no interface has the VIPs."""

IN_LAB = DUAL_STACK


@dataclass(frozen=True)
class Node:
    """kvctl by hand on one node; `backend` None: it chooses itself."""

    namespace: Namespace
    backend: str | None = "nft"
    settings: Settings = HERE
    lock_timeout: float = 30.0

    @property
    def _told(self) -> bool | None:
        return None if self.backend is None else self.backend == "nft"

    def _wish(self, objects: Objects, names: Iterable[str], *, prune: bool) -> Wish:
        host = read_host()
        return Wish(
            resolution=resolve(objects, self.settings, host=host),
            scope=Scope(named=frozenset(map(ref, names)) or None, prune=prune),
            settings=self.settings,
            host=host,
        )

    def apply(
        self, objects: Objects, *names: str, prune: bool = False, drop_connections: bool = True
    ) -> Applied:
        """`kvctl egress apply [NAMES]`."""
        with self.namespace.entered():
            wish = self._wish(objects, names, prune=prune)
            with namespace_lock(timeout=self.lock_timeout):
                found = look(told=self._told, expect=wish.expected)
                return _checked(apply(found, wish, drop_connections=drop_connections))

    def diff(self, objects: Objects, *names: str, prune: bool = False) -> Compared:
        """`kvctl egress diff [NAMES]`."""
        with self.namespace.entered():
            wish = self._wish(objects, names, prune=prune)
            return compare(look(told=self._told, expect=wish.expected), wish, scope=wish.scope)

    def items(self) -> list[Item]:
        """`kvctl egress list`."""
        with self.namespace.entered():
            return compare(look(told=self._told), None, scope=Scope()).items

    def statuses(self) -> set[str]:
        """Every status that `list` shows."""
        return {str(item.status) for item in self.items()}

    def flush(self, *names: str, drop_connections: bool = True) -> Applied:
        """`kvctl egress flush NAMES`, without names `--all`."""
        with self.namespace.entered(), namespace_lock(timeout=self.lock_timeout):
            return _checked(
                flush(
                    look(told=self._told),
                    frozenset(map(ref, names)) or None,
                    host=read_host(),
                    drop_connections=drop_connections,
                )
            )

    def run(self, *argv: str, stdin: str | None = None, status: int = 0) -> str:
        """A program inside that has to end with `status`; its standard output."""
        done = self.namespace.run(argv, stdin=stdin)
        assert done.status == status, (argv, done.status, done.stdout, done.stderr)
        return done.stdout

    def iptables(
        self, *arguments: str, backend: str | None = None, family: Family = Family.IPV4, table: str = "nat"
    ) -> str:
        """One iptables command of a back end (this node's)."""
        name = "iptables" if family is Family.IPV4 else "ip6tables"
        return self.run(f"{name}-{backend or self.backend}", "-w", "10", "-t", table, *arguments)

    def restore(self, text: str, *, backend: str | None = None, family: Family = Family.IPV4) -> None:
        """Add rules to what is there, as another program does."""
        binary = restore_binary(backend=backend or self.backend or "nft", family=family)
        self.run(binary, "--noflush", "-w", "10", stdin=text)

    def save(
        self, *, backend: str | None = None, family: Family = Family.IPV4, counters: bool = False
    ) -> str:
        """What `iptables-save` prints, without its remarks and, unless asked for, counters."""
        name = "iptables" if family is Family.IPV4 else "ip6tables"
        argv = (f"{name}-{backend or self.backend}-save", *(("-c",) if counters else ()))
        lines = [line for line in self.run(*argv).splitlines() if not line.startswith("#")]
        if not counters:
            lines = [line.split(" [")[0] if line.startswith(":") else line for line in lines]
        return "\n".join(lines)

    def saved(self, *, counters: bool = False) -> dict[tuple[str, Family], str]:
        """`save` of both back ends and both families."""
        return {
            (backend, family): self.save(backend=backend, family=family, counters=counters)
            for backend in BACKENDS
            for family in Family
        }

    def foreign(self, *, counters: bool = True) -> dict[tuple[str, Family], str]:
        """`saved` without what is kvctl's: its chains, their rules, its jump."""
        return {
            key: "\n".join(line for line in text.splitlines() if not is_ours(line))
            for key, text in self.saved(counters=counters).items()
        }


def _checked(applied: Applied) -> Applied:
    """The run, if all went well in it; else its first error is raised."""
    for outcome in applied.outcomes:
        for error in outcome.errors:
            raise error
    return applied


def is_ours(line: str) -> bool:
    """Whether a line of save text declares a chain of kvctl's, is a rule in one, or is one of its tagged jumps."""
    rule = line.partition("] ")[2] if line.startswith("[") else line
    return rule.startswith((":KVCTL-", "-A KVCTL-")) or (
        "kvctl:" in rule
        and any(rule.startswith(f"-A {hook.chain} ") and f"-j {hook.root}" in rule for hook in Hook)
    )


def as_text(snapshot: Snapshot) -> object:
    """All that is in it but the counters."""
    chains = {name: [found.text for found in rules] for name, rules in snapshot.chains.items()}
    around = {
        table: (
            {name: [found.text for found in rules] for name, rules in beside.hook_chains.items()},
            beside.foreign,
            beside.position_known,
        )
        for table, beside in snapshot.around.items()
    }
    rules = {name: [found.rule for found in rules] for name, rules in snapshot.chains.items()}
    return chains, rules, around
