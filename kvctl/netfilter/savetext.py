"""What `iptables-save` prints, taken apart: tables, chains, rules in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from kvctl.model.net import Family
from kvctl.model.rules import CHAIN_PREFIX, HOOK_CHAINS, Hook, Table, table_of
from kvctl.model.snapshot import FoundRule, Snapshot, Surroundings
from kvctl.netfilter.syntax import parse

_RULE = re.compile(
    r"(?:\[(?P<packets>[0-9]+):(?P<octets>[0-9]+)\] )?-A (?P<chain>[^ ]+) ?(?P<text>.*)", re.DOTALL
)
# A quote that is not escaped.
_QUOTE = re.compile(r'(?<!\\)(?:\\\\)*"')
# iptables 1.8 nft: what it prints, on standard output and with status 0, instead of a table it cannot read.
_INCOMPATIBLE = re.compile(r"# Table `(?P<table>\S+)' is incompatible, use 'nft' tool")


_NOTHING: Mapping[str, tuple[FoundRule, ...]] = MappingProxyType({})


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
            match = _RULE.fullmatch(line)
            if match is not None:
                packets = match["packets"]
                rule = (int(packets) if packets is not None else None, match["text"])
                chain = match["chain"]
                chains.setdefault(chain, []).append(rule)
                if chain in HOOK_CHAINS or chain.startswith(CHAIN_PREFIX):
                    octets.setdefault(chain, []).append(int(match["octets"]) if packets is not None else None)
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


def rule_lines(text: str) -> Iterator[str]:
    """The lines of a save; a comment may hold line ends of its own, and what only Python takes for one."""
    pending = ""
    for line in text.split("\n"):
        whole = f"{pending}\n{line}" if pending else line
        is_rule = whole.startswith(("[", "-A"))
        if is_rule and _quotes(whole) % 2:
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
    before = like.chains if like is not None else {}
    own: dict[str, tuple[FoundRule, ...]] = {}
    around: dict[Table, Surroundings] = {}
    for table in Table:
        saved_table = saved.tables.get(table)
        if saved_table is None:
            continue
        chains = saved_table.chains
        own |= {name: _found_in(saved_table, name, before) for name in chains if is_own(table, name)}
        around[table] = Surroundings(
            hook_chains={
                hook.chain: _found_in(saved_table, hook.chain) for hook in Hook if hook.table is table
            },
            foreign={
                name: tuple(text for _, text in rules)
                for name, rules in chains.items()
                if not is_own(table, name)
            },
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


def _found_in(
    table: SavedTable, chain: str, before: Mapping[str, tuple[FoundRule, ...]] = _NOTHING
) -> tuple[FoundRule, ...]:
    rows = table.chains.get(chain, ())
    counts = zip(rows, table.octets.get(chain, ()), strict=True)
    last = before.get(chain, ())
    if [(f.packets, f.text) for f in last] == list(rows) and last:
        return last
    # To take a rule apart takes longer than all the rest.
    rules = {found.text: found.rule for found in last}
    return tuple(
        FoundRule(
            text=text, rule=rules[text] if text in rules else parse(text), packets=packets, octets=octets
        )
        for (packets, text), octets in counts
    )
