"""Native nft rules in the tables of iptables-nft, and beside them: what iptables-save prints wrong, and does not print.

iptables-nft-save 1.8.9 does not look at sets, nor at both ends of a range, and keeps the last of two matches on one
field: it prints such a rule as one that takes more, or something else, without a word (measured).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kvctl.model.net import Family
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.nft import Json, Question, read_objects
from kvctl.netfilter.savetext import SavedTable, SavedTables

MODULE = "nft"
"""The match, and the target, that stand for what is not printed truly; iptables has none of this name."""

_FAMILY_NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_VERDICTS = ("accept", "drop", "return", "jump", "goto")
_PRINTED = frozenset(("counter", "xt", "limit", "log", "match", *_VERDICTS))
"""Statements that iptables-save prints as they are."""
_META = frozenset(("l4proto", "iifname", "oifname", "iif", "oif", "mark", "pkttype"))
_PORTS = ("sport", "dport")
_FIELDS = frozenset(
    ("saddr", "daddr", "protocol", "nexthdr", "ttl", "hoplimit", "frag-off", "type", "code", "flags", *_PORTS)
)


def ask_ruleset() -> Question:
    """Everything that nf_tables holds, without the members of sets; started, to be waited for."""
    return Question("-t", "list", "ruleset")


def corrected(
    saved: SavedTables, ruleset: Sequence[Json], *, family: Family
) -> tuple[SavedTables, tuple[str, ...]]:
    """The tables with each rule that is printed wrong as one that cannot be judged, and what cannot be told even so."""
    tables, unknown = dict(saved.tables), []
    for (table, chain), rules in _misprinted(ruleset, family).items():
        its = tables.get(table)
        if its is None:
            continue
        printed = its.chains.get(chain, ())
        if len(printed) != len(rules):
            unknown.append(
                f"{table} {chain} holds native nft rules and has changed while it was read: ask again"
            )
            continue
        told = tuple((count, new or old) for (count, old), new in zip(printed, rules, strict=True))
        tables[table] = _with_chain(its, chain, told)
    return saved._replace(tables=tables), tuple(unknown)


def corrected_reading(reading: Reading, ruleset: Sequence[Json]) -> Reading:
    """Both families' tables of a reading as `corrected` has them; what it could not tell stays as it is printed."""
    tables = {
        (backend, family): corrected(saved, ruleset, family=family)[0] if backend is Backend.NFT else saved
        for (backend, family), saved in reading.tables.items()
    }
    return reading._replace(tables=tables)


def rewriting_beside(
    ruleset: Sequence[Json], *, families: Iterable[str], own: Iterable[str]
) -> Iterator[str]:
    """Chains in tables of the `families` that set addresses without conntrack, or exempt from it, in words.

    `own`: the tables of `ip` and `ip6` that iptables keeps, whose rules are read otherwise.
    """
    for rule in _rules(ruleset):
        if rule["family"] not in families or (rule["family"] in ("ip", "ip6") and rule["table"] in own):
            continue
        what = next(filter(None, map(_bypasses, rule["expr"])), None)
        if what is not None:
            yield f"nft chain {rule['chain']} of table {rule['family']} {rule['table']} {what}: it is not judged"


def read_ruleset(question: Question) -> list[Json]:
    """The objects of the answer; none where nft is not installed."""
    return read_objects(question.answer())


def _with_chain(table: SavedTable, chain: str, rules: tuple[tuple[int | None, str], ...]) -> SavedTable:
    return table._replace(chains={**table.chains, chain: rules})


def _misprinted(ruleset: Sequence[Json], family: Family) -> Mapping[tuple[str, str], list[str | None]]:
    """Of each chain with such rules: what stands for each rule; None: what is printed is true."""
    chains: dict[tuple[str, str], list[str | None]] = {}
    for rule in _rules(ruleset):
        if rule["family"] == _FAMILY_NAMES[family]:
            chains.setdefault((rule["table"], rule["chain"]), []).append(_instead(rule))
    return {place: rules for place, rules in chains.items() if any(rules)}


def _rules(ruleset: Sequence[Json]) -> Iterator[Json]:
    for entry in ruleset:
        rule = entry.get("rule")
        if isinstance(rule, dict) and isinstance(rule.get("expr"), list):
            yield rule


def _instead(rule: Json) -> str | None:
    """What a rule is in place of what is printed of it; None: that is true."""
    statements = [each for each in rule["expr"] if isinstance(each, dict)]
    sought = [each["match"] for each in statements if "match" in each]
    fields = [str(match.get("left")) for match in sought]
    odd = {key for each in statements for key in each} - _PRINTED
    if not odd and len(set(fields)) == len(fields) and all(map(_is_printed, sought)):
        return None
    return f"-m {MODULE} --handle {rule.get('handle')} {_target(statements) if not odd else f'-j {MODULE}'}".strip()


def _target(statements: Sequence[Json]) -> str:
    """What it does to what it takes, as iptables spells it."""
    for each in statements:
        for verdict in _VERDICTS:
            if verdict in each:
                name = each[verdict]["target"] if verdict in ("jump", "goto") else verdict.upper()
                return f"{'-g' if verdict == 'goto' else '-j'} {name}"
        if "xt" in each and (each["xt"] or {}).get("type") != "match":
            return f"-j {MODULE}"
    return ""


def _is_printed(match: Mapping[str, Any]) -> bool:
    left, right, operator = match.get("left"), match.get("right"), match.get("op")
    if isinstance(left, dict) and "&" in left:
        left = left["&"][0]
    if not isinstance(left, dict):
        return False
    field = (left.get("payload") or {}).get("field")
    if field not in _FIELDS and (left.get("meta") or {}).get("key") not in _META:
        return False
    if field == "flags":
        return True
    if field in _PORTS and isinstance(right, dict) and "range" in right:
        return True
    if operator not in ("==", "!=") and field not in _PORTS:
        return False
    if isinstance(right, dict):
        return right.keys() == {"prefix"}
    return not isinstance(right, list) and not str(right).startswith("@")


def _bypasses(statement: object) -> str | None:
    if not isinstance(statement, dict):
        return None
    if "notrack" in statement:
        return "exempts packets from conntrack"
    key = (statement.get("mangle") or {}).get("key")
    payload = key.get("payload") if isinstance(key, dict) else None
    if isinstance(payload, dict) and payload.get("field") in ("saddr", "daddr"):
        return "sets addresses of packets"
    return None
