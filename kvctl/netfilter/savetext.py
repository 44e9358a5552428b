"""What `iptables-save` prints, taken apart: tables, chains, rules in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, HOOK_CHAINS, Hook, Table, table_of
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.syntax import parse

_COUNTERS = re.compile(r"(?:\[(?P<packets>[0-9]+):(?P<octets>[0-9]+)\] )?")
# A quote that is not escaped.
_QUOTE = re.compile(r'(?<!\\)(?:\\\\)*"')
# iptables 1.8 nft: what it prints, on standard output and with status 0, instead of a table it cannot read.
_INCOMPATIBLE = re.compile(r"# Table `(?P<table>\S+)' is incompatible, use 'nft' tool")


_NOTHING: Mapping[str, tuple[FoundRule, ...]] = MappingProxyType({})
_Counts = tuple[int | None, int | None]


class SavedTable(NamedTuple):
    """The chains of one table; each rule with its packet counter (None: not printed)."""

    chains: Mapping[str, tuple[tuple[int | None, str], ...]]
    policies: Mapping[str, str] = {}
    """What becomes of a packet at the end of a chain of the kernel's own: `ACCEPT` or `DROP`."""
    octets: Mapping[str, tuple[int | None, ...]] = {}
    """The byte counters of the rules of our own chains and of those with our hooks, in the rules' order."""


class SavedTables(NamedTuple):
    """One back end's tables of one family."""

    tables: Mapping[str, SavedTable] = {}
    incompatible: frozenset[str] = frozenset()
    """Tables that hold native nft rules, whose text is not to be had this way."""

    def chain(self, table: str, chain: str) -> tuple[tuple[int | None, str], ...]:
        """A chain's rules; empty where there is no such chain."""
        saved = self.tables.get(table)
        return saved.chains.get(chain, ()) if saved else ()

    @property
    def chain_names(self) -> frozenset[str]:
        """The names of all chains of all tables."""
        return frozenset(name for table in self.tables.values() for name in table.chains)

    @property
    def has_rules(self) -> bool:
        """Whether any chain of any table holds a rule."""
        return any(rules for table in self.tables.values() for rules in table.chains.values())


def parse_tables(text: str) -> SavedTables:
    """Read the output of `iptables-save [-c]`."""
    tables: dict[str, SavedTable] = {}
    incompatible: set[str] = set()
    chains: dict[str, list[tuple[int | None, str]]] = {}
    policies: dict[str, str] = {}
    octets: dict[str, list[int | None]] = {}
    name = ""
    for line in rule_lines(text):
        if line.startswith(("[", "-A")):
            counters, _, rest = line.partition("-A ")
            chain, _, rule = rest.partition(" ")
            counts = _read_counters(counters)
            if counts is not None and chain:
                chains.setdefault(chain, []).append((counts[0], rule))
                if chain.startswith(CHAIN_PREFIX) or chain in HOOK_CHAINS:
                    octets.setdefault(chain, []).append(counts[1])
        elif line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(" "), "-"]
            chains[chain] = []
            if policy != "-":
                policies[chain] = policy
        elif line.startswith("*"):
            name, chains, policies, octets = line[1:], {}, {}, {}
        elif line == "COMMIT":
            tables[name] = SavedTable(
                {chain: tuple(rules) for chain, rules in chains.items()},
                policies=policies,
                octets={chain: tuple(counts) for chain, counts in octets.items()},
            )
        elif (match := _INCOMPATIBLE.match(line)) is not None:
            incompatible.add(match["table"])
    return SavedTables(tables=tables, incompatible=frozenset(incompatible))


@lru_cache(maxsize=1024)  # those of most rules are the same: nothing
def _read_counters(text: str) -> _Counts | None:
    """Packets and bytes, as they stand before a rule; None: that is something else."""
    match = _COUNTERS.fullmatch(text)
    if match is None:
        return None
    return (int(match["packets"]), int(match["octets"])) if match["packets"] is not None else (None, None)


def rule_lines(text: str) -> Iterator[str]:
    """The lines of a save; a comment may hold line ends of its own, and what only Python takes for one."""
    pending = ""
    for line in text.split("\n"):
        whole = f"{pending}\n{line}" if pending else line
        if _quotes(whole) % 2 and whole.startswith(("[", "-A")):
            pending = whole
            continue
        pending = ""
        yield whole
    if pending:
        yield pending


def _quotes(text: str) -> int:
    return len(_QUOTE.findall(text)) if "\\" in text else text.count('"')


def snapshot_of(saved: SavedTables, family: Family, *, like: Snapshot | None = None) -> Snapshot:
    """Our tables as kvctl sees them: own chains as values, the chains of our hooks in order, the rest as text.

    `like`: an earlier look, or what is wanted: where the text is the same the rules are the very same values.
    """
    before = like.chains if like is not None else _NOTHING
    own: dict[str, tuple[FoundRule, ...]] = {}
    around: dict[Table, Surroundings] = {}
    for table in Table:
        saved_table = saved.tables.get(table)
        if saved_table is None:
            continue
        foreign: dict[str, tuple[str, ...]] = {}
        for name, rules in saved_table.chains.items():
            if is_own(table, name):
                own[name] = _found_in(saved_table, name, before.get(name, ()))
            else:
                foreign[name] = tuple([text for _, text in rules])
        around[table] = Surroundings(
            hook_chains={
                hook.chain: _found_in(saved_table, hook.chain) for hook in Hook if hook.table is table
            },
            foreign=foreign,
        )
    return Snapshot(family=family, chains=own, around=around)


def has_own(saved: SavedTables) -> bool:
    """Whether there is any chain of ours."""
    return any(
        is_own(table, name)
        for table in Table
        for name in (saved.tables[table].chains if table in saved.tables else ())
    )


def is_own(table: Table, chain: str) -> bool:
    """Whether a chain of a table is one of ours; in a table where it has no business its name makes it none."""
    return chain.startswith(CHAIN_PREFIX) and table_of(chain) is table


def _found_in(table: SavedTable, chain: str, last: tuple[FoundRule, ...] = ()) -> tuple[FoundRule, ...]:
    rows = table.chains.get(chain, ())
    octets = table.octets.get(chain, ())
    if last and [(f.packets, f.text) for f in last] == list(rows):
        return last
    # To take a rule apart takes longer than all the rest.
    known = {found.text: found.rule for found in last}
    return tuple(
        [
            FoundRule(text, known.get(text) or parse(text), packets, count)
            for (packets, text), count in zip(rows, octets, strict=True)
        ]
    )
