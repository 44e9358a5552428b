"""A node whose cluster, API and kernel do not leave it in peace; and others' rules, which nobody of ours may touch.

What happens is a `Step`: `changes` and `faults` make them. Who chooses is left open: a seeded generator, or hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from kvctl.model.net import Family
from tests.apiserver import ApiServer, Object
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node, is_ours

KINDS = ("services", "pods", "endpointslices", "nodes")
WORKER = "worker"
VIPS = ("192.168.0.246", "192.168.0.247", "2001:db8:1::246", "2001:db8:1::247")
"""Addresses of eth1's networks that come and go."""
_T = TypeVar("_T")


class Choose(Protocol):
    """Takes one of several: `random.Random(seed).choice`, or a draw of hypothesis."""

    def __call__(self, several: Sequence[_T], /) -> _T:
        """One of them."""


@dataclass
class World:
    """A node, the API server it listens to, and what others have written into its kernel."""

    server: ApiServer
    node: Node
    vips: set[str] = field(default_factory=set)
    """Those of VIPS that are on eth1 now."""
    theirs: dict[Family, list[str]] = field(default_factory=dict)
    """Other programs' rules, as they were left by who may change them."""
    events: int = 0
    faults: int = 0
    harms: int = 0
    clumsiness: list[str] = field(default_factory=list)
    """How the next writes of the agent in this process fail: see `clumsy`."""

    def begin(self) -> None:
        """A kernel with others' rules and no VIP, and a cluster of this node alone."""
        for family in Family:
            text = "".join(f"*{table}\n{content}COMMIT\n" for table, content in _foreign(family).items())
            argv = ["iptables" if family is Family.IPV4 else "ip6tables", self.node.backend, "restore"]
            self.node.run("-".join(map(str, argv)), stdin=text)
        for vip in VIPS:
            self.move(vip, here=False)
        self.noted()
        self.server.put("nodes", node(WORKER, "172.16.0.2"))

    def move(self, vip: str, *, here: bool) -> None:
        """Put a VIP on eth1, or take it off."""
        if here is (vip in self.vips):
            return
        length, more = (128, " nodad preferred_lft 0") if ":" in vip else (32, "")
        word = "add" if here else "del"
        self.node.namespace.batch([f"addr {word} {vip}/{length} dev eth1{more if here else ''}"])
        self.vips ^= {vip}

    def noted(self) -> None:
        """What others have in the kernel now is what has to stay there."""
        self.theirs = self.foreign()

    def foreign(self) -> dict[Family, list[str]]:
        """Their chains and rules, without counters and in the order of the chains' names."""
        return {family: foreign_lines(self.node.save(family=family)) for family in Family}

    def ours(self, family: Family) -> list[tuple[str, str, str]]:
        """(table, chain, rule) of every rule of kvctl's."""
        found, table = [], ""
        for line in self.node.save(family=family).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A ") and is_ours(line):
                found.append((table, line.split()[1], line.split(" ", 2)[2]))
        return found


class Step(Protocol):
    """Something that happens."""

    def do(self, world: World) -> None:
        """Let it."""


def node(name: str, address: str) -> Object:
    """A Node as the API has it."""
    addresses = [{"type": "InternalIP", "address": address}]
    return {"metadata": {"name": name}, "spec": {}, "status": {"addresses": addresses}}


def _foreign(family: Family) -> dict[str, str]:
    """kube-proxy's and a VPN's, table by table; every table that iptables-restore has to empty is named."""
    tables: dict[str, str] = {"nat": "", "mangle": ""}
    for program in ("kube-proxy", "ufw"):
        for part in rules_of(program, family).split("COMMIT\n"):
            table, _, content = part.removeprefix("*").partition("\n")
            if table:
                tables[table] = tables.get(table, "") + content
    return {table: _chains_first(content) for table, content in tables.items()}


def _chains_first(content: str) -> str:
    lines = sorted(content.splitlines(), key=lambda line: not line.startswith(":"))
    return "".join(f"{line}\n" for line in lines)


def foreign_lines(saved: str) -> list[str]:
    """Chains that iptables does not have by itself, and rules, that are not kvctl's; stable by chain and table."""
    found: list[tuple[str, str, str]] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif (line.startswith("-A ") or line.endswith(" -")) and not is_ours(line):
            chain = line.split()[1] if line.startswith("-A ") else line[1:].split()[0]
            found.append((table, chain, line))
    return [f"{table} {line}" for table, _, line in sorted(found, key=lambda each: each[:2])]


def our_chains(saved: str) -> dict[tuple[str, str], list[str]]:
    """kvctl's chains and its jumps, by table and chain; which chain was made first does not matter."""
    found: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif is_ours(line):
            chain = line[1:].split()[0] if line.startswith(":") else line.split()[1]
            rules = found.setdefault((table, chain), [])
            rules += [] if line.startswith(":") else [line]
    return found


def kept_statuses(items: Sequence[Any]) -> dict[tuple[str, str], str]:
    """`(Service, family)` -> status, of items."""
    return {(str(item.ref), str(item.family)): str(item.status) for item in items}
