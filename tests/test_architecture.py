"""The structure that the code promises: imports point one way, and each outside thing has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvctl

ROOT = Path(kvctl.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# A part may import those of lower rank and itself.
RANKS = {
    "errors": 0,
    "model": 1,
    "netns": 1,
    "signals": 1,
    "proc": 2,
    "netlink": 2,
    "echo": 2,
    "policy": 3,
    "netfilter": 3,
    "node": 3,
    "cluster": 3,
    "lab": 3,
    "reconcile": 4,
    "trace": 4,
    "election": 4,
    "doctor": 5,
    "verify": 5,
    "agent": 5,
    "cli": 6,
    "__main__": 7,
}
# Who alone may import an outside package.
DOORS = {
    "subprocess": {"proc"},
    "kubernetes": {"cluster"},
    "click": {"cli"},
    "rich": {"cli"},
    "yaml": {"cluster", "cli"},
    "prometheus_client": {"agent"},
}


def part_of(module: Path) -> str:
    first = module.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_point_one_way(module: Path) -> None:
    own = part_of(module)
    if own == "__init__":
        return
    for name in imports(module):
        parts = name.split(".")
        if parts[0] != "kvctl" or len(parts) == 1 or parts[1] in ("__version__", own):
            continue
        assert RANKS[parts[1]] < RANKS[own], f"{module.name} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_each_outside_thing_has_one_door(module: Path) -> None:
    for name in imports(module):
        allowed = DOORS.get(name.split(".")[0])
        assert allowed is None or part_of(module) in allowed, f"{module.name} imports {name}"


def test_every_part_has_a_rank() -> None:
    assert {part_of(module) for module in MODULES} - {"__init__"} <= set(RANKS)
