"""Reading and writing the kernel's rules through the binaries: save, restore, and what to do when they fail."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from kvctl import proc
from kvctl.errors import KvctlError, NetfilterUnavailableError, ProcessError
from kvctl.model.net import Family
from kvctl.model.rules import Hook, Rule, Table
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.binaries import Backend, Role, binary, learn, named
from kvctl.netfilter.ledger import commits_in, ledger
from kvctl.netfilter.nft import Question, chain_names
from kvctl.netfilter.savetext import SavedTables, is_own, parse_tables, rule_lines, snapshot_of
from kvctl.netfilter.syntax import parse, render, tokenize

# xtables-legacy(8): without -w some versions wait for the lock for ever, others fail at once.
LOCK_SECONDS = 5
# The process's own time-out lies above the lock's, so that the binary can tell what it waited for.
_PROCESS_SECONDS = 60.0
_LEGACY_TABLES = {
    Family.IPV4: "/proc/thread-self/net/ip_tables_names",
    Family.IPV6: "/proc/thread-self/net/ip6_tables_names",
}
# Stands for all rules of a chain that native ones hide: it is no rule of ours, so the chain is replaced.
_HIDDEN = FoundRule(text="(native nft rules)", rule=None)


class Write(NamedTuple):
    """A restore that went through."""

    backend: Backend
    family: Family
    alone: bool = False
    """What concerns kvctl is as it was, but for what was written: as Ledger.writes tells. False: it may not be."""


Witness = Callable[[Write], None]
_witness: ContextVar[Witness | None] = ContextVar("witness", default=None)


@contextmanager
def witnessed(witness: Witness) -> Iterator[None]:
    """In the block `witness` too is called after each restore that went through, before the kernel is read again."""
    outer = _witness.get()

    def both(write: Write) -> None:
        if outer is not None:
            outer(write)
        witness(write)

    token = _witness.set(both)
    try:
        yield
    finally:
        _witness.reset(token)


class RestoreError(ProcessError):
    """A restore was refused, and nothing of the table at fault is in the kernel.

    `transient`: it may go through when read anew.
    """

    transient = False


class Kernel:
    """The rules of one back end in the calling thread's network namespace."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def read(self, family: Family) -> SavedTables:
        """All tables that exist, with counters. Looking creates none.

        Raises NetfilterUnavailableError.
        """
        return self.start_reading(family)()

    def start_reading(self, family: Family) -> Callable[[], SavedTables]:
        """The same in two steps, so that several can run at once; what this returns has to be called."""
        seen = ledger().looks(self.backend, family)
        read = self._start_reading(family)

        def finish() -> SavedTables:
            saved = read()
            seen()
            return saved

        return finish

    def _start_reading(self, family: Family) -> Callable[[], SavedTables]:
        if self.backend is Backend.LEGACY and not _legacy_tables(family):
            return SavedTables
        # Without -t: `iptables-legacy-save -t nat` would create the table (measured with 1.8.9).
        path = named(self.backend, family, Role.SAVE) or binary(self.backend, family, Role.SAVE)
        running = proc.Running((path, "-c"))

        def finish() -> SavedTables:
            done = running.finish(deadline=_PROCESS_SECONDS)
            if done.status != 0:
                raise unavailable(done, f"cannot read the {family} rules")
            learn(path, done.stdout)
            binary(self.backend, family, Role.SAVE)
            return parse_tables(done.stdout)

        return finish

    def snapshot(
        self,
        family: Family,
        saved: SavedTables,
        *,
        hooks: Mapping[Hook, Rule],
        known: Iterable[str] = (),
        like: Snapshot | None = None,
    ) -> Snapshot:
        """Our tables of what was read; where native nft rules hide one, chain by chain.

        `known`: chains of ours that were there before, and may be still with no jump to them left.
        `like`: what is probably there, which costs less to know again than to take apart.
        """
        found = snapshot_of(saved, family, like=like)
        for table in Table:
            if table in saved.incompatible:
                of_table = [name for name in known if is_own(table, name)]
                chains, beside = self._read_by_chain(family, table, hooks, of_table)
                found = found._replace(
                    chains={**found.chains, **chains}, around={**found.around, table: beside}
                )
        return found

    def _read_by_chain(
        self, family: Family, table: Table, hooks: Mapping[Hook, Rule], known: Iterable[str]
    ) -> tuple[dict[str, tuple[FoundRule, ...]], Surroundings]:
        chains: dict[str, tuple[FoundRule, ...]] = {}
        named = [name for name in chain_names(family, table) if is_own(table, name)]
        todo = [*known, *named, *(hook.root for hook in Hook if hook.table is table)]
        while todo:
            name = todo.pop()
            rules = self._list(family, table, name) if name not in chains else None
            if rules is None and name in named and name not in chains:
                rules = (_HIDDEN,)
            if rules is not None:
                chains[name] = rules
                todo += [f.rule.target.chain for f in rules if f.rule and f.rule.target.chain]
        hook_chains: dict[str, tuple[FoundRule, ...]] = {}
        position_known = True
        for hook in (each for each in Hook if each.table is table):
            rules = self._list(family, table, hook.chain)
            if rules is None:
                jump, position_known = hooks[hook], False
                present = self._has(family, table, hook.chain, jump)
                rules = (FoundRule(text=render(jump), rule=jump),) if present else ()
            hook_chains[hook.chain] = rules
        return chains, Surroundings(hook_chains=hook_chains, position_known=position_known)

    def _list(self, family: Family, table: Table, chain: str) -> tuple[FoundRule, ...] | None:
        """One chain's rules; None: there is no such chain, or native rules hide it (1.8.9 says the same of both)."""
        done = self._rule(family, table, "-S", chain)
        if done.status != 0:
            return None
        prefix = f"-A {chain} "
        texts = [line[len(prefix) :] for line in rule_lines(done.stdout) if line.startswith(prefix)]
        return tuple(FoundRule(text=text, rule=parse(text)) for text in texts)

    def _has(self, family: Family, table: Table, chain: str, rule: Rule) -> bool:
        return self._rule(family, table, "-C", chain, *tokenize(render(rule))).status == 0

    def _rule(self, family: Family, table: Table, *arguments: str) -> proc.Completed:
        path = binary(self.backend, family, Role.RULE)
        argv = (path, "-w", str(LOCK_SECONDS), "-t", str(table), *arguments)
        return proc.run(argv, deadline=_PROCESS_SECONDS)

    def write(self, family: Family, text: str, *, meanwhile: Callable[[], object] = lambda: None) -> Write:
        """One restore, each table all or nothing; raises RestoreError or NetfilterUnavailableError.

        Tables are written in their order, and what fails in one leaves those before it written. `meanwhile` is called
        while the binary works; what it raises is raised when that has ended.
        """
        argv = (binary(self.backend, family, Role.RESTORE), "--noflush", "-w", str(LOCK_SECONDS))
        ended = ledger().writes(self.backend, family, text)
        running = proc.Running(argv, stdin=text)
        try:
            meanwhile()
        finally:
            done = running.finish(deadline=_PROCESS_SECONDS)
        if done.status == 0:
            write = Write(self.backend, family, alone=ended())
            witness = _witness.get()
            if witness is not None:
                witness(write)
            return write
        stderr = done.stderr.strip()
        if _is_unavailable(stderr):
            raise unavailable(done, f"cannot write the {family} rules")
        failed = _failed_line(stderr, text)
        several = commits_in(text) > 1
        unchanged = "the table it stopped at was not changed" if several else "nothing was changed"
        error = RestoreError(
            f"{argv[0]} refused the {family} rules (status {done.status}): {stderr or 'no reason given'}",
            argv=argv,
            status=done.status,
            stderr=stderr,
            line=failed,
            hint=f"{unchanged}; the line it stopped at: {failed}" if failed else unchanged,
        )
        # 4: the table changed under us (legacy EAGAIN), or a chain is in use. A failing COMMIT line without
        # a reason is legacy's EAGAIN in iptables-restore.
        error.transient = done.status == 4 or failed == "COMMIT"
        raise error


def _legacy_tables(family: Family) -> bool:
    """Whether any legacy table exists in this namespace; the files are there once the module is."""
    try:
        with open(_LEGACY_TABLES[family], encoding="ascii") as names:
            return bool(names.read().strip())
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise NetfilterUnavailableError(
            f"cannot read the {family} rules: {error}", hint="run as root, or with CAP_NET_ADMIN"
        ) from error


def _is_unavailable(stderr: str) -> bool:
    lowered = stderr.lower()
    words = ("permission denied", "you must be root", "operation not permitted", "xtables lock", "lock file")
    return any(word in lowered for word in words)


def unavailable(done: proc.Completed, what: str) -> NetfilterUnavailableError:
    """The error for a binary that could do nothing at all, with the next step."""
    stderr = done.stderr.strip()
    lowered = stderr.lower()
    if "xtables lock" in lowered:
        hint = "another program holds /run/xtables.lock: see who with `fuser -v /run/xtables.lock`, then try again"
    elif "lock file" in lowered:
        hint = "mount /run/xtables.lock (hostPath, type FileOrCreate) or make /run writable"
    elif os.geteuid() != 0 or "permission" in lowered or "root" in lowered:
        hint = "run as root, or with CAP_NET_ADMIN"
    else:
        hint = "see whether the kernel has netfilter in this back end, or choose the other with egress_withnftables"
    return NetfilterUnavailableError(
        f"{what}: {done.argv[0]} failed with status {done.status}: {stderr or 'no reason given'}",
        argv=done.argv,
        status=done.status,
        stderr=stderr,
        hint=hint,
    )


def _failed_line(stderr: str, text: str) -> str | None:
    # nft resolves jumps at COMMIT, so the reported line can be the one after (1.8.9).
    match = re.search(r"line:? ?(?P<line>[0-9]+)", stderr)
    if match is None:
        return None
    lines = text.split("\n")
    number = int(match["line"])
    return lines[number - 1] if 1 <= number <= len(lines) else None


class Reading(NamedTuple):
    """Both back ends of both families at one moment; a part that could not be read is an error instead."""

    tables: Mapping[tuple[Backend, Family], SavedTables]
    failed: Mapping[tuple[Backend, Family], KvctlError]
    nft_chains: str = ""
    """What `nft -j list chains` printed; empty: nobody can tell."""


def read_everything() -> Reading:
    """What is installed and readable; nothing is created, nothing is decided."""
    return start_reading_everything()()


@contextmanager
def reading_everything() -> Iterator[Callable[[], Reading]]:
    """What the block gets has been started; it is called once, and waited for if the block fails before that."""
    finish = start_reading_everything()
    asked = False

    def read() -> Reading:
        nonlocal asked
        asked = True
        return finish()

    try:
        yield read
    finally:
        if not asked:
            finish()


def start_reading_everything() -> Callable[[], Reading]:
    """The same in two steps, so that something else can be done meanwhile; what this returns has to be called."""
    failed: dict[tuple[Backend, Family], KvctlError] = {}
    started: dict[tuple[Backend, Family], Callable[[], SavedTables]] = {}
    for backend in Backend:
        for family in Family:
            try:
                started[backend, family] = Kernel(backend).start_reading(family)
            except KvctlError as error:
                failed[backend, family] = error
    chains = Question("list", "chains")

    def finish_all() -> Reading:
        tables: dict[tuple[Backend, Family], SavedTables] = {}
        for key, finish in started.items():
            try:
                tables[key] = finish()
            except KvctlError as error:
                failed[key] = error
        return Reading(tables=tables, failed=failed, nft_chains=chains.answer())

    return finish_all
