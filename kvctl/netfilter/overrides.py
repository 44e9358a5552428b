"""Other nat base chains on the postrouting hook that see a packet before iptables' own: iptables cannot win there.

nf_nat calls the base chains of type nat one after the other, lower priority number first, of equal ones the
later registered first (measured, kernel 6.18); the first that sets up a source translation decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvctl.model.net import Family, Network, contains, overlap, parse_network
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.nft import IPTABLES_TABLE, Json, nft, read_objects

# NF_IP_PRI_NAT_SRC: where both iptables back ends hook POSTROUTING of the nat table.
_SRCNAT = 100
_FAMILIES = {Family.IPV4: ("ip", "inet"), Family.IPV6: ("ip6", "inet")}


def find_override(
    *, backend: Backend, family: Family, pods: Iterable[Network], nft_chains: str, later_too: bool = False
) -> str | None:
    """A base chain that may take the traffic of `pods` before our rules see it, in words.

    `nft_chains`: what `nft -j list chains` printed. `later_too`: or that takes what our rules leave as it is.

    None also where `nft` is not installed or does not answer: then nobody can tell.
    """
    own, rivals = None, []
    for chain in _base_chains(nft_chains, family):
        if (chain["family"], chain["table"], chain["name"]) == (*IPTABLES_TABLE[family], "POSTROUTING"):
            own = chain if backend is Backend.NFT else None
        else:
            rivals.append(chain)
    if not rivals:
        return None
    handles, networks = _table_handles(), list(dict.fromkeys(pods))
    for chain in rivals:
        table = (chain["family"], chain["table"])
        first = chain["prio"] < _SRCNAT or (chain["prio"] == _SRCNAT and _is_later(chain, own, handles))
        if (first or later_too) and _takes(table, chain["name"], networks):
            if not first:
                return f"nft chain {chain['name']} of table {table[0]} {table[1]} translates what iptables does not"
            return (
                f"nft chain {chain['name']} of table {table[0]} {table[1]} (priority {chain['prio']}) "
                "translates these pods' traffic before iptables' rules are asked; iptables cannot change that"
            )
    return None


def _base_chains(nft_chains: str, family: Family) -> list[Json]:
    chains = (entry["chain"] for entry in read_objects(nft_chains) if "chain" in entry)
    return [
        chain
        for chain in chains
        if chain.get("type") == "nat"
        and chain.get("hook") == "postrouting"
        and chain.get("family") in _FAMILIES[family]
        and isinstance(chain.get("prio"), int)
    ]


def _is_later(chain: Json, own: Json | None, handles: Mapping[tuple[str, str], int]) -> bool:
    """Whether `chain` was registered after iptables' own; not known of the legacy back end's.

    Handles are given in order: to tables, and within a table to chains.
    """
    if own is None:
        return False
    table, own_table = (chain["family"], chain["table"]), (own["family"], own["table"])
    if table == own_table:
        return bool(chain.get("handle", 0) > own.get("handle", 0))
    return handles.get(table, 0) > handles.get(own_table, 0)


def _table_handles() -> dict[tuple[str, str], int]:
    """The kernel numbers tables in the order they are made."""
    tables = (entry["table"] for entry in nft("list", "tables") if "table" in entry)
    return {(table["family"], table["name"]): table.get("handle", 0) for table in tables}


def _takes(table: tuple[str, str], base: str, pods: Sequence[Network]) -> bool:
    """Whether a rule that is reached from `base` may translate a packet of `pods`."""
    rules: dict[str, list[list[Json]]] = {}
    for entry in nft("list", "table", *table):
        if "rule" in entry:
            rules.setdefault(entry["rule"]["chain"], []).append(entry["rule"].get("expr", []))
    todo, seen = [base], set()
    while todo:
        chain = todo.pop()
        if chain in seen:
            continue
        seen.add(chain)
        for position, expressions in enumerate(rules.get(chain, [])):
            if _spares(expressions, pods):
                continue
            if position == 0 and _returns_unmarked(expressions):
                break
            if any("snat" in expression or "masquerade" in expression for expression in expressions):
                return True
            todo += _targets(expressions)
    return False


def _spares(expressions: Iterable[Json], pods: Sequence[Network]) -> bool:
    """Whether the rule's source address rules out every pod."""
    for expression in expressions:
        match = expression.get("match")
        if not isinstance(match, dict):
            continue
        payload = match.get("left", {}).get("payload") if isinstance(match.get("left"), dict) else None
        if not isinstance(payload, dict) or payload.get("field") != "saddr":
            continue
        network = _network(match.get("right"))
        if network is None:
            continue
        if match.get("op") == "!=":
            return all(contains(network, pod) for pod in pods)
        if match.get("op") in ("==", "in"):
            return not any(overlap(network, pod) for pod in pods)
    return False


def _network(value: object) -> Network | None:
    if isinstance(value, dict) and isinstance(value.get("prefix"), dict):
        prefix: Mapping[str, object] = value["prefix"]
        value = f"{prefix.get('addr')}/{prefix.get('len')}"
    try:
        return parse_network(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _returns_unmarked(expressions: Sequence[Json]) -> bool:
    """`meta mark & X == 0 return` as a chain's first rule: what follows is for marked packets (kube-proxy)."""
    if not expressions or "return" not in expressions[-1] or "match" not in expressions[0]:
        return False
    match = expressions[0]["match"]
    return "mark" in str(match.get("left")) and match.get("right") == 0 and match.get("op") == "=="


def _targets(expressions: Iterable[Json]) -> list[str]:
    """Chains that a rule may lead to, in jumps, gotos and verdict maps."""
    found: list[str] = []
    todo: list[object] = list(expressions)
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if (
                    key in ("jump", "goto")
                    and isinstance(inner, dict)
                    and isinstance(inner.get("target"), str)
                ):
                    found.append(inner["target"])
                else:
                    todo.append(inner)
        elif isinstance(value, list):
            todo.extend(value)
    return found
