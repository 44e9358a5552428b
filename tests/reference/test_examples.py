"""The examples of --help and of the manual, run as they stand where that is possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kvctl.cli.examples import EXAMPLES, Needs
from kvctl.cli.examples import Path as Words
from kvctl.lab.build import Lab
from kvctl.lab.demo import MANIFEST
from kvctl.lab.echo import Echo
from reference.files import ROOT
from tests.apiserver import serving
from tests.conftest import MakeLab

ON_A_NODE = {
    path: examples
    for path, examples in EXAMPLES.items()
    if path[:1] != ("lab",) and any(example.needs is Needs.NODE for example in examples)
}
"""The lab's own examples build another lab: tests/lab does that."""
NOT_HERE = (
    "--node worker",
    "--elect",
    "egress wait",
    "egress move",
    "egress echo",
    "verify --watch",
    "list --watch",
)
"""Of what needs a cluster: what stays until it is ended, and what asks agents. tests/agent and tests/cli have these."""
IN_A_CLUSTER = {
    path: there
    for path, examples in EXAMPLES.items()
    if (
        there := [
            e for e in examples if e.needs is Needs.CLUSTER and not any(word in e.line for word in NOT_HERE)
        ]
    )
}
AFTER_APPLY = {
    ("egress", "list"),
    ("egress", "show"),
    ("egress", "trace"),
    ("egress", "verify"),
    ("egress", "flush"),
}
"""Commands that say more where there are rules."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with sip.yaml and a kvctl for PATH."""
    (tmp_path / "sip.yaml").write_text(MANIFEST)
    (tmp_path / "kvctl").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m kvctl "$@"\n')
    (tmp_path / "kvctl").chmod(0o755)
    (tmp_path / "kubectl").write_text("#!/bin/sh\ncat sip.yaml\n")
    (tmp_path / "kubectl").chmod(0o755)
    return tmp_path


@pytest.fixture
def node(make_lab: MakeLab) -> Lab:
    """The lab whose worker has the VIP of sip.yaml."""
    return make_lab(backend="nft")


def shell(place: Path, line: str, *, config: str = "/nonexistent") -> subprocess.CompletedProcess[str]:
    """What a shell makes of the line; `config`: the kubeconfig that there is."""
    told = 'cd $1 && export PATH=$1:$PATH NODE_NAME=worker && eval "$2"'
    return subprocess.run(
        ["sh", "-c", told, "sh", place, line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "KUBECONFIG": config},
    )


def everywhere() -> list[tuple[Words, str]]:
    """What needs nothing."""
    every = ((path, example) for path, examples in EXAMPLES.items() for example in examples)
    return list(dict.fromkeys((path, e.line) for path, e in every if e.needs is Needs.NOTHING))


@pytest.mark.parametrize(("path", "line"), everywhere())
def test_what_needs_nothing_runs_anywhere(path: Words, line: str, place: Path) -> None:
    done = shell(place, line)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert done.stdout or ">" in line


@pytest.mark.parametrize("path", ON_A_NODE, ids=" ".join)
def test_what_needs_a_node_runs_on_one(path: Words, node: Lab, place: Path) -> None:
    with Echo(node["outside"], ports=(5060,)), node["worker"].entered():
        if path in AFTER_APPLY:
            assert shell(place, "kvctl egress apply -f sip.yaml").returncode == 0
        for example in ON_A_NODE[path]:
            if example.needs is Needs.NODE and not example.line.startswith("kvctl lab"):
                done = shell(place, example.line)
                assert done.returncode == example.status, (example.line, done.stdout, done.stderr)
                assert done.stdout or done.stderr


@pytest.mark.parametrize("path", IN_A_CLUSTER, ids=" ".join)
def test_what_needs_a_cluster_runs_in_one(path: Words, node: Lab, place: Path) -> None:
    with node["worker"].entered(), serving() as server:
        config = server.kubeconfig(place / "config")
        server.put("nodes", {"metadata": {"name": "worker"}})
        for each in yaml.safe_load_all(MANIFEST):
            server.put(f"{each['kind'].lower()}s", each)
        for example in IN_A_CLUSTER[path]:
            done = shell(place, example.line, config=config)
            assert done.returncode == example.status, (example.line, done.stdout, done.stderr)
            assert done.stdout
